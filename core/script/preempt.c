/* The signal, and the hook that it sets. */
#include "preempt.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "heap.h"
#include "task.h"

static uint64_t raised_in;      /* the stretch that has had its error */
static volatile uint64_t again; /* the signal came again for that one: it caught the error and goes on */

/* ---- in the signal's handler: nothing but atomics, lua_sethook and system calls ---- */

static uint64_t place_of(const void *context) {
#if defined(__x86_64__)
  return (uint64_t)((const ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
  return (uint64_t)((const ucontext_t *)context)->uc_mcontext.pc;
#else
  (void)context;
  return 0;
#endif
}

static void on_hook(lua_State *L, lua_Debug *ar);

static void look(const void *context) {
  sd_scoreboard *sb = sd_the_vm.scoreboard;
  if (sb == NULL) return;
  sd_order *order = &sd_scoreboard_own(sb)->order;
  uint64_t stretch = sd_scoreboard_stretch(sb);
  bool concerned = stretch != 0 && atomic_load(&order->stretch) == stretch;
  if (concerned) {
    sd_order_note_place(order, stretch, place_of(context));
    if (raised_in == stretch) again = stretch;
  }
  if (concerned || atomic_load(&order->collect)) lua_sethook(sd_the_vm.L, on_hook, LUA_MASKCOUNT, 1);
}

/* Lua runs in the first thread. Another one that the signal came to passes it on. */
static void on_signal(int number, siginfo_t *info, void *context) {
  int saved = errno;
  (void)info;
  pid_t first = getpid();
  if (syscall(SYS_gettid) == first)
    look(context);
  else
    syscall(SYS_tgkill, first, first, number);
  errno = saved;
}

int sd_preempt_begin(void) {
  struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_RESTART | SA_SIGINFO };
  sigemptyset(&action.sa_mask);
  return sigaction(SD_PREEMPT_SIGNAL, &action, NULL) < 0 ? -errno : 0;
}

/* ---- in the hook ---- */

static void unhook(lua_State *L) {
  lua_sethook(L, NULL, 0, 0);
}

/* A coroutine of the handler's own is named first, then who has resumed it. */
static void tell(lua_State *L, sd_order *order, uint64_t stretch) {
  const sd_task *task = sd_the_vm.current;
  luaL_traceback(L, L, NULL, 0);
  if (task != NULL && task->co != L) {
    lua_pushliteral(L, "\nresumed by\n");
    luaL_traceback(L, task->co, NULL, 0);
    lua_concat(L, 3);
  }
  sd_order_tell(order, stretch, lua_tostring(L, -1));
  lua_pop(L, 1);
}

/* Our own modules have the process's globals for an environment, a generation's code
 * has others. Ours is not to be torn apart, and lets go by itself. */
static bool is_ours(lua_State *L, lua_Debug *ar) {
  lua_getinfo(L, "f", ar);
  lua_getfenv(L, -1);
  lua_pushvalue(L, LUA_GLOBALSINDEX);
  bool ours = lua_rawequal(L, -1, -2);
  lua_pop(L, 3);
  return ours;
}

static int fail(lua_State *L, lua_Debug *ar, uint64_t stretch) {
  uint64_t now = sd_scoreboard_clock();
  double held = now > stretch ? (double)(now - stretch) / 1e9 : 0;
  char text[LUA_IDSIZE + 80];
  lua_getinfo(L, "Sl", ar);
  snprintf(text, sizeof text, "%s:%d: preempted: held its loop for %.1f s", ar->short_src, ar->currentline, held);
  lua_pushstring(L, text);
  sd_heap_expose();
  return lua_error(L);
}

/* Once, and then, if it is still there at the next signal, at every instruction: who
 * catches the error over and over gets it outside of every pcall in the end. */
static void stop(lua_State *L, lua_Debug *ar, uint64_t stretch) {
  if (is_ours(L, ar)) return; /* the hook stays */
  if (raised_in != stretch) {
    raised_in = stretch;
    sd_scoreboard *sb = sd_the_vm.scoreboard;
    if (sd_scoreboard_in_pool(sb)) sd_scoreboard_count_preempted(sb, sd_scoreboard_own(sb)->pool);
  }
  if (again != stretch) unhook(L);
  fail(L, ar, stretch);
}

static void on_hook(lua_State *L, lua_Debug *ar) {
  sd_scoreboard *sb = sd_the_vm.scoreboard;
  sd_order *order = &sd_scoreboard_own(sb)->order;
  uint64_t stretch = sd_scoreboard_stretch(sb);
  sd_heap_obey(L);
  sd_heap_shelter();
  bool concerned = stretch != 0 && atomic_load(&order->stretch) == stretch;
  if (concerned && atomic_load(&order->told) != stretch) tell(L, order, stretch);
  if (concerned && atomic_load(&order->stop))
    stop(L, ar, stretch);
  else
    unhook(L);
  sd_heap_expose();
}
