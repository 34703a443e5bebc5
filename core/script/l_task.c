/* Tasks as Lua sees them: core.run, spawn, park, sleep, owners, handles. */
#include <stdio.h>
#include <time.h>

#include "base/errors.h"
#include "task.h"

typedef struct sd_task_handle {
  sd_task *task; /* first member; NULL when it is over */
  uint64_t serial;
} sd_task_handle;

#define HANDLE "sockdrawer.task"
#define OWNER "sockdrawer.owner"

static char parked; /* waiting_for of a task in park: what task:wake may end */

void sd_task_push_handle(lua_State *L, sd_task *task) {
  if (task->handle != NULL) {
    sd_vm_push_anchored(L, task->handle);
    if (!lua_isnil(L, -1)) return;
    lua_pop(L, 1);
  }
  sd_task_handle *h = lua_newuserdata(L, sizeof *h);
  h->task = task;
  h->serial = task->serial;
  luaL_getmetatable(L, HANDLE);
  lua_setmetatable(L, -2);
  sd_vm_anchor(L, h, -1);
  task->handle = h;
}

static sd_task_handle *check_handle(lua_State *L) {
  return luaL_checkudata(L, 1, HANDLE);
}

sd_task *sd_task_of_handle(lua_State *L, int index) {
  return ((sd_task_handle *)luaL_checkudata(L, index, HANDLE))->task;
}

static int l_wake(lua_State *L) {
  sd_task *task = check_handle(L)->task;
  bool waits = task != NULL && task->state == SD_TASK_WAITING && task->waiting_for == &parked;
  if (waits) {
    int n = lua_gettop(L) - 1;
    if (!lua_checkstack(task->co, n + 1)) return luaL_error(L, "wake: too many values");
    lua_xmove(L, task->co, n);
    sd_task_wake(task, n);
  }
  lua_pushboolean(L, waits);
  return 1;
}

static int l_cancel(lua_State *L) {
  sd_task *task = check_handle(L)->task;
  if (sd_task_interrupts(L)) return sd_task_later(L, l_cancel);
  if (task != NULL) sd_task_drop(task);
  lua_pushboolean(L, task != NULL);
  return 1;
}

static int l_detach(lua_State *L) {
  sd_task *task = check_handle(L)->task;
  if (task != NULL) sd_disown(&task->owned);
  return 0;
}

/* watch() → whether it still runs: then its end will be told to on_task_over. */
static int l_watch(lua_State *L) {
  sd_task *task = check_handle(L)->task;
  if (task != NULL) task->watched = true;
  lua_pushboolean(L, task != NULL);
  return 1;
}

/* interrupt(): tells it to end, as draining does; if not now, at its next wait. */
static int l_interrupt(lua_State *L) {
  sd_task *task = check_handle(L)->task;
  if (task != NULL) sd_task_interrupt(task);
  return 0;
}

/* shield(): from now on draining tells this task, and not what it has started. */
static int l_shield(lua_State *L) {
  sd_task *task = check_handle(L)->task;
  if (task != NULL) task->shields = true;
  return 0;
}

static int l_status(lua_State *L) {
  static const char *const names[] = { "ready", "running", "waiting", "done" };
  sd_task *task = check_handle(L)->task;
  lua_pushstring(L, names[task == NULL ? SD_TASK_DONE : task->state]);
  return 1;
}

/* look() → state, what it waits for, for how many seconds; the last two only while it waits. */
static int l_look(lua_State *L) {
  const sd_task *task = check_handle(L)->task;
  l_status(L);
  if (task == NULL || task->state != SD_TASK_WAITING) return 1;
  lua_pushstring(L, task->what);
  lua_pushnumber(L, (lua_Number)(sd_loop_now(&sd_the_vm.loop) - task->since) / 1000);
  return 3;
}

/* traceback() → where it stands, or nil when it is over. */
static int l_traceback(lua_State *L) {
  const sd_task *task = check_handle(L)->task;
  if (task == NULL || task->co == NULL) return 0;
  luaL_traceback(L, task->co, NULL, 0);
  return 1;
}

