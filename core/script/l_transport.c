/* A connection whose bytes code of the user's carries. The handler's connection is an
 * ordinary one, but its descriptor is one end of a pair; at the far end are the tasks
 * that run a transport (lua/sockdrawer/carrier.lua), and behind them the accepted
 * socket. The three live as long as the first of them: when it ends by force they end,
 * and when it ends in good order it waits until what it sent has left here. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l_pool.h"

enum { PAIR_BUFFER = 65536 };

/* NULL: its descriptor is closed. */
struct l_carriage {
  l_conn *near, *far, *raw;
  uint64_t moved; /* bytes that had come through when that was asked last */
};

/* ---- the end of any of them ---- */

/* ended(reason, reset), in a task of its own, once somebody has begun to carry. */
static void tell_ended(const l_carriage *k, const l_conn *near) {
  lua_State *L = sd_the_vm.L;
  sd_vm_push_anchored(L, k);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    return;
  }
  lua_State *co = sd_task_coroutine();
  lua_xmove(L, co, 1);
  lua_pushstring(co, sd_end_name((sd_end)near->conn.end));
  lua_pushboolean(co, near->conn.reset);
  sd_task_spawn(co, 2, NULL);
}

/* What was offered stays with the carriage until the handler's task has it. */
static const void *offered_to(const l_carriage *k) {
  return &k->raw;
}

static void free_unused(l_carriage *k) {
  if (k->near != NULL || k->far != NULL || k->raw != NULL) return;
  sd_vm_unanchor(offered_to(k));
  sd_vm_unanchor(k);
  free(k);
}

/* The last of them frees it. */
static void end_others(l_carriage *k, const l_conn *near) {
  l_conn *raw = k->raw, *far = k->far;
  tell_ended(k, near);
  if (raw != NULL) sd_l_conn_cut(raw, (sd_end)near->conn.end, near->conn.reset);
  if (far != NULL) sd_l_conn_cut(far, (sd_end)near->conn.end, false);
  if (raw == NULL && far == NULL) free_unused(k);
}

/* Nothing can come or go any more; what has come is still the handler's to read. */
static void hang_up(l_conn *far) {
  if (far == NULL || far->conn.state != SD_CONN_OPEN) return;
  sd_l_read_fail(far, SD_ECLOSED);
  sd_l_write_fail_all(far, SD_ECLOSED);
  sd_conn_close(&far->conn);
}

void sd_l_transport_closed(l_conn *c) {
  l_carriage *k = c->carriage;
  c->carriage = NULL;
  if (c == k->near) {
    k->near = NULL;
    end_others(k, c);
  } else if (c == k->raw) {
    k->raw = NULL;
    if (k->near != NULL) hang_up(k->far);
    free_unused(k);
  } else {
    k->far = NULL;
    free_unused(k);
  }
}

/* ---- what the connection asks ---- */

bool sd_l_transport_has(const l_conn *c) {
  return c->carriage != NULL && c == c->carriage->near;
}

bool sd_l_transport_carries(const sd_conn *conn) {
  const l_conn *c = (const l_conn *)conn;
  const l_carriage *k = c->carriage;
  if (!sd_l_transport_has(c)) return false;
  return k->raw != NULL || (k->far != NULL && k->far->conn.state == SD_CONN_OPEN);
}

bool sd_l_transport_gets_on(sd_conn *conn) {
  const l_conn *c = (const l_conn *)conn;
  l_carriage *k = c->carriage;
  if (!sd_l_transport_has(c) || k->far == NULL) return false;
  uint64_t moved = k->far->conn.bytes_in + (k->raw != NULL ? k->raw->conn.bytes_out : 0);
  bool more = moved != k->moved;
  k->moved = moved;
  return more;
}

int sd_l_transport_socket(const l_conn *c) {
  if (!sd_l_transport_has(c)) return c->conn.source.fd;
  return c->carriage->raw != NULL ? c->carriage->raw->conn.source.fd : -1;
}

/* ---- making ---- */

/* The handler's connection keeps the time for all of them. */
static const sd_conn_limits *timeless(const sd_conn_limits *limits) {
  sd_conn_limits own = *limits;
  own.idle = own.write = own.lifetime = own.header = 0;
  own.min_bytes = 0;
  return sd_conn_limits_keep(&own);
}

int sd_l_transport_pair(int fds[2]) {
  int size = PAIR_BUFFER;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) return -errno;
  for (int i = 0; i < 2; i++) setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  return 0;
}

