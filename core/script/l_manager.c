/* Asking a generation's manager, code of the user's, whether somebody may come in. */
#include "l_pool.h"

/* It runs in the middle of an accept, which may have been tried by a task: on the state
 * of the loop itself, where nothing can wait. */
static void call(l_pool *pool, const l_generation *g, const struct sockaddr *peer) {
  lua_State *L = sd_the_vm.L;
  char text[SD_SOCKADDR_TEXT];
  socklen_t length = peer->sa_family == AF_UNIX ? sizeof peer->sa_family : sizeof(struct sockaddr_storage);
  uint64_t taken, sequence = sd_scoreboard_ask(sd_the_vm.scoreboard, pool->index, &taken);
  lua_rawgeti(L, LUA_REGISTRYINDEX, g->admit);
  lua_pushstring(L, sd_sockaddr_text(peer, length, text, sizeof text));
  lua_pushnumber(L, (lua_Number)sequence);
  lua_pushnumber(L, (lua_Number)taken);
  if (lua_pcall(L, 3, 1, 0) != 0) { /* not even its wrapper had memory */
    lua_pop(L, 1);
    lua_pushnil(L);
  }
}

/* As for a connection: whoever loops in there is seen to be stuck. */
static void call_watched(l_pool *pool, const l_generation *g, const struct sockaddr *peer) {
  bool inside = sd_the_vm.current != NULL;
  if (!inside) sd_scoreboard_slot_enter(sd_the_vm.scoreboard, pool->index, g->number, 0);
  call(pool, g, peer);
  if (!inside) sd_scoreboard_slot_leave(sd_the_vm.scoreboard);
}

/* It answers true or false; nil when it has raised, which a canary is judged by. */
bool sd_l_manager_admits(l_pool *pool, const l_generation *g, const struct sockaddr *peer) {
  if (g->admit == LUA_NOREF) return true;
  call_watched(pool, g, peer);
  bool admitted = lua_toboolean(sd_the_vm.L, -1), raised = lua_isnil(sd_the_vm.L, -1);
  lua_pop(sd_the_vm.L, 1);
  if (raised) {
    sd_trial *trial = sd_scoreboard_trial(sd_the_vm.scoreboard, pool->index);
    sd_trial_served(trial, g->number);
    sd_trial_failed(trial, g->number);
  }
  return admitted;
}
