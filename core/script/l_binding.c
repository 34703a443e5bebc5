/* Handing accepted sockets over to the process that the pool's policy chooses. */
#include <stdlib.h>
#include <sys/socket.h>

#include "l_pool.h"

static sd_reach reach;
static sd_ref on_hand = LUA_NOREF;

void sd_l_binding_configure(lua_State *L, int index, sd_binding *binding) {
  lua_getfield(L, index, "binding");
  if (lua_type(L, -1) == LUA_TNUMBER) {
    *binding = (sd_binding){ SD_BINDING_LOOP, (int32_t)lua_tointeger(L, -1) };
  } else if (lua_type(L, -1) == LUA_TSTRING) {
    int kind = sd_binding_named(lua_tostring(L, -1));
    if (kind >= 0) *binding = (sd_binding){ (sd_binding_kind)kind, 0 };
  }
  lua_pop(L, 1);
}

static int cpu_of(const sd_binding *binding, int fd) {
  int cpu = -1;
  socklen_t length = sizeof cpu;
  if (binding->kind == SD_BINDING_CPU) getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &length);
  return cpu;
}

/* on_hand(pool, generation, fd, headcount), in a task of its own. Until that has asked assign,
 * the place is ours, so that nothing is lost should we be killed before. */
static void hand(l_pool *pool, l_generation *g, int fd, uint32_t headcount) {
  pool->count++; /* as if it were here: pool and code stay until it is somewhere */
  g->connections++;
  lua_State *co = sd_task_calling(on_hand);
  lua_pushstring(co, pool->name);
  lua_pushnumber(co, (lua_Number)g->number);
  lua_pushinteger(co, fd);
  lua_pushnumber(co, headcount);
  sd_task_spawn(co, 4, NULL);
}

/* While a pool ends, who comes last is served here: others may have ended already. */
static bool is_open(const l_pool *pool) {
  const l_listener *l = pool->listeners;
  while (l != NULL && l->leaving) l = l->next;
  return l != NULL;
}

bool sd_l_binding_hand(l_pool *pool, l_generation *g, int fd, uint32_t headcount) {
  if (on_hand == LUA_NOREF || !is_open(pool)) return false;
  if (!sd_binding_matters(sd_the_vm.scoreboard, pool->index, &pool->binding, &reach)) return false;
  hand(pool, g, fd, headcount);
  return true;
}

/* assign(fd, headcount) → slot, pid of whom it goes to, or nil: it stays here. Either way it is
 * counted as accepted, and its place has gone to whom it goes to; it is counted among
 * those of its network again when it is admitted. */
int sd_l_binding_assign(lua_State *L) {
  const l_pool *pool = sd_l_pool_check(L);
  int cpu = cpu_of(&pool->binding, (int)luaL_checkinteger(L, 2));
  sd_scoreboard_party to = sd_binding_assign(sd_the_vm.scoreboard, pool->index, &pool->binding, &reach, cpu);
  sd_scoreboard_leave(sd_the_vm.scoreboard, pool->index, (uint32_t)luaL_checknumber(L, 3));
  if (to.slot == sd_the_vm.scoreboard->slot) return 0;
  lua_pushinteger(L, (lua_Integer)to.slot);
  lua_pushinteger(L, to.pid);
  return 2;
}

/* claim() → whether there is a place for one that was accepted before: it is counted
 * as accepted once more, since it counts as closed where it was to go. */
int sd_l_binding_claim(lua_State *L) {
  uint32_t pool = sd_l_pool_check(L)->index;
  bool room = sd_scoreboard_reserve(sd_the_vm.scoreboard, pool) == 0;
  if (room) sd_scoreboard_count_accepted(sd_the_vm.scoreboard, pool);
  lua_pushboolean(L, room);
  return 1;
}

/* handed(generation): what on_hand was given is somewhere now. */
int sd_l_binding_handed(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  pool->count--;
  sd_l_pool_leave(pool, sd_l_pool_generation(pool, (uint64_t)luaL_checknumber(L, 2)));
  return 0;
}

/* refuge() → slot of the process that a connection here had best move to, or nil. */
int sd_l_binding_refuge(lua_State *L) {
  sd_scoreboard_party to;
  if (!sd_binding_refuge(sd_the_vm.scoreboard, sd_l_pool_check(L)->index, &reach, &to)) return 0;
  lua_pushinteger(L, (lua_Integer)to.slot);
  return 1;
}

/* reach(slot, pid): sockets can be handed over to that process; pid 0: not any more. */
static int l_reach(lua_State *L) {
  const sd_scoreboard *sb = sd_the_vm.scoreboard;
  uint32_t slot = (uint32_t)luaL_checkinteger(L, 1);
  luaL_argcheck(L, sb != NULL && slot < sb->nslots, 1, "no slot");
  sd_reach_set(&reach, (sd_scoreboard_party){ slot, (int32_t)luaL_checkinteger(L, 2) }, sb->slots[slot].loop);
  return 0;
}

/* on_hand(fn): fn(pool, generation, fd, headcount) has to assign an accepted socket and bring it there. */
static int l_on_hand(lua_State *L) {
  on_hand = sd_vm_keep(L, 1, on_hand);
  return 0;
}

void sd_l_binding_register(lua_State *L);

void sd_l_binding_register(lua_State *L) {
  static const luaL_Reg functions[] = { { "reach", l_reach }, { "on_hand", l_on_hand }, { NULL, NULL } };
  luaL_register(L, NULL, functions);
}
