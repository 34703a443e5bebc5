/* Those who were accepted and wait for a place: `when_full = { wait = s }`.
 *
 * Each has a ticket of the line over all loops, so a fifo serves them in the strict
 * order of their accepts. The other kinds choose within their loop. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l_pool.h"

struct l_held {
  sd_waiter waiter; /* first member */
  uint64_t ticket;
  uint32_t headcount;
  int fd;
  struct sockaddr_storage peer;
};

static void leave(l_pool *pool, l_held *h) {
  sd_line_leave(&pool->full.line, &h->waiter);
  free(h);
}

static void dismiss(l_pool *pool, l_held *h) {
  sd_scoreboard_leave(sd_the_vm.scoreboard, pool->index, h->headcount);
  sd_scoreboard_count_rejected(sd_the_vm.scoreboard, pool->index, SD_REJECT_WAIT);
  close(h->fd);
  leave(pool, h);
}

/* ---- waiting in vain ---- */

static void await_next(l_pool *pool) {
  const sd_waiter *oldest = pool->full.line.oldest;
  if (oldest != NULL) sd_loop_arm(&sd_the_vm.loop, &pool->full.patience, oldest->since + pool->full.wait);
}

static void on_out_of_patience(sd_timer *timer) {
  l_pool *pool = (l_pool *)((char *)timer - offsetof(l_pool, full.patience));
  uint64_t now = sd_loop_now(&sd_the_vm.loop);
  sd_waiter *w;
  while ((w = pool->full.line.oldest) != NULL && w->since + pool->full.wait <= now) dismiss(pool, (l_held *)w);
  await_next(pool);
  sd_l_accept_try(pool); /* the line is shorter: more may join it */
}

void sd_l_hold_init(l_pool *pool) {
  pool->full.patience.fire = on_out_of_patience;
  pool->full.on_full = LUA_NOREF;
}

/* The wait may have become another. */
void sd_l_hold_retime(l_pool *pool) {
  await_next(pool);
}

void sd_l_hold_dismiss(l_pool *pool) {
  sd_timers_disarm(&sd_the_vm.loop.timers, &pool->full.patience);
  while (pool->full.line.oldest != NULL) dismiss(pool, (l_held *)pool->full.line.oldest);
}

/* ---- joining the line ---- */

static uint64_t key_of(const l_pool *pool, const struct sockaddr *peer) {
  unsigned v6 = pool->admission.v6 != 0 ? pool->admission.v6 : 64;
  sd_network n = sd_network_around(peer, pool->admission.v4 != 0 ? pool->admission.v4 : 32, v6);
  uint64_t words[2];
  memcpy(words, n.bytes, sizeof words);
  return words[0] ^ (words[1] * 31);
}

int sd_l_hold_join(l_pool *pool, int fd, const struct sockaddr_storage *peer, uint32_t headcount) {
  l_held *h = calloc(1, sizeof *h);
  if (h == NULL) return -ENOMEM;
  h->ticket = sd_scoreboard_draw(sd_the_vm.scoreboard, pool->index);
  h->headcount = headcount;
  h->fd = fd;
  memcpy(&h->peer, peer, sizeof *peer);
  uint64_t now = sd_loop_now(&sd_the_vm.loop);
  sd_line_join(&pool->full.line, &h->waiter, key_of(pool, (const struct sockaddr *)peer), now);
  if (!sd_timer_armed(&pool->full.patience)) await_next(pool);
  return 0;
}

uint64_t sd_l_hold_ticket(const l_pool *pool) {
  const l_held *h = (const l_held *)sd_line_next(&pool->full.line);
  return h != NULL ? h->ticket : 0;
}

/* ---- their turn ---- */

/* Who has hung up meanwhile is gone for good; a FIN alone may be a client that has
 * said all it has to say. */
static bool is_gone(const l_held *h) {
  struct pollfd p = { .fd = h->fd };
  return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

static l_held *next_of(l_pool *pool) {
  l_held *h;
  while ((h = (l_held *)sd_line_next(&pool->full.line)) != NULL && is_gone(h)) dismiss(pool, h);
  return h;
}

/* A place is there: for whom it is worth it. */
static l_held *choose(l_pool *pool) {
  l_held *h;
  while ((h = next_of(pool)) != NULL && sd_line_overdue(&pool->full.line, sd_loop_now(&sd_the_vm.loop)))
    dismiss(pool, h);
  return h;
}

static int serve(l_pool *pool, l_generation *g, l_held *h) {
  int err = sd_l_pool_serve(pool, g, h->fd, (struct sockaddr *)&h->peer, h->headcount);
  if (err)
    dismiss(pool, h);
  else
    leave(pool, h);
  return err;
}

void sd_l_hold_try(l_pool *pool) {
  l_generation *g = sd_l_pool_current(pool);
  sd_claim claim;
  while (g != NULL && next_of(pool) != NULL) {
    if (sd_l_accept_claim(pool, sd_l_hold_ticket(pool), false, &claim) != 0) return;
    l_held *h = choose(pool);
    if (h == NULL || serve(pool, g, h) != 0) sd_scoreboard_unclaim(sd_the_vm.scoreboard, pool->index, &claim);
    sd_l_accept_announce(pool);
  }
}