/* handle:keep(table): until the task has ended, and its failure was told. */
static int l_keep(lua_State *L) {
  check_handle(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  lua_setfenv(L, 1);
  return 0;
}

static const luaL_Reg handle_methods[] = {
  { "look", l_look },
  { "traceback", l_traceback },
  { "wake", l_wake },
  { "cancel", l_cancel },
  { "detach", l_detach },
  { "watch", l_watch },
  { "interrupt", l_interrupt },
  { "shield", l_shield },
  { "status", l_status },
  { "keep", l_keep },
  { NULL, NULL },
};

/* handle.id, else a method. */
static int handle_index(lua_State *L) {
  const char *key = luaL_checkstring(L, 2);
  if (key[0] == 'i' && key[1] == 'd' && key[2] == 0) {
    sd_vm_push_id(L, check_handle(L)->serial);
    return 1;
  }
  lua_rawget(L, lua_upvalueindex(1));
  return 1;
}

/* ---- starting ---- */

/* Moves function and arguments from `first` up onto a fresh coroutine. */
static sd_task *spawn_from(lua_State *L, int first, sd_owner *owner) {
  luaL_checktype(L, first, LUA_TFUNCTION);
  int n = lua_gettop(L) - first;
  lua_State *co = sd_task_coroutine();
  if (!lua_checkstack(co, n + 2)) luaL_error(L, "too many arguments");
  lua_xmove(L, co, n + 1);
  return sd_task_spawn(co, n, owner);
}

static int l_spawn(lua_State *L) {
  sd_task *here = sd_the_vm.current;
  sd_task *task = spawn_from(L, 1, here != NULL ? &here->children : NULL);
  sd_task_push_handle(L, task);
  return 1;
}

static int l_run(lua_State *L) {
  sd_vm *vm = &sd_the_vm;
  if (vm->running) return luaL_error(L, "core.run: it runs already");
  spawn_from(L, 1, NULL);
  vm->running = true;
  sd_loop_run(&vm->loop);
  vm->running = false;
  lua_pushinteger(L, vm->status);
  return 1;
}

static int l_stop(lua_State *L) {
  sd_the_vm.status = (int)luaL_optinteger(L, 1, 0);
  sd_loop_stop(&sd_the_vm.loop);
  return 0;
}

static int l_current(lua_State *L) {
  if (sd_the_vm.current == NULL)
    lua_pushnil(L);
  else
    sd_task_push_handle(L, sd_the_vm.current);
  return 1;
}

/* ---- waiting ---- */

/* park([seconds [, interruptible]]): until it is woken; draining ends it if it may. */
static int l_park(lua_State *L) {
  sd_task *task = sd_task_here(L, "park");
  if (lua_toboolean(L, 2) && sd_task_hears(L, task)) return 2;
  if (!lua_isnoneornil(L, 1)) sd_task_set_timeout(task, sd_check_ms(L, 1));
  task->interruptible = lua_toboolean(L, 2);
  return sd_task_wait(L, task, &parked, NULL);
}

/* here(what) → the running task; raises, naming `what`, where nothing may wait: before anybody knows of the wait. */
static int l_here(lua_State *L) {
  sd_task_push_handle(L, sd_task_here(L, luaL_checkstring(L, 1)));
  return 1;
}

static int l_sleep(lua_State *L) {
  sd_task *task = sd_task_here(L, "sleep");
  if (sd_task_hears(L, task)) return 2;
  sd_task_set_timeout(task, sd_check_ms(L, 1));
  task->sleeping = task->interruptible = true;
  return sd_task_wait(L, task, NULL, NULL);
}

static int l_now(lua_State *L) {
  lua_pushnumber(L, (double)uv_hrtime() / 1e9);
  return 1;
}

static int l_time(lua_State *L) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  lua_pushnumber(L, (double)t.tv_sec + (double)t.tv_nsec / 1e9);
  return 1;
}

/* ---- owners: what a generation started ---- */

typedef struct {
  sd_owner owner; /* first member */
  uint32_t pool;  /* whom its tasks work for */
  uint64_t generation;
} l_owner;

/* owner([pool, generation]) */
static int l_owner_new(lua_State *L) {
  lua_Number pool = luaL_optnumber(L, 1, SD_SCOREBOARD_NO_POOL), generation = luaL_optnumber(L, 2, 0);
  luaL_argcheck(L, pool >= 0 && pool <= SD_SCOREBOARD_NO_POOL, 1, "no index of a pool");
  luaL_argcheck(L, generation >= 0 && generation < 9007199254740992.0, 2, "no generation");
  l_owner *o = lua_newuserdata(L, sizeof *o);
  *o = (l_owner){ .pool = (uint32_t)pool, .generation = (uint64_t)generation };
  luaL_getmetatable(L, OWNER);
  lua_setmetatable(L, -2);
  return 1;
}

static int l_owner_run(lua_State *L) {
  l_owner *o = luaL_checkudata(L, 1, OWNER);
  sd_task *task = spawn_from(L, 2, &o->owner);
  task->pool = o->pool;
  task->generation = o->generation;
  sd_task_push_handle(L, task);
  return 1;
}

