/* A connection that goes on with other code, or in another process: its task ends
 * where it stands, and another one takes its place under the same id. Here that is
 * the heir; elsewhere it is made of what was packed here. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "heap.h"
#include "l_pool.h"
#include "l_shared.h"

static sd_ref on_gone = LUA_NOREF;

/* Only the handler's own task can make way for another. */
static sd_task *own_task(lua_State *L, l_conn *c, const char *what) {
  sd_task *task = sd_task_here(L, what);
  if (task != &c->task) luaL_error(L, "%s: only the connection's own handler can do that", what);
  return task;
}

/* _restart(generation, fn, ...): goes on as fn(conn, ...) in this generation. It
 * returns only what keeps it from that. */
static int l_restart(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  luaL_checktype(L, 3, LUA_TFUNCTION);
  sd_task *task = own_task(L, c, "conn:become");
  if (c->conn.state != SD_CONN_OPEN) return sd_push_failure(L, SD_ECLOSED);
  l_generation *g = sd_l_pool_generation(c->pool, (uint64_t)luaL_checknumber(L, 2));
  luaL_argcheck(L, g != NULL, 2, "no such generation here");
  lua_State *co = sd_task_coroutine();
  lua_pushvalue(L, 1);
  lua_insert(L, 4);
  lua_xmove(L, co, lua_gettop(L) - 2);
  c->heir = co;
  c->heir_generation = g;
  task->doomed = true;
  return sd_task_wait(L, task, NULL, NULL);
}

bool sd_l_move_go_on(l_conn *c) {
  lua_State *co = c->heir;
  if (co == NULL) return false;
  c->heir = NULL;
  c->stopped = 0;
  sd_l_conn_run_on_close(c, SD_END_MOVED);
  sd_l_pool_conn_change(c, c->heir_generation);
  sd_l_conn_serve(c, co, lua_gettop(co) - 1);
  return true;
}

/* _want(yes): ends the wait of a reader that follows, now or when it comes to it. */
static int l_want(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  c->wanted = lua_toboolean(L, 2);
  c->asked = false;
  if (c->wanted && c->conn.state == SD_CONN_OPEN) sd_l_read_outdate(c);
  return 0;
}

static int l_outdated(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  lua_pushboolean(L, c->wanted || (c->pool != NULL && sd_l_pool_newer(c) != 0));
  return 1;
}

/* _newer(): the number of the live generation if it is newer than ours, else nil. */
static int l_newer(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  uint64_t newer = c->pool != NULL ? sd_l_pool_newer(c) : 0;
  if (newer == 0)
    lua_pushnil(L);
  else
    lua_pushnumber(L, (lua_Number)newer);
  return 1;
}

/* _follows(): whether it reads, or has read, with `follow`. */
static int l_follows(lua_State *L) {
  lua_pushboolean(L, sd_l_conn_check(L, 1)->follows);
  return 1;
}

/* _waits(): whether it is in a read that nothing can end between two messages. */
static int l_waits(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  lua_pushboolean(L, c->reader != NULL && !c->op.follow);
  return 1;
}

/* ---- leaving this process ---- */

/* _movable() → true | nil, "closed", "draining" or "not movable". */
static int l_movable(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  const char *why = NULL;
  if (c->conn.state != SD_CONN_OPEN || c->conn.err != 0)
    why = "closed";
  else if (c->draining)
    why = "draining";
  else if (c->pool == NULL || sd_l_conn_taken(c) || c->task.children.first != NULL || c->writers != NULL ||
           sd_l_transport_has(c))
    why = "not movable";
  if (why == NULL) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_pushnil(L);
  lua_pushstring(L, why);
  return 2;
}

static void put_number(lua_State *L, const char *key, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, key);
}

/* Meanwhile nobody has them: making a string may run the collector, and that a finalizer which
 * closes the connection. */
static void put_bytes(lua_State *L, const char *key, const l_conn *c, sd_buffer *bytes) {
  sd_buffer held = *bytes;
  *bytes = (sd_buffer){ 0 };
  sd_vm_push_bytes(L, sd_buffer_length(&held) > 0 ? sd_buffer_bytes(&held) : "", sd_buffer_length(&held));
  lua_setfield(L, -2, key);
  if (c->conn.state == SD_CONN_OPEN)
    *bytes = held;
  else
    sd_buffer_free(&held);
}

static void put_flag(lua_State *L, const char *key, bool value) {
  lua_pushboolean(L, value);
  lua_setfield(L, -2, key);
}

