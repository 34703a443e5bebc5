/* The life of a connection in Lua, and its small methods. */
#include "l_connection.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l_shared.h"
#include "heap.h"
#include "l_socket.h"
#include "net/address.h"
#include "net/pipe.h"
#include "net/sockopt.h"

#define CONN "sockdrawer.connection"

/* The metatables: compared instead of looked up. Of those that are gone, and have nothing left to
 * free: without a finalizer they cost the collector less, and go one collection earlier. */
static const void *conn_class, *gone_class;
static sd_ref gone_metatable = LUA_NOREF;

/* Whether it is the connection whose own handler runs: that is known without asking Lua. */
static bool is_handled_here(const void *p) {
  const sd_task *task = sd_the_vm.current;
  return task != NULL && task->conn == p && (const char *)task == (const char *)p + offsetof(l_conn, task);
}

l_conn *sd_l_conn_check(lua_State *L, int index) {
  void *p = lua_touserdata(L, index);
  if (is_handled_here(p)) return p;
  if (p != NULL && lua_getmetatable(L, index)) {
    const void *class = lua_topointer(L, -1);
    lua_pop(L, 1);
    if (class == conn_class || class == gone_class) return p;
  }
  luaL_typerror(L, index, "connection");
  return NULL;
}

/* ---- the end ---- */

static void drop_finalizer(const l_conn *c) {
  lua_State *L = sd_the_vm.L;
  if (c->history.older != NULL) return;
  sd_vm_push_anchored(L, c);
  lua_rawgeti(L, LUA_REGISTRYINDEX, gone_metatable);
  lua_setmetatable(L, -2);
  lua_pop(L, 1);
}

/* Both the descriptor and the handler are over: Lua may collect it. */
static void check_gone(l_conn *c) {
  if (c->gone || !c->handler_over || c->conn.state != SD_CONN_CLOSED) return;
  c->gone = true;
  sd_l_directory_remove(c);
  sd_disown(&c->owned);
  if (c->pool != NULL) sd_l_pool_conn_gone(c);
  drop_finalizer(c);
  sd_vm_unanchor(c);
}

/* How it ended, from what the handler saw last. */
static sd_end judge(const l_conn *c) {
  if (c->conn.eof) return SD_END_PEER;
  if (c->stopped == SD_ETIMEOUT && c->idle_out) return SD_END_IDLE;
  if (c->stopped == SD_ELIMIT) return SD_END_LIMIT;
  return c->told ? SD_END_DRAIN : SD_END_HANDLER;
}

/* Each function in a task of its own: one that raises keeps no other from running. */
void sd_l_conn_run_on_close(l_conn *c, sd_end why) {
  if (!c->has_on_close) return;
  c->has_on_close = false;
  sd_heap_shelter(); /* whoever closes it may be short of memory, and cannot be told in here */
  lua_State *L = sd_the_vm.L;
  sd_vm_push_anchored(L, c);
  lua_getfenv(L, -1);
  lua_getfield(L, -1, "on_close");
  int n = (int)lua_objlen(L, -1);
  for (int i = 1; i <= n; i++) {
    lua_State *co = sd_task_coroutine();
    lua_rawgeti(L, -1, i);
    lua_xmove(L, co, 1);
    lua_pushstring(co, sd_end_name(why));
    sd_task_spawn(co, 1, NULL);
  }
  lua_pushnil(L); /* it may go on with other code, which has its own to register */
  lua_setfield(L, -3, "on_close");
  lua_pop(L, 3);
  sd_heap_expose();
}

static void run_on_close(l_conn *c) {
  sd_l_conn_run_on_close(c, (sd_end)c->conn.end);
}

static void fail_waiters(l_conn *c, int read_err, int write_err) {
  sd_l_read_fail(c, read_err);
  sd_l_write_fail_all(c, write_err);
}

