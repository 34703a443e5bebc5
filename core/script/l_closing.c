/* How a connection ends: by close and shutdown, cut by the worker or told to end, for which reason,
 * and who hears of it. */
#include "heap.h"
#include "l_connection.h"
#include "net/sockopt.h"

sd_end sd_l_conn_judge(const l_conn *c) {
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

void sd_l_conn_fail_waiters(l_conn *c, int write_err) {
  sd_l_read_fail(c, SD_ECLOSED);
  sd_l_write_fail_all(c, write_err);
}

void sd_l_conn_tell_end(l_conn *c, int write_err) {
  sd_l_conn_fail_waiters(c, write_err);
  sd_l_conn_run_on_close(c, (sd_end)c->conn.end);
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

/* For this reason, unless one stands already. */
static void end(l_conn *c, sd_end why) {
  sd_conn_note_end(&c->conn, why);
  sd_l_conn_happened(c, L_ENDED, c->conn.end);
  sd_l_conn_tell_end(c, SD_ECLOSED);
}

void sd_l_conn_cut(l_conn *c, sd_end why, bool reset) {
  end(c, why);
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

/* ---- methods ---- */

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
  end(c, sd_l_conn_judge(c));
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

/* on_close(fn): fn(reason), in a task of its own. */
static int l_on_close(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (c->conn.state != SD_CONN_OPEN) return sd_push_failure(L, SD_ECLOSED);
  sd_l_conn_push_extra(L, c);
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

static int l_drain(lua_State *L) {
  sd_l_conn_drain(sd_l_conn_check(L, 1));
  return 0;
}

/* _is_draining(): whether it is to be told, or was. */
static int l_is_draining(lua_State *L) {
  lua_pushboolean(L, sd_l_conn_check(L, 1)->draining);
  return 1;
}

static sd_end check_reason(lua_State *L, int index) {
  int why = sd_end_named(luaL_checkstring(L, index));
  luaL_argcheck(L, why > 0, index, "unknown end reason");
  return (sd_end)why;
}

/* _cut(reason [, reset]) */
static int l_cut(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  sd_end why = check_reason(L, 2);
  bool lives = c->conn.state != SD_CONN_CLOSED;
  if (lives) sd_l_conn_cut(c, why, lua_toboolean(L, 3));
  lua_pushboolean(L, lives);
  return 1;
}

/* _note(reason): what the end will be called unless something named it before. */
static int l_note(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  sd_conn_note_end(&c->conn, check_reason(L, 2));
  return 0;
}

/* _ending(): what reason() would say if it ended now. */
static int l_ending(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  sd_end why = c->conn.end != SD_END_NONE ? (sd_end)c->conn.end : sd_l_conn_judge(c);
  lua_pushstring(L, sd_end_name(why));
  return 1;
}

void sd_l_closing_register(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "close", l_close },
    { "shutdown", l_shutdown },
    { "on_close", l_on_close },
    { "reason", l_reason },
    { "_drain", l_drain },
    { "_is_draining", l_is_draining },
    { "_cut", l_cut },
    { "_note", l_note },
    { "_ending", l_ending },
    { NULL, NULL },
  };
  luaL_register(L, NULL, methods);
}
