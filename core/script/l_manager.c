/* Asking a generation's manager, code of the user's, whether somebody may come in. */
#include "l_pool.h"

/* It answers true or false; a raise is a refusal, which a canary is judged by. */
bool sd_l_manager_admits(l_pool *pool, const l_generation *g, const struct sockaddr *peer) {
  if (g->admit == LUA_NOREF) return true;
  lua_State *L = sd_the_vm.L;
  uint64_t taken, sequence = sd_scoreboard_ask(sd_the_vm.scoreboard, pool->index, &taken);
  lua_rawgeti(L, LUA_REGISTRYINDEX, g->admit);
  sd_l_part_push_peer(L, peer);
  lua_pushnumber(L, (lua_Number)sequence);
  lua_pushnumber(L, (lua_Number)taken);
  bool answered = sd_l_part_call(pool, g, 3, 1), admitted = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (!answered) sd_trial_served(sd_scoreboard_trial(sd_the_vm.scoreboard, pool->index), g->number);
  return admitted;
}
