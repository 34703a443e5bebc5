/* Connections that no socket accepts: code of the user's offers them, one at a time, to
 * a listener without a socket, where they are claimed, held or turned away like others.
 * Each is a pair: one end goes the way of an accepted descriptor, and when that closes
 * before anybody serves it, the other one tells. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "l_pool.h"

struct l_offer {
  sd_source source; /* first member: the far end */
  l_offer *next;    /* in the pool's list */
  l_pool *pool;
  l_listener *listener; /* in whose place it waits, NULL: taken */
  uint64_t serial;
  int near;      /* the other end, until it is taken */
  sd_task *task; /* who offers; NULL: does not wait any more */
};

/* ---- the end ---- */

int sd_l_offer_far_end(l_offer *o) {
  int fd = o->source.fd;
  sd_loop_unwatch(&sd_the_vm.loop, &o->source);
  o->source.fd = -1;
  return fd;
}

static void forget(l_offer *o) {
  l_offer **link = &o->pool->offers;
  while (*link != o) link = &(*link)->next;
  *link = o->next;
  if (o->listener != NULL) o->listener->offer = NULL;
  if (o->near >= 0) close(o->near);
  sd_vm_unanchor(o);
  free(o);
}

/* Its far end is somebody's, or closed; who offers is told. */
static void settle(l_offer *o, bool served, int err) {
  sd_task *task = o->task;
  forget(o);
  if (task == NULL) return;
  int n = 1;
  if (err)
    n = sd_push_failure(task->co, err);
  else
    lua_pushboolean(task->co, served);
  sd_task_wake(task, n);
}

static void on_far_end(sd_source *source, uint32_t events) {
  l_offer *o = (l_offer *)source;
  if ((events & EPOLLHUP) == 0 || o->near >= 0) return; /* a few last words, perhaps */
  sd_l_offer_lost(o, 0);
}

void sd_l_offer_lost(l_offer *o, int err) {
  if (o->source.fd >= 0) close(sd_l_offer_far_end(o));
  settle(o, false, err);
}

static void unwait(sd_task *task) {
  l_offer *o = task->waiting_for;
  o->task = NULL;
  if (o->near >= 0) sd_l_offer_lost(o, 0); /* else whoever took it may still serve it */
}

/* ---- accepting it ---- */

/* Where an accepted descriptor has its peer's address, these have a number: behind the
 * longest that a kernel writes there, so that no client can come with it. */
enum { SERIAL_AT = sizeof(struct sockaddr_storage) - sizeof(uint64_t) };
_Static_assert(SERIAL_AT >= sizeof(struct sockaddr_un), "no address reaches it");

static void write_serial(struct sockaddr_storage *peer, uint64_t serial) {
  memset(peer, 0, sizeof *peer);
  peer->ss_family = AF_UNIX;
  memcpy((char *)peer + SERIAL_AT, &serial, sizeof serial);
}

int sd_l_offer_take(l_listener *l, struct sockaddr_storage *peer) {
  l_offer *o = l->offer;
  if (o == NULL) return -EAGAIN;
  int fd = o->near;
  write_serial(peer, o->serial);
  l->offer = NULL;
  o->listener = NULL;
  o->near = -1;
  return fd;
}

l_offer *sd_l_offer_find(const l_pool *pool, const struct sockaddr *peer) {
  uint64_t serial;
  if (pool->offers == NULL || peer->sa_family != AF_UNIX) return NULL;
  memcpy(&serial, (const char *)peer + SERIAL_AT, sizeof serial);
  if (serial == 0) return NULL;
  l_offer *o = pool->offers;
  while (o != NULL && (o->serial != serial || o->near >= 0)) o = o->next;
  return o;
}

void sd_l_offer_served(l_offer *o, lua_State *to) {
  sd_vm_push_anchored(to, o);
  settle(o, true, 0);
}

/* ---- offering ---- */

static int make(l_pool *pool, l_listener *l, l_offer **out) {
  static uint64_t last_serial;
  int fds[2];
  l_offer *o = calloc(1, sizeof *o);
  if (o == NULL) return -ENOMEM;
  int err = sd_l_transport_pair(fds);
  if (!err) {
    *o = (l_offer){ .source = { .fd = fds[1], .on_events = on_far_end }, .pool = pool, .listener = l, .near = fds[0] };
    err = sd_loop_watch(&sd_the_vm.loop, &o->source, EPOLLIN | EPOLLRDHUP);
    if (err) close(fds[0]), close(fds[1]);
  }
  if (err) {
    free(o);
    return err;
  }
  o->serial = ++last_serial;
  o->next = pool->offers;
  pool->offers = l->offer = o;
  *out = o;
  return 0;
}

static l_listener *listener_of(const l_pool *pool, int id) {
  l_listener *l = pool->listeners;
  while (l != NULL && (l->id != id || l->source.fd >= 0)) l = l->next;
  return l;
}

/* offer(id, raw) → whether it is served | nil, "closed": the listener is. Waits until
 * that is known. */
int sd_l_offer(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  l_listener *l = listener_of(pool, (int)luaL_checkinteger(L, 2));
  luaL_checkany(L, 3);
  sd_task *task = sd_task_here(L, "offer");
  l_offer *o;
  if (l == NULL) return sd_push_failure(L, SD_ECLOSED);
  if (l->offer != NULL) return sd_push_failure(L, SD_EBUSY);
  int err = make(pool, l, &o);
  if (err) return sd_push_failure(L, err);
  sd_vm_anchor(L, o, 3);
  o->task = task;
  l->ready = true;
  sd_loop_defer(&sd_the_vm.loop, &l->again);
  return sd_task_wait(L, task, o, unwait);
}
