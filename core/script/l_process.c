/* Child processes and signals, as tasks wait for them. libuv reaps what it has
 * started, each by its pid; children that were there before this program was
 * (an upgrade) are nobody's but ours: a pidfd tells when they end. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/errors.h"
#include "task.h"

#define PROCESS "sockdrawer.process"
#define INHERITED "sockdrawer.inherited_process"
#define SIGNALS "sockdrawer.signals"

enum { MOST_ARGS = 64, MOST_FDS = 16, MOST_SIGNALS = 16 };

/* ---- processes ---- */

/* What both kinds of children have: an end, and a task that may wait for it. */
typedef struct {
  sd_task *waiter;
  int64_t exit;
  int signal;
  bool over;
} life;

typedef struct {
  uv_process_t uv; /* first member */
  life life;
} process;

static int push_ending(lua_State *L, const life *l) {
  lua_createtable(L, 0, 1);
  lua_pushinteger(L, l->signal ? l->signal : (lua_Integer)l->exit);
  lua_setfield(L, -2, l->signal ? "signal" : "exit");
  return 1;
}

static void end_life(life *l, int64_t status, int signal) {
  l->over = true;
  l->exit = status;
  l->signal = signal;
  if (l->waiter == NULL) return;
  sd_task *task = l->waiter;
  l->waiter = NULL;
  int n = push_ending(sd_the_vm.L, l);
  lua_xmove(sd_the_vm.L, task->co, n);
  sd_task_wake(task, n);
}

static void unwait_life(sd_task *task) {
  ((life *)task->waiting_for)->waiter = NULL;
}

/* wait([timeout]) */
static int wait_for(lua_State *L, life *l) {
  sd_task *task = sd_task_here(L, "wait");
  if (l->over) return push_ending(L, l);
  if (l->waiter != NULL) return sd_push_failure(L, SD_EBUSY);
  if (!lua_isnoneornil(L, 2)) sd_task_set_timeout(task, sd_check_ms(L, 2));
  l->waiter = task;
  return sd_task_wait(L, task, l, unwait_life);
}

static void on_handle_closed(uv_handle_t *handle) {
  sd_vm_unanchor(handle);
}

static void on_process_exit(uv_process_t *uv, int64_t status, int signal) {
  end_life(&((process *)uv)->life, status, signal);
  uv_close((uv_handle_t *)uv, on_handle_closed);
}

/* Strings of the list at field `key`, NULL-terminated, lent by Lua; count. */
static int string_list(lua_State *L, int index, const char *key, const char **out, int most) {
  int n = 0;
  lua_getfield(L, index, key);
  if (lua_istable(L, -1)) {
    n = (int)lua_objlen(L, -1);
    if (n >= most) return luaL_error(L, "%s: at most %d entries", key, most - 1);
    for (int i = 0; i < n; i++) {
      lua_rawgeti(L, -1, i + 1);
      out[i] = luaL_checkstring(L, -1);
      lua_pop(L, 1);
    }
  }
  out[n] = NULL;
  return n; /* the list stays on the stack and keeps the strings alive */
}

static int child_fds(lua_State *L, int index, uv_stdio_container_t *stdio) {
  int count = 3;
  for (int i = 0; i < MOST_FDS; i++) stdio[i].flags = UV_IGNORE;
  lua_getfield(L, index, "fds");
  luaL_checktype(L, -1, LUA_TTABLE);
  for (int i = 0; i < MOST_FDS; i++) {
    lua_rawgeti(L, -1, i);
    if (!lua_isnil(L, -1)) {
      stdio[i].flags = UV_INHERIT_FD;
      stdio[i].data.fd = (int)lua_tointeger(L, -1);
      if (i >= count) count = i + 1;
    }
    lua_pop(L, 1);
  }
  return count;
}

