/* sd.work: functions of the user's modules in threads of libuv's pool, each with a
 * Lua state of its own. Work and answer are bytes; what they mean is said in
 * sockdrawer.work, on the loop, and sockdrawer.work.job, in the thread.
 *
 * A state belongs to a workshop, which is one generation's code, and is kept for its
 * next job. A job is the loop's until it is queued and when it is done, and the
 * thread's in between; nothing else is touched by both. A thread cannot be stopped:
 * whoever does not wait any longer leaves the job behind, and its answer is dropped. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lualib.h>

#include "base/errors.h"
#include "eager.h"
#include "task.h"

#define WORKSHOP "sockdrawer.workshop"

typedef struct workshop {
  unsigned users; /* its userdata, its states, its jobs */
  bool closed;    /* the code has had its day: no state is kept */
  size_t code_len, plan_len;
  char text[]; /* the code that runs jobs, and what it is given first: the plan */
} workshop;

/* A Lua state that runs the jobs of one workshop, one at a time. */
typedef struct state {
  uv_work_t closing;
  workshop *shop;
  lua_State *L; /* opened by the first thread that needs it */
  struct state *older, *newer; /* of those that are idle */
  int live;                    /* KiB after the last whole collection */
  bool broken;
} state;

typedef struct job {
  uv_work_t work;
  workshop *shop;
  state *state;  /* NULL: it has not begun */
  sd_task *task; /* NULL: nobody waits any more */
  struct job *next;
  bool failed; /* the answer is a message */
  size_t len;
  char order[];
} job;

/* What the process has of it. libuv's threads are shared with name look-ups and luv, so one is left to them. */
static struct {
  job *first, **last; /* those that have not begun, oldest first */
  state *oldest, *newest; /* idle ones */
  unsigned running, states, most;
} works;

/* ---- in the thread ---- */

/* run_order(job) → answer, traceback | nil */
static int run_order(lua_State *L) {
  const job *j = lua_touserdata(L, 1);
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushlstring(L, j->order, j->len);
  lua_call(L, 1, 2);
  return 2;
}

/* open_state(state) → run_order. Protected, as everything in here: memory may end. */
static int open_state(lua_State *L) {
  const workshop *shop = ((const state *)lua_touserdata(L, 1))->shop;
  luaL_openlibs(L);
  if (luaL_loadbuffer(L, shop->text, shop->code_len, "@sockdrawer/work/job.lua") != 0) return lua_error(L);
  lua_pushlstring(L, shop->text + shop->code_len, shop->plan_len);
  lua_call(L, 1, 1);
  lua_pushcclosure(L, run_order, 1);
  return 1;
}

/* Calls the function on top of the stack with a pointer. On failure the message is there. */
static bool call(lua_State *L, void *argument, int nresults) {
  lua_pushlightuserdata(L, argument);
  return lua_pcall(L, 1, nresults, 0) == 0;
}

static bool begin(state *s) {
  if (s->L != NULL) return true;
  s->L = luaL_newstate();
  if (s->L == NULL) return false;
  sd_eager_begin(s->L);
  lua_pushcfunction(s->L, open_state);
  return call(s->L, s, 1);
}

static int collect(lua_State *L) {
  lua_gc(L, LUA_GCCOLLECT, 0);
  return 0;
}

/* Nobody knows when the next job comes: what this one has left behind does not wait for it. */
static void tidy(state *s) {
  if (lua_gc(s->L, LUA_GCCOUNT, 0) <= 2 * s->live + 4096) return;
  if (lua_cpcall(s->L, collect, NULL) != 0) lua_pop(s->L, 1);
  s->live = lua_gc(s->L, LUA_GCCOUNT, 0);
}

static void in_thread(uv_work_t *work) {
  job *j = (job *)work;
  state *s = j->state;
  s->broken = true;
  if (begin(s)) {
    lua_pushvalue(s->L, 1);
    s->broken = !call(s->L, j, 2);
    tidy(s);
  }
  j->failed = s->broken;
}