/* Milliseconds until then, at least 1; 0: never. */
static double until(const l_conn *c, uint64_t when) {
  uint64_t now = sd_loop_now(c->conn.loop);
  if (when == 0) return 0;
  return when > now ? (double)(when - now) : 1;
}

/* Its events, one after the other. */
static void pack_history(lua_State *L, const l_conn *c) {
  luaL_Buffer bytes;
  const l_event *e;
  luaL_buffinit(L, &bytes);
  for (unsigned i = 0; (e = sd_l_history_at(&c->history, i)) != NULL; i++)
    luaL_addlstring(&bytes, (const char *)e, sizeof *e);
  luaL_pushresult(&bytes);
  lua_setfield(L, -2, "history");
}

static void pack(lua_State *L, l_conn *c) {
  uint64_t now = sd_loop_now(c->conn.loop);
  lua_createtable(L, 0, 22);
  sd_l_conn_push_id(L, c);
  lua_setfield(L, -2, "id");
  put_bytes(L, "input", c, &c->conn.in);
  put_bytes(L, "output", c, &c->conn.out);
  put_number(L, "generation", (double)c->task.generation);
  put_number(L, "bytes_in", (double)c->conn.bytes_in);
  put_number(L, "bytes_out", (double)c->conn.bytes_out);
  put_number(L, "age", (double)(now - c->conn.opened));
  put_number(L, "silent", (double)(now - c->conn.active));
  put_number(L, "idle", c->conn.idle);
  put_number(L, "write", c->conn.write);
  put_number(L, "life", until(c, sd_conn_terms_of(&c->conn)->life));
  put_number(L, "headcount", c->headcount);
  put_number(L, "deadline", until(c, sd_conn_terms_of(&c->conn)->owner));
  put_number(L, "messages", c->conn.messages);
  pack_history(L, c);
  put_flag(L, "eof", c->conn.eof);
  put_flag(L, "deaf", c->conn.deaf);
  put_flag(L, "fin", c->conn.fin);
  put_flag(L, "want_fin", c->conn.want_fin);
  put_flag(L, "follows", c->follows);
  put_flag(L, "uncounted", c->uncounted);
  put_flag(L, "owns", c->task.owns);
}

/* _pack() → everything that the other process needs to go on | nil, word. */
static int l_pack(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  sd_conn_flush(&c->conn); /* the less has to travel */
  if (c->conn.state != SD_CONN_OPEN || c->conn.err != 0) return sd_push_failure(L, SD_ECLOSED);
  if (c->reader != NULL || c->writers != NULL) return sd_push_failure(L, SD_EBUSY);
  c->packed = true;
  sd_heap_shelter(); /* an error would leave the mark */
  pack(L, c);
  sd_heap_expose();
  c->packed = false;
  return c->conn.state == SD_CONN_OPEN ? 1 : sd_push_failure(L, SD_ECLOSED);
}

/* _rehome(pid): what it owns ends with that process from now on. */
static int l_rehome(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  if (c->task.owns) sd_shared_conn_moves(c, (int32_t)luaL_checkinteger(L, 2));
  return 0;
}

/* _depart(): it lives on elsewhere; the handler ends where it stands. */
static int l_depart(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  sd_task *task = own_task(L, c, "conn:move");
  sd_conn_note_end(&c->conn, SD_END_MOVED);
  sd_conn_detach(&c->conn);
  sd_scoreboard_leave(sd_the_vm.scoreboard, c->pool->index, c->headcount);
  c->departed = true;
  sd_l_conn_run_on_close(c, SD_END_MOVED);
  task->doomed = true;
  return sd_task_wait(L, task, NULL, NULL);
}

/* pass(from, from_pid, to, to_pid, uncounted) → true | nil, word: slots of the scoreboard. */
int sd_l_move_pass(lua_State *L) {
  const l_pool *pool = sd_l_pool_check(L);
  sd_scoreboard_party from = { (uint32_t)luaL_checkinteger(L, 2), (int32_t)luaL_checkinteger(L, 3) };
  sd_scoreboard_party to = { (uint32_t)luaL_checkinteger(L, 4), (int32_t)luaL_checkinteger(L, 5) };
  int err = sd_scoreboard_pass(sd_the_vm.scoreboard, pool->index, from, to, !lua_toboolean(L, 6));
  if (err) return sd_push_failure(L, err);
  lua_pushboolean(L, 1);
  return 1;
}

/* ---- coming into this process ---- */