static void on_broken(sd_conn *conn) {
  l_conn *c = (l_conn *)conn;
  sd_l_give_end_raw(c);
  sd_l_conn_happened(c, L_ENDED, conn->end);
  fail_waiters(c, SD_ECLOSED, conn->err);
  run_on_close(c);
}

static void on_closed(sd_conn *conn) {
  l_conn *c = (l_conn *)conn;
  fail_waiters(c, SD_ECLOSED, SD_ECLOSED);
  if (c->carriage != NULL) sd_l_transport_closed(c);
  if (c->pool != NULL) sd_l_pool_conn_closed(c);
  check_gone(c);
}

static const sd_conn_events events = {
  .on_readable = sd_l_read_on_readable,
  .on_drained = sd_l_write_on_drained,
  .on_deadline = sd_l_read_on_deadline,
  .on_broken = on_broken,
  .on_closed = on_closed,
  .carries = sd_l_transport_carries,
  .gets_on = sd_l_transport_gets_on,
};

static void finish(l_conn *c, sd_end why) {
  sd_conn_note_end(&c->conn, why);
  run_on_close(c);
  sd_conn_close(&c->conn);
}

static void tell_over(const l_conn *c, const char *error) {
  if (sd_the_vm.on_task_over == LUA_NOREF) return;
  sd_l_conn_push_id(sd_the_vm.L, c);
  sd_task_tell_over(sd_end_name((sd_end)c->conn.end), error);
}

static void on_handler_end(sd_task *task, sd_task_end how, const char *error) {
  l_conn *c = (l_conn *)((char *)task - offsetof(l_conn, task));
  if (sd_l_move_go_on(c)) return;
  c->handler_over = true;
  if (c->departed) {
    check_gone(c);
    return;
  }
  if (how == SD_TASK_FAILED) sd_task_report(task->serial, error, c);
  if (task->owns) sd_shared_conn_ended(c);
  sd_conn_note_end(&c->conn, how == SD_TASK_FAILED ? SD_END_ERROR : judge(c));
  if (task->watched) tell_over(c, error);
  if (c->pool != NULL) sd_l_pool_conn_over(c, how, error);
  fail_waiters(c, SD_ECLOSED, SD_ECLOSED);
  run_on_close(c);
  sd_l_give_end_raw(c);
  if (c->raw)
    sd_conn_abort(&c->conn, false);
  else if (c->conn.state == SD_CONN_OPEN)
    sd_conn_close(&c->conn);
  check_gone(c);
}

void sd_l_conn_serve(l_conn *c, lua_State *co, int nargs) {
  c->handler_over = false;
  c->task.on_end = on_handler_end;
  sd_task_start(&c->task, co, nargs, NULL);
  if (c->born_loop == 0) c->serial = c->task.serial;
  sd_l_directory_add(c);
}

void sd_l_conn_drain(l_conn *c) {
  if (c->draining || c->conn.state != SD_CONN_OPEN) return;
  c->draining = true;
  sd_l_conn_happened(c, L_DRAINING, 0);
  sd_l_read_interrupt(c);
  if (sd_l_pool_runs_tasks(c->pool) && !c->handler_over) {
    c->told = true;
    sd_task_interrupt(&c->task);
    return;
  }
  sd_owner_interrupt(&c->task.children);
  if (c->task.owned.kind != NULL && !c->handler_over) c->task.owned.kind->interrupt(&c->task.owned);
}

void sd_l_conn_cut(l_conn *c, sd_end why, bool reset) {
  sd_conn_note_end(&c->conn, why);
  sd_l_conn_happened(c, L_ENDED, c->conn.end);
  fail_waiters(c, SD_ECLOSED, SD_ECLOSED);
  run_on_close(c);
  sd_l_give_end_raw(c);
  sd_conn_abort(&c->conn, reset);
  if (c->handler_over || c->task.state == SD_TASK_DONE) return;
  /* Who waited on the connection has been told, and gets to its next wait; who
   * waits for anything else would never look. */
  if (c->task.state == SD_TASK_WAITING)
    sd_task_drop(&c->task);
  else
    c->task.doomed = true;
}

