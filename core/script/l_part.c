/* Calling the parts of a generation: code of the user's, in the middle of an accept.
 *
 * An accept may have been tried by a task, so they run on the state of the loop itself,
 * where nothing can wait. */
#include "l_pool.h"

static void call(int nargs, int nresults) {
  lua_State *L = sd_the_vm.L;
  if (lua_pcall(L, nargs, nresults, 0) == 0) return;
  lua_pop(L, 1); /* not even its wrapper had memory */
  for (int i = 0; i < nresults; i++) lua_pushnil(L);
}

/* As for a connection: whoever loops in there is seen to be stuck. */
static void call_watched(const l_pool *pool, const l_generation *g, int nargs, int nresults) {
  bool inside = sd_the_vm.current != NULL;
  if (!inside) sd_vm_enter(pool->index, g->number, 0);
  call(nargs, nresults);
  if (!inside) sd_vm_leave();
}

bool sd_l_part_call(const l_pool *pool, const l_generation *g, int nargs, int nresults) {
  call_watched(pool, g, nargs, nresults);
  if (!lua_isnil(sd_the_vm.L, -nresults)) return true;
  sd_trial_failed(sd_scoreboard_trial(sd_the_vm.scoreboard, pool->index), g->number);
  sd_scoreboard_count_part_error(sd_the_vm.scoreboard, pool->index);
  return false;
}

static socklen_t length_of(const struct sockaddr *peer) {
  return peer->sa_family == AF_UNIX ? sizeof peer->sa_family : sizeof(struct sockaddr_storage);
}

void sd_l_part_push_peer(lua_State *L, const struct sockaddr *peer) {
  char text[SD_SOCKADDR_TEXT];
  lua_pushstring(L, sd_sockaddr_text(peer, length_of(peer), text, sizeof text));
}

void sd_l_part_push_ip(lua_State *L, const struct sockaddr *peer) {
  char text[SD_SOCKADDR_TEXT];
  lua_pushstring(L, sd_sockaddr_host(peer, length_of(peer), text, sizeof text));
}
