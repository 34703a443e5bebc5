/* Connections without a pool: core.connect, outbound, and core.accept_loop, for
 * the control socket. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l_connection.h"
#include "l_socket.h"
#include "net/address.h"

#define ACCEPTOR "sockdrawer.acceptor"

enum { ACCEPTS_A_TURN = 64, BACK_OFF = 100, CONNECT_MS = 10000 };

static const sd_conn_limits plain_limits = { .line = 8192,
  .frame = 1 << 20,
  .read_buffer = 65536,
  .write_high = 65536,
  .write_low = 16384,
  .write_max = 1 << 20,
  .idle = 60000,
  .write = 30000 };

/* A handler's own connections live by its pool's limits. */
static const sd_conn_limits *limits_here(void) {
  const sd_task *task = sd_the_vm.current;
  if (task == NULL || task->limits == NULL) return &plain_limits;
  return task->limits;
}

/* ---- connecting ---- */

typedef struct {
  sd_source source;
  uv_getaddrinfo_t query;
  sd_task *task;                 /* NULL: given up */
  struct addrinfo *found, *next; /* of a name; next: not tried yet */
  struct sockaddr_storage address;
  socklen_t length;
  const sd_conn_limits *limits;
  bool resolving, watching;
} attempt;

static void drop_socket(attempt *a) {
  if (a->watching) sd_loop_unwatch(&sd_the_vm.loop, &a->source);
  a->watching = false;
  if (a->source.fd >= 0) close(a->source.fd);
  a->source.fd = -1;
}

static void free_attempt(attempt *a) {
  drop_socket(a);
  uv_freeaddrinfo(a->found);
  free(a);
}

/* A name lookup cannot be taken back: it frees the attempt when it ends. */
static void unwait(sd_task *task) {
  attempt *a = task->waiting_for;
  a->task = NULL;
  if (!a->resolving) free_attempt(a);
}

static int push_connected(lua_State *to, attempt *a, sd_task *task) {
  int err;
  if (a->watching) sd_loop_unwatch(&sd_the_vm.loop, &a->source);
  a->watching = false;
  l_conn *c = sd_l_conn_new(sd_the_vm.L, a->source.fd, a->limits, NULL, &err);
  if (c == NULL) return sd_push_failure(to, err);
  lua_xmove(sd_the_vm.L, to, 1);
  a->source.fd = -1; /* the connection's now */
  sd_own(&task->children, &c->owned);
  return 1;
}

static void settle(attempt *a, int err) {
  sd_task *task = a->task;
  int n = err ? sd_push_failure(task->co, err) : push_connected(task->co, a, task);
  free_attempt(a);
  sd_task_wake(task, n);
}

static void go_on(attempt *a, int err);

static void on_connected(sd_source *source, uint32_t events) {
  attempt *a = (attempt *)source;
  (void)events;
  int err = 0;
  socklen_t size = sizeof err;
  getsockopt(source->fd, SOL_SOCKET, SO_ERROR, &err, &size);
  struct sockaddr_storage peer;
  socklen_t length = sizeof peer;
  if (err == 0 && getpeername(source->fd, (struct sockaddr *)&peer, &length) < 0 && errno == ENOTCONN)
    return; /* an early edge: not decided yet */
  go_on(a, -err);
}

