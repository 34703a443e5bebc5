/* Writing: write, try_write, write_frame, flush.
 *
 * An argument is taken whole or not at all. With more than write_high queued a
 * writer waits, behind those who wait already; what it was to write is kept in a
 * flat Lua table of strings meanwhile. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l_connection.h"

enum { DEEPEST = 32, CDATA = 10 /* LUA_TCDATA, which lua.h does not name */ };

typedef enum { WAIT_TO_WRITE, WAIT_TO_FLUSH, WAIT_FOR_OTHERS } wait_kind;

static const void *buffer_class; /* metatable of string.buffer objects */

struct write_waiter {
  write_waiter *next;
  sd_task *task;
  wait_kind kind;
};

/* ---- values ---- */

static size_t check_values(lua_State *L, int first, int last, int depth);

static size_t check_table(lua_State *L, int index, int depth) {
  if (depth > DEEPEST) luaL_error(L, "write: tables nested deeper than %d", (int)DEEPEST);
  luaL_checkstack(L, 4, "write");
  size_t total = 0;
  int n = (int)lua_objlen(L, index);
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(L, index, i);
    int top = lua_gettop(L);
    total += check_values(L, top, top, depth + 1);
    lua_settop(L, top - 1);
  }
  return total;
}

static bool is_buffer(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return false;
  bool same = lua_topointer(L, -1) == buffer_class;
  lua_pop(L, 1);
  return same;
}

/* Pushes the bytes of a string.buffer object: only its __tostring tells them. */
static void push_buffer_bytes(lua_State *L, int index) {
  luaL_callmeta(L, index, "__tostring");
}

/* Bytes of the value at `index`; raises for one that has none. A string.buffer
 * object is replaced by its string. */
static size_t check_value(lua_State *L, int index, int depth) {
  size_t length;
  switch (lua_type(L, index)) {
    case LUA_TSTRING:
    case LUA_TNUMBER:
      lua_tolstring(L, index, &length);
      return length;
    case LUA_TTABLE:
      return check_table(L, index, depth);
    case LUA_TUSERDATA: {
      const l_lent *lent = sd_l_lent_test(L, index);
      if (lent != NULL) return lent->length;
      if (!is_buffer(L, index)) break;
      push_buffer_bytes(L, index);
      lua_replace(L, index);
      return lua_objlen(L, index);
    }
  }
  luaL_error(L, "write: a string, number, buffer or a table of them expected, got %s", luaL_typename(L, index));
  return 0;
}

static size_t check_values(lua_State *L, int first, int last, int depth) {
  size_t total = 0;
  for (int i = first; i <= last; i++) total += check_value(L, i, depth);
  return total;
}

/* cdata, length → a string in its place: only Lua's ffi knows cdata. */
static void replace_cdata(lua_State *L, int index) {
  luaL_argcheck(
    L, lua_isnumber(L, index + 1) && lua_tonumber(L, index + 1) >= 0, index, "cdata needs its length behind it");
  lua_getfield(L, LUA_REGISTRYINDEX, "sockdrawer.ffi.string");
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "ffi");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "string");
    lua_remove(L, -2);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, "sockdrawer.ffi.string");
  }
  lua_pushvalue(L, index);
  lua_pushvalue(L, index + 1);
  lua_call(L, 2, 1);
  lua_replace(L, index);
  lua_remove(L, index + 1);
}

static size_t check_arguments(lua_State *L) {
  for (int i = 2; i <= lua_gettop(L); i++)
    if (lua_type(L, i) == CDATA) replace_cdata(L, i);
  return check_values(L, 2, lua_gettop(L), 0);
}

static int put(lua_State *L, l_conn *c, int index);

static int put_table(lua_State *L, l_conn *c, int index) {
  int n = (int)lua_objlen(L, index), err = 0;
  for (int i = 1; i <= n && !err; i++) {
    lua_rawgeti(L, index, i);
    err = put(L, c, lua_gettop(L));
    lua_pop(L, 1);
  }
  return err;
}

static int put_userdata(lua_State *L, l_conn *c, int index) {
  size_t length;
  const l_lent *lent = sd_l_lent_test(L, index);
  if (lent != NULL) return sd_conn_write(&c->conn, lent->block, lent->length);
  push_buffer_bytes(L, index);
  const char *bytes = lua_tolstring(L, -1, &length);
  int err = sd_conn_write(&c->conn, bytes, length);
  lua_pop(L, 1);
  return err;
}

/* Queues a checked value. */
static int put(lua_State *L, l_conn *c, int index) {
  size_t length;
  int type = lua_type(L, index);
  if (type == LUA_TTABLE) return put_table(L, c, index);
  if (type == LUA_TUSERDATA) return put_userdata(L, c, index);
  const char *bytes = lua_tolstring(L, index, &length);
  return sd_conn_write(&c->conn, bytes, length);
}