static void close_in_thread(uv_work_t *work) {
  lua_State *L = ((state *)work)->L;
  sd_eager_end(L);
  lua_close(L);
}

/* ---- workshops and states ---- */

static void leave_workshop(workshop *shop) {
  if (--shop->users == 0) free(shop);
}

static void free_state(state *s) {
  leave_workshop(s->shop);
  free(s);
}

static void on_closed(uv_work_t *work, int status) {
  (void)status;
  free_state((state *)work);
}

/* Finalizers of the user's may take their time: not on the loop. */
static void close_state(state *s) {
  works.states--;
  if (s->L == NULL)
    free_state(s);
  else
    uv_queue_work(&sd_the_vm.loop.uv, &s->closing, close_in_thread, on_closed);
}

static void take_off_shelf(state *s) {
  *(s->older != NULL ? &s->older->newer : &works.oldest) = s->newer;
  *(s->newer != NULL ? &s->newer->older : &works.newest) = s->older;
}

static void put_on_shelf(state *s) {
  s->newer = NULL;
  s->older = works.newest;
  *(works.newest != NULL ? &works.newest->newer : &works.oldest) = s;
  works.newest = s;
}

/* The one that was used last: what it needs is most likely in the processor's caches. */
static state *idle_state(const workshop *shop) {
  state *s = works.newest;
  while (s != NULL && s->shop != shop) s = s->older;
  if (s != NULL) take_off_shelf(s);
  return s;
}

static void close_oldest(void) {
  state *s = works.oldest;
  take_off_shelf(s);
  close_state(s);
}

static state *new_state(workshop *shop) {
  if (works.states == works.most) close_oldest(); /* fewer run than there may be, so one is idle */
  state *s = calloc(1, sizeof *s);
  if (s == NULL) abort();
  s->shop = shop;
  shop->users++;
  works.states++;
  return s;
}

static void give_back(state *s) {
  if (s->broken || s->shop->closed) {
    close_state(s);
    return;
  }
  lua_settop(s->L, 1);
  put_on_shelf(s);
}

/* ---- jobs ---- */

static void free_job(job *j) {
  leave_workshop(j->shop);
  free(j);
}

static void on_done(uv_work_t *work, int status);

static void begin_waiting(void) {
  while (works.first != NULL && works.running < works.most) {
    job *j = works.first;
    works.first = j->next;
    if (works.first == NULL) works.last = &works.first;
    j->state = idle_state(j->shop);
    if (j->state == NULL) j->state = new_state(j->shop);
    works.running++;
    uv_queue_work(&sd_the_vm.loop.uv, &j->work, in_thread, on_done);
  }
}

/* What the state has on top: an answer and perhaps what is to be logged of it, or only a message. */
static const char *result(const job *j, int index, size_t *len) {
  const char *bytes = j->state->L != NULL ? lua_tolstring(j->state->L, index, len) : NULL;
  if (bytes != NULL || !j->failed) return bytes;
  *len = strlen("not enough memory");
  return "not enough memory";
}

static int push_result(lua_State *to, const job *j, int index) {
  size_t len;
  const char *bytes = result(j, index, &len);
  if (bytes != NULL)
    sd_vm_push_bytes(to, bytes, len);
  else
    lua_pushnil(to);
  return 1;
}

/* answer, traceback | nil; or false, message */
static int push_answer(lua_State *to, const job *j) {
  if (!j->failed) return push_result(to, j, -2) + push_result(to, j, -1);
  lua_pushboolean(to, 0);
  return 1 + push_result(to, j, -1);
}

/* Somebody should know of a raise, if nobody waits for it any more. */
static void report(const job *j) {
  size_t len;
  const char *text = result(j, -1, &len);
  if (text != NULL) sd_task_report(0, text, NULL);
}

static void on_done(uv_work_t *work, int status) {
  job *j = (job *)work;
  sd_task *task = j->task;
  int n = 0;
  (void)status; /* no job is cancelled once it is in libuv's queue */
  works.running--;
  if (task != NULL)
    n = push_answer(task->co, j);
  else
    report(j);
  give_back(j->state);
  free_job(j);
  begin_waiting();
  if (task != NULL) sd_task_continue(task, n);
}

