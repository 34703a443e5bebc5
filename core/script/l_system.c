/* The small system calls of the supervisor and the roles, for Lua. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <lauxlib.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cpus.h"
#include "base/title.h"
#include "base/user.h"
#include "l_socket.h"
#include "vm.h"

static int succeed(lua_State *L, int failed) {
  if (failed) return sd_l_failure(L, -errno, NULL);
  lua_pushboolean(L, 1);
  return 1;
}

static int check_fd(lua_State *L, int index) {
  lua_Integer fd = luaL_checkinteger(L, index);
  luaL_argcheck(L, fd >= 0, index, "descriptor expected");
  return (int)fd;
}

/* A new descriptor, or why there is none. */
static int give_fd(lua_State *L, int fd) {
  if (fd < 0) return sd_l_failure(L, -errno, NULL);
  lua_pushinteger(L, fd);
  return 1;
}

static int give_text(lua_State *L, const char *text) {
  if (text == NULL) return sd_l_failure(L, -errno, NULL);
  lua_pushstring(L, text);
  return 1;
}

/* Signals. */

static const struct {
  const char *name;
  int number;
} signals[] = {
  { "HUP", SIGHUP },
  { "INT", SIGINT },
  { "QUIT", SIGQUIT },
  { "ABRT", SIGABRT },
  { "KILL", SIGKILL },
  { "USR1", SIGUSR1 },
  { "USR2", SIGUSR2 },
  { "URG", SIGURG },
  { "SEGV", SIGSEGV },
  { "PIPE", SIGPIPE },
  { "ALRM", SIGALRM },
  { "TERM", SIGTERM },
  { "CHLD", SIGCHLD },
  { "CONT", SIGCONT },
  { "STOP", SIGSTOP },
  { "TSTP", SIGTSTP },
  { "TTIN", SIGTTIN },
  { "TTOU", SIGTTOU },
  { "WINCH", SIGWINCH },
};

int sd_l_check_signal(lua_State *L, int index) {
  if (lua_type(L, index) == LUA_TNUMBER) {
    lua_Integer number = lua_tointeger(L, index);
    luaL_argcheck(L, number >= 0 && number < NSIG, index, "no such signal");
    return (int)number;
  }
  const char *name = luaL_checkstring(L, index);
  if (strncmp(name, "SIG", 3) == 0) name += 3;
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    if (strcmp(signals[i].name, name) == 0) return signals[i].number;
  return luaL_argerror(L, index, lua_pushfstring(L, "unknown signal '%s'", name));
}

static void on_ignored(int signum) {
  (void)signum;
}

static int handle_signals(lua_State *L, void (*handler)(int)) {
  struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
  luaL_checktype(L, 1, LUA_TTABLE);
  for (int i = 1; i <= (int)lua_objlen(L, 1); i++) {
    lua_rawgeti(L, 1, i);
    if (sigaction(sd_l_check_signal(L, -1), &action, NULL)) return sd_l_failure(L, -errno, NULL);
    lua_pop(L, 1);
  }
  return 0;
}

/* ignore_signals{"HUP", …}. By a handler that does nothing: SIG_IGN would be inherited
 * by what user code starts, and `timeout 1 sleep 9` would sleep to its end. */
static int l_ignore_signals(lua_State *L) {
  return handle_signals(L, on_ignored);
}

/* default_signals{"INT", …}: as if nobody had ever asked for them. */
static int l_default_signals(lua_State *L) {
  return handle_signals(L, SIG_DFL);
}

static int l_kill(lua_State *L) {
  lua_Integer pid = luaL_checkinteger(L, 1);
  /* 0 and -1 would reach our own group, and everybody */
  luaL_argcheck(L, pid > 0 && pid <= INT_MAX, 1, "process id expected");
  return succeed(L, kill((pid_t)pid, sd_l_check_signal(L, 2)));
}

/* The parent's death. A handler is needed because it must not end this process at
 * once, and an alarm because even one that is stuck in Lua has to go: the alarm's
 * default action asks nobody. */

static volatile sig_atomic_t grace;

static void on_parent_death(int signum) {
  (void)signum;
  alarm((unsigned)grace);
}

static void let_through(int signum) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signum);
  sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static int arm_parent_death(int signum) {
  struct sigaction action = { .sa_handler = on_parent_death, .sa_flags = SA_RESTART };
  sigemptyset(&action.sa_mask);
  if (sigaction(signum, &action, NULL) || signal(SIGALRM, SIG_DFL) == SIG_ERR) return -1;
  let_through(signum);
  let_through(SIGALRM);
  return prctl(PR_SET_PDEATHSIG, signum);
}

