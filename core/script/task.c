/* Coroutines with owners, and the one place that resumes them. */
#include "task.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/errors.h"
#include "base/log_writer.h"
#include "eager.h"
#include "heap.h"
#include "l_shared.h"
#include "net/connection.h"

enum { ROUNDS = 8 };

/* ---- owners ---- */

void sd_own(sd_owner *owner, sd_owned *owned) {
  owned->next = owner->first;
  owned->link = &owner->first;
  if (owned->next != NULL) owned->next->link = &owned->next;
  owner->first = owned;
}

void sd_disown(sd_owned *owned) {
  if (owned->link == NULL) return;
  *owned->link = owned->next;
  if (owned->next != NULL) owned->next->link = owned->link;
  owned->link = NULL;
}

void sd_owner_cancel(sd_owner *owner) {
  while (owner->first != NULL) {
    sd_owned *owned = owner->first;
    sd_disown(owned);
    owned->kind->cancel(owned);
  }
}

void sd_owner_interrupt(sd_owner *owner) {
  for (sd_owned *o = owner->first; o != NULL; o = o->next)
    if (o->kind->interrupt != NULL) o->kind->interrupt(o);
}

/* ---- coroutines ---- */

/* What our own waits yield, so that a bare coroutine.yield can be told apart. */
static char waits;

lua_State *sd_task_coroutine(void) {
  sd_vm *vm = &sd_the_vm;
  if (vm->nspares > 0) return vm->spares[--vm->nspares];
  sd_heap_shelter();
  lua_State *co = lua_newthread(vm->L);
  sd_vm_anchor(vm->L, co, -1);
  lua_pop(vm->L, 1);
  sd_heap_expose();
  return co;
}

/* Only one that ended well can be used again (LuaJIT has no resetthread). */
static void give_back(lua_State *co, bool reusable) {
  sd_vm *vm = &sd_the_vm;
  if (reusable && vm->nspares < SD_VM_SPARES) {
    lua_settop(co, 0);
    vm->spares[vm->nspares++] = co;
  } else {
    sd_vm_unanchor(co);
  }
}

void sd_task_new_epoch(void) {
  sd_vm *vm = &sd_the_vm;
  vm->epoch++;
  while (vm->nspares > 0) sd_vm_unanchor(vm->spares[--vm->nspares]);
}

/* ---- the ready queue ---- */

static void enqueue(sd_task *task) {
  sd_vm *vm = &sd_the_vm;
  task->state = SD_TASK_READY;
  task->next_ready = NULL;
  *vm->ready_tail = task;
  vm->ready_tail = &task->next_ready;
  vm->nready++;
}

static void dequeue(sd_task *task) {
  sd_vm *vm = &sd_the_vm;
  sd_task **link = &vm->ready;
  while (*link != task) link = &(*link)->next_ready;
  *link = task->next_ready;
  if (*link == NULL) vm->ready_tail = link;
  vm->nready--;
}

/* ---- the end ---- */

static void *take_handle(sd_task *task) {
  void *handle = task->handle;
  if (handle != NULL) *(sd_task **)handle = NULL;
  task->handle = NULL;
  return handle;
}

static void end(sd_task *task, sd_task_end how, const char *error) {
  sd_vm *vm = &sd_the_vm;
  sd_heap_shelter(); /* whoever ends it may be short of memory, and cannot be told in here */
  task->state = SD_TASK_DONE;
  sd_timers_disarm(&vm->loop.timers, &task->timer);
  sd_disown(&task->owned);
  sd_owner_cancel(&task->children);
  give_back(task->co, how == SD_TASK_ENDED && task->epoch == vm->epoch);
  task->co = NULL;
  void *outer = vm->ended, *handle = take_handle(task);
  vm->ended = handle;
  task->on_end(task, how, error);
  vm->ended = outer;
  if (handle != NULL) sd_vm_unanchor(handle);
  sd_heap_expose();
}

static void fail(sd_task *task, const char *message) {
  lua_State *L = sd_the_vm.L;
  luaL_traceback(L, task->co, message, 0);
  end(task, SD_TASK_FAILED, lua_tostring(L, -1));
  lua_pop(L, 1);
}

