/* A collector that runs at every chance: see `make collect`.
 *
 * The interpreter looks whether there is something to collect in nearly everything that makes an object, and most often
 * there is not: C that keeps a pointer into an object which nobody refers to can live for years. Here allocations make
 * the next look a whole cycle, about one in SOCKDRAWER_COLLECT_EVERY (1: each), at random so that no place is passed
 * over for ever. And what is freed is overwritten, since LuaJIT's own allocator would leave it nearly as it was. */
#include "script/eager.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EVERY = 40, TURNS = 10, FREED = 0xdb, HEAVY = 2048 /* KiB */ };

/* Chances are let go by, about `every` less one of them. */
typedef struct {
  uint32_t every, left, random;
} dice;

/* Of one Lua state: threads that do work have their own. */
typedef struct {
  lua_State *L;
  lua_Alloc inner;
  void *inner_ud;
  dice dice;
} eager;

static uint32_t random_number(dice *d) {
  d->random ^= d->random << 13;
  d->random ^= d->random >> 17;
  d->random ^= d->random << 5;
  return d->random;
}

static bool is_due(dice *d) {
  if (d->left > 1) {
    d->left--;
    return false;
  }
  d->left = 1 + random_number(d) % (2 * d->every - 1);
  return true;
}

static uint32_t chances(void) {
  const char *given = getenv("SOCKDRAWER_COLLECT_EVERY");
  long n = given != NULL && *given != 0 ? strtol(given, NULL, 10) : EVERY;
  return n < 1 ? 1 : n > 1000000 ? 1000000 : (uint32_t)n;
}

static dice new_dice(uint32_t every) {
  return (dice){ .every = every, .random = (uint32_t)getpid() | 1 };
}

/* Not in a finalizer, where the interpreter lets the collector rest; nor if somebody else does. */
static void arm(lua_State *L) {
  if (!lua_gc(L, LUA_GCISRUNNING, 0)) return;
  lua_gc(L, LUA_GCSETSTEPMUL, 0); /* a step is a whole cycle */
  lua_gc(L, LUA_GCRESTART, 0);    /* and due at the next look */
}

/* A cycle costs as much as the heap is large: who fills it for ever would take for ever. */
static void let_go_by(eager *e) {
  uint32_t heavy = 1 + (uint32_t)lua_gc(e->L, LUA_GCCOUNT, 0) / HEAVY;
  e->dice.left *= heavy * heavy;
}

static void *allocate(void *ud, void *block, size_t old, size_t wanted) {
  eager *e = ud;
  if (wanted == 0 && block != NULL) memset(block, FREED, old);
  if (wanted > old && is_due(&e->dice)) {
    arm(e->L);
    let_go_by(e);
  }
  return e->inner(e->inner_ud, block, old, wanted);
}

void sd_eager_begin(lua_State *L) {
  void *ud;
  if (lua_getallocf(L, &ud) == allocate) return;
  eager *e = calloc(1, sizeof *e);
  if (e == NULL) abort();
  e->L = L;
  e->dice = new_dice(chances());
  e->inner = lua_getallocf(L, &e->inner_ud);
  lua_setallocf(L, allocate, e);
}

void sd_eager_end(lua_State *L) {
  void *ud;
  if (lua_getallocf(L, &ud) != allocate) return;
  eager *e = ud;
  lua_setallocf(L, e->inner, e->inner_ud);
  free(e);
}

static int collect(lua_State *L) {
  if (lua_gc(L, LUA_GCISRUNNING, 0)) lua_gc(L, LUA_GCCOLLECT, 0);
  return 0;
}

/* Where nothing allocates, but something may have been left behind. Finalizers may raise. */
void sd_eager_turn(lua_State *L) {
  static dice turns;
  if (turns.every == 0) turns = new_dice(1 + chances() / TURNS);
  if (is_due(&turns) && lua_cpcall(L, collect, NULL) != 0) lua_pop(L, 1);
}
