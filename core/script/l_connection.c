/* The life of a connection in Lua, from its making until nothing of it is left, and what the worker
 * and the methods in Lua keep with it. */
#include "l_connection.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "l_shared.h"

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

/* ---- its parts end ---- */

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

static void on_broken(sd_conn *conn) {
  l_conn *c = (l_conn *)conn;
  sd_l_give_end_raw(c);
  sd_l_conn_happened(c, L_ENDED, conn->end);
  sd_l_conn_tell_end(c, conn->err);
}

static void on_closed(sd_conn *conn) {
  l_conn *c = (l_conn *)conn;
  sd_l_conn_fail_waiters(c, SD_ECLOSED);
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
  sd_conn_note_end(&c->conn, how == SD_TASK_FAILED ? SD_END_ERROR : sd_l_conn_judge(c));
  if (task->watched) tell_over(c, error);
  if (c->pool != NULL) sd_l_pool_conn_over(c, how, error);
  sd_l_conn_tell_end(c, SD_ECLOSED);
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

/* ---- making ---- */

/* Outbound: ends with the task that opened it. */
static void cancel_owned(sd_owned *owned) {
  l_conn *c = (l_conn *)((char *)owned - offsetof(l_conn, owned));
  sd_conn_note_end(&c->conn, sd_l_conn_judge(c));
  sd_l_conn_run_on_close(c, (sd_end)c->conn.end);
  sd_conn_close(&c->conn);
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

/* ---- what it is called ---- */

void sd_l_conn_push_id(lua_State *L, const l_conn *c) {
  char text[64];
  if (c->born_loop == 0) {
    sd_vm_push_id(L, c->serial);
    return;
  }
  snprintf(text, sizeof text, "%d.%d.%" PRIu64, c->born_loop, c->born_life, c->serial);
  lua_pushstring(L, text);
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

/* ---- for the worker, and for methods in Lua ---- */

void sd_l_conn_push_extra(lua_State *L, l_conn *c) {
  if (!c->has_extra) {
    lua_newtable(L);
    lua_setfenv(L, 1);
    c->has_extra = true;
  }
  lua_getfenv(L, 1);
}

static int l_extra(lua_State *L) {
  sd_l_conn_push_extra(L, sd_l_conn_check(L, 1));
  return 1;
}

static int l_fd(lua_State *L) {
  lua_pushinteger(L, sd_l_conn_check(L, 1)->conn.source.fd);
  return 1;
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

static int conn_gc(lua_State *L) {
  l_conn *c = lua_touserdata(L, 1);
  sd_conn_discard(&c->conn);
  sd_l_history_free(&c->history);
  return 0;
}

static const luaL_Reg methods[] = {
  { "_extra", l_extra },
  { "_fd", l_fd },
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
  sd_l_peer_register(L);
  sd_l_settings_register(L);
  sd_l_stats_register(L);
  sd_l_closing_register(L);
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