/* ---- making ---- */

/* Outbound: ends with the task that opened it. */
static void cancel_owned(sd_owned *owned) {
  l_conn *c = (l_conn *)((char *)owned - offsetof(l_conn, owned));
  finish(c, judge(c));
}

static const sd_owned_kind outbound = { .cancel = cancel_owned };

l_conn *sd_l_conn_new(lua_State *L, int fd, const sd_conn_limits *limits, const struct sockaddr *peer, int *err) {
  l_conn *c = lua_newuserdata(L, sizeof *c);
  memset(c, 0, sizeof *c);
  c->task.pool = SD_SCOREBOARD_NO_POOL;
  c->task.state = SD_TASK_DONE;
  c->handler_over = true;
  c->owned.kind = &outbound;
  c->conn.source.fd = -1;
  luaL_getmetatable(L, CONN);
  lua_setmetatable(L, -2);
  sd_vm_anchor(L, c, -1); /* before the loop knows of it: what follows cannot raise */
  if (peer != NULL && peer->sa_family == AF_INET) memcpy(&c->conn.peer.v4, peer, sizeof c->conn.peer.v4);
  if (peer != NULL && peer->sa_family == AF_INET6) memcpy(&c->conn.peer.v6, peer, sizeof c->conn.peer.v6);
  *err = sd_conn_open(&c->conn, &sd_the_vm.loop, fd, limits, &events);
  if (*err) {
    c->conn.source.fd = -1; /* still the caller's */
    sd_vm_unanchor(c);
    lua_pop(L, 1);
    return NULL;
  }
  c->serial = ++sd_the_vm.serial;
  return c;
}

/* ---- who and where ---- */

void sd_l_conn_push_id(lua_State *L, const l_conn *c) {
  char text[64];
  if (c->born_loop == 0) {
    sd_vm_push_id(L, c->serial);
    return;
  }
  snprintf(text, sizeof text, "%d.%d.%" PRIu64, c->born_loop, c->born_life, c->serial);
  lua_pushstring(L, text);
}

static const struct sockaddr *peer_of(const l_conn *c, struct sockaddr_storage *room, socklen_t *len) {
  *len = sizeof *room;
  room->ss_family = AF_UNSPEC;
  if (c->conn.peer.any.sa_family != 0) {
    *len = c->conn.peer.any.sa_family == AF_INET ? sizeof c->conn.peer.v4 : sizeof c->conn.peer.v6;
    return &c->conn.peer.any;
  }
  int fd = sd_l_transport_socket(c);
  if (fd < 0 || getpeername(fd, (struct sockaddr *)room, len) < 0) return NULL;
  return (struct sockaddr *)room;
}

static const struct sockaddr *local_of(const l_conn *c, struct sockaddr_storage *room, socklen_t *len) {
  *len = sizeof *room;
  room->ss_family = AF_UNSPEC;
  int fd = sd_l_transport_socket(c);
  if (fd < 0 || getsockname(fd, (struct sockaddr *)room, len) < 0) return NULL;
  return (struct sockaddr *)room;
}

/* What its transport says of `which` end, as { text=, host=, port= }: false where it says
 * nothing. */
static bool push_presented(lua_State *L, const l_conn *c, const char *which) {
  if (!c->presents) return false;
  sd_vm_push_anchored(L, c);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    return false;
  }
  lua_getfenv(L, -1);
  lua_getfield(L, -1, which);
  lua_replace(L, -3);
  lua_pop(L, 1);
  if (lua_istable(L, -1)) return true;
  lua_pop(L, 1);
  return false;
}

static bool push_presented_text(lua_State *L, const l_conn *c, const char *which) {
  if (!push_presented(L, c, which)) return false;
  lua_getfield(L, -1, "text");
  lua_remove(L, -2);
  return true;
}