/* The one who waits gives up: it was cancelled, or its time is over. */
static void unwait(sd_task *task) {
  job *j = task->waiting_for;
  j->task = NULL;
  if (j->state != NULL) return;
  job **link = &works.first;
  while (*link != j) link = &(*link)->next;
  *link = j->next;
  if (*link == NULL) works.last = link;
  free_job(j);
}

static job *new_job(workshop *shop, sd_task *task, const char *order, size_t len) {
  job *j = malloc(sizeof *j + len);
  if (j == NULL) return NULL;
  *j = (job){ .shop = shop, .task = task, .len = len };
  memcpy(j->order, order, len);
  shop->users++;
  *works.last = j;
  works.last = &j->next;
  return j;
}

/* ---- Lua ---- */

static workshop **check_workshop(lua_State *L) {
  return luaL_checkudata(L, 1, WORKSHOP);
}

/* workshop:run(order, seconds | nil) → answer, traceback | nil; or false, message; or nil, word */
static int l_run(lua_State *L) {
  workshop *shop = *check_workshop(L);
  size_t len;
  const char *order = luaL_checklstring(L, 2, &len);
  bool limited = !lua_isnoneornil(L, 3);
  uint64_t ms = limited ? sd_check_ms(L, 3) : 0;
  sd_task *task = sd_task_here(L, "sd.work");
  job *j = new_job(shop, task, order, len);
  if (j == NULL) return sd_push_failure(L, UV_ENOMEM);
  begin_waiting();
  if (limited) sd_task_set_timeout(task, ms);
  return sd_task_wait(L, task, j, unwait);
}

static void close_idle(const workshop *shop) {
  state *s;
  while ((s = idle_state(shop)) != NULL) close_state(s);
}

static int workshop_gc(lua_State *L) {
  workshop *shop = *check_workshop(L);
  shop->closed = true;
  close_idle(shop);
  leave_workshop(shop);
  return 0;
}

/* A thread in the middle of a job would hold up the end of the process for ever: libuv waits for its threads then. */
static void on_process_exit(int status, void *unused) {
  (void)unused;
  if (works.running == 0) return;
  if (ftrylockfile(stdout) == 0) {
    fflush(stdout);
    funlockfile(stdout);
  }
  _exit(status);
}

/* As many threads as libuv will have, less one. */
static unsigned most_running(void) {
  const char *given = getenv("UV_THREADPOOL_SIZE");
  long threads = given != NULL ? strtol(given, NULL, 10) : 4;
  if (threads <= 2) return 1;
  return (unsigned)(threads < 1024 ? threads : 1024) - 1;
}

static void prepare(void) {
  if (works.last != NULL) return;
  works.last = &works.first;
  works.most = most_running();
  on_exit(on_process_exit, NULL);
}

/* workshop(code, plan) → workshop: `code` is called with `plan` in each new state, and answers
 * fn(order) → answer, traceback | nil. */
static int l_workshop(lua_State *L) {
  size_t code_len, plan_len;
  const char *code = luaL_checklstring(L, 1, &code_len), *plan = luaL_checklstring(L, 2, &plan_len);
  workshop **slot = lua_newuserdata(L, sizeof *slot);
  prepare();
  workshop *shop = malloc(sizeof *shop + code_len + plan_len);
  if (shop == NULL) return sd_push_failure(L, UV_ENOMEM);
  *shop = (workshop){ .users = 1, .code_len = code_len, .plan_len = plan_len };
  memcpy(shop->text, code, code_len);
  memcpy(shop->text + code_len, plan, plan_len);
  *slot = shop;
  luaL_getmetatable(L, WORKSHOP);
  lua_setmetatable(L, -2);
  return 1;
}

static const luaL_Reg methods[] = { { "run", l_run }, { NULL, NULL } };

void sd_l_work_register(lua_State *L) {
  sd_class(L, WORKSHOP, methods, workshop_gc);
  lua_pushcfunction(L, l_workshop);
  lua_setfield(L, -2, "workshop");
}
