/* Those who were accepted and wait for a place: `when_full = { wait = s }`.
 *
 * Each has a ticket of the line over all loops, so a fifo serves them in the strict
 * order of their accepts. The other kinds choose within their loop, and so does a
 * generation's queue (l_queue.c). */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l_pool.h"

struct l_held {
  sd_waiter waiter; /* first member */
  uint64_t number;  /* how a queue of the user's knows it */
  uint64_t ticket;
  uint32_t headcount;
  int fd;
  struct sockaddr_storage peer;
};

/* Why they leave the line, as a queue of the user's is told. */
static const char SERVED[] = "served", IN_VAIN[] = "wait", GONE[] = "gone", DROPPED[] = "dropped", CLOSED[] = "closed";

static void leave(l_pool *pool, l_held *h, const char *why) {
  sd_line_leave(&pool->full.line, &h->waiter);
  sd_l_queue_leave(pool, h->number, why);
  free(h);
}

static void dismiss(l_pool *pool, l_held *h, const char *why) {
  sd_scoreboard_leave(sd_the_vm.scoreboard, pool->index, h->headcount);
  sd_scoreboard_count_rejected(sd_the_vm.scoreboard, pool->index, SD_REJECT_WAIT);
  close(h->fd);
  leave(pool, h, why);
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
  while ((w = pool->full.line.oldest) != NULL && w->since + pool->full.wait <= now) dismiss(pool, (l_held *)w, IN_VAIN);
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
  while (pool->full.line.oldest != NULL) dismiss(pool, (l_held *)pool->full.line.oldest, CLOSED);
}

/* ---- joining the line ---- */

static uint64_t key_of(const l_pool *pool, const struct sockaddr *peer) {
  unsigned v6 = pool->admission.v6 != 0 ? pool->admission.v6 : 64;
  sd_network n = sd_network_around(peer, pool->admission.v4 != 0 ? pool->admission.v4 : 32, v6);
  uint64_t words[2];
  memcpy(words, n.bytes, sizeof words);
  return words[0] ^ (words[1] * 31);
}

/* All who wait are with the queue of the generation that is current: a canary's has none
 * of them, since nobody who waits has a generation yet. */
static void hand_to(l_pool *pool, const l_generation *g) {
  if (g == NULL || pool->full.keeper == g->number) return;
  sd_l_queue_forget(pool);
  pool->full.keeper = g->number;
  for (const sd_waiter *w = pool->full.line.oldest; w != NULL; w = w->younger) {
    const l_held *h = (const l_held *)w;
    sd_l_queue_join(pool, h->number, (const struct sockaddr *)&h->peer, w->since);
  }
}

int sd_l_hold_join(l_pool *pool, int fd, const struct sockaddr_storage *peer, uint32_t headcount) {
  l_held *h = calloc(1, sizeof *h);
  if (h == NULL) return -ENOMEM;
  h->number = h->ticket = sd_scoreboard_draw(sd_the_vm.scoreboard, pool->index);
  h->headcount = headcount;
  h->fd = fd;
  memcpy(&h->peer, peer, sizeof *peer);
  uint64_t now = sd_loop_now(&sd_the_vm.loop);
  hand_to(pool, sd_l_pool_current(pool));
  sd_line_join(&pool->full.line, &h->waiter, key_of(pool, (const struct sockaddr *)peer), now);
  if (!sd_timer_armed(&pool->full.patience)) await_next(pool);
  sd_l_queue_join(pool, h->number, (const struct sockaddr *)peer, now);
  return 0;
}

/* Where a queue of the user's decides, it is asked when there is a place, and not before:
 * until then the first in line stands for all of them. */
static l_held *first_of(const l_pool *pool) {
  return (l_held *)(sd_l_queue_decides(pool) ? pool->full.line.oldest : sd_line_next(&pool->full.line));
}

uint64_t sd_l_hold_ticket(const l_pool *pool) {
  const l_held *h = pool->full.line.count > 0 ? first_of(pool) : NULL;
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
  while ((h = first_of(pool)) != NULL && is_gone(h)) dismiss(pool, h, GONE);
  return h;
}

/* A place is there: for whom it is worth it. */
static l_held *choose(l_pool *pool) {
  l_held *h;
  while ((h = next_of(pool)) != NULL && sd_line_overdue(&pool->full.line, sd_loop_now(&sd_the_vm.loop)))
    dismiss(pool, h, IN_VAIN);
  return h;
}

/* ---- as a queue of the user's says ---- */

static l_held *find(const l_pool *pool, uint64_t number) {
  sd_waiter *w = number != 0 ? pool->full.line.oldest : NULL;
  while (w != NULL && ((l_held *)w)->number != number) w = w->younger;
  return (l_held *)w;
}

/* The oldest, if the queue has failed to say. */
static l_held *asked_next(const l_pool *pool) {
  if (pool->full.line.count == 0) return NULL;
  l_held *h = find(pool, sd_l_queue_ask(pool, "next"));
  return h != NULL ? h : (l_held *)pool->full.line.oldest;
}

/* The place was the oldest one's. All who came before whom it goes to move up by one
 * ticket, so that the next place is due here when it would have been anyhow: whom a
 * queue prefers here costs nobody in other loops a place. */
static void spend_oldest_ticket(l_held *h) {
  uint64_t ticket = h->ticket;
  for (sd_waiter *w = h->waiter.older; w != NULL; w = w->older) {
    uint64_t own = ((l_held *)w)->ticket;
    ((l_held *)w)->ticket = ticket;
    ticket = own;
  }
  h->ticket = ticket;
}

static l_held *choose_by_queue(l_pool *pool) {
  l_held *h;
  while (pool->full.line.count > 0 && (h = find(pool, sd_l_queue_ask(pool, "drop"))) != NULL) dismiss(pool, h, DROPPED);
  while ((h = asked_next(pool)) != NULL && is_gone(h)) dismiss(pool, h, GONE);
  if (h != NULL) spend_oldest_ticket(h);
  return h;
}

static int serve(l_pool *pool, l_generation *g, l_held *h) {
  uint64_t waited = sd_loop_now(&sd_the_vm.loop) - h->waiter.since;
  int err = sd_l_pool_serve(pool, g, h->fd, (struct sockaddr *)&h->peer, h->headcount, waited);
  if (err)
    dismiss(pool, h, CLOSED);
  else
    leave(pool, h, SERVED);
  return err;
}

void sd_l_hold_try(l_pool *pool) {
  l_generation *g = sd_l_pool_current(pool);
  sd_claim claim;
  if (pool->full.line.count > 0) hand_to(pool, g);
  while (g != NULL && next_of(pool) != NULL) {
    if (sd_l_accept_claim(pool, sd_l_hold_ticket(pool), false, &claim) != 0) return;
    l_held *h = sd_l_queue_decides(pool) ? choose_by_queue(pool) : choose(pool);
    if (h == NULL || serve(pool, g, h) != 0) sd_scoreboard_unclaim(sd_the_vm.scoreboard, pool->index, &claim);
    sd_l_accept_announce(pool);
  }
}