static void fail_with_value(sd_task *task) {
  lua_State *L = sd_the_vm.L;
  lua_xmove(task->co, L, 1); /* a coroutine that has failed can call nothing */
  sd_vm_error_text(L);
  fail(task, lua_tostring(L, -1));
  lua_pop(L, 1);
}

void sd_task_drop(sd_task *task) {
  sd_task_state state = task == sd_the_vm.current ? SD_TASK_RUNNING : task->state;
  switch (state) {
    case SD_TASK_RUNNING:
      task->doomed = true;
      return;
    case SD_TASK_DONE:
      return;
    case SD_TASK_READY:
      dequeue(task);
      break;
    case SD_TASK_WAITING:
      if (task->unwait != NULL) task->unwait(task);
      break;
  }
  end(task, SD_TASK_DROPPED, NULL);
}

/* ---- running ---- */

static void enter_lua(const sd_task *task) {
  sd_the_vm.current = (sd_task *)task;
  sd_vm_enter(task->pool, task->generation, task->serial);
}

static void leave_lua(void) {
  sd_the_vm.current = NULL;
  sd_heap_leave_shelters();
  sd_vm_leave();
}

/* A wait of ours may have ended in the hands of a foreign resumer: what it waited
 * for still points here, or has put it into the ready queue meanwhile. */
static void forget_wait(sd_task *task) {
  if (task->state == SD_TASK_READY) dequeue(task);
  if (task->unwait != NULL) task->unwait(task);
  task->unwait = NULL;
  task->state = SD_TASK_RUNNING;
}

/* Whether a wait of ours ended the stretch; who resumed it inside has passed the mark on. */
static bool has_begun_to_wait(const sd_task *task) {
  if (task->state != SD_TASK_WAITING) return false;
  if (task->direct) return true;
  return lua_gettop(task->co) > 0 && lua_touserdata(task->co, -1) == &waits;
}

static void settle_yield(sd_task *task) {
  bool waits_now = has_begun_to_wait(task);
  if (!task->direct || !waits_now) lua_settop(task->co, 0);
  if (!waits_now) {
    forget_wait(task);
    fail(task, "coroutine.yield outside a coroutine of your own: nobody would resume it");
    return;
  }
  if (task->doomed) sd_task_drop(task);
}

static void settle_end(sd_task *task, int status) {
  forget_wait(task);
  if (status == 0)
    end(task, SD_TASK_ENDED, NULL);
  else
    fail_with_value(task);
}

static void run(sd_task *task, int nargs) {
  assert(sd_the_vm.current == NULL);
  task->state = SD_TASK_RUNNING;
  task->unwait = NULL;
  enter_lua(task);
  int status = lua_resume(task->co, nargs);
  leave_lua();
  if (status == LUA_YIELD)
    settle_yield(task);
  else
    settle_end(task, status);
  if (sd_heap_refused) sd_heap_relieve();
  sd_eager_turn(sd_the_vm.L);
  /* At once, and not with others' answers: the next one to run may never let go. */
  if (sd_the_vm.loop.dirty != NULL) sd_conn_flush_dirty(&sd_the_vm.loop);
}

static void run_round(void) {
  sd_vm *vm = &sd_the_vm;
  for (unsigned n = vm->nready; n > 0 && vm->ready != NULL; n--) {
    sd_task *task = vm->ready;
    dequeue(task);
    run(task, task->pending);
  }
}

void sd_task_run_woken(void *unused) {
  (void)unused;
  run_round();
}

/* Tasks that wake one another have a few goes before the kernel is asked again. */
bool sd_task_run_ready(void *unused) {
  (void)unused;
  sd_vm *vm = &sd_the_vm;
  for (int round = 0; round < ROUNDS && vm->ready != NULL; round++) run_round();
  sd_conn_flush_dirty(&vm->loop); /* what was written outside tasks: in luv's callbacks */
  return vm->ready != NULL;
}

static void finish_wait(sd_task *task) {
  task->sleeping = task->interruptible = false;
  task->unwait = NULL;
  task->waiting_for = NULL;
  if (sd_timer_armed(&task->timer)) sd_timers_disarm(&sd_the_vm.loop.timers, &task->timer);
}