/* 1 connected, 0 under way, else -errno. */
static int begin_connect(attempt *a) {
  int fd = socket(a->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  a->source = (sd_source){ .fd = fd, .on_events = on_connected };
  if (connect(fd, (struct sockaddr *)&a->address, a->length) == 0) return 1;
  if (errno != EINPROGRESS) return -errno;
  int err = sd_loop_watch(&sd_the_vm.loop, &a->source, EPOLLOUT);
  a->watching = err == 0;
  return err;
}

/* A name may stand for addresses of which only some answer: ::1 and 127.0.0.1. */
static int try_next(attempt *a) {
  int err = -ENOENT;
  while (a->next != NULL) {
    drop_socket(a);
    memcpy(&a->address, a->next->ai_addr, a->next->ai_addrlen);
    a->length = a->next->ai_addrlen;
    a->next = a->next->ai_next;
    err = begin_connect(a);
    if (err >= 0) break;
  }
  return err;
}

static void go_on(attempt *a, int err) {
  if (err < 0 && a->next != NULL) {
    err = try_next(a);
    if (err == 0) return;
  }
  settle(a, err > 0 ? 0 : err);
}

static void on_resolved(uv_getaddrinfo_t *query, int status, struct addrinfo *found) {
  attempt *a = query->data;
  a->resolving = false;
  a->found = a->next = status == 0 ? found : NULL;
  if (a->task == NULL)
    free_attempt(a);
  else
    go_on(a, -ENOENT); /* what it is without any address: no such host */
}

static int begin_resolve(attempt *a, const sd_address *address) {
  char port[8];
  snprintf(port, sizeof port, "%d", address->port);
  struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
  a->query.data = a;
  int err = uv_getaddrinfo(&sd_the_vm.loop.uv, &a->query, on_resolved, address->host, port, &hints);
  a->resolving = err == 0;
  return err;
}

/* connect(address [, { timeout= }]) → conn | nil, err */
static int l_connect(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  sd_address address;
  sd_net_error error;
  if (sd_address_parse(&address, text, length, &error) != 0) return luaL_error(L, "connect: %s", error.text);
  if (address.scheme != SD_ADDRESS_TCP && address.scheme != SD_ADDRESS_UNIX)
    return luaL_error(L, "connect: %s: tcp://host:port or unix:/path expected", text);
  int64_t timeout = lua_istable(L, 2) ? sd_opt_ms(L, 2, "timeout") : -1;
  sd_task *task = sd_task_here(L, "connect");
  attempt *a = calloc(1, sizeof *a);
  if (a == NULL) return sd_push_failure(L, -ENOMEM);
  a->source.fd = -1;
  a->task = task;
  a->limits = limits_here();
  int status = sd_address_numeric(&address, &a->address, &a->length);
  status = status == 0 ? begin_connect(a) : begin_resolve(a, &address);
  if (status != 0) {
    int n = status > 0 ? push_connected(L, a, task) : sd_push_failure(L, status);
    free_attempt(a);
    return n;
  }
  if (timeout != 0) sd_task_set_timeout(task, timeout < 0 ? CONNECT_MS : (uint64_t)timeout);
  return sd_task_wait(L, task, a, unwait);
}

/* ---- accepting without a pool ---- */

typedef struct {
  sd_source source; /* first member */
  sd_deferred again;
  sd_timer rest;
  sd_ref fn;
  bool closed;
} acceptor;

static const sd_conn_limits control_limits = { .line = 8192,
  .frame = 1 << 20,
  .read_buffer = 65536,
  .write_high = 65536,
  .write_low = 16384,
  .write_max = 8 << 20,
  .write = 30000 };

static void serve(acceptor *a, int fd) {
  lua_State *L = sd_the_vm.L;
  int err;
  l_conn *c = sd_l_conn_new(L, fd, &control_limits, NULL, &err);
  if (c == NULL) {
    close(fd);
    return;
  }
  lua_State *co = sd_task_calling(a->fn);
  lua_xmove(L, co, 1);
  sd_l_conn_serve(c, co, 1);
}

/* There is no second event for those who are in the queue already. */
static void rest(acceptor *a, int err) {
  if (err != EAGAIN) sd_loop_arm(&sd_the_vm.loop, &a->rest, sd_loop_now(&sd_the_vm.loop) + BACK_OFF);
}

static void accept_some(acceptor *a) {
  for (int i = 0; i < ACCEPTS_A_TURN && !a->closed; i++) {
    int fd = accept4(a->source.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
      serve(a, fd);
    else if (errno != EINTR && errno != ECONNABORTED)
      return rest(a, errno);
  }
  if (!a->closed) sd_loop_defer(&sd_the_vm.loop, &a->again);
}

static void on_pending(sd_source *source, uint32_t events) {
  (void)events;
  accept_some((acceptor *)source);
}

static void on_again(sd_deferred *again) {
  accept_some((acceptor *)((char *)again - offsetof(acceptor, again)));
}

static void on_rested(sd_timer *timer) {
  accept_some((acceptor *)((char *)timer - offsetof(acceptor, rest)));
}

/* accept_loop(fd, fn): each connection becomes fn(conn) in its own task. */
static int l_accept_loop(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  acceptor *a = lua_newuserdata(L, sizeof *a);
  *a = (acceptor){
    .source = { .fd = fd, .on_events = on_pending }, .again = { .run = on_again }, .rest = { .fire = on_rested }
  };
  a->fn = sd_vm_keep(L, 2, LUA_NOREF);
  int err = sd_loop_watch(&sd_the_vm.loop, &a->source, EPOLLIN);
  if (err) {
    luaL_unref(L, LUA_REGISTRYINDEX, a->fn);
    return sd_push_failure(L, err);
  }
  luaL_getmetatable(L, ACCEPTOR);
  lua_setmetatable(L, -2);
  sd_vm_anchor(L, a, -1);
  return 1;
}

static int l_acceptor_close(lua_State *L) {
  acceptor *a = luaL_checkudata(L, 1, ACCEPTOR);
  if (a->closed) return 0;
  a->closed = true;
  sd_loop_undefer(&sd_the_vm.loop, &a->again);
  sd_timers_disarm(&sd_the_vm.loop.timers, &a->rest);
  sd_loop_unwatch(&sd_the_vm.loop, &a->source);
  close(a->source.fd);
  luaL_unref(L, LUA_REGISTRYINDEX, a->fn);
  sd_vm_unanchor(a);
  return 0;
}

void sd_l_connect_register(lua_State *L) {
  static const luaL_Reg functions[] = { { "connect", l_connect }, { "accept_loop", l_accept_loop }, { NULL, NULL } };
  static const luaL_Reg acceptor_methods[] = { { "close", l_acceptor_close }, { NULL, NULL } };
  sd_class(L, ACCEPTOR, acceptor_methods, NULL);
  luaL_register(L, NULL, functions);
}
