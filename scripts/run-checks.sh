#!/bin/bash
# Static checks: both compilers without a warning, clang-tidy, luacheck. The last line is `N passed, N failed`.
set -u
passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

check() {
  local name=$1; shift
  if "$@" >"$log" 2>&1 </dev/null; then
    passed=$((passed + 1)); echo "ok    $name"
  else
    failed=$((failed + 1)); echo "FAIL  $name"; cat "$log"
  fi
}

compiles() { # compiles COMPILER FOLDER
  CC=$1 cmake -S . -B "$2" && cmake --build "$2" --parallel "$(nproc)"
}

tidy() {
  local sources
  sources=$(find core -name '*.c')
  # shellcheck disable=SC2086
  printf '%s\n' $sources | xargs -P "$(nproc)" -n 1 clang-tidy --quiet -p build/clang
}

lua_check() { luacheck --no-color --codes --quiet lua handlers demo bench scripts spec bin/sockdrawer; }

check "gcc, no warnings" compiles gcc build
check "clang, no warnings" compiles clang build/clang
check "clang-tidy" tidy
check "luacheck" lua_check

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
