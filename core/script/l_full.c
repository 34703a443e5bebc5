/* Turning away whoever does not fit: with a close, a reset, a few last words, or what
 * a function of the user's says. Those who may wait instead are l_hold.c's. */
#include "l_full.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l_pool.h"

enum {
  FAREWELLS = 256, /* said at a time; more are closed without a word */
  ASKED = 256,     /* likewise */
  FAREWELL_TIME = 5000,
  THINKING_TIME = 5000,
};

/* ---- a few last words, and then an orderly end ---- */

typedef struct {
  sd_conn conn; /* first member */
  sd_deferred end;
} farewell;

static uint32_t nfarewells;

static void end_farewell(sd_deferred *end) {
  free((char *)end - offsetof(farewell, end));
  nfarewells--;
}

/* The connection's code is still at work on it. */
static void on_closed(sd_conn *conn) {
  sd_loop_defer(conn->loop, &((farewell *)conn)->end);
}

static void nothing(sd_conn *conn) {
  (void)conn;
}

static void say_farewell(int fd, const char *text, size_t length) {
  static const sd_conn_limits limits = { .write = FAREWELL_TIME };
  static const sd_conn_events events = {
    .on_readable = nothing,
    .on_drained = nothing,
    .on_deadline = nothing,
    .on_broken = nothing,
    .on_closed = on_closed,
  };
  farewell *f = nfarewells < FAREWELLS ? calloc(1, sizeof *f) : NULL;
  if (f == NULL || sd_conn_open(&f->conn, &sd_the_vm.loop, fd, &limits, &events) != 0) {
    free(f);
    close(fd);
    return;
  }
  nfarewells++;
  f->end.run = end_farewell;
  sd_conn_write(&f->conn, text, length);
  sd_conn_close(&f->conn);
}

static void reset(int fd) {
  struct linger none = { .l_onoff = 1, .l_linger = 0 };
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
  close(fd);
}

/* ---- asking a function ---- */

struct l_asked {
  sd_timer timer;
  l_asked *next;
  l_pool *pool;
  uint32_t serial;
  int fd;
};

/* Its descriptor is the caller's now. */
static int take_asked(l_asked *a) {
  int fd = a->fd;
  l_asked **link = &a->pool->full.asked;
  while (*link != a) link = &(*link)->next;
  *link = a->next;
  a->pool->full.nasked--;
  sd_timers_disarm(&sd_the_vm.loop.timers, &a->timer);
  free(a);
  return fd;
}

static void on_thought_too_long(sd_timer *timer) {
  close(take_asked((l_asked *)timer));
}

static void link_asked(l_full *full, l_asked *a) {
  a->next = full->asked;
  full->asked = a;
  full->nasked++;
}

static void ask(l_pool *pool, int fd, const struct sockaddr *peer) {
  l_full *full = &pool->full;
  bool can = full->on_full != LUA_NOREF && full->nasked < ASKED;
  l_asked *a = can ? calloc(1, sizeof *a) : NULL;
  if (a == NULL) {
    close(fd);
    return;
  }
  *a = (l_asked){ .timer = { .fire = on_thought_too_long }, .pool = pool, .serial = ++full->serial, .fd = fd };
  link_asked(full, a);
  sd_loop_arm(&sd_the_vm.loop, &a->timer, sd_loop_now(&sd_the_vm.loop) + THINKING_TIME);
  char host[SD_SOCKADDR_TEXT];
  socklen_t length = peer->sa_family == AF_UNIX ? sizeof peer->sa_family : sizeof(struct sockaddr_storage);
  lua_State *co = sd_task_calling(full->on_full);
  lua_pushnumber(co, a->serial);
  lua_pushstring(co, sd_sockaddr_host(peer, length, host, sizeof host));
  lua_pushinteger(co, sd_sockaddr_port(peer));
  sd_task_spawn(co, 3, NULL);
}