static int push_presented_place(lua_State *L, const l_conn *c, const char *which) {
  if (!push_presented(L, c, which)) return 0;
  lua_getfield(L, -1, "host");
  lua_getfield(L, -2, "port");
  return lua_isnil(L, -1) ? (lua_pop(L, 1), 1) : 2;
}

static void push_text(lua_State *L, const struct sockaddr *sa, socklen_t len) {
  char text[SD_SOCKADDR_TEXT];
  lua_pushstring(L, sa != NULL ? sd_sockaddr_text(sa, len, text, sizeof text) : "");
}

void sd_l_conn_push_peer(lua_State *L, const l_conn *c) {
  if (push_presented_text(L, c, "peer")) return;
  struct sockaddr_storage room;
  socklen_t len;
  const struct sockaddr *sa = peer_of(c, &room, &len);
  push_text(L, sa, len);
}

void sd_l_conn_push_local(lua_State *L, const l_conn *c) {
  if (push_presented_text(L, c, "local")) return;
  struct sockaddr_storage room;
  socklen_t len;
  const struct sockaddr *sa = local_of(c, &room, &len);
  push_text(L, sa, len);
}

/* ip, port; a unix path; nil, "closed". */
static int push_host_port(lua_State *L, const struct sockaddr *sa, socklen_t len) {
  char text[SD_SOCKADDR_TEXT];
  if (sa == NULL) return sd_push_failure(L, SD_ECLOSED);
  lua_pushstring(L, sd_sockaddr_host(sa, len, text, sizeof text));
  if (sa->sa_family == AF_UNIX) return 1;
  lua_pushinteger(L, sd_sockaddr_port(sa));
  return 2;
}

static int l_wire_peer(lua_State *L) {
  struct sockaddr_storage room;
  socklen_t len;
  const struct sockaddr *sa = peer_of(sd_l_conn_check(L, 1), &room, &len);
  return push_host_port(L, sa, len);
}

static int l_peer(lua_State *L) {
  int n = push_presented_place(L, sd_l_conn_check(L, 1), "peer");
  return n > 0 ? n : l_wire_peer(L);
}

static int l_local_addr(lua_State *L) {
  struct sockaddr_storage room;
  socklen_t len;
  const l_conn *c = sd_l_conn_check(L, 1);
  int n = push_presented_place(L, c, "local");
  if (n > 0) return n;
  const struct sockaddr *sa = local_of(c, &room, &len);
  return push_host_port(L, sa, len);
}

/* field(conn, key) → conn.id, .pool, .generation, .loop, or nil */
static int l_field(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  const char *key = lua_tostring(L, 2);
  if (key == NULL) return 0;
  if (strcmp(key, "id") == 0)
    sd_l_conn_push_id(L, c);
  else if (strcmp(key, "pool") == 0 || strcmp(key, "generation") == 0 || strcmp(key, "loop") == 0)
    sd_l_pool_push_field(L, c, key[0]);
  else
    return 0;
  return 1;
}

/* ---- ending it ---- */

static int l_close(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  if (sd_task_interrupts(L)) return sd_task_later(L, l_close);
  bool reset = false;
  if (lua_istable(L, 2)) {
    lua_getfield(L, 2, "reset");
    reset = lua_toboolean(L, -1);
  }
  lua_pushboolean(L, 1);
  if (c->conn.state != SD_CONN_OPEN) {
    if (reset) sd_conn_abort(&c->conn, true); /* no patience with what is still on its way */
    return 1;
  }
  sd_conn_note_end(&c->conn, judge(c));
  sd_l_conn_happened(c, L_ENDED, c->conn.end);
  fail_waiters(c, SD_ECLOSED, SD_ECLOSED);
  run_on_close(c);
  sd_sockopt_before_close(c->conn.source.fd);
  if (reset)
    sd_conn_abort(&c->conn, true);
  else
    sd_conn_close(&c->conn);
  return 1;
}

