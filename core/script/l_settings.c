/* What a handler may set for its connection: timeouts, a deadline, options of its socket; and the
 * limits of its pool, when they change. */
#include <errno.h>
#include <string.h>

#include "l_connection.h"
#include "l_socket.h"
#include "net/pipe.h"

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

/* What `fn` does with the peer's socket, and the argument behind the connection. */
static int with_socket(lua_State *L, int (*fn)(lua_State *L, int fd, int index)) {
  const l_conn *c = sd_l_conn_check(L, 1);
  int fd = sd_l_transport_socket(c);
  if (c->conn.state == SD_CONN_CLOSED) return sd_push_failure(L, SD_ECLOSED);
  return fd < 0 ? sd_push_failure(L, -ENOPROTOOPT) : fn(L, fd, 2);
}

static int l_setopt(lua_State *L) {
  sd_l_conn_check(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  return with_socket(L, sd_l_setopt);
}

/* _resetopt(name): back to what a new socket has. */
static int l_resetopt(lua_State *L) {
  return with_socket(L, sd_l_resetopt);
}

static int l_getopt(lua_State *L) {
  return with_socket(L, sd_l_getopt);
}

void sd_l_settings_register(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "timeouts", l_timeouts },
    { "deadline", l_deadline },
    { "setopt", l_setopt },
    { "getopt", l_getopt },
    { "_resetopt", l_resetopt },
    { NULL, NULL },
  };
  luaL_register(L, NULL, methods);
}