static int l_process(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  const char *args[MOST_ARGS], *env[1024], *file, *cwd;
  uv_stdio_container_t stdio[MOST_FDS];
  uv_process_options_t options = { .exit_cb = on_process_exit, .stdio = stdio };
  string_list(L, 1, "args", args, MOST_ARGS);
  int nenv = string_list(L, 1, "env", env, 1024);
  options.stdio_count = child_fds(L, 1, stdio);
  lua_getfield(L, 1, "file");
  file = luaL_checkstring(L, -1);
  lua_getfield(L, 1, "cwd");
  cwd = lua_tostring(L, -1);
  lua_getfield(L, 1, "detached");
  options.flags = lua_toboolean(L, -1) ? UV_PROCESS_DETACHED : 0;
  options.file = file;
  options.cwd = cwd;
  options.args = (char **)args;
  options.env = nenv > 0 ? (char **)env : NULL;
  process *p = lua_newuserdata(L, sizeof *p);
  memset(p, 0, sizeof *p);
  sd_vm_anchor(L, p, -1);
  int err = uv_spawn(&sd_the_vm.loop.uv, &p->uv, &options);
  if (err) {
    uv_close((uv_handle_t *)p, on_handle_closed);
    return sd_push_failure_text(L, err, uv_strerror(err));
  }
  luaL_getmetatable(L, PROCESS);
  lua_setmetatable(L, -2);
  return 1;
}

static int l_process_wait(lua_State *L) {
  process *p = luaL_checkudata(L, 1, PROCESS);
  return wait_for(L, &p->life);
}

static int l_process_kill(lua_State *L) {
  process *p = luaL_checkudata(L, 1, PROCESS);
  int err = p->life.over ? UV_ESRCH : uv_process_kill(&p->uv, (int)luaL_checkinteger(L, 2));
  if (err) return sd_push_failure(L, err);
  lua_pushboolean(L, 1);
  return 1;
}

/* proc.pid, else a method. */
static int process_index(lua_State *L) {
  process *p = luaL_checkudata(L, 1, PROCESS);
  if (strcmp(luaL_checkstring(L, 2), "pid") == 0) {
    lua_pushinteger(L, p->uv.pid);
    return 1;
  }
  lua_rawget(L, lua_upvalueindex(1));
  return 1;
}

static const luaL_Reg process_methods[] = { { "wait", l_process_wait }, { "kill", l_process_kill }, { NULL, NULL } };

/* ---- children that this program has not started ---- */

typedef struct {
  uv_poll_t poll; /* first member */
  life life;
  pid_t pid;
  int fd;
} inherited;

static void on_inherited_closed(uv_handle_t *handle) {
  close(((inherited *)handle)->fd);
  sd_vm_unanchor(handle);
}

static void on_inherited_end(uv_poll_t *poll, int status, int events) {
  inherited *p = (inherited *)poll;
  int how = 0;
  (void)status;
  (void)events;
  pid_t pid = waitpid(p->pid, &how, WNOHANG);
  if (pid == 0 || (pid < 0 && errno == EINTR)) return;
  bool killed = pid > 0 && WIFSIGNALED(how);
  end_life(&p->life, pid > 0 && WIFEXITED(how) ? WEXITSTATUS(how) : -1, killed ? WTERMSIG(how) : 0);
  uv_close((uv_handle_t *)poll, on_inherited_closed);
}

/* inherited_process(pid): one that is a child of this process already. */
static int l_inherited(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  luaL_argcheck(L, pid > 0, 1, "process id expected");
  inherited *p = lua_newuserdata(L, sizeof *p);
  memset(p, 0, sizeof *p);
  p->pid = pid;
  p->fd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (p->fd < 0) return sd_push_failure(L, -errno);
  int err = uv_poll_init(&sd_the_vm.loop.uv, &p->poll, p->fd);
  if (err) {
    close(p->fd);
    return sd_push_failure(L, err);
  }
  sd_vm_anchor(L, p, -1);
  uv_poll_start(&p->poll, UV_READABLE, on_inherited_end);
  luaL_getmetatable(L, INHERITED);
  lua_setmetatable(L, -2);
  return 1;
}

static int l_inherited_wait(lua_State *L) {
  inherited *p = luaL_checkudata(L, 1, INHERITED);
  return wait_for(L, &p->life);
}

