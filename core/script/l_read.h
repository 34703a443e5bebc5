/* What the files of reading share: l_read_op.c has the one operation that every read is,
 * l_read.c the orders for it, l_iterators.c those that a loop repeats. */
#ifndef SD_L_READ_H
#define SD_L_READ_H

#include "l_connection.h"

enum { SD_L_READ_STEP = 65536 }; /* bytes that are asked of the socket at once, at the most */

/* ---- l_read_op.c: each answers with the number of values that it has pushed ---- */

/* Runs `op` for the running task: `return sd_l_read_begin(…)`, since it may wait. Says nil,
 * "busy" where another one reads; raises, naming `what`, where nothing may wait. */
int sd_l_read_begin(lua_State *L, l_conn *c, const read_op *op, const char *what);

/* What the operation in c->op gives without a wait; 0: nothing yet. */
int sd_l_read_now(lua_State *L, l_conn *c);

/* The first `n` bytes of what is held, which are there: a read that needs no operation. */
int sd_l_read_take(lua_State *L, l_conn *c, size_t n);

/* ---- l_read.c: orders ---- */

/* Whatever comes. */
read_op sd_l_read_some(const l_conn *c);

/* A frame of the kind at `index`: a name, or a table with its length; raises for others. */
read_op sd_l_read_framed(lua_State *L, const l_conn *c, int index);

/* Puts { timeout=, max=, interrupt=, follow= } at `index`, if there is such a table, into it. */
void sd_l_read_take_options(lua_State *L, int index, read_op *op);

#endif
