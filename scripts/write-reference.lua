-- Prints docs/reference.md, from the tables of options and verbs in the source: `make reference`.
package.path = "./lua/?.lua;./lua/?/init.lua;" .. package.path
local options = require "sockdrawer.options.reference"
local rows = require "sockdrawer.options.rows"
local verbs = require "sockdrawer.verbs"

io.write("# Reference\n\n",
  "Made by `make reference` from the tables that the program itself checks against; do not edit it.\n\n",
  "Times are in seconds, sizes in bytes or as `\"64K\"`.\n\n",
  options.markdown(rows), "\n## Verbs\n\n", verbs.markdown())
