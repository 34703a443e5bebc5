/* A connection that goes on with other code: its task ends where it stands, and
 * another one, the heir, takes its place under the same id. */
#include "l_connection.h"

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
  c->heir_args = lua_gettop(L) - 3;
  lua_xmove(L, co, c->heir_args + 1);
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
  sd_l_conn_serve(c, co, c->heir_args);
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

void sd_l_move_register(lua_State *L) {
  static const luaL_Reg methods[] = { { "_restart", l_restart }, { "_want", l_want }, { "_follows", l_follows },
    { "outdated", l_outdated }, { "_newer", l_newer }, { NULL, NULL } };
  luaL_register(L, NULL, methods);
}