static int l_shutdown(lua_State *L) {
  static const char *const ways[] = { "write", "read", "both", NULL };
  l_conn *c = sd_l_conn_check(L, 1);
  int way = luaL_checkoption(L, 2, "write", ways);
  if (sd_task_interrupts(L)) return sd_task_later(L, l_shutdown);
  if (sd_l_conn_taken(c)) return sd_push_failure(L, SD_EBUSY);
  if (c->conn.state != SD_CONN_OPEN) return sd_push_failure(L, SD_ECLOSED);
  sd_l_conn_happened(c, L_SHUT, (uint32_t)way);
  if (way != 0) {
    sd_conn_shutdown_read(&c->conn);
    sd_l_read_fail(c, SD_ECLOSED);
  }
  if (way != 1) sd_conn_shutdown_write(&c->conn);
  lua_pushboolean(L, 1);
  return 1;
}

static void push_extra(lua_State *L, l_conn *c) {
  if (!c->has_extra) {
    lua_newtable(L);
    lua_setfenv(L, 1);
    c->has_extra = true;
  }
  lua_getfenv(L, 1);
}

/* _present(which, { text=, host=, port= }): what to show of the "peer" or the "local" end. */
static int l_present(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  luaL_checkstring(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  push_extra(L, c);
  lua_insert(L, 2);
  lua_settop(L, 4);
  lua_rawset(L, 2);
  c->presents = true;
  return 0;
}

static int l_extra(lua_State *L) {
  push_extra(L, sd_l_conn_check(L, 1));
  return 1;
}

/* on_close(fn): fn(reason), in a task of its own. */
static int l_on_close(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (c->conn.state != SD_CONN_OPEN) return sd_push_failure(L, SD_ECLOSED);
  push_extra(L, c);
  lua_getfield(L, -1, "on_close");
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "on_close");
  }
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
  c->has_on_close = true;
  lua_pushboolean(L, 1);
  return 1;
}

static int l_reason(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  bool lives = c->conn.state == SD_CONN_OPEN && !c->handler_over;
  if (c->conn.end == SD_END_NONE || lives)
    lua_pushnil(L);
  else
    lua_pushstring(L, sd_end_name((sd_end)c->conn.end));
  return 1;
}

/* ---- settings ---- */

static void set_idle(l_conn *c, int64_t ms) {
  c->conn.idle = (uint32_t)ms;
}

static void set_write(l_conn *c, int64_t ms) {
  sd_conn_set_write_timeout(&c->conn, (uint32_t)ms);
}

static void set_lifetime(l_conn *c, int64_t ms) {
  sd_conn_set_life_deadline(&c->conn, ms ? c->conn.opened + (uint64_t)ms : 0);
}

/* Waits under way go by what holds now. */
static void retime(l_conn *c) {
  if (c->conn.pipe != NULL) sd_pipe_watch(c->conn.pipe);
  sd_l_read_retime(c);
  sd_l_write_retime(c);
}

void sd_l_conn_take_limits(l_conn *c, const sd_conn_limits *limits) {
  const sd_conn_limits *old = c->conn.limits;
  uint64_t life = old->lifetime ? c->conn.opened + old->lifetime : 0;
  c->conn.limits = c->task.limits = limits;
  if (c->conn.state != SD_CONN_OPEN) return;
  if (limits->min_bytes != old->min_bytes || limits->min_after != old->min_after) sd_conn_watch_pace(&c->conn);
  sd_conn_retime_header(&c->conn, old->header);
  if (c->conn.idle == old->idle) set_idle(c, limits->idle);
  if (c->conn.write == old->write) set_write(c, limits->write);
  if (sd_conn_terms_of(&c->conn)->life == life) set_lifetime(c, limits->lifetime);
  retime(c);
}

