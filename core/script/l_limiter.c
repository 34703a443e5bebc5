/* A limiter as Lua sees it: so many a second for each key, over all loops. The buckets are
 * shared; how fast they fill is said by each handle. */
#include <math.h>

#include "l_shared.h"

#define LIMITER "sockdrawer.limiter"
#define LONGEST 1e18 /* ns */

typedef struct {
  const sd_store *store;
  double rate, burst;
} limiter;

static uint64_t time_of(const limiter *l, double n) {
  double ns = n * 1e9 / l->rate;
  return (uint64_t)(ns < LONGEST ? ns : LONGEST);
}

/* take(key [, n]) → true | nil, "limit", retry_after */
static int l_take(lua_State *L) {
  const limiter *l = luaL_checkudata(L, 1, LIMITER);
  sd_text key = sd_l_store_key(L, 2);
  double n = luaL_optnumber(L, 3, 1);
  luaL_argcheck(L, n > 0, 3, "a number above 0 was expected");
  uint64_t wait = 0;
  int err = SD_ELIMIT;
  if (n <= l->burst)
    err = sd_store_take(l->store, key, time_of(l, n), time_of(l, l->burst), sd_scoreboard_clock(), &wait);
  if (err == 0) {
    lua_pushboolean(L, 1);
    return 1;
  }
  sd_push_failure(L, SD_ELIMIT);
  lua_pushnumber(L, wait > 0 ? (double)wait / 1e9 : HUGE_VAL);
  return 3;
}

/* limiter(store, rate, burst): numbers above 0. */
static int l_limiter(lua_State *L) {
  const sd_store *store = sd_l_store_check(L, 1);
  double rate = luaL_checknumber(L, 2), burst = luaL_checknumber(L, 3);
  limiter *l = lua_newuserdata(L, sizeof *l);
  *l = (limiter){ store, rate, burst };
  luaL_getmetatable(L, LIMITER);
  lua_setmetatable(L, -2);
  return 1;
}

void sd_l_limiter_register(lua_State *L) {
  static const luaL_Reg methods[] = { { "take", l_take }, { NULL, NULL } };
  sd_class(L, LIMITER, methods, NULL);
  lua_pushcfunction(L, l_limiter);
  lua_setfield(L, -2, "limiter");
}
