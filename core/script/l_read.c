/* The reads that a handler asks for: read, read_until, read_frame and peek, what is put back by
 * unread, and the waits between two messages. Each is an order for the operation of l_read_op.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l_read.h"

read_op sd_l_read_some(const l_conn *c) {
  return (read_op){
    .kind = READ_SOME, .cap = CAP_BUFFER, .max = c->conn.limits->read_buffer, .timeout = -1, .interrupt = true
  };
}

static void take_max(lua_State *L, int index, read_op *op) {
  lua_getfield(L, index, "max");
  if (!lua_isnil(L, -1)) {
    double n = luaL_checknumber(L, -1);
    if (!(n >= 1)) luaL_error(L, "max: at least 1 byte");
    op->cap = CAP_OWN;
    op->max = n < 4e9 ? (size_t)n : (size_t)4e9;
  }
  lua_pop(L, 1);
}

static bool field_true(lua_State *L, int index, const char *key) {
  lua_getfield(L, index, key);
  bool yes = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return yes;
}

void sd_l_read_take_options(lua_State *L, int index, read_op *op) {
  if (lua_isnoneornil(L, index)) return;
  luaL_checktype(L, index, LUA_TTABLE);
  op->timeout = sd_opt_ms(L, index, "timeout");
  take_max(L, index, op);
  op->follow = field_true(L, index, "follow");
  if (op->follow || field_true(L, index, "interrupt")) op->interrupt = true;
}

/* Messages that lie in the buffer already, as those of a sender do that does not wait for
 * answers: no operation is begun for them. */
static bool holds(l_conn *c, double n) {
  if (!(n >= 1) || n > (double)sd_buffer_length(&c->conn.in) || n > (double)c->conn.limits->frame) return false;
  if (c->reader != NULL || sd_l_conn_taken(c) || c->conn.state != SD_CONN_OPEN) return false;
  return !sd_conn_tired(&c->conn);
}

static int read_exactly(lua_State *L, l_conn *c) {
  double n = lua_tonumber(L, 2);
  bool plain = lua_gettop(L) == 2;
  if (plain && holds(c, n)) {
    sd_task_here(L, "conn:read");
    return sd_l_read_take(L, c, (size_t)n);
  }
  luaL_argcheck(L, n >= 0, 2, "a count of bytes is not negative");
  size_t limit = c->conn.limits->frame;
  read_op op = { .kind = READ_FRAME, .cap = CAP_FRAME, .max = limit, .timeout = -1 };
  op.frame = sd_frame_exact(n < 4e9 ? (size_t)n : (size_t)4e9);
  if (!plain) sd_l_read_take_options(L, 3, &op);
  if (op.frame.exact > op.max) {
    c->stopped = SD_ELIMIT;
    sd_l_conn_happened(c, L_READ, (uint32_t)SD_ELIMIT);
    return sd_push_failure(L, SD_ELIMIT);
  }
  return sd_l_read_begin(L, c, &op, "conn:read");
}

static int read_format(lua_State *L, l_conn *c) {
  const char *format = lua_tostring(L, 2);
  if (*format == '*') format++; /* as LuaSocket and Lua 5.1 spell them */
  read_op op = { .timeout = -1 };
  if (*format == 'a') {
    op.kind = READ_ALL;
    op.cap = CAP_FRAME;
    op.max = c->conn.limits->frame;
  } else if (*format == 'l' || *format == 'L') {
    op.kind = READ_FRAME;
    op.cap = CAP_LINE;
    op.max = c->conn.limits->line;
    sd_frame_named(&op.frame, *format == 'l' ? "l" : "L");
  } else {
    return luaL_argerror(L, 2, "a count, \"l\", \"L\" or \"a\" expected");
  }
  sd_l_read_take_options(L, 3, &op);
  return sd_l_read_begin(L, c, &op, "conn:read");
}

static int l_read(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  int type = lua_type(L, 2);
  if (type == LUA_TNUMBER) return read_exactly(L, c);
  if (type == LUA_TSTRING) return read_format(L, c);
  read_op op = sd_l_read_some(c);
  sd_l_read_take_options(L, 2, &op);
  return sd_l_read_begin(L, c, &op, "conn:read");
}

static int l_read_until(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  size_t length;
  const char *needle = luaL_checklstring(L, 2, &length);
  luaL_argcheck(L, length > 0, 2, "the needle is empty");
  read_op op = { .kind = READ_FRAME, .cap = CAP_FRAME, .max = c->conn.limits->frame, .timeout = -1 };
  bool inclusive = false;
  if (lua_istable(L, 3)) inclusive = field_true(L, 3, "inclusive");
  sd_l_read_take_options(L, 3, &op);
  op.frame = sd_frame_until(needle, length, inclusive);
  return sd_l_read_begin(L, c, &op, "conn:read_until");
}