/* timeouts{ idle=, write=, lifetime= }: seconds, false is off; from now on. */
static int l_timeouts(lua_State *L) {
  static const struct {
    const char *key;
    void (*set)(l_conn *c, int64_t ms);
  } rows[] = { { "idle", set_idle }, { "write", set_write }, { "lifetime", set_lifetime } };
  l_conn *c = sd_l_conn_check(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    if (strcmp(key, "idle") && strcmp(key, "write") && strcmp(key, "lifetime"))
      return luaL_error(L, "timeouts: unknown key '%s': idle, write, lifetime", key);
  }
  if (c->conn.state != SD_CONN_OPEN) return sd_push_failure(L, SD_ECLOSED);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    int64_t ms = sd_opt_ms(L, 2, rows[i].key);
    if (ms >= 0) rows[i].set(c, ms);
  }
  retime(c);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_deadline(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  if (lua_isboolean(L, 2) && !lua_toboolean(L, 2)) {
    sd_conn_set_owner_deadline(&c->conn, 0);
  } else {
    double seconds = luaL_checknumber(L, 2);
    uint64_t ms = seconds > 0 ? (uint64_t)((seconds < 4e6 ? seconds : 4e6) * 1000 + 0.999) : 0;
    uv_update_time(&c->conn.loop->uv);
    sd_conn_set_owner_deadline(&c->conn, sd_loop_now(c->conn.loop) + ms);
  }
  if (c->conn.state == SD_CONN_OPEN) retime(c);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_setopt(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  int fd = sd_l_transport_socket(c);
  if (c->conn.state == SD_CONN_CLOSED) return sd_push_failure(L, SD_ECLOSED);
  return fd < 0 ? sd_push_failure(L, -ENOPROTOOPT) : sd_l_setopt(L, fd, 2);
}

/* _resetopt(name): back to what a new socket has. */
static int l_resetopt(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  int fd = sd_l_transport_socket(c);
  if (c->conn.state == SD_CONN_CLOSED) return sd_push_failure(L, SD_ECLOSED);
  return fd < 0 ? sd_push_failure(L, -ENOPROTOOPT) : sd_l_resetopt(L, fd, 2);
}

static int l_getopt(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  int fd = sd_l_transport_socket(c);
  if (c->conn.state == SD_CONN_CLOSED) return sd_push_failure(L, SD_ECLOSED);
  return fd < 0 ? sd_push_failure(L, -ENOPROTOOPT) : sd_l_getopt(L, fd, 2);
}

static void number_field(lua_State *L, const char *key, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, key);
}

/* _deadlines() → { wait=, write=, lifetime=, header=, deadline= }: seconds left of those that run. */
static int l_deadlines(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  const sd_conn_terms *terms = sd_conn_terms_of(&c->conn);
  const struct {
    const char *name;
    uint64_t when;
  } rows[] = { { "wait", c->conn.read_deadline }, { "write", c->conn.write_deadline }, { "lifetime", terms->life },
    { "header", terms->header }, { "deadline", terms->owner } };
  double now = (double)sd_loop_now(c->conn.loop);
  lua_newtable(L);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    if (rows[i].when != 0) number_field(L, rows[i].name, ((double)rows[i].when - now) / 1000);
  return 1;
}

static double seconds_since(const l_conn *c, uint64_t then) {
  return (double)(sd_loop_now(c->conn.loop) - then) / 1000;
}

static int l_age(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  lua_pushnumber(L, seconds_since(c, c->conn.opened));
  return 1;
}

static int l_stats(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  lua_createtable(L, 0, 6);
  number_field(L, "bytes_in", (double)c->conn.bytes_in);
  number_field(L, "bytes_out", (double)c->conn.bytes_out);
  number_field(L, "queued", (double)sd_conn_queued(&c->conn));
  number_field(L, "buffered", (double)sd_buffer_length(&c->conn.in));
  number_field(L, "age", seconds_since(c, c->conn.opened));
  number_field(L, "idle", seconds_since(c, c->conn.active));
  return 1;
}

