/* A task is a coroutine with an owner. lua_resume is called in task.c only, and
 * only from the loop: C functions that Lua called put tasks into the ready
 * queue (Debian's LuaJIT crashes when such a function resumes and then raises).
 *
 * A C function waits by `return sd_task_wait(…)`; whoever wakes the task pushes
 * what that function returns onto task->co first. */
#ifndef SD_TASK_H
#define SD_TASK_H

#include <stdbool.h>
#include <stdint.h>

#include "vm.h"

/* What ends with its owner. */
typedef struct sd_owned sd_owned;

typedef struct {
  void (*cancel)(sd_owned *owned);    /* ends it; it disowns itself */
  void (*interrupt)(sd_owned *owned); /* the owner is draining; may be NULL */
} sd_owned_kind;

struct sd_owned {
  const sd_owned_kind *kind;
  sd_owned *next, **link; /* link NULL: nobody's */
};

typedef struct {
  sd_owned *first;
} sd_owner;

void sd_own(sd_owner *owner, sd_owned *owned);
void sd_disown(sd_owned *owned);
void sd_owner_cancel(sd_owner *owner);
void sd_owner_interrupt(sd_owner *owner);

typedef enum { SD_TASK_READY, SD_TASK_RUNNING, SD_TASK_WAITING, SD_TASK_DONE } sd_task_state;

typedef enum { SD_TASK_ENDED, SD_TASK_FAILED, SD_TASK_DROPPED } sd_task_end;

struct sd_task {
  sd_owned owned; /* first member: its place with its owner */
  lua_State *co;
  void (*unwait)(sd_task *task); /* takes it off what it waits for */
  void *waiting_for;
  const void *conn; /* anchor of the connection it works for, or NULL: it may be gone */
  const char *what; /* that it did last which may wait: "conn:read"; a literal */
  uint64_t since;   /* loop time: when its last wait began */
  uint64_t serial;
  uint64_t generation; /* of the connection it serves, for the heartbeat */
  uint32_t pool;       /* SD_SCOREBOARD_NO_POOL: none */
  uint16_t pending;    /* values on co for the resume to come */
  uint8_t state;
  bool direct;        /* it waits in its own coroutine, and not in one that it has resumed */
  bool doomed;        /* to be dropped at its next wait */
  bool sleeping;      /* its timer is no failure: it slept to the end */
  bool interruptible; /* draining ends its wait */
  bool watched;       /* somebody wants to hear of its end: vm->on_task_over */
  bool owns;          /* entries of shared stores, which go when it ends: l_owner.c */
  bool shields;       /* draining tells it, and it tells what it has started */
  bool told;          /* of draining, when it did not wait: its next such wait says so */
  unsigned epoch;     /* when it started */
  sd_timer timer;
  sd_owner children;
  sd_task *next_ready;
  /* Called once, last; `error` is message and traceback of a failed one. */
  void (*on_end)(sd_task *task, sd_task_end how, const char *error);
  struct sd_task_handle *handle;
  const struct sd_conn_limits *limits; /* of its pool; NULL: none */
};

/* A coroutine, spare or new, anchored. Put function and arguments on it. */
lua_State *sd_task_coroutine(void);

/* The same with a function on it that is kept: put its arguments on it. */
static inline lua_State *sd_task_calling(sd_ref fn) {
  lua_State *co = sd_task_coroutine();
  lua_rawgeti(co, LUA_REGISTRYINDEX, fn);
  return co;
}

/* From now on other code runs: no coroutine that ran before is used again. LuaJIT
 * does not clear the slots of a new frame, so a spare one would keep what the old
 * code left there alive as long as its new task lives. */
void sd_task_new_epoch(void);

/* Makes it a task that will run in this turn or the next. */
void sd_task_start(sd_task *task, lua_State *co, int nargs, sd_owner *owner);

/* A task that frees itself, without owner: function and arguments are on co. */
sd_task *sd_task_spawn(lua_State *co, int nargs, sd_owner *owner);

/* The running task; raises, naming `what`, where nothing may wait. */
sd_task *sd_task_here(lua_State *L, const char *what);

/* Waits: `return sd_task_wait(…)`. */
int sd_task_wait(lua_State *L, sd_task *task, void *waiting_for, void (*unwait)(sd_task *));

/* Ends the wait; `n` values are on task->co. It runs when the loop comes to it. */
void sd_task_wake(sd_task *task, int n);

/* The same, at once where that is allowed: from an event of the loop. */
void sd_task_continue(sd_task *task, int n);

/* Ends it where it stands: at once, or at its next wait when it is running. */
void sd_task_drop(sd_task *task);

/* Tells it that it shall end, as draining does; one that does not wait hears of it at
 * its next wait that draining ends. */
void sd_task_interrupt(sd_task *task);

/* Takes that news, if there is some: pushes nil, "shutdown" and answers true. */
bool sd_task_hears(lua_State *L, sd_task *task);

/* Runs what is ready, a bounded number of times. True: there is more. */
bool sd_task_run_ready(void *unused);

/* Runs what a group of events has woken, once. */
void sd_task_run_woken(void *unused);

/* Seconds until a wait with a timer is given up; pushes nil, "timeout". */
void sd_task_set_timeout(sd_task *task, uint64_t ms);

/* Pushes what a waiting coroutine yields: who resumes it inside a task passes that
 * on upward (lua/sockdrawer/coroutine.lua). */
void sd_task_push_mark(lua_State *L);

/* The task of the handle at `index`, or NULL when it is over; raises for anything else. */
sd_task *sd_task_of_handle(lua_State *L, int index);

/* Pushes the handle of a task: how Lua names it. */
void sd_task_push_handle(lua_State *L, sd_task *task);

/* Tells Lua's on_task_over of the end of a watched one: its id is on top of the main
 * state and is taken. `why` is a reason, or NULL for the end of a function. */
void sd_task_tell_over(const char *why, const char *error);

/* Pushes the connection that the running task works for, or nil. */
void sd_task_push_connection(lua_State *L, const sd_task *task);

/* The collector runs wherever C makes a Lua value, and finalizers in it: in the middle
 * of a read, with the task that waits for it in hand. What ends a connection or a task
 * is not done there: `if (sd_task_interrupts(L)) return sd_task_later(L, fn)` does it
 * in a task of its own, with the same arguments, and answers true. */
bool sd_task_interrupts(lua_State *L);
int sd_task_later(lua_State *L, lua_CFunction fn);

/* Tells Lua's on_task_error of a failure. `conn` is an anchor key, or NULL. */
void sd_task_report(uint64_t serial, const char *error, const void *conn);

void sd_task_register(lua_State *L); /* l_task.c: core.spawn, core.park, … */

#endif