/* hold(generation) → whether it is here: it stays until unhold, as if it served one more. */
int sd_l_move_hold(lua_State *L) {
  l_generation *g = sd_l_pool_generation(sd_l_pool_check(L), (uint64_t)luaL_checknumber(L, 2));
  if (g != NULL) g->connections++;
  lua_pushboolean(L, g != NULL);
  return 1;
}

int sd_l_move_unhold(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  l_generation *g = sd_l_pool_generation(pool, (uint64_t)luaL_checknumber(L, 2));
  if (g != NULL) sd_l_pool_leave(pool, g);
  return 0;
}

static double number_of(lua_State *L, int index, const char *key) {
  lua_getfield(L, index, key);
  double value = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return value;
}

static bool flag_of(lua_State *L, int index, const char *key) {
  lua_getfield(L, index, key);
  bool value = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}

static uint64_t from_now(const l_conn *c, double ms) {
  return ms > 0 ? sd_loop_now(c->conn.loop) + (uint64_t)ms : 0;
}

static void unpack_id(lua_State *L, int index, l_conn *c) {
  lua_getfield(L, index, "id");
  const char *id = lua_tostring(L, -1);
  int loop, life;
  unsigned long serial;
  if (id != NULL && sscanf(id, "%d.%d.%lu", &loop, &life, &serial) == 3) {
    bool own = strncmp(id, sd_the_vm.id_prefix, strlen(sd_the_vm.id_prefix)) == 0; /* it has come back */
    c->born_loop = own ? 0 : loop;
    c->born_life = own ? 0 : life;
    c->serial = serial;
    if (own) c->task.serial = serial;
  }
  lua_pop(L, 1);
}

static int unpack_bytes(lua_State *L, int index, l_conn *c) {
  size_t length;
  lua_getfield(L, index, "input");
  const char *bytes = lua_tolstring(L, -1, &length);
  int err = length > 0 ? sd_buffer_append(&c->conn.in, bytes, length) : 0;
  lua_getfield(L, index, "output");
  bytes = lua_tolstring(L, -1, &length);
  if (!err && length > 0) err = sd_buffer_append(&c->conn.out, bytes, length);
  lua_pop(L, 2);
  return err;
}

/* Of another version of the program it may be of another shape. */
static void unpack_history(lua_State *L, int index, l_conn *c) {
  size_t length;
  lua_getfield(L, index, "history");
  const char *bytes = lua_tolstring(L, -1, &length);
  l_event event;
  for (; bytes != NULL && length >= sizeof event; bytes += sizeof event, length -= sizeof event) {
    memcpy(&event, bytes, sizeof event);
    sd_l_history_add(&c->history, &event);
  }
  lua_pop(L, 1);
}

static int unpack(lua_State *L, int index, l_conn *c) {
  unpack_id(L, index, c);
  c->task.owns = flag_of(L, index, "owns");
  c->uncounted = flag_of(L, index, "uncounted"); /* before anything can fail: its end goes by it */
  int err = unpack_bytes(L, index, c);
  if (err) return err;
  if ((uint64_t)number_of(L, index, "generation") != c->task.generation)
    sd_trial_served(sd_scoreboard_trial(sd_the_vm.scoreboard, c->pool->index), c->task.generation);
  c->conn.bytes_in = (uint64_t)number_of(L, index, "bytes_in");
  c->conn.bytes_out = (uint64_t)number_of(L, index, "bytes_out");
  c->conn.messages = (uint32_t)number_of(L, index, "messages");
  c->conn.opened -= (uint64_t)number_of(L, index, "age");
  c->conn.active -= (uint64_t)number_of(L, index, "silent");
  c->conn.idle = (uint32_t)number_of(L, index, "idle");
  c->conn.write = (uint32_t)number_of(L, index, "write");
  sd_conn_set_owner_deadline(&c->conn, from_now(c, number_of(L, index, "deadline")));
  c->headcount = (uint32_t)number_of(L, index, "headcount");
  sd_scoreboard_adopt(sd_the_vm.scoreboard, c->pool->index, c->headcount);
  c->conn.headed = true;
  c->conn.eof = flag_of(L, index, "eof");
  c->conn.deaf = flag_of(L, index, "deaf");
  c->conn.fin = flag_of(L, index, "fin");
  c->conn.want_fin = flag_of(L, index, "want_fin");
  c->follows = flag_of(L, index, "follows");
  unpack_history(L, index, c);
  sd_conn_set_life_deadline(&c->conn, from_now(c, number_of(L, index, "life")));
  return 0;
}