/* ---- for the worker ---- */

/* "-12.1s accepted": what happened so long ago. */
static void add_row(lua_State *L, double ago, const char *text, unsigned times) {
  char row[128];
  int n = snprintf(row, sizeof row, "-%.1fs %s", ago, text);
  if (times > 1) snprintf(row + n, sizeof row - (size_t)n, " (%u times)", times);
  lua_pushstring(L, row);
  lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
}

static const char *beginning_of(const l_conn *c) {
  if (c->pool == NULL) return "connected";
  return sd_l_pool_runs_tasks(c->pool) ? "begun" : "accepted";
}

/* _history() → the rare things that have happened to it, the oldest first; the peer's messages that were read. */
static int l_history_rows(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  char text[64];
  lua_newtable(L);
  add_row(L, seconds_since(c, c->conn.opened), beginning_of(c), 1);
  const l_event *e;
  for (unsigned i = 0; (e = sd_l_history_at(&c->history, i)) != NULL; i++)
    add_row(L, seconds_since(c, c->conn.opened + e->at), sd_l_history_text(e, text, sizeof text), e->times);
  lua_pushnumber(L, c->conn.messages);
  return 2;
}

/* _shook(): the handshake of its transport is done. */
static int l_shook(lua_State *L) {
  sd_l_conn_happened(sd_l_conn_check(L, 1), L_HANDSHAKE, 0);
  return 0;
}

/* _arrived(loop): it has come from there. */
static int l_arrived(lua_State *L) {
  sd_l_conn_happened(sd_l_conn_check(L, 1), L_ARRIVED, (uint32_t)luaL_checkinteger(L, 2));
  return 0;
}

static int l_fd(lua_State *L) {
  lua_pushinteger(L, sd_l_conn_check(L, 1)->conn.source.fd);
  return 1;
}

static int l_drain(lua_State *L) {
  sd_l_conn_drain(sd_l_conn_check(L, 1));
  return 0;
}

/* _is_draining(): whether it is to be told, or was. */
static int l_is_draining(lua_State *L) {
  lua_pushboolean(L, sd_l_conn_check(L, 1)->draining);
  return 1;
}

/* _cut(reason [, reset]) */
static int l_cut(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  int why = sd_end_named(luaL_checkstring(L, 2));
  luaL_argcheck(L, why > 0, 2, "unknown end reason");
  bool lives = c->conn.state != SD_CONN_CLOSED;
  if (lives) sd_l_conn_cut(c, (sd_end)why, lua_toboolean(L, 3));
  lua_pushboolean(L, lives);
  return 1;
}

/* _note(reason): what the end will be called unless something named it before. */
static int l_note(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  int why = sd_end_named(luaL_checkstring(L, 2));
  luaL_argcheck(L, why > 0, 2, "unknown end reason");
  sd_conn_note_end(&c->conn, (sd_end)why);
  return 0;
}

/* uncount() → true | nil, "closed": its place is free at once; nothing else changes. */
static int l_uncount(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  if (c->pool == NULL) return luaL_error(L, "conn:uncount: this connection was not accepted by a pool");
  if (c->conn.state == SD_CONN_CLOSED) return sd_push_failure(L, SD_ECLOSED);
  if (!c->uncounted) {
    c->uncounted = true;
    sd_scoreboard_release(sd_the_vm.scoreboard, sd_l_pool_index(c));
  }
  lua_pushboolean(L, 1);
  return 1;
}

/* _uncounted() */
static int l_uncounted(lua_State *L) {
  lua_pushboolean(L, sd_l_conn_check(L, 1)->uncounted);
  return 1;
}