/* Like sd_l_conn_new, but leaves nothing on the stack: it is anchored while it is open. */
static l_conn *end_of(int fd, const sd_conn_limits *limits, const struct sockaddr *peer, int *err) {
  l_conn *c = sd_l_conn_new(sd_the_vm.L, fd, limits, peer, err);
  if (c != NULL) lua_pop(sd_the_vm.L, 1);
  return c;
}

static void undo(l_conn *c) {
  if (c != NULL) sd_conn_abort(&c->conn, false);
}

/* 0, or -errno: then `fd` is still the caller's, and nothing is left. */
static int open_ends(l_carriage *k, const sd_conn_limits *limits, int fd, const struct sockaddr *peer) {
  const sd_conn_limits *own = timeless(limits);
  int fds[2], err = own != NULL ? sd_l_transport_pair(fds) : -ENOMEM;
  if (err) return err;
  k->near = end_of(fds[0], limits, peer, &err);
  k->far = err ? NULL : end_of(fds[1], own, NULL, &err);
  k->raw = err ? NULL : end_of(fd, own, peer, &err);
  if (!err) return 0;
  if (k->near == NULL) close(fds[0]);
  if (k->far == NULL) close(fds[1]);
  undo(k->near);
  undo(k->far);
  return err;
}

l_conn *sd_l_transport_new(lua_State *L, const l_pool *pool, int fd, const struct sockaddr *peer, int *err) {
  l_carriage *k = calloc(1, sizeof *k);
  *err = k != NULL ? open_ends(k, pool->limits, fd, peer) : -ENOMEM;
  if (*err) {
    free(k);
    return NULL;
  }
  k->near->carriage = k->far->carriage = k->raw->carriage = k;
  sd_vm_push_anchored(L, k->near);
  return k->near;
}

/* Takes over `far`. 0, or -errno: then `fd` is still the caller's. */
static int open_offered(l_carriage *k, const sd_conn_limits *limits, int fd, int far) {
  const sd_conn_limits *own = timeless(limits);
  int err = own != NULL ? 0 : -ENOMEM;
  k->far = err ? NULL : end_of(far, own, NULL, &err);
  k->near = err ? NULL : end_of(fd, limits, NULL, &err);
  if (!err) return 0;
  if (k->far == NULL) close(far);
  undo(k->far);
  return err;
}

l_conn *sd_l_transport_offered(lua_State *L, const l_pool *pool, int fd, l_offer *offer, int *err) {
  l_carriage *k = calloc(1, sizeof *k);
  *err = k != NULL ? open_offered(k, pool->limits, fd, sd_l_offer_far_end(offer)) : -ENOMEM;
  if (*err) {
    free(k);
    sd_l_offer_lost(offer, 0);
    return NULL;
  }
  k->near->carriage = k->far->carriage = k;
  sd_l_offer_served(offer, L);
  sd_vm_anchor(L, offered_to(k), -1);
  lua_pop(L, 1);
  sd_vm_push_anchored(L, k->near);
  return k->near;
}

int sd_l_transport_push_ends(lua_State *co, const l_conn *c) {
  const l_carriage *k = c->carriage;
  if (!sd_l_transport_has(c)) return 0;
  sd_vm_push_anchored(co, k->raw != NULL ? (const void *)k->raw : offered_to(k));
  if (k->raw == NULL) sd_vm_unanchor(offered_to(k));
  sd_vm_push_anchored(co, k->far);
  lua_pushboolean(co, k->raw != NULL);
  return 3;
}

/* ---- for who carries ---- */

/* _carry(ended): ended(reason, reset) is called when its descriptor is closed, by force or
 * not. False: it is closed already. */
static int l_carry(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  bool open = sd_l_transport_has(c);
  if (open) sd_vm_anchor(L, c->carriage, 2);
  lua_pushboolean(L, open);
  return 1;
}

/* _lose(word, reads): its peer has got lost (connection.h). */
static int l_lose(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  int err = sd_error_named(luaL_checkstring(L, 2));
  sd_conn_lose(&c->conn, err != 0 ? err : -EPROTO, lua_toboolean(L, 3));
  return 0;
}

void sd_l_transport_register(lua_State *L) {
  static const luaL_Reg methods[] = { { "_carry", l_carry }, { "_lose", l_lose }, { NULL, NULL } };
  luaL_register(L, NULL, methods);
}
