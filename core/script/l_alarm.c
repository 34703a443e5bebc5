/* Alarms. That each goes off once over all loops, and how long ago, is in the
 * scoreboard; whichever loop sees it first calls the function. */
#include "l_alarm.h"

#include <stdio.h>
#include <string.h>

#include "l_pool.h"

static uint64_t hash(const char *name) {
  uint64_t h = UINT64_C(0xcbf29ce484222325);
  for (; *name != '\0'; name++) h = (h ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
  return h != 0 ? h : 1;
}

static void call(const l_alarm *a, uint64_t connections) {
  if (a->pool->alarms.on_alarm == LUA_NOREF) return;
  sd_l_pool_tell(a->pool->alarms.on_alarm, a->name, (double)connections);
}

static void arm(l_alarm *a, uint64_t now, uint64_t when) {
  uint64_t in = when > now ? (when - now) / 1000000 + 1 : 1;
  sd_loop_arm(&sd_the_vm.loop, &a->timer, sd_loop_now(&sd_the_vm.loop) + in);
}

static void look(l_alarm *a) {
  uint64_t now = sd_scoreboard_clock(), connections, again;
  bool due = sd_scoreboard_alarm(sd_the_vm.scoreboard, a->pool->index, &a->order, now, &connections, &again);
  if (due) call(a, connections);
  if (again != 0) arm(a, now, again);
}

static void on_cooled_down(sd_timer *timer) {
  look((l_alarm *)timer);
}

void sd_l_alarm_look(l_pool *pool) {
  for (uint32_t i = 0; i < pool->alarms.count; i++) look(&pool->alarms.list[i]);
}

/* Those that have gone off before: whoever was to look again may have died, and a
 * cooldown may have become another. */
void sd_l_alarm_look_again(l_pool *pool) {
  for (uint32_t i = 0; i < pool->alarms.count; i++) {
    l_alarm *a = &pool->alarms.list[i];
    if (sd_scoreboard_alarm_fired(sd_the_vm.scoreboard, pool->index, a->order.name)) look(a);
  }
}

/* ---- configuration ---- */

static double number(lua_State *L, const char *key) {
  lua_getfield(L, -1, key);
  double n = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return n;
}

/* Its name is below its table, which is on top. */
static void add(lua_State *L, l_pool *pool) {
  l_alarms *all = &pool->alarms;
  if (all->count == SD_SCOREBOARD_ALARMS || lua_type(L, -2) != LUA_TSTRING || !lua_istable(L, -1)) return;
  l_alarm *a = &all->list[all->count++];
  *a = (l_alarm){ .timer = { .fire = on_cooled_down }, .pool = pool };
  snprintf(a->name, sizeof a->name, "%s", lua_tostring(L, -2));
  a->order.name = hash(a->name);
  a->order.threshold = (uint64_t)number(L, "threshold");
  a->order.cooldown = (uint64_t)(number(L, "cooldown") * 1e9);
}

static void forget_all(l_pool *pool) {
  for (uint32_t i = 0; i < pool->alarms.count; i++)
    sd_timers_disarm(&sd_the_vm.loop.timers, &pool->alarms.list[i].timer);
  pool->alarms.count = 0;
}

void sd_l_alarm_configure(lua_State *L, int index, l_pool *pool) {
  lua_getfield(L, index, "alarms");
  if (!lua_isnil(L, -1)) forget_all(pool);
  if (lua_istable(L, -1)) {
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) add(L, pool);
    sd_l_alarm_look_again(pool);
  }
  lua_pop(L, 1);
}

int sd_l_alarm_on_alarm(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  pool->alarms.on_alarm = sd_vm_keep(L, 2, pool->alarms.on_alarm);
  return 0;
}

void sd_l_alarm_free(lua_State *L, l_pool *pool) {
  forget_all(pool);
  luaL_unref(L, LUA_REGISTRYINDEX, pool->alarms.on_alarm);
  pool->alarms.on_alarm = LUA_NOREF;
}
