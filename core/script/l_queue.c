/* Telling a generation's queue, code of the user's, who waits for a place, and asking it
 * who is next. The line itself is l_hold.c's: a queue knows who waits by their numbers,
 * and whatever it does with them, they are in that. */
#include "l_pool.h"

static const l_generation *keeper(const l_pool *pool) {
  const l_generation *g = sd_l_pool_generation(pool, pool->full.keeper);
  return g != NULL && g->queue != LUA_NOREF ? g : NULL;
}

bool sd_l_queue_decides(const l_pool *pool) {
  return keeper(pool) != NULL;
}

/* What its function takes first; false: there is none. */
static bool begin(const l_generation *g, const char *operation) {
  if (g == NULL) return false;
  lua_rawgeti(sd_the_vm.L, LUA_REGISTRYINDEX, g->queue);
  lua_pushstring(sd_the_vm.L, operation);
  return true;
}

void sd_l_queue_join(const l_pool *pool, uint64_t number, const struct sockaddr *peer, uint64_t since) {
  lua_State *L = sd_the_vm.L;
  const l_generation *g = keeper(pool);
  if (!begin(g, "join")) return;
  lua_pushnumber(L, (lua_Number)number);
  sd_l_part_push_peer(L, peer);
  sd_l_part_push_ip(L, peer);
  lua_pushnumber(L, (lua_Number)since / 1000);
  sd_l_part_call(pool, g, 5, 1);
  lua_pop(L, 1);
}

void sd_l_queue_leave(const l_pool *pool, uint64_t number, const char *why) {
  lua_State *L = sd_the_vm.L;
  const l_generation *g = keeper(pool);
  if (!begin(g, "leave")) return;
  lua_pushnumber(L, (lua_Number)number);
  lua_pushstring(L, why);
  sd_l_part_call(pool, g, 3, 1);
  lua_pop(L, 1);
}

uint64_t sd_l_queue_ask(const l_pool *pool, const char *what) {
  const l_generation *g = keeper(pool);
  if (!begin(g, what)) return 0;
  bool answered = sd_l_part_call(pool, g, 1, 1);
  uint64_t number = answered && lua_isnumber(sd_the_vm.L, -1) ? (uint64_t)lua_tonumber(sd_the_vm.L, -1) : 0;
  lua_pop(sd_the_vm.L, 1);
  return number;
}

void sd_l_queue_forget(const l_pool *pool) {
  const l_generation *g = keeper(pool);
  if (!begin(g, "forget")) return;
  sd_l_part_call(pool, g, 1, 1);
  lua_pop(sd_the_vm.L, 1);
}