static int l_owner_cancel(lua_State *L) {
  sd_owner *owner = luaL_checkudata(L, 1, OWNER);
  if (sd_task_interrupts(L)) return sd_task_later(L, l_owner_cancel);
  sd_owner_cancel(owner);
  return 0;
}

static int l_owner_interrupt(lua_State *L) {
  sd_owner_interrupt(luaL_checkudata(L, 1, OWNER));
  return 0;
}

static const luaL_Reg owner_methods[] = {
  { "run", l_owner_run },
  { "cancel", l_owner_cancel },
  { "interrupt", l_owner_interrupt },
  { NULL, NULL },
};

/* ---- settings ---- */

static int l_on_task_error(lua_State *L) {
  sd_the_vm.on_task_error = sd_vm_keep(L, 1, sd_the_vm.on_task_error);
  return 0;
}

/* on_task_over(fn): fn(id, why | nil, error | nil) when a watched task has ended. */
static int l_on_task_over(lua_State *L) {
  sd_the_vm.on_task_over = sd_vm_keep(L, 1, sd_the_vm.on_task_over);
  return 0;
}

static int l_loading(lua_State *L) {
  bool before = sd_the_vm.loading;
  sd_the_vm.loading = lua_toboolean(L, 1);
  if (sd_the_vm.scoreboard != NULL) sd_scoreboard_loading(sd_the_vm.scoreboard, sd_the_vm.loading);
  lua_pushboolean(L, before);
  return 1;
}

/* finalizing(whether) → what it was before. */
static int l_finalizing(lua_State *L) {
  bool before = sd_the_vm.finalizing;
  sd_the_vm.finalizing = lua_toboolean(L, 1);
  lua_pushboolean(L, before);
  return 1;
}

/* dropped_message(): one was refused, or lost, for want of room. */
static int l_dropped_message(lua_State *L) {
  const sd_scoreboard *sb = sd_the_vm.scoreboard;
  (void)L;
  if (sb != NULL && sb->slot != SD_SCOREBOARD_NO_SLOT) sd_scoreboard_dropped_message(sb);
  return 0;
}

/* identify(loop, incarnation): ids of tasks and connections begin with these. */
static int l_identify(lua_State *L) {
  snprintf(sd_the_vm.id_prefix, sizeof sd_the_vm.id_prefix, "%d.%d.", (int)luaL_checkinteger(L, 1),
    (int)luaL_checkinteger(L, 2));
  return 0;
}

/* connection() → the connection that the running task works for, or nil. */
static int l_connection(lua_State *L) {
  sd_task_push_connection(L, sd_the_vm.current);
  return 1;
}

/* new_epoch(): other code runs from now on (task.h). */
static int l_new_epoch(lua_State *L) {
  (void)L;
  sd_task_new_epoch();
  return 0;
}

static const luaL_Reg functions[] = {
  { "new_epoch", l_new_epoch },
  { "connection", l_connection },
  { "run", l_run },
  { "stop", l_stop },
  { "spawn", l_spawn },
  { "park", l_park },
  { "here", l_here },
  { "sleep", l_sleep },
  { "current", l_current },
  { "now", l_now },
  { "time", l_time },
  { "owner", l_owner_new },
  { "loading", l_loading },
  { "finalizing", l_finalizing },
  { "identify", l_identify },
  { "dropped_message", l_dropped_message },
  { "on_task_error", l_on_task_error },
  { "on_task_over", l_on_task_over },
  { NULL, NULL },
};

static int handle_gc(lua_State *L) {
  sd_task_handle *h = lua_touserdata(L, 1);
  if (h->task != NULL && h->task->handle == h) h->task->handle = NULL;
  return 0;
}

static int owner_gc(lua_State *L) {
  sd_owner *owner = lua_touserdata(L, 1);
  /* They outlive it: a collected owner cannot cancel from inside a collection. */
  while (owner->first != NULL) sd_disown(owner->first);
  return 0;
}

void sd_task_register(lua_State *L) {
  sd_class(L, HANDLE, handle_methods, handle_gc);
  luaL_getmetatable(L, HANDLE);
  lua_getfield(L, -1, "__index");
  lua_pushcclosure(L, handle_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  sd_class(L, OWNER, owner_methods, owner_gc);
  sd_task_push_mark(L);
  lua_setfield(L, -2, "wait_mark");
  luaL_register(L, NULL, functions);
}