/* After a write: what is much goes out at once. */
static int settle(l_conn *c, int err) {
  size_t queued = sd_conn_queued(&c->conn);
  if (queued >= SD_CONN_GATHER || queued >= c->conn.limits->write_high) sd_conn_flush(&c->conn);
  sd_conn_count(&c->conn);
  return err ? err : c->conn.err;
}

static int put_all(lua_State *L, l_conn *c, int first, int last) {
  int err = 0;
  for (int i = first; i <= last && !err; i++) err = put(L, c, i);
  return settle(c, err);
}

/* ---- waiting ---- */

static void forget_waiter(l_conn *c, write_waiter *w) {
  write_waiter **link = &c->writers;
  while (*link != w) link = &(*link)->next;
  *link = w->next;
  sd_vm_unanchor(w);
  free(w);
}

static void want_drained(l_conn *c) {
  if (c->writers == NULL) return;
  bool all = c->writers->kind == WAIT_TO_FLUSH;
  c->conn.want_drained = true;
  c->conn.drain_to = all ? 0 : (uint32_t)c->conn.limits->write_low;
}

static void unwait(sd_task *task) {
  l_conn *c = task->waiting_for;
  write_waiter *w = c->writers;
  while (w != NULL && w->task != task) w = w->next;
  if (w != NULL) forget_waiter(c, w);
  want_drained(c); /* the next one may wait for something else */
}

/* Appends a checked value to the list, which has n, as strings and numbers: what
 * others do to its tables and buffers meanwhile changes nothing. */
static int keep(lua_State *L, int index, int list, int n) {
  if (lua_istable(L, index)) {
    int count = (int)lua_objlen(L, index);
    luaL_checkstack(L, 4, "write");
    for (int i = 1; i <= count; i++) {
      lua_rawgeti(L, index, i);
      n = keep(L, lua_gettop(L), list, n);
      lua_pop(L, 1);
    }
    return n;
  }
  l_lent *lent = sd_l_lent_test(L, index);
  if (lent != NULL)
    sd_l_lent_push(L, lent, 0, lent->length);
  else if (lua_isuserdata(L, index))
    push_buffer_bytes(L, index);
  else
    lua_pushvalue(L, index);
  lua_rawseti(L, list, n + 1);
  return n + 1;
}

/* Keeps arguments 2.. in a table under the waiter's name. */
static void keep_arguments(lua_State *L, write_waiter *w) {
  int last = lua_gettop(L), n = 0;
  lua_createtable(L, last - 1, 0);
  for (int i = 2; i <= last; i++) n = keep(L, i, last + 1, n);
  sd_vm_anchor(L, w, -1);
  lua_pop(L, 1);
}

/* The connection's deadline ends the wait, but not one whose bytes are taken. */
static void set_deadline(const l_conn *c, const write_waiter *w) {
  sd_loop *loop = c->conn.loop;
  uint64_t deadline = sd_conn_terms_of(&c->conn)->owner, now = sd_loop_now(loop);
  if (w->kind == WAIT_FOR_OTHERS) return;
  if (deadline == 0)
    sd_timers_disarm(&loop->timers, &w->task->timer);
  else
    sd_task_set_timeout(w->task, deadline > now ? deadline - now : 0);
}

void sd_l_write_retime(l_conn *c) {
  for (const write_waiter *w = c->writers; w != NULL; w = w->next) set_deadline(c, w);
}

static int wait_as(lua_State *L, l_conn *c, wait_kind kind) {
  sd_task *task = sd_task_here(L, "conn:write");
  write_waiter *w = calloc(1, sizeof *w);
  if (w == NULL) return sd_push_failure(L, -ENOMEM);
  w->task = task;
  w->kind = kind;
  if (kind == WAIT_TO_WRITE) keep_arguments(L, w);
  write_waiter **tail = &c->writers;
  while (*tail != NULL) tail = &(*tail)->next;
  *tail = w;
  want_drained(c);
  if (sd_conn_terms_of(&c->conn)->owner != 0) set_deadline(c, w);
  return sd_task_wait(L, task, c, unwait); /* what is gathered goes out once it waits */
}

static void wake(l_conn *c, write_waiter *w, int err) {
  sd_task *task = w->task;
  forget_waiter(c, w);
  int n = 1;
  if (err)
    n = sd_push_failure(task->co, err);
  else
    lua_pushboolean(task->co, 1);
  sd_task_wake(task, n);
}

static int put_kept(l_conn *c, write_waiter *w) {
  lua_State *L = sd_the_vm.L;
  if (w->kind != WAIT_TO_WRITE) return 0;
  sd_vm_push_anchored(L, w);
  int err = put(L, c, lua_gettop(L));
  lua_pop(L, 1);
  return err;
}

static int failure_of(const l_conn *c) {
  return c->conn.state == SD_CONN_OPEN ? c->conn.err : SD_ECLOSED;
}