/* turn_away(serial, "close" | "reset" | "reply" [, text]) */
int sd_l_full_turn_away(lua_State *L) {
  static const char *const ways[] = { "close", "reset", "reply", NULL };
  l_pool *pool = sd_l_pool_check(L);
  uint32_t serial = (uint32_t)luaL_checknumber(L, 2);
  int way = luaL_checkoption(L, 3, NULL, ways);
  size_t length;
  const char *text = luaL_optlstring(L, 4, "", &length);
  l_asked *a = pool->full.asked;
  while (a != NULL && a->serial != serial) a = a->next;
  if (a == NULL) return 0; /* it took too long to say so */
  int fd = take_asked(a);
  if (way == 2)
    say_farewell(fd, text, length);
  else if (way == 1)
    reset(fd);
  else
    close(fd);
  return 0;
}

int sd_l_full_on_full(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  pool->full.on_full = sd_vm_keep(L, 2, pool->full.on_full);
  return 0;
}

/* ---- the verdict ---- */

void sd_l_full_reject(l_pool *pool, int fd, const struct sockaddr *peer) {
  sd_scoreboard_count_rejected(sd_the_vm.scoreboard, pool->index, SD_REJECT_FULL);
  switch (pool->full.mode) {
    case FULL_REPLY:
      say_farewell(fd, pool->full.reply, pool->full.reply_length);
      break;
    case FULL_ASK:
      ask(pool, fd, peer);
      break;
    case FULL_RESET:
      reset(fd);
      break;
    default:
      close(fd);
  }
}

/* ---- configuration ---- */

static double number(lua_State *L, const char *key, double otherwise) {
  lua_getfield(L, -1, key);
  if (lua_isnumber(L, -1)) otherwise = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return otherwise;
}

static sd_line_kind kind_of(lua_State *L) {
  lua_getfield(L, -1, "queue");
  const char *name = lua_isstring(L, -1) ? lua_tostring(L, -1) : "fifo";
  int kind = 0;
  while (sd_line_kinds[kind] != NULL && strcmp(sd_line_kinds[kind], name) != 0) kind++;
  lua_pop(L, 1);
  return sd_line_kinds[kind] != NULL ? (sd_line_kind)kind : SD_LINE_FIFO;
}

static void take_wait(lua_State *L, l_full *full) {
  full->mode = FULL_WAIT;
  full->wait = (uint64_t)(number(L, "wait", 0) * 1000);
  full->most = (uint32_t)number(L, "most", 1000);
  uint64_t target = (uint64_t)(number(L, "target", 0.1) * 1000), interval = (uint64_t)(number(L, "interval", 1) * 1000);
  sd_line_set(&full->line, kind_of(L), target, interval);
}

static void take_reply(lua_State *L, l_full *full) {
  lua_getfield(L, -1, "reply");
  size_t length;
  const char *text = lua_tolstring(L, -1, &length);
  char *copy = malloc(length + 1);
  if (copy != NULL) {
    memcpy(copy, text, length + 1);
    free(full->reply);
    full->reply = copy;
    full->reply_length = length;
    full->mode = FULL_REPLY;
  }
  lua_pop(L, 1);
}

static bool has(lua_State *L, const char *key) {
  lua_getfield(L, -1, key);
  bool there = !lua_isnil(L, -1);
  lua_pop(L, 1);
  return there;
}

static void take_table(lua_State *L, l_full *full) {
  full->mode = FULL_ASK;
  if (has(L, "wait"))
    take_wait(L, full);
  else if (has(L, "reply"))
    take_reply(L, full);
}

static l_full_mode named(const char *name) {
  if (strcmp(name, "close") == 0) return FULL_CLOSE;
  return strcmp(name, "reset") == 0 ? FULL_RESET : FULL_BACKLOG;
}

void sd_l_full_configure(lua_State *L, int index, l_full *full) {
  lua_getfield(L, index, "when_full");
  if (lua_istable(L, -1))
    take_table(L, full);
  else if (lua_isstring(L, -1))
    full->mode = named(lua_tostring(L, -1));
  lua_pop(L, 1);
}

void sd_l_full_free(lua_State *L, l_pool *pool) {
  sd_l_hold_dismiss(pool);
  for (l_asked *a = pool->full.asked, *next; a != NULL; a = next) {
    next = a->next;
    close(take_asked(a));
  }
  luaL_unref(L, LUA_REGISTRYINDEX, pool->full.on_full);
  free(pool->full.reply);
  pool->full = (l_full){ .on_full = LUA_NOREF };
}
