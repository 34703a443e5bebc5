#!/bin/bash
# Unit tests and specs against one build folder. usage: run-tests.sh BUILD SPEC…
# Every spec file is a busted process of its own, one more at a time than there are processors, since they mostly wait;
# SOCKDRAWER_SPECS_AT_A_TIME says otherwise.
# The last line is `N passed, N failed`, with `, N skipped` if there were any.
set -u
build=$1; shift
# Deadlines are for what hangs, not for how fast a busy machine is.
export SOCKDRAWER_TIME_SCALE=${SOCKDRAWER_TIME_SCALE:-3}
export SOCKDRAWER_BIN="$PWD/$build/bin/sockdrawer" SOCKDRAWER_BUILD="$build"
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# Counts the tests inside the programs; a program that dies without its own count has failed once.
unit_tests() {
  ctest --test-dir "$build" --verbose --timeout 120 >"$results/ctest.out" 2>&1 </dev/null
  awk '/^[0-9]+: \[       OK \]/                   { passed++ }
       /^[0-9]+: \[  FAILED  \] [0-9]+ test\(s\)/  { failed += $5; told[$1 + 0] = 1 }
       /^ *[0-9]+\/[0-9]+ Test +#[0-9]+:.*\*\*\*/  { sub(/.*#/, ""); if (!told[$0 + 0]) failed++ }
       END { print passed + 0, failed + 0, 0 }' "$results/ctest.out" >"$results/ctest.count"
  read -r passed failed _ <"$results/ctest.count"
  echo "unit tests in C: $passed passed, $failed failed"
  [ "$failed" = 0 ] || grep -v '^[0-9]*: \[ RUN\|^[0-9]*: \[ *OK' "$results/ctest.out"
}

one_spec() {
  file=$1 name=${1//\//_}
  echo "$file" >"$results/$name.file"
  start=$SECONDS
  LUA_CPATH="$PWD/$SOCKDRAWER_BUILD/lib/?.so;;" timeout -k 10 "$longest" \
    luajit "$(command -v busted)" --output=plainTerminal "$file" >"$results/$name.out" 2>&1 </dev/null
  status=$?
  # "3 successes / 0 failures / 1 error / 0 pending : 0.02 seconds"
  counts=$(sed -nE 's/^([0-9]+) success(es)? \/ ([0-9]+) failures? \/ ([0-9]+) errors? \/ ([0-9]+) pending.*/\1 \3 \4 \5/p' \
    "$results/$name.out" | tail -n 1)
  read -r passed failures errors pending <<<"${counts:-0 0 1 0}"
  failed=$((failures + errors))
  [ "$status" = 0 ] || [ "$failed" != 0 ] || failed=1
  echo "$passed $failed $pending" >"$results/$name.count"
  echo "$file: $passed passed, $failed failed, $pending skipped ($((SECONDS - start)) s)"
  [ "$failed" = 0 ] || { [ "$status" != 124 ] || echo "(stopped after $longest s)"; cat "$results/$name.out"; }
}
export -f one_spec
longest=$((100 * SOCKDRAWER_TIME_SCALE)) # seconds for a file
export results longest

unit_tests
for folder in "$@"; do
  [ -e "$folder" ] && find "$folder" -name '*_spec.lua'
done | sort | xargs -r -P "${SOCKDRAWER_SPECS_AT_A_TIME:-$(($(nproc) + 1))}" -I{} bash -c 'one_spec {}'

# What failed beside others is run once more by itself: these specs drive real processes, and a processor that somebody
# else had for a second is no mistake of theirs. Both tries are in the output; a second failure is a failure.
for count in "$results"/spec*.count; do
  read -r _ failed _ <"$count"
  if [ "$failed" != 0 ]; then
    name=${count##*/} name=${name%.count}
    file=$(cat "$results/$name.file")
    echo "$file: once more, alone"
    one_spec "$file"
  fi
done

cat "$results"/*.count | awk '
  { passed += $1; failed += $2; skipped += $3 }
  END {
    printf "%d passed, %d failed", passed, failed
    if (skipped) printf ", %d skipped", skipped
    print ""
    exit failed > 0 || passed == 0
  }'