static int l_inherited_kill(lua_State *L) {
  inherited *p = luaL_checkudata(L, 1, INHERITED);
  int number = (int)luaL_checkinteger(L, 2);
  if (p->life.over) return sd_push_failure(L, UV_ESRCH);
  if (kill(p->pid, number)) return sd_push_failure(L, -errno);
  lua_pushboolean(L, 1);
  return 1;
}

static const luaL_Reg inherited_methods[] = { { "wait", l_inherited_wait }, { "kill", l_inherited_kill },
  { NULL, NULL } };

/* ---- signals ---- */

static const struct {
  const char *name;
  int number;
} signal_names[] = { { "TERM", SIGTERM }, { "INT", SIGINT }, { "QUIT", SIGQUIT }, { "HUP", SIGHUP },
  { "USR1", SIGUSR1 }, { "USR2", SIGUSR2 }, { "PIPE", SIGPIPE }, { "CHLD", SIGCHLD } };

enum { NAMES = sizeof signal_names / sizeof signal_names[0] };

typedef struct {
  uv_signal_t uv[MOST_SIGNALS];
  unsigned char pending[64]; /* indexes into signal_names, oldest first */
  unsigned npending;
  sd_task *reader;
} signals;

static void on_signal(uv_signal_t *uv, int number) {
  signals *s = uv->data;
  unsigned i = 0;
  while (signal_names[i].number != number) i++;
  if (s->reader != NULL) {
    sd_task *task = s->reader;
    s->reader = NULL;
    sd_vm_push_text(task->co, signal_names[i].name);
    sd_task_wake(task, 1);
  } else if (s->npending < sizeof s->pending) {
    s->pending[s->npending++] = (unsigned char)i;
  }
}

static int signal_number(lua_State *L, const char *name) {
  for (unsigned i = 0; i < NAMES; i++)
    if (strcmp(signal_names[i].name, name) == 0) return signal_names[i].number;
  return luaL_error(L, "unknown signal %s", name);
}

/* Anchored for good: a process listens to its signals until it ends. */
static int l_signals(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  int n = (int)lua_objlen(L, 1);
  luaL_argcheck(L, n <= MOST_SIGNALS, 1, "too many signals");
  signals *s = lua_newuserdata(L, sizeof *s);
  memset(s, 0, sizeof *s);
  luaL_getmetatable(L, SIGNALS);
  lua_setmetatable(L, -2);
  sd_vm_anchor(L, s, -1);
  for (int i = 0; i < n; i++) {
    lua_rawgeti(L, 1, i + 1);
    int number = signal_number(L, luaL_checkstring(L, -1));
    lua_pop(L, 1);
    uv_signal_init(&sd_the_vm.loop.uv, &s->uv[i]);
    s->uv[i].data = s;
    uv_signal_start(&s->uv[i], on_signal, number);
  }
  return 1;
}

static void unwait_signals(sd_task *task) {
  ((signals *)task->waiting_for)->reader = NULL;
}

static int l_signals_receive(lua_State *L) {
  signals *s = luaL_checkudata(L, 1, SIGNALS);
  sd_task *task = sd_task_here(L, "receive");
  if (s->npending > 0) {
    lua_pushstring(L, signal_names[s->pending[0]].name);
    memmove(s->pending, s->pending + 1, --s->npending);
    return 1;
  }
  if (s->reader != NULL) return sd_push_failure(L, SD_EBUSY);
  s->reader = task;
  return sd_task_wait(L, task, s, unwait_signals);
}

static const luaL_Reg signals_methods[] = { { "receive", l_signals_receive }, { NULL, NULL } };

void sd_l_process_register(lua_State *L) {
  static const luaL_Reg functions[] = { { "process", l_process }, { "inherited_process", l_inherited },
    { "signals", l_signals }, { NULL, NULL } };
  sd_class(L, PROCESS, process_methods, NULL);
  luaL_getmetatable(L, PROCESS);
  lua_getfield(L, -1, "__index");
  lua_pushcclosure(L, process_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  sd_class(L, INHERITED, inherited_methods, NULL);
  sd_class(L, SIGNALS, signals_methods, NULL);
  luaL_register(L, NULL, functions);
}
