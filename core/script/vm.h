/* What a process has one of: the loop, the Lua state, and the tables that keep
 * Lua objects alive while C points at them. */
#ifndef SD_VM_H
#define SD_VM_H

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>

#include "base/scoreboard.h"
#include "net/loop.h"

typedef struct sd_task sd_task;

/* A Lua function kept in the registry. LUA_NOREF: none. */
typedef int sd_ref;

enum { SD_VM_SPARES = 1024 };

typedef struct {
  lua_State *L; /* the main state: only the loop and luv's callbacks run on it */
  sd_loop loop;
  bool running;
  int status;       /* what core.run returns */
  sd_task *current; /* the task in Lua right now */
  sd_task *ready, **ready_tail;
  unsigned nready;
  bool loading;    /* a module body runs: nothing may wait */
  bool finalizing; /* and so does a finalizer of the user's, in the middle of something */
  void *ended; /* the handle of the task whose end is being told, if it has one */
  sd_ref on_task_error, on_task_over;
  sd_ref anchors;                  /* table: light userdata → the object it names */
  lua_State *spares[SD_VM_SPARES]; /* coroutines that ended well */
  int nspares;
  unsigned epoch;            /* of spares: see sd_task_new_epoch */
  uint64_t serial;           /* of tasks and connections */
  char id_prefix[32];        /* makes ids unique over loops and restarts: "loop.life." */
  sd_scoreboard *scoreboard; /* NULL in who has no slot */
} sd_vm;

/* The one of this process. */
extern sd_vm sd_the_vm;

/* We are in Lua from now on, for this connection, and not any more: who watches sees it. */
static inline void sd_vm_enter(uint32_t pool, uint64_t generation, uint64_t connection) {
  if (sd_the_vm.scoreboard == NULL) return;
  uint64_t now = sd_loop_now(&sd_the_vm.loop) * 1000000u;
  sd_scoreboard_slot_enter(sd_the_vm.scoreboard, now, pool, generation, connection);
}

static inline void sd_vm_leave(void) {
  if (sd_the_vm.scoreboard != NULL) sd_scoreboard_slot_leave(sd_the_vm.scoreboard);
}

/* Prepares it on the first call (with L the main state). 0 or UV_E…. */
int sd_vm_open(lua_State *L);

/* Keeps the object at `index` of L alive under `key` until dropped. */
void sd_vm_anchor(lua_State *L, const void *key, int index);
void sd_vm_push_anchored(lua_State *L, const void *key);
void sd_vm_unanchor(const void *key);

/* Keeps the function (or nil: LUA_NOREF) at `index`, in place of `old`. */
sd_ref sd_vm_keep(lua_State *L, int index, sd_ref old);

/* A string for `to`, which may be a coroutine that waits: other values that are made
 * for one are made on the main state, and moved. */
void sd_vm_push_bytes(lua_State *to, const char *bytes, size_t n);
void sd_vm_push_text(lua_State *to, const char *text);

/* The id of a task or connection: a string. */
void sd_vm_push_id(lua_State *L, uint64_t serial);

/* Replaces an error value on top of the stack by what it says. */
void sd_vm_error_text(lua_State *L);

/* nil, word. Returns 2. */
int sd_push_failure(lua_State *L, int err);

/* nil, word, prose. Returns 3. */
int sd_push_failure_text(lua_State *L, int err, const char *text);

/* Seconds from the table at `index`, field `key`: -1 when absent, 0 when false
 * ("off"), else milliseconds (at least 1). Raises on another type. */
int64_t sd_opt_ms(lua_State *L, int index, const char *key);

/* The seconds at `index` in milliseconds, between none and a century; raises for
 * anything that is no number. */
uint64_t sd_check_ms(lua_State *L, int index);

/* Makes the metatable `name` with these methods, __index to them, and __gc. */
void sd_class(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc);

#endif