/* A kind by name, or { length = "u32be", at =, header =, includes_header = }. */
static void check_kind(lua_State *L, int index, sd_frame *frame) {
  if (lua_type(L, index) == LUA_TSTRING) {
    if (sd_frame_named(frame, lua_tostring(L, index)) == 0) return;
    luaL_error(L,
      "unknown frame kind '%s': l, L, u8, u16be, u16le, u24be, u32be, u32le, varint, "
      "netstring, or a table with length",
      lua_tostring(L, index));
  }
  luaL_checktype(L, index, LUA_TTABLE);
  lua_getfield(L, index, "length");
  const char *length = luaL_checkstring(L, -1);
  lua_getfield(L, index, "at");
  lua_getfield(L, index, "header");
  lua_getfield(L, index, "includes_header");
  size_t at = (size_t)luaL_optinteger(L, -3, 0);
  sd_frame field;
  size_t header = sd_frame_named(&field, length) == 0 ? at + field.width : at;
  if (!lua_isnil(L, -2)) header = (size_t)luaL_checkinteger(L, -2);
  if (sd_frame_custom(frame, length, at, header, lua_toboolean(L, -1)) != 0)
    luaL_error(
      L, "frame: a length of kind %s at byte %d does not fit a header of %d bytes", length, (int)at, (int)header);
  lua_pop(L, 4);
}

read_op sd_l_read_framed(lua_State *L, const l_conn *c, int index) {
  read_op op = { .kind = READ_FRAME, .timeout = -1 };
  check_kind(L, index, &op.frame);
  bool line = op.frame.shape == SD_FRAME_LINE || op.frame.shape == SD_FRAME_LINE_KEPT;
  op.cap = line ? CAP_LINE : CAP_FRAME;
  op.max = line ? c->conn.limits->line : c->conn.limits->frame;
  return op;
}

static int l_read_frame(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  read_op op = sd_l_read_framed(L, c, 2);
  sd_l_read_take_options(L, 3, &op);
  return sd_l_read_begin(L, c, &op, "conn:read_frame");
}

static int l_peek(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  lua_Integer n = luaL_checkinteger(L, 2);
  luaL_argcheck(L, n > 0, 2, "at least 1 byte");
  read_op op = { .kind = READ_PEEK, .max = (size_t)n, .timeout = -1 };
  if (lua_istable(L, 3)) op.timeout = sd_opt_ms(L, 3, "timeout");
  if ((size_t)n > c->conn.limits->frame) return sd_push_failure(L, SD_ELIMIT);
  return sd_l_read_begin(L, c, &op, "conn:peek");
}

static int l_unread(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  if (c->conn.state != SD_CONN_OPEN) return sd_push_failure(L, SD_ECLOSED);
  if (c->reader != NULL || sd_l_conn_taken(c)) return sd_push_failure(L, SD_EBUSY);
  if (sd_buffer_length(&c->conn.in) + length > c->conn.limits->frame + SD_L_READ_STEP)
    return sd_push_failure(L, SD_ELIMIT);
  int err = sd_buffer_prepend(&c->conn.in, bytes, length);
  if (err) return sd_push_failure(L, err);
  lua_pushboolean(L, 1);
  return 1;
}

static void take_patience(lua_State *L, int index, read_op *op) {
  if (lua_isnumber(L, index)) {
    double seconds = lua_tonumber(L, index);
    op->timeout = seconds < 4e6 ? (int64_t)(seconds * 1000 + 0.999) : 0;
    if (op->timeout == 0 && seconds < 4e6) op->timeout = 1;
  } else if (lua_isboolean(L, index)) {
    op->timeout = 0;
  }
}

/* _await(seconds | nil): until there is something; takes nothing. */
static int l_await(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  read_op op = { .kind = READ_PEEK, .max = 1, .timeout = -1, .interrupt = true, .mail = true };
  take_patience(L, 2, &op);
  return sd_l_read_begin(L, c, &op, "conn:wait");
}

/* _await_aside(): the same, while its task's parent waits for other things too. Messages do not
 * end it. */
static int l_await_aside(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  read_op op = { .kind = READ_PEEK, .max = 1, .timeout = -1, .interrupt = true, .aside = true, .resumes = true };
  return sd_l_read_begin(L, c, &op, "sd.select");
}

/* _poll(): what _await_aside would give at once; nothing where it would wait. */
static int l_poll(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  if (c->reader != NULL || sd_l_conn_taken(c)) return sd_push_failure(L, SD_EBUSY);
  c->op = (read_op){ .kind = READ_PEEK, .max = 1, .interrupt = true, .aside = true };
  return sd_l_read_now(L, c);
}

/* _heard(): the handler has been told of the draining. */
static int l_heard(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  if (c->draining) c->told = true;
  return 0;
}

/* _read_message(kind | nil, idle | nil, resumes, driven, mail): the wait between two messages of
 * the peer's. With `mail` one in the mailbox ends it too: nil, "message"; `resumes`: what that
 * ended had a part of its time left, which is what there is now. */
static int l_read_message(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  read_op op = lua_isnoneornil(L, 2) ? sd_l_read_some(c) : sd_l_read_framed(L, c, 2);
  op.interrupt = true;
  op.resumes = lua_toboolean(L, 4);
  op.follow = op.driven = lua_toboolean(L, 5);
  op.mail = lua_toboolean(L, 6);
  take_patience(L, 3, &op);
  return sd_l_read_begin(L, c, &op, op.driven ? "a callback" : "conn:event");
}
void sd_l_read_register(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "read", l_read },
    { "read_until", l_read_until },
    { "read_frame", l_read_frame },
    { "peek", l_peek },
    { "unread", l_unread },
    { "_read_message", l_read_message },
    { "_await", l_await },
    { "_await_aside", l_await_aside },
    { "_poll", l_poll },
    { "_heard", l_heard },
    { NULL, NULL },
  };
  luaL_register(L, NULL, methods);
}
