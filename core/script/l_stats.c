/* What a connection tells of itself: its age, its bytes, what it has left of its time, and what
 * has happened to it. */
#include <stdio.h>

#include "l_connection.h"

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

void sd_l_stats_register(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "age", l_age },
    { "stats", l_stats },
    { "_deadlines", l_deadlines },
    { "_history", l_history_rows },
    { "_shook", l_shook },
    { "_arrived", l_arrived },
    { NULL, NULL },
  };
  luaL_register(L, NULL, methods);
}
