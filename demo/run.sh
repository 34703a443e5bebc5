#!/bin/sh
# Says what to try, then becomes the demo. usage: run.sh PROGRAM
program=$1
demo=$(dirname "$0")
cat <<TEXT

The demo serves three pools. In another terminal, in this folder:

  nc 127.0.0.1 7000             the echo
  nc 127.0.0.1 7001             the greeter
  nc 127.0.0.1 7002             numbers your lines

  $program status
  $program conns

Keep the greeter open in one terminal, change a word in
$demo/handlers/greet.lua, and replace it while it runs:

  $program swap greet           the open connection stays as it is, the next one gets the new text
  $program gens greet
  $program rollback greet

Stop with Ctrl-C, or with: $program stop

TEXT
exec "$program" "$demo/demo.lua"