/* parent_death(seconds [, parent]) → true: when the parent dies, this process ends
 * after so many seconds, whatever it is doing. To be called after drop_user, because
 * a change of user takes it off. A parent that died before this call sends no signal:
 * one that is not the parent any more counts as dead, and the time runs. */
static int l_parent_death(lua_State *L) {
  lua_Number seconds = luaL_checknumber(L, 1);
  pid_t parent = (pid_t)luaL_optinteger(L, 2, getppid());
  luaL_argcheck(L, seconds > 0, 1, "seconds out of range");
  grace = seconds < INT_MAX ? (sig_atomic_t)ceil(seconds) : INT_MAX; /* 68 years are for ever */
  if (arm_parent_death(SIGRTMIN + 3)) return sd_l_failure(L, -errno, NULL);
  if (getppid() == parent) return succeed(L, 0);
  alarm((unsigned)grace);
  return sd_l_failure(L, -ESRCH, "the parent is gone already");
}

/* block_signals(): those that come from now on wait, across an exec too. */
static int l_block_signals(lua_State *L) {
  sigset_t all;
  sigfillset(&all);
  return succeed(L, sigprocmask(SIG_SETMASK, &all, NULL));
}

/* unblock_signals(): those that came while this program took the place of another
 * are delivered now. */
static int l_unblock_signals(lua_State *L) {
  sigset_t none;
  sigemptyset(&none);
  return succeed(L, sigprocmask(SIG_SETMASK, &none, NULL));
}

/* Users. */

/* lookup_user("user" | "user:group") → uid, gid, name | nil, "ENOENT", text */
static int l_lookup_user(lua_State *L) {
  uid_t uid = 0;
  gid_t gid = (gid_t)-1;
  char user[SD_USER_NAME], name[SD_USER_NAME];
  const char *text = luaL_checkstring(L, 1);
  size_t len = strcspn(text, ":");
  const char *group = text[len] == ':' ? text + len + 1 : NULL;
  if (len == 0 || len >= sizeof user || (group && *group == '\0'))
    return sd_l_failure(L, -EINVAL, lua_pushfstring(L, "'%s' is not user or user:group", text));
  memcpy(user, text, len);
  user[len] = '\0';
  int err = sd_user_find(user, &uid, &gid, name);
  if (err) return sd_l_failure(L, err, lua_pushfstring(L, "there is no user '%s'", user));
  if (group) err = sd_group_find(group, &gid);
  if (err) return sd_l_failure(L, err, lua_pushfstring(L, "there is no group '%s'", group));
  if (gid == (gid_t)-1) /* a bare number: nobody says which group */
    return sd_l_failure(L, -ENOENT, lua_pushfstring(L, "user %s has no entry; write user:group", user));
  lua_pushnumber(L, uid);
  lua_pushnumber(L, gid);
  lua_pushstring(L, *name ? name : user);
  return 3;
}

/* NULL, or which step failed, with errno set. */
static const char *drop(uid_t uid, gid_t gid, const char *name) {
  if (name ? initgroups(name, gid) : setgroups(1, &gid)) return "the supplementary groups cannot be set";
  if (setresgid(gid, gid, gid)) return "the group cannot be set";
  if (setresuid(uid, uid, uid)) return "the user cannot be set";
  return NULL;
}

/* Nothing is taken on trust here: what was set is read back, and the way back tried. */
static bool dropped_for_good(uid_t uid, gid_t gid) {
  uid_t ids[3];
  gid_t groups[3];
  if (getresuid(&ids[0], &ids[1], &ids[2]) || getresgid(&groups[0], &groups[1], &groups[2])) return false;
  for (int i = 0; i < 3; i++)
    if (ids[i] != uid || groups[i] != gid) return false;
  if (uid == 0) return true;
  return setuid(0) != 0 && seteuid(0) != 0 && (gid == 0 || setegid(0) != 0);
}

/* drop_user(uid, gid [, name]) → true | nil, err, text. Who is that user already has
 * nothing to drop. After a failure the process may be half way: it should end. */