void sd_task_wake(sd_task *task, int n) {
  assert(task->state == SD_TASK_WAITING);
  finish_wait(task);
  if (task == sd_the_vm.current) { /* a foreign resumer took its wait, and it went on without */
    lua_pop(task->co, n);
    task->state = SD_TASK_RUNNING;
    return;
  }
  task->pending = (uint16_t)n;
  enqueue(task);
}

void sd_task_continue(sd_task *task, int n) {
  if (sd_the_vm.current != NULL) {
    sd_task_wake(task, n);
    return;
  }
  assert(task->state == SD_TASK_WAITING);
  finish_wait(task);
  run(task, n);
}

/* ---- starting and waiting ---- */

static void cancel_owned(sd_owned *owned) {
  sd_task_drop((sd_task *)owned);
}

/* Why its wait is over. A finalizer that runs meanwhile must not find it waiting, and end that once more. */
static int push_reason(sd_task *task, int err) {
  task->waiting_for = NULL;
  task->interruptible = false;
  return sd_push_failure(task->co, err);
}

static void tell(sd_task *task, bool remember) {
  if (task->interruptible && task->state == SD_TASK_WAITING)
    sd_task_wake(task, push_reason(task, SD_ESHUTDOWN));
  else if (remember)
    task->told = true;
  if (!task->shields) sd_owner_interrupt(&task->children);
}

static void interrupt_owned(sd_owned *owned) {
  sd_task *task = (sd_task *)owned;
  tell(task, task->shields);
}

void sd_task_interrupt(sd_task *task) {
  tell(task, true);
}

bool sd_task_hears(lua_State *L, sd_task *task) {
  if (!task->told) return false;
  task->told = false;
  sd_push_failure(L, SD_ESHUTDOWN);
  return true;
}

static const sd_owned_kind task_kind = { .cancel = cancel_owned, .interrupt = interrupt_owned };

static void on_timeout(sd_timer *timer) {
  sd_task *task = (sd_task *)((char *)timer - offsetof(sd_task, timer));
  if (task->unwait != NULL) task->unwait(task);
  if (task->sleeping) {
    lua_pushboolean(task->co, 1);
    sd_task_continue(task, 1);
  } else {
    sd_task_continue(task, push_reason(task, SD_ETIMEOUT));
  }
}

void sd_task_start(sd_task *task, lua_State *co, int nargs, sd_owner *owner) {
  task->co = co;
  if (task->serial == 0) task->serial = ++sd_the_vm.serial; /* one that starts anew keeps its own */
  task->doomed = task->shields = task->told = false;
  task->owned.kind = &task_kind;
  task->timer.fire = on_timeout;
  task->pending = (uint16_t)nargs;
  task->epoch = sd_the_vm.epoch;
  if (owner != NULL) sd_own(owner, &task->owned);
  enqueue(task);
}

void sd_task_tell_over(const char *why, const char *error) {
  lua_State *L = sd_the_vm.L;
  lua_State *co = sd_task_coroutine();
  lua_rawgeti(co, LUA_REGISTRYINDEX, sd_the_vm.on_task_over);
  lua_xmove(L, co, 1);
  lua_pushstring(co, why); /* NULL: nil */
  lua_pushstring(co, error);
  sd_task_spawn(co, 3, NULL);
}

static void on_spawned_end(sd_task *task, sd_task_end how, const char *error) {
  if (how == SD_TASK_FAILED) sd_task_report(task->serial, error, task->conn);
  if (task->watched && sd_the_vm.on_task_over != LUA_NOREF) {
    sd_vm_push_id(sd_the_vm.L, task->serial);
    sd_task_tell_over(how == SD_TASK_DROPPED ? "cancelled" : NULL, error);
  }
  if (task->owns) sd_shared_task_ended(task);
  free(task);
}

