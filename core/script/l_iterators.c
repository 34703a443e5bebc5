/* Reads that a loop repeats: chunks, lines, frames, buffers, and what has stopped them.
 * lua/sockdrawer/iterators.lua makes them of a step and, where it is no usual one, an order. */
#include "l_read.h"

static int step(lua_State *L, l_conn *c, const read_op *op) {
  bool copied = op->lent != NULL && op->lent->copied;
  if (op->lent != NULL && !copied) sd_l_lent_give_back(op->lent);
  if (copied || c->reader != NULL || sd_l_conn_taken(c)) {
    c->stopped = SD_EBUSY;
    lua_pushnil(L);
    return 1;
  }
  return sd_l_read_begin(L, c, op, "a read iterator");
}

/* _next_chunk() */
static int l_next_chunk(lua_State *L) {
  static const read_op chunk = {
    .kind = READ_SOME, .cap = CAP_BUFFER, .timeout = -1, .interrupt = true, .iterator = true
  };
  return step(L, sd_l_conn_check(L, 1), &chunk);
}

static const read_op line = {
  .kind = READ_FRAME,
  .cap = CAP_LINE,
  .timeout = -1,
  .interrupt = true,
  .iterator = true,
  .frame = { .shape = SD_FRAME_LINE },
};

/* _next_line() */
static int l_next_line(lua_State *L) {
  return step(L, sd_l_conn_check(L, 1), &line);
}

static const void *order_class; /* the metatable: compared instead of looked up */

/* _next(order) */
static int l_next(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  const read_op *order = lua_touserdata(L, 2);
  bool known = order != NULL && lua_getmetatable(L, 2) && lua_topointer(L, -1) == order_class;
  if (!known) return luaL_argerror(L, 2, "an order of chunks, lines, frames or buffers expected");
  return step(L, c, order);
}

static int order_gc(lua_State *L) {
  const read_op *standing = lua_touserdata(L, 1);
  if (standing->lent != NULL) sd_vm_unanchor(standing->lent);
  return 0;
}

static void push_order(lua_State *L, const read_op *op) {
  read_op *standing = lua_newuserdata(L, sizeof *standing);
  *standing = *op;
  standing->iterator = true;
  luaL_getmetatable(L, "sockdrawer.order");
  lua_setmetatable(L, -2);
}

/* Functions of Lua's: (conn) and (conn, order) → what a loop calls for each step. */
static sd_ref makers[3] = { LUA_NOREF, LUA_NOREF, LUA_NOREF };
enum { CHUNKS, LINES, ORDERED };

static int make(lua_State *L, int which) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, makers[which]);
  lua_pushvalue(L, 1);
  if (which == ORDERED) lua_pushvalue(L, -3);
  lua_call(L, which == ORDERED ? 2 : 1, 1);
  return 1;
}

static int make_ordered(lua_State *L, const read_op *op) {
  push_order(L, op);
  return make(L, ORDERED);
}

static int l_chunks(lua_State *L) {
  read_op op = sd_l_read_some(sd_l_conn_check(L, 1));
  if (lua_isnoneornil(L, 2)) return make(L, CHUNKS);
  sd_l_read_take_options(L, 2, &op);
  return make_ordered(L, &op);
}

static int l_lines(lua_State *L) {
  sd_l_conn_check(L, 1);
  if (lua_isnoneornil(L, 2)) return make(L, LINES);
  read_op op = line;
  sd_l_read_take_options(L, 2, &op);
  return make_ordered(L, &op);
}

static int l_frames(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  read_op op = sd_l_read_framed(L, c, 2);
  op.interrupt = true;
  sd_l_read_take_options(L, 3, &op);
  return make_ordered(L, &op);
}

static int l_buffers(lua_State *L) {
  read_op op = sd_l_read_some(sd_l_conn_check(L, 1));
  op.kind = READ_LENT;
  sd_l_read_take_options(L, 2, &op);
  op.lent = sd_l_lent_new(L);
  sd_vm_anchor(L, op.lent, -1);
  return make_ordered(L, &op);
}

/* read_iterators(chunks, lines, ordered) */
static int l_read_iterators(lua_State *L) {
  for (int i = CHUNKS; i <= ORDERED; i++) makers[i] = sd_vm_keep(L, i + 1, makers[i]);
  return 0;
}

static int l_stopped(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  if (c->stopped == 0)
    lua_pushnil(L);
  else
    lua_pushstring(L, sd_error_word(c->stopped));
  return 1;
}
void sd_l_iterators_register_core(lua_State *L) {
  lua_pushcfunction(L, l_read_iterators);
  lua_setfield(L, -2, "read_iterators");
}

void sd_l_iterators_register(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "_next_chunk", l_next_chunk },
    { "_next_line", l_next_line },
    { "_next", l_next },
    { "chunks", l_chunks },
    { "lines", l_lines },
    { "frames", l_frames },
    { "buffers", l_buffers },
    { "stopped", l_stopped },
    { NULL, NULL },
  };
  luaL_register(L, NULL, methods);
  luaL_newmetatable(L, "sockdrawer.order");
  order_class = lua_topointer(L, -1);
  lua_pushcfunction(L, order_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}
