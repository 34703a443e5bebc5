#!/bin/sh
# Installs the Debian packages that are missing. usage: install-packages.sh run|test|check
# Each group contains the ones before it. Does nothing, and says nothing, when all are there.
set -eu

packages() {
  cat <<LIST
run    cmake               the build definition
run    make                what cmake builds with
run    gcc                 the C compiler
run    libc6-dev           its headers
run    pkg-config          finds the libraries
run    luajit              the interpreter
run    libluajit-5.1-dev   headers of LuaJIT
run    libuv1-dev          the event loop
run    lua-luv             libuv for handlers, on the same loop
run    lua-dkjson          JSON
run    lua-argparse        the command line
run    netcat-openbsd      talks to the demo
test   libcmocka-dev       unit tests in C
test   lua-busted          specs in Lua
test   lua-socket          the clients of the specs
test   luarocks            builds and installs the rock
test   lua5.1              what luarocks itself runs on
test   strace              makes system calls fail on purpose
test   redis-tools         foreign clients for the small Redis
test   git                 lists the files of the rock
test   iproute2            ss: what the kernel says of listen sockets
test   valgrind            counts what a message costs
test   python3             a foreign program that passes sockets on
check  clang               the second compiler
check  clang-tidy          static analysis of C
check  libclang-rt-14-dev  sanitizer runtime of clang
check  lua-check           static analysis of Lua
LIST
}

case "${1:-}" in
  run) groups=run ;;
  test) groups='run|test' ;;
  check) groups='run|test|check' ;;
  *) echo "usage: $0 run|test|check" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null; then
  echo "Not a Debian system: these are needed under whatever names they have here." >&2
  packages | grep -E "^($groups) " >&2
  exit 0
fi

installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=$(packages | grep -E "^($groups) " | while read -r _ name reason; do
  installed "$name" || printf '%-20s%s\n' "$name" "$reason"
done)
[ -n "$missing" ] || exit 0

echo "Installing:"
echo "$missing" | sed 's/^/  /'
names=$(echo "$missing" | awk '{ print $1 }')

as_root=
[ "$(id -u)" = 0 ] || as_root='sudo env DEBIAN_FRONTEND=noninteractive'
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# shellcheck disable=SC2086  # both are lists
fetch() { $as_root apt-get install -y -qq --no-install-recommends $names </dev/null >"$log" 2>&1; }

# The package lists are brought up to date only if it does not work with those that are there.
fetch || { $as_root apt-get update -qq </dev/null >"$log" 2>&1 && fetch; } || {
  cat "$log" >&2
  echo "Could not install: " $names >&2
  exit 1
}