static int l_drop_user(lua_State *L) {
  uid_t uid = (uid_t)luaL_checknumber(L, 1);
  gid_t gid = (gid_t)luaL_checknumber(L, 2);
  const char *name = luaL_optstring(L, 3, NULL);
  if (geteuid() != 0 && dropped_for_good(uid, gid)) return succeed(L, 0);
  const char *failed = drop(uid, gid, name);
  if (failed) return sd_l_failure(L, -errno, failed);
  if (!dropped_for_good(uid, gid)) return sd_l_failure(L, -EPERM, "the way back is still open");
  return succeed(L, 0);
}

/* Descriptors. */

static int l_socketpair(lua_State *L) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds)) return sd_l_failure(L, -errno, NULL);
  lua_pushinteger(L, fds[0]);
  lua_pushinteger(L, fds[1]);
  return 2;
}

/* pipe() → r, w. Whoever writes must never wait for who reads: only w is non-blocking. */
static int l_pipe(lua_State *L) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC)) return sd_l_failure(L, -errno, NULL);
  if (fcntl(fds[1], F_SETFL, O_NONBLOCK)) {
    int err = -errno;
    close(fds[0]);
    close(fds[1]);
    return sd_l_failure(L, err, NULL);
  }
  lua_pushinteger(L, fds[0]);
  lua_pushinteger(L, fds[1]);
  return 2;
}

static int l_open_null(lua_State *L) {
  return give_fd(L, open("/dev/null", O_RDWR | O_CLOEXEC));
}

