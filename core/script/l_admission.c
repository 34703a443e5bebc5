/* Who gets in, by the options. */
#include "l_admission.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm.h"

/* ---- configuration ---- */

static void add_row(lua_State *L, sd_networks *list) {
  size_t len;
  const char *text = lua_tolstring(L, -1, &len);
  if (text != NULL && sd_network_parse(&list->rows[list->count], text, len, NULL) == 0) list->count++;
}

/* The list on top of the stack. */
static sd_networks read_list(lua_State *L) {
  sd_networks list = { NULL, 0 };
  size_t n = lua_objlen(L, -1);
  list.rows = calloc(n + 1, sizeof *list.rows);
  if (list.rows == NULL) luaL_error(L, "not enough memory");
  for (size_t i = 1; i <= n; i++) {
    lua_rawgeti(L, -1, (int)i);
    add_row(L, &list);
    lua_pop(L, 1);
  }
  return list;
}

/* Whether there is a list now. */
static bool take_list(lua_State *L, int index, const char *key, sd_networks *into, bool was) {
  lua_getfield(L, index, key);
  bool given = lua_istable(L, -1), said = !lua_isnil(L, -1);
  if (said) {
    sd_networks list = { NULL, 0 };
    if (given) list = read_list(L);
    free(into->rows);
    *into = list;
  }
  lua_pop(L, 1);
  return said ? given : was;
}

/* The number in field `key` of the table on top, or what is said otherwise. */
static double number(lua_State *L, const char *key, double otherwise) {
  lua_getfield(L, -1, key);
  if (lua_isnumber(L, -1)) otherwise = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return otherwise;
}

static sd_rate read_rate(lua_State *L) {
  double rate = number(L, "rate", 0);
  return sd_rate_of(rate, number(L, "burst", rate));
}

/* In the field `key` of the table on top: without it everything is off. */
static bool open_group(lua_State *L, const char *key) {
  if (lua_istable(L, -1))
    lua_getfield(L, -1, key);
  else
    lua_pushnil(L);
  return lua_istable(L, -1);
}

static void take_rates(lua_State *L, int index, l_admission *a) {
  lua_getfield(L, index, "rates");
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    return;
  }
  a->accept = open_group(L, "accept") ? read_rate(L) : (sd_rate){ 0 };
  lua_pop(L, 1);
  a->per_ip = (sd_headcount_limits){ 0 };
  if (open_group(L, "per_ip")) {
    a->per_ip.connections = (uint32_t)number(L, "connections", 0);
    a->per_ip.rate = read_rate(L);
    a->v4 = (unsigned)number(L, "v4", 32);
    a->v6 = (unsigned)number(L, "v6", 64);
  }
  lua_pop(L, 2);
}

void sd_l_admission_configure(lua_State *L, int index, l_admission *a) {
  take_rates(L, index, a);
  a->only_allowed = take_list(L, index, "allow", &a->allow, a->only_allowed);
  take_list(L, index, "deny", &a->deny, false);
}

void sd_l_admission_free(l_admission *a) {
  free(a->allow.rows);
  free(a->deny.rows);
  *a = (l_admission){ 0 };
}

/* ---- the verdict ---- */

/* Who comes over a unix socket has passed its file's permissions instead. */
static bool is_listed_out(const l_admission *a, const struct sockaddr *peer) {
  if (!a->only_allowed && a->deny.count == 0) return false;
  sd_network n = sd_network_around(peer, 32, 128);
  if (n.size == 0) return false;
  return sd_networks_contain(&a->deny, &n) || (a->only_allowed && !sd_networks_contain(&a->allow, &n));
}

bool sd_l_admission_allows(const l_admission *a, const struct sockaddr *peer, sd_reject *why) {
  *why = SD_REJECT_DENIED;
  return !is_listed_out(a, peer);
}

static bool enter_network(
  const l_admission *a, uint32_t pool, const struct sockaddr *peer, uint32_t *headcount, sd_reject *why) {
  const sd_headcount_limits *limits = &a->per_ip;
  sd_network n = sd_network_around(peer, a->v4, a->v6);
  if (n.size == 0 || (limits->connections == 0 && limits->rate.interval == 0)) return true;
  sd_headcount_key key = { { 0 } };
  memcpy(&key, n.bytes, sizeof n.bytes);
  key.words[2] = (uint64_t)n.size << 8 | n.bits;
  int err = sd_scoreboard_enter(sd_the_vm.scoreboard, pool, &key, limits, sd_scoreboard_clock(), headcount);
  *why = err == -EAGAIN ? SD_REJECT_RATE : SD_REJECT_PER_IP;
  return err == 0;
}

bool sd_l_admission_enter(
  const l_admission *a, uint32_t pool, const struct sockaddr *peer, uint32_t *headcount, sd_reject *why) {
  *headcount = 0;
  return sd_l_admission_allows(a, peer, why) && enter_network(a, pool, peer, headcount, why);
}