void sd_l_write_on_drained(sd_conn *conn) {
  l_conn *c = (l_conn *)conn;
  while (c->writers != NULL) {
    write_waiter *w = c->writers;
    int err = failure_of(c);
    if (!err && w->kind == WAIT_TO_FLUSH && sd_conn_queued(conn) > 0) break;
    if (!err && sd_conn_queued(conn) > conn->limits->write_high) break;
    if (!err) err = put_kept(c, w);
    wake(c, w, err);
  }
  want_drained(c);
  if (conn->state == SD_CONN_OPEN && sd_conn_queued(conn) > 0 && conn->writable && !conn->dirty) sd_conn_flush(conn);
}

void sd_l_write_fail_all(l_conn *c, int err) {
  while (c->writers != NULL) wake(c, c->writers, err);
}

/* ---- methods ---- */

static int written(lua_State *L, l_conn *c, int err) {
  if (err) return sd_push_failure(L, err);
  c->conn.active = sd_loop_now(c->conn.loop);
  if (sd_the_vm.current != NULL && sd_conn_tired(&c->conn)) return wait_as(L, c, WAIT_FOR_OTHERS);
  lua_pushboolean(L, 1);
  return 1;
}

static int write_arguments(lua_State *L, l_conn *c) {
  if (sd_l_conn_taken(c)) return sd_push_failure(L, SD_EBUSY);
  int err = failure_of(c);
  if (err) return sd_push_failure(L, err);
  if (c->writers != NULL || sd_conn_queued(&c->conn) > c->conn.limits->write_high) return wait_as(L, c, WAIT_TO_WRITE);
  return written(L, c, put_all(L, c, 2, lua_gettop(L)));
}

static bool takes_more(const l_conn *c) {
  if (c->writers != NULL || sd_l_conn_taken(c) || c->conn.state != SD_CONN_OPEN || c->conn.err != 0) return false;
  return sd_conn_queued(&c->conn) <= c->conn.limits->write_high;
}

/* The bytes of a string or of a lent buffer, and NULL for anything else. */
static const char *bytes_of(lua_State *L, int index, size_t *length) {
  if (lua_type(L, index) == LUA_TSTRING) return lua_tolstring(L, index, length);
  const l_lent *lent = sd_l_lent_test(L, index);
  if (lent == NULL) return NULL;
  *length = lent->length;
  return lent->block;
}

/* One of them, and room for it, is what nearly every write is. */
static int l_write(lua_State *L) {
  size_t length;
  l_conn *c = sd_l_conn_check(L, 1);
  const char *bytes = lua_gettop(L) == 2 && takes_more(c) ? bytes_of(L, 2, &length) : NULL;
  if (bytes != NULL) return written(L, c, settle(c, sd_conn_write(&c->conn, bytes, length)));
  check_arguments(L);
  return write_arguments(L, c);
}

static int l_try_write(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  size_t total = check_arguments(L);
  int err = failure_of(c);
  if (sd_l_conn_taken(c)) err = SD_EBUSY;
  if (!err && sd_conn_queued(&c->conn) + total > c->conn.limits->write_max) err = SD_ELIMIT;
  if (!err) err = put_all(L, c, 2, lua_gettop(L));
  if (err) return sd_push_failure(L, err);
  lua_pushboolean(L, 1);
  return 1;
}

/* write_frame(kind, s): header, s and trailer are one write. */
static int l_write_frame(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  sd_frame frame;
  size_t length, tail_length;
  lua_settop(L, 3);
  if (lua_istable(L, 2)) return luaL_argerror(L, 2, "a frame kind by name expected");
  const char *kind = luaL_checkstring(L, 2);
  if (sd_frame_named(&frame, kind) != 0) return luaL_error(L, "write_frame: unknown frame kind '%s'", kind);
  luaL_checklstring(L, 3, &length);
  char head[SD_FRAME_HEADER_MAX];
  int n = sd_frame_header(&frame, length, head);
  if (n < 0) return sd_push_failure(L, n == -EMSGSIZE ? SD_ELIMIT : n);
  lua_pushlstring(L, head, (size_t)n);
  lua_replace(L, 2);
  const char *tail = sd_frame_trailer(&frame, &tail_length);
  lua_pushlstring(L, tail, tail_length);
  return write_arguments(L, c);
}

static int l_flush(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  int err = sd_l_conn_taken(c) ? SD_EBUSY : failure_of(c);
  if (err) return sd_push_failure(L, err);
  sd_conn_flush(&c->conn);
  err = failure_of(c);
  if (err) return sd_push_failure(L, err);
  if (sd_conn_queued(&c->conn) > 0 || c->writers != NULL) return wait_as(L, c, WAIT_TO_FLUSH);
  lua_pushboolean(L, 1);
  return 1;
}

static void learn_buffer_class(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "string.buffer");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "new");
  lua_call(L, 0, 1);
  lua_getmetatable(L, -1);
  buffer_class = lua_topointer(L, -1);
  lua_pop(L, 3);
}

void sd_l_write_register(lua_State *L) {
  static const luaL_Reg methods[] = { { "write", l_write }, { "try_write", l_try_write },
    { "write_frame", l_write_frame }, { "flush", l_flush }, { NULL, NULL } };
  luaL_register(L, NULL, methods);
  learn_buffer_class(L);
}