static int l_eventfd(lua_State *L) {
  return give_fd(L, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

static int l_dup(lua_State *L) {
  return give_fd(L, fcntl(check_fd(L, 1), F_DUPFD_CLOEXEC, 3));
}

static int l_close(lua_State *L) {
  return succeed(L, close(check_fd(L, 1)));
}

static int l_cloexec(lua_State *L) {
  return succeed(L, fcntl(check_fd(L, 1), F_SETFD, FD_CLOEXEC));
}

/* memfd(name, bytes) → a descriptor with the bytes in it, at its beginning. */
static int l_memfd(lua_State *L) {
  size_t length;
  const char *name = luaL_checkstring(L, 1), *bytes = luaL_checklstring(L, 2, &length);
  int fd = memfd_create(name, MFD_CLOEXEC);
  for (size_t done = 0; fd >= 0 && done < length;) {
    ssize_t n = pwrite(fd, bytes + done, length - done, (off_t)done);
    if (n > 0) {
      done += (size_t)n;
    } else if (n == 0 || errno != EINTR) {
      int err = n == 0 ? -ENOSPC : -errno;
      close(fd);
      return sd_l_failure(L, err, NULL);
    }
  }
  return give_fd(L, fd);
}

/* This process. */

static int l_set_title(lua_State *L) {
  sd_title_set(luaL_checkstring(L, 1));
  return 0;
}

static int l_getpid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

static int l_getppid(lua_State *L) {
  lua_pushinteger(L, getppid());
  return 1;
}

static int l_getuid(lua_State *L) {
  lua_pushnumber(L, getuid());
  return 1;
}

static int l_exe(lua_State *L) {
  char path[PATH_MAX];
  ssize_t len = readlink("/proc/self/exe", path, sizeof path);
  if (len < 0) return sd_l_failure(L, -errno, NULL);
  lua_pushlstring(L, path, (size_t)len);
  return 1;
}

static int l_cpus(lua_State *L) {
  lua_pushinteger(L, sd_cpus());
  return 1;
}

static void push_limit(lua_State *L, rlim_t limit) {
  lua_pushnumber(L, limit == RLIM_INFINITY ? HUGE_VAL : (lua_Number)limit);
}

static rlim_t check_limit(lua_State *L, int index, rlim_t absent) {
  if (lua_isnoneornil(L, index)) return absent;
  lua_Number limit = luaL_checknumber(L, index);
  luaL_argcheck(L, limit >= 0, index, "limit must not be negative");
  return limit >= 9007199254740992.0 ? RLIM_INFINITY : (rlim_t)limit;
}

/* rlimit(name [, soft [, hard]]) → soft, hard as they are then. More than the hard
 * limit means the hard limit: math.huge raises a limit as far as it goes. */
static int l_rlimit(lua_State *L) {
  static const char *const names[] = { "nofile", "as", "data", "core", "nproc", "memlock", NULL };
  static const int resources[] = { RLIMIT_NOFILE, RLIMIT_AS, RLIMIT_DATA, RLIMIT_CORE, RLIMIT_NPROC, RLIMIT_MEMLOCK };
  int resource = resources[luaL_checkoption(L, 1, NULL, names)];
  struct rlimit limit;
  if (getrlimit(resource, &limit)) return sd_l_failure(L, -errno, NULL);
  limit.rlim_cur = check_limit(L, 2, limit.rlim_cur);
  limit.rlim_max = check_limit(L, 3, limit.rlim_max);
  if (limit.rlim_cur > limit.rlim_max) limit.rlim_cur = limit.rlim_max;
  bool change = !lua_isnoneornil(L, 2) || !lua_isnoneornil(L, 3);
  if (change && setrlimit(resource, &limit)) return sd_l_failure(L, -errno, NULL);
  push_limit(L, limit.rlim_cur);
  push_limit(L, limit.rlim_max);
  return 2;
}

static void do_nothing(uv_work_t *work) {
  (void)work;
}

static void nothing_done(uv_work_t *work, int status) {
  (void)work;
  (void)status;
}

/* deep_stack(bytes): as much C stack for this thread, as far as it may have it. Lua's
 * own stack then ends first, in an error, where C functions call back into Lua for
 * ever. libuv would give its threads as much: they are started before. */
static int l_deep_stack(lua_State *L) {
  static uv_work_t work;
  struct rlimit limit;
  rlim_t wanted = check_limit(L, 1, RLIM_INFINITY);
  int err = uv_queue_work(&sd_the_vm.loop.uv, &work, do_nothing, nothing_done);
  if (err) return sd_l_failure(L, err, NULL);
  if (getrlimit(RLIMIT_STACK, &limit)) return sd_l_failure(L, -errno, NULL);
  if (limit.rlim_cur < wanted) limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
  return succeed(L, setrlimit(RLIMIT_STACK, &limit));
}

/* Ends at once: no finalizers, no buffers, no handlers. */
static int l_exit(lua_State *L) {
  _exit((int)luaL_checkinteger(L, 1));
}

static void keep_fds(lua_State *L, int index, bool keep) {
  for (int i = 1; i <= (int)lua_objlen(L, index); i++) {
    lua_rawgeti(L, index, i);
    fcntl((int)lua_tointeger(L, -1), F_SETFD, keep ? 0 : FD_CLOEXEC);
    lua_pop(L, 1);
  }
}

/* exec(args, fds, name, value): another program in this process, with the listed
 * descriptors and one more variable. No signal gets lost: all are blocked until it
 * calls unblock_signals. Returns only if it failed; then all is as it was. */
static int l_exec(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TTABLE);
  const char *name = luaL_checkstring(L, 3), *value = luaL_checkstring(L, 4);
  int n = (int)lua_objlen(L, 1);
  if (n < 1) return luaL_argerror(L, 1, "no program");
  const char **args = lua_newuserdata(L, (size_t)(n + 1) * sizeof *args);
  for (int i = 0; i < n; i++) {
    lua_rawgeti(L, 1, i + 1);
    args[i] = luaL_checkstring(L, -1); /* the list keeps it */
    lua_pop(L, 1);
  }
  args[n] = NULL;
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  keep_fds(L, 2, true);
  setenv(name, value, 1);
  execvp(args[0], (char *const *)args);
  int err = -errno;
  unsetenv(name);
  keep_fds(L, 2, false);
  sigprocmask(SIG_SETMASK, &before, NULL);
  return sd_l_failure(L, err, NULL);
}

static int l_environ(lua_State *L) {
  lua_newtable(L);
  for (int i = 0; environ && environ[i]; i++) {
    lua_pushstring(L, environ[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

static int l_unsetenv(lua_State *L) {
  return succeed(L, unsetenv(luaL_checkstring(L, 1)));
}

static int l_umask(lua_State *L) {
  lua_pushinteger(L, umask((mode_t)luaL_checkinteger(L, 1)));
  return 1;
}

static int l_getcwd(lua_State *L) {
  char path[PATH_MAX];
  return give_text(L, getcwd(path, sizeof path));
}

/* Files. */

static int l_mkdir(lua_State *L) {
  return succeed(L, mkdir(luaL_checkstring(L, 1), (mode_t)luaL_checkinteger(L, 2)));
}

static int l_chmod(lua_State *L) {
  return succeed(L, chmod(luaL_checkstring(L, 1), (mode_t)luaL_checkinteger(L, 2)));
}

static int l_unlink(lua_State *L) {
  return succeed(L, unlink(luaL_checkstring(L, 1)));
}

static int l_rename(lua_State *L) {
  return succeed(L, rename(luaL_checkstring(L, 1), luaL_checkstring(L, 2)));
}

static int l_realpath(lua_State *L) {
  char path[PATH_MAX];
  return give_text(L, realpath(luaL_checkstring(L, 1), path));
}

static const char *file_type(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return "file";
    case S_IFDIR:
      return "directory";
    case S_IFLNK:
      return "link";
    case S_IFSOCK:
      return "socket";
    case S_IFIFO:
      return "fifo";
    case S_IFCHR:
      return "char";
    default:
      return "block";
  }
}

static void set_number(lua_State *L, const char *key, lua_Number value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, key);
}

/* lstat(path) → { type=, mode= (permission bits), uid=, gid=, ino=, dev=, size=, mtime= } */
static int l_lstat(lua_State *L) {
  struct stat st;
  if (lstat(luaL_checkstring(L, 1), &st)) return sd_l_failure(L, -errno, NULL);
  lua_newtable(L);
  lua_pushstring(L, file_type(st.st_mode));
  lua_setfield(L, -2, "type");
  set_number(L, "mode", st.st_mode & 07777);
  set_number(L, "uid", st.st_uid);
  set_number(L, "gid", st.st_gid);
  set_number(L, "ino", (lua_Number)st.st_ino);
  set_number(L, "dev", (lua_Number)st.st_dev);
  set_number(L, "size", (lua_Number)st.st_size);
  set_number(L, "mtime", (lua_Number)st.st_mtim.tv_sec + (lua_Number)st.st_mtim.tv_nsec / 1e9);
  return 1;
}

/* readdir(path) → names in no order, without "." and ".." */
static int l_readdir(lua_State *L) {
  DIR *dir = opendir(luaL_checkstring(L, 1));
  if (dir == NULL) return sd_l_failure(L, -errno, NULL);
  int n = 0;
  lua_newtable(L);
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    lua_pushstring(L, entry->d_name);
    lua_rawseti(L, -2, ++n);
  }
  closedir(dir);
  return 1;
}

/* What is open when the program begins came from outside, in a worker the channel to
 * its supervisor. None of it is meant for what user code starts. */
static void take_inherited(lua_State *L) {
  lua_newtable(L);
  DIR *dir = opendir("/proc/self/fd");
  if (dir == NULL) return;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    int fd = atoi(entry->d_name);
    if (fd <= STDERR_FILENO || fd == dirfd(dir) || fcntl(fd, F_SETFD, FD_CLOEXEC)) continue;
    lua_pushboolean(L, 1);
    lua_rawseti(L, -2, fd);
  }
  closedir(dir);
}

/* A standard descriptor that is missing would be the next one that is opened, and
 * output would go into an epoll. open() takes the lowest number there is. */
static void complete_standard(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0) return;
}

