/* Asking a generation's acceptor, code of the user's, when and how much is accepted. */
#include "base/errors.h"
#include "l_pool.h"

enum {
  USUAL_REST = 100, /* of one that accepts nothing and does not say for how long */
  LEAST_REST = 10,  /* after a failure */
};

/* What both of its functions take first. */
static void begin(const l_listener *l, sd_ref fn) {
  lua_State *L = sd_the_vm.L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, fn);
  lua_pushinteger(L, l->id);
  lua_pushnumber(L, (lua_Number)sd_scoreboard_taken(sd_the_vm.scoreboard, l->pool->index));
}

/* The seconds on top of the stack in milliseconds; 0: none were given. */
static uint64_t rest_on_top(void) {
  return lua_isnumber(sd_the_vm.L, -1) ? sd_check_ms(sd_the_vm.L, -1) : 0;
}

uint32_t sd_l_acceptor_turn(const l_listener *l, const l_generation *g, uint32_t most, uint64_t *rest) {
  lua_State *L = sd_the_vm.L;
  begin(l, g->turn);
  lua_pushnumber(L, (lua_Number)sd_scoreboard_accepted(sd_the_vm.scoreboard, l->pool->index));
  lua_pushinteger(L, (lua_Integer)l->pool->full.line.count);
  bool answered = sd_l_part_call(l->pool, g, 4, 2);
  double count = answered ? lua_tonumber(L, -2) : 0;
  *rest = rest_on_top();
  lua_pop(L, 2);
  if (count < most) most = (uint32_t)count;
  if (most == 0 && *rest == 0) *rest = USUAL_REST;
  return most;
}

uint64_t sd_l_acceptor_failed(const l_listener *l, const l_generation *g, int err) {
  lua_State *L = sd_the_vm.L;
  begin(l, g->failed);
  lua_pushstring(L, sd_error_word(-err));
  lua_pushnumber(L, l->failures);
  sd_l_part_call(l->pool, g, 4, 1);
  uint64_t rest = rest_on_top();
  lua_pop(L, 1);
  return rest > 0 && rest < LEAST_REST ? LEAST_REST : rest;
}
