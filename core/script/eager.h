/* A collector that runs at every chance, for builds that look for C which uses Lua's
 * objects without holding them: spec/support/eager.c. Everywhere else it is nothing. */
#ifndef SD_SCRIPT_EAGER_H
#define SD_SCRIPT_EAGER_H

#include <lua.h>

#ifdef SOCKDRAWER_EAGER_COLLECTOR

/* From now on, in this state. */
void sd_eager_begin(lua_State *L);

/* Before the state is closed, and its memory with it. */
void sd_eager_end(lua_State *L);

/* A chance outside of Lua code. */
void sd_eager_turn(lua_State *L);

#else

static inline void sd_eager_begin(lua_State *L) {
  (void)L;
}

static inline void sd_eager_end(lua_State *L) {
  (void)L;
}

static inline void sd_eager_turn(lua_State *L) {
  (void)L;
}

#endif

#endif