void sd_l_system_begin(lua_State *L) {
  complete_standard();
  take_inherited(L);
}

void sd_l_system_register(lua_State *L) {
  static const luaL_Reg functions[] = {
    { "ignore_signals", l_ignore_signals },
    { "default_signals", l_default_signals },
    { "kill", l_kill },
    { "block_signals", l_block_signals },
    { "unblock_signals", l_unblock_signals },
    { "parent_death", l_parent_death },
    { "lookup_user", l_lookup_user },
    { "drop_user", l_drop_user },
    { "socketpair", l_socketpair },
    { "pipe", l_pipe },
    { "open_null", l_open_null },
    { "eventfd", l_eventfd },
    { "dup", l_dup },
    { "close", l_close },
    { "cloexec", l_cloexec },
    { "memfd", l_memfd },
    { "set_title", l_set_title },
    { "getpid", l_getpid },
    { "getppid", l_getppid },
    { "getuid", l_getuid },
    { "exe", l_exe },
    { "cpus", l_cpus },
    { "rlimit", l_rlimit },
    { "deep_stack", l_deep_stack },
    { "_exit", l_exit },
    { "exec", l_exec },
    { "environ", l_environ },
    { "unsetenv", l_unsetenv },
    { "umask", l_umask },
    { "getcwd", l_getcwd },
    { "mkdir", l_mkdir },
    { "chmod", l_chmod },
    { "unlink", l_unlink },
    { "rename", l_rename },
    { "realpath", l_realpath },
    { "lstat", l_lstat },
    { "readdir", l_readdir },
    { NULL, NULL },
  };
  luaL_setfuncs(L, functions, 0);
}