sd_task *sd_task_spawn(lua_State *co, int nargs, sd_owner *owner) {
  sd_task *task = calloc(1, sizeof *task);
  if (task == NULL) abort(); /* no task, no answer to anything: let the worker be replaced */
  task->pool = SD_SCOREBOARD_NO_POOL;
  task->on_end = on_spawned_end;
  if (sd_the_vm.current != NULL) {
    task->pool = sd_the_vm.current->pool;
    task->generation = sd_the_vm.current->generation;
    task->limits = sd_the_vm.current->limits;
    task->conn = sd_the_vm.current->conn;
  }
  sd_task_start(task, co, nargs, owner);
  return task;
}

/* Known before anything refers to the wait. */
static const char *why_not_wait(lua_State *L) {
  if (sd_the_vm.loading) return "cannot wait while a module loads";
  if (sd_the_vm.finalizing) return "cannot wait in a finalizer";
  if (sd_the_vm.current == NULL) return "only a task can wait; start one with sd.spawn";
  if (sd_the_vm.current->state != SD_TASK_RUNNING) return "cannot wait in a coroutine that another library resumes";
  if (!lua_isyieldable(L)) return "cannot wait inside a callback of a C function, like table.sort or string.gsub";
  return NULL;
}

sd_task *sd_task_here(lua_State *L, const char *what) {
  const char *why = why_not_wait(L);
  if (why != NULL) luaL_error(L, "%s: %s", what, why);
  sd_the_vm.current->what = what;
  return sd_the_vm.current;
}

/* A finalizer may be that of somebody's library, of which nobody has told us: it cannot yield,
 * and nobody else who cannot is hurt by a later turn. */
bool sd_task_interrupts(lua_State *L) {
  return sd_the_vm.finalizing || !lua_isyieldable(L);
}

int sd_task_later(lua_State *L, lua_CFunction fn) {
  int n = lua_gettop(L);
  lua_State *co = sd_task_coroutine();
  lua_pushcfunction(co, fn);
  lua_xmove(L, co, n);
  sd_task_spawn(co, n, NULL);
  lua_pushboolean(L, 1);
  return 1;
}

int sd_task_wait(lua_State *L, sd_task *task, void *waiting_for, void (*unwait)(sd_task *)) {
  task->state = SD_TASK_WAITING;
  task->waiting_for = waiting_for;
  task->unwait = unwait;
  task->since = sd_loop_now(&sd_the_vm.loop);
  task->direct = L == task->co;
  if (task->direct) return lua_yield(L, 0);
  lua_pushlightuserdata(L, &waits);
  return lua_yield(L, 1);
}

void sd_task_set_timeout(sd_task *task, uint64_t ms) {
  sd_loop *loop = &sd_the_vm.loop;
  uv_update_time(&loop->uv);
  if (ms > 0) ms++; /* the loop's clock is rounded down: nobody is woken before the time is over */
  sd_loop_arm(loop, &task->timer, sd_loop_now(loop) + ms);
}

void sd_task_push_mark(lua_State *L) {
  lua_pushlightuserdata(L, &waits);
}

void sd_task_push_connection(lua_State *L, const sd_task *task) {
  if (task == NULL || task->conn == NULL)
    lua_pushnil(L);
  else
    sd_vm_push_anchored(L, task->conn);
}

/* Who reports failures has failed: told on the plain way, and not to itself again. */
static void on_report_end(sd_task *task, sd_task_end how, const char *error) {
  if (how == SD_TASK_FAILED) sd_log_line(error, strlen(error));
  free(task);
}

void sd_task_report(uint64_t serial, const char *error, const void *conn) {
  sd_vm *vm = &sd_the_vm;
  if (vm->on_task_error == LUA_NOREF) return;
  lua_State *co = sd_task_coroutine();
  lua_rawgeti(co, LUA_REGISTRYINDEX, vm->on_task_error);
  sd_vm_push_id(co, serial);
  lua_pushstring(co, error);
  if (conn != NULL)
    sd_vm_push_anchored(co, conn);
  else
    lua_pushnil(co);
  if (vm->ended != NULL)
    sd_vm_push_anchored(co, vm->ended); /* Lua's table of tasks is weak: theirs lives by the handle */
  else
    lua_pushnil(co);
  sd_task_spawn(co, 4, NULL)->on_end = on_report_end;
}