/* _watch() → whether its handler still runs: then its end will be told to on_task_over. */
static int l_watch(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  c->task.watched = true;
  lua_pushboolean(L, !c->handler_over);
  return 1;
}

static int l_tell_of_mail(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  if (c->has_mail) sd_l_read_mail(c);
  return 0;
}

/* _mail(there): whether its mailbox holds messages; ends a wait that they may end. */
static int l_mail(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  c->has_mail = lua_toboolean(L, 2);
  if (c->reader == NULL) return 0;
  return sd_task_interrupts(L) ? sd_task_later(L, l_tell_of_mail) : l_tell_of_mail(L);
}

/* _task(): the handle of its handler's task, or nil when that is over. */
static int l_task(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  if (c->handler_over || c->task.state == SD_TASK_DONE) return 0;
  sd_task_push_handle(L, &c->task);
  return 1;
}

/* _ending(): what reason() would say if it ended now. */
static int l_ending(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  sd_end why = c->conn.end != SD_END_NONE ? (sd_end)c->conn.end : judge(c);
  lua_pushstring(L, sd_end_name(why));
  return 1;
}

static int conn_gc(lua_State *L) {
  l_conn *c = lua_touserdata(L, 1);
  sd_conn_discard(&c->conn);
  sd_l_history_free(&c->history);
  return 0;
}

static const luaL_Reg methods[] = {
  { "peer", l_peer },
  { "wire_peer", l_wire_peer },
  { "local_addr", l_local_addr },
  { "close", l_close },
  { "shutdown", l_shutdown },
  { "on_close", l_on_close },
  { "reason", l_reason },
  { "timeouts", l_timeouts },
  { "deadline", l_deadline },
  { "setopt", l_setopt },
  { "getopt", l_getopt },
  { "_resetopt", l_resetopt },
  { "age", l_age },
  { "stats", l_stats },
  { "_extra", l_extra },
  { "_deadlines", l_deadlines },
  { "_present", l_present },
  { "_fd", l_fd },
  { "_history", l_history_rows },
  { "_shook", l_shook },
  { "_arrived", l_arrived },
  { "_drain", l_drain },
  { "_is_draining", l_is_draining },
  { "_cut", l_cut },
  { "_note", l_note },
  { "_ending", l_ending },
  { "uncount", l_uncount },
  { "_uncounted", l_uncounted },
  { "_watch", l_watch },
  { "_mail", l_mail },
  { "_task", l_task },
  { NULL, NULL },
};

/* The class without its finalizer. */
static void register_gone(lua_State *L) {
  lua_newtable(L);
  gone_class = lua_topointer(L, -1);
  luaL_getmetatable(L, CONN);
  lua_getfield(L, -1, "__index");
  lua_setfield(L, -3, "__index");
  lua_pop(L, 1);
  lua_pushliteral(L, CONN);
  lua_setfield(L, -2, "__metatable");
  lua_pushvalue(L, -1);
  gone_metatable = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_setfield(L, -2, "gone_connection_class");
}

void sd_l_connection_register(lua_State *L) {
  sd_l_lent_register(L);
  sd_class(L, CONN, methods, conn_gc);
  register_gone(L);
  luaL_getmetatable(L, CONN);
  conn_class = lua_topointer(L, -1);
  lua_getfield(L, -1, "__index");
  sd_l_read_register(L);
  sd_l_iterators_register(L);
  sd_l_write_register(L);
  sd_l_pipe_register(L);
  sd_l_give_register(L);
  sd_l_move_register(L);
  sd_l_transport_register(L);
  /* Lua adds methods of its own to the table, and looks them up: its functions are cheaper to call from it. */
  lua_setfield(L, -3, "connection_methods");
  lua_setfield(L, -2, "connection_class");
  lua_pushcfunction(L, l_field);
  lua_setfield(L, -2, "connection_field");
  sd_l_iterators_register_core(L);
  sd_l_move_register_core(L);
  sd_l_directory_register(L);
}