static void lose_owned(lua_State *L, int packed) {
  if (!lua_istable(L, packed) || !flag_of(L, packed, "owns")) return;
  lua_getfield(L, packed, "id");
  sd_shared_owner_ended(L, -1);
  lua_pop(L, 1);
}

/* The connection was counted here when its place was passed on. */
static int lost(lua_State *L, const l_pool *pool, int fd, int err) {
  bool uncounted = lua_istable(L, 4) && flag_of(L, 4, "uncounted");
  close(fd);
  lose_owned(L, 4);
  sd_scoreboard_count_closed(sd_the_vm.scoreboard, pool->index);
  if (!uncounted) sd_scoreboard_release(sd_the_vm.scoreboard, pool->index);
  return sd_push_failure(L, err);
}

/* admit(fd, generation, packed | headcount of a new one, fn, ...) → conn | nil, word: serves it as
 * fn(conn, ...). The descriptor and its place are used up in any case. */
int sd_l_move_admit(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  int fd = (int)luaL_checkinteger(L, 2);
  l_generation *g = sd_l_pool_generation(pool, (uint64_t)luaL_checknumber(L, 3));
  luaL_checktype(L, 5, LUA_TFUNCTION);
  struct sockaddr_storage peer;
  socklen_t length = sizeof peer;
  bool known = getpeername(fd, (struct sockaddr *)&peer, &length) == 0;
  if (g == NULL) return lost(L, pool, fd, -ENOENT);
  int err = 0;
  bool carried = g->carried && !lua_istable(L, 4);
  const struct sockaddr *from = known ? (struct sockaddr *)&peer : NULL;
  l_conn *c = carried ? sd_l_transport_new(L, pool, fd, from, &err) : sd_l_conn_new(L, fd, pool->limits, from, &err);
  if (c == NULL) return lost(L, pool, fd, err);
  sd_l_pool_join(pool, g, c);
  if (lua_istable(L, 4)) {
    err = unpack(L, 4, c);
  } else {
    c->headcount = (uint32_t)lua_tonumber(L, 4);
    sd_scoreboard_adopt(sd_the_vm.scoreboard, pool->index, c->headcount);
    if (known) sd_l_pool_set_sockopts(pool, fd, (struct sockaddr *)&peer);
  }
  lua_insert(L, 6);
  lua_State *co = sd_task_coroutine();
  int nargs = lua_gettop(L) - 5;
  lua_pushvalue(L, 6);
  lua_insert(L, 5);
  lua_xmove(L, co, nargs + 1);
  nargs += sd_l_transport_push_ends(co, c);
  sd_l_conn_serve(c, co, nargs);
  if (err)
    sd_l_conn_cut(c, SD_END_ERROR, false);
  else
    sd_conn_flush(&c->conn);
  return 1;
}

/* lose(index, fd): a socket came to a pool that is not here any more. */
static int l_lose(lua_State *L) {
  uint32_t pool = (uint32_t)luaL_checkinteger(L, 1);
  close((int)luaL_checkinteger(L, 2));
  sd_scoreboard_count_closed(sd_the_vm.scoreboard, pool);
  sd_scoreboard_release(sd_the_vm.scoreboard, pool);
  return 0;
}

/* ---- the loop of its birth ---- */

/* on_gone(fn): fn(id) when a connection that was born elsewhere has ended here. */
static int l_on_gone(lua_State *L) {
  on_gone = sd_vm_keep(L, 1, on_gone);
  return 0;
}

void sd_l_move_gone(l_conn *c) {
  if (c->born_loop == 0 || on_gone == LUA_NOREF) return;
  lua_State *co = sd_task_calling(on_gone);
  sd_l_conn_push_id(co, c);
  sd_task_spawn(co, 1, NULL);
}

/* core.on_gone, core.lose */
void sd_l_move_register_core(lua_State *L) {
  lua_pushcfunction(L, l_lose);
  lua_setfield(L, -2, "lose");
  lua_pushcfunction(L, l_on_gone);
  lua_setfield(L, -2, "on_gone");
}

void sd_l_move_register(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "_restart", l_restart },
    { "_want", l_want },
    { "_follows", l_follows },
    { "outdated", l_outdated },
    { "_newer", l_newer },
    { "_waits", l_waits },
    { "_movable", l_movable },
    { "_pack", l_pack },
    { "_rehome", l_rehome },
    { "_depart", l_depart },
    { NULL, NULL },
  };
  luaL_register(L, NULL, methods);
}
