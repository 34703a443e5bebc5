/* Who gets in: the acceptors of a pool on its listen sockets.
 *
 * An acceptor takes a connection only after three looks: is the generation that
 * the scoreboard calls current prepared here; is there a place (reserved before
 * accept, so the limit is exact over all workers); has this turn's share been
 * taken. A socket whose queue could not be emptied stays `ready`, and is looked
 * at again when the bell rings, a generation arrives, in the next turn, or after
 * the rest that a failing accept costs it. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l_pool.h"

enum { ACCEPTS_A_TURN = 64, BACK_OFF = 100, SAY_AGAIN = 1000 };

static void accept_some(l_listener *l);

void sd_l_accept_try(l_pool *pool) {
  sd_l_hold_try(pool);
  for (l_listener *l = pool->listeners, *next; l != NULL; l = next) {
    next = l->next;
    if (l->ready) accept_some(l);
  }
  sd_l_accept_announce(pool); /* whoever has waited may have left */
}

static void on_rested(sd_timer *timer) {
  l_listener *l = (l_listener *)((char *)timer - offsetof(l_listener, rest));
  if (l->ready) accept_some(l);
}

static void rest_for(l_listener *l, uint64_t ms, bool ordered) {
  l->ordered = ordered;
  sd_loop_arm(&sd_the_vm.loop, &l->rest, sd_loop_now(&sd_the_vm.loop) + ms);
}

static void end_rest(l_listener *l) {
  sd_timers_disarm(&sd_the_vm.loop.timers, &l->rest);
}

void sd_l_accept_renew(l_pool *pool) {
  for (l_listener *l = pool->listeners; l != NULL; l = l->next)
    if (l->ordered) end_rest(l);
}

/* The generation whose acceptor this socket has: none that is about to close, which must
 * not be held up. */
static const l_generation *acceptor_of(const l_listener *l) {
  return l->pool->acceptors > 0 && !l->leaving && !l->last_call ? sd_l_pool_current(l->pool) : NULL;
}

static void tell_of_failure(l_pool *pool, int err, uint64_t rest) {
  uint64_t now = sd_loop_now(&sd_the_vm.loop);
  if (pool->said != 0 && now - pool->said < SAY_AGAIN) return;
  pool->said = now;
  sd_l_pool_tell(pool->on_event, sd_error_word(-err), (double)rest / 1000);
}

/* Code of the user's may have closed the descriptor, and somebody else have that number
 * by now. */
static bool is_lost(const l_listener *l) {
  struct stat now;
  return l->source.fd >= 0 && (fstat(l->source.fd, &now) || now.st_ino != l->inode);
}

/* Descriptors or memory are short, and others may free some soon; or the socket is
 * broken for good, since somebody who shares it has shut it down. Each socket rests
 * by itself, so that a broken one does not hold up the others. */
static void back_off(l_listener *l) {
  if (is_lost(l)) l->error = ESTALE;
  const l_generation *g = acceptor_of(l);
  uint64_t rest = g != NULL && g->failed != LUA_NOREF ? sd_l_acceptor_failed(l, g, l->error) : 0;
  rest_for(l, rest > 0 ? rest : BACK_OFF, rest > 0);
  tell_of_failure(l->pool, l->error, rest > 0 ? rest : BACK_OFF);
  l->error = 0;
}

/* What accept reports of a client who is gone already, or must not come in: the
 * next one may do better. Anything else will fail again at once. */
static bool is_about_the_client(int err) {
  static const int errors[] = { ECONNABORTED, ECONNRESET, EPROTO, ENOPROTOOPT, EOPNOTSUPP, EPERM, ENETDOWN, ENETUNREACH,
    EHOSTDOWN, EHOSTUNREACH, ENONET, ETIMEDOUT };
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (err == errors[i]) return true;
  return false;
}

/* Whether it is worth asking again now. */
static bool go_on_after(l_listener *l, int err) {
  if (is_about_the_client(err)) return true;
  if (err == EAGAIN && l->hung_up) err = EINVAL;      /* a unix socket that was shut down does not say so */
  if (err == EAGAIN || (l->leaving && err == EINVAL)) /* EINVAL: it does not listen any more */
    l->ready = false;
  else
    l->error = err;
  return false;
}

static int accept_one(l_listener *l, struct sockaddr_storage *peer) {
  socklen_t length = sizeof *peer;
  int fd;
  if (l->source.fd < 0) return sd_l_offer_take(l, peer);
  memset(peer, 0, sizeof *peer); /* of an unnamed unix peer the kernel writes the family only */
  do {
    fd = accept4(l->source.fd, (struct sockaddr *)peer, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
  } while (fd < 0 && errno == EINTR);
  return fd < 0 ? -errno : fd;
}

static void reject(l_listener *l, int fd, sd_reject why) {
  close(fd);
  sd_scoreboard_count_rejected(sd_the_vm.scoreboard, l->pool->index, why);
}

/* No place: with "close", and for a socket that is about to close, the client is
 * told by a close what waiting would not change. */
static bool reject_one(l_listener *l) {
  struct sockaddr_storage peer;
  sd_reject why;
  int fd = accept_one(l, &peer);
  if (fd < 0) return go_on_after(l, -fd);
  if (sd_l_admission_allows(&l->pool->admission, (struct sockaddr *)&peer, &why))
    sd_l_full_reject(l->pool, fd, (struct sockaddr *)&peer);
  else
    reject(l, fd, why);
  return true;
}

/* No place, but time. */
static bool hold_one(l_listener *l) {
  struct sockaddr_storage peer;
  sd_reject why;
  uint32_t headcount, index = l->pool->index;
  int fd = accept_one(l, &peer);
  if (fd < 0) return go_on_after(l, -fd);
  if (!sd_l_admission_enter(&l->pool->admission, index, (struct sockaddr *)&peer, &headcount, &why)) {
    reject(l, fd, why);
  } else if (sd_l_hold_join(l->pool, fd, &peer, headcount) != 0) {
    sd_scoreboard_leave(sd_the_vm.scoreboard, index, headcount);
    reject(l, fd, SD_REJECT_WAIT);
  }
  return true;
}

/* Its queue has been looked at: who comes next has just come. */
static int take_one(l_listener *l, struct sockaddr_storage *peer, const sd_claim *claim) {
  int fd = accept_one(l, peer);
  l->ticket = 0;
  if (fd < 0) sd_scoreboard_unclaim(sd_the_vm.scoreboard, l->pool->index, claim);
  return fd;
}

static bool serve_one(l_listener *l, l_generation *g, const sd_claim *claim) {
  struct sockaddr_storage peer;
  sd_reject why;
  uint32_t headcount, index = l->pool->index;
  int fd = take_one(l, &peer, claim), err = 0;
  if (fd < 0) return go_on_after(l, -fd);
  if (!sd_l_admission_enter(&l->pool->admission, index, (struct sockaddr *)&peer, &headcount, &why)) {
    reject(l, fd, why);
  } else {
    err = sd_l_pool_serve(l->pool, g, fd, (struct sockaddr *)&peer, headcount, 0);
    if (err == 0) return true;
    sd_scoreboard_leave(sd_the_vm.scoreboard, index, headcount);
    close(fd);
  }
  sd_scoreboard_unclaim(sd_the_vm.scoreboard, index, claim);
  return err == 0 || go_on_after(l, -err);
}

/* ---- the line for a free place, over all loops ---- */

static void on_retry(sd_timer *timer) {
  sd_l_accept_try((l_pool *)((char *)timer - offsetof(l_pool, retry)));
}

static void retry_in(l_pool *pool, uint64_t ns) {
  uint64_t when = sd_loop_now(&sd_the_vm.loop) + ns / 1000000 + 1;
  if (!sd_timer_armed(&pool->retry) || when < pool->retry.when) sd_loop_arm(&sd_the_vm.loop, &pool->retry, when);
}

int sd_l_accept_claim(l_pool *pool, uint64_t ticket, bool in_a_hurry, sd_claim *claim) {
  uint64_t wait = 0;
  *claim = (sd_claim){ .now = sd_scoreboard_clock(), .ticket = ticket };
  if (!in_a_hurry) claim->rate = pool->admission.accept;
  int err = sd_scoreboard_claim(sd_the_vm.scoreboard, pool->index, claim, &wait);
  if (err == -EBUSY) retry_in(pool, wait);
  if (err == -EINPROGRESS) retry_in(pool, SD_SCOREBOARD_PATIENCE);
  return err;
}

static uint64_t oldest_ticket(const l_pool *pool) {
  uint64_t oldest = sd_l_hold_ticket(pool);
  for (const l_listener *l = pool->listeners; l != NULL; l = l->next)
    if (l->ticket != 0 && (oldest == 0 || l->ticket < oldest)) oldest = l->ticket;
  return oldest;
}

void sd_l_accept_announce(l_pool *pool) {
  uint64_t oldest = oldest_ticket(pool);
  if (oldest == pool->announced) return;
  pool->announced = oldest;
  sd_scoreboard_wait(sd_the_vm.scoreboard, pool->index, oldest);
}

/* An empty queue has no place in the line: who comes to it later would be served as if
 * they had waited since now. */
static bool has_queue(l_listener *l) {
  if (l->source.fd < 0) return l->offer != NULL;
  struct pollfd p = { .fd = l->source.fd, .events = POLLIN };
  return poll(&p, 1, 0) != 0;
}

static bool wait_in_line(l_listener *l) {
  if (l->ticket != 0) return false;
  l->ready = has_queue(l);
  if (l->ready) l->ticket = sd_scoreboard_draw(sd_the_vm.scoreboard, l->pool->index);
  return false;
}

static bool stand_back(l_listener *l) {
  l->ticket = 0;
  return false;
}

void sd_l_accept_stand_back(l_pool *pool) {
  for (l_listener *l = pool->listeners; l != NULL; l = l->next) stand_back(l);
  sd_l_accept_announce(pool);
}

/* ---- steps ---- */

/* Without a place: whether there may be more to do. */
static bool step_when_full(l_listener *l, int err) {
  const l_full *full = &l->pool->full;
  if (full->mode == FULL_WAIT && full->line.count < full->most) return hold_one(l);
  if (l->leaving) return reject_one(l);
  if (err == -EAGAIN && full->mode != FULL_BACKLOG && full->mode != FULL_WAIT) return reject_one(l);
  return wait_in_line(l);
}

/* Whoever finds no place is sent away at once, on any loop: so none may be claimed for
 * nobody, not even for the moment that an accept from an empty queue takes. */
static bool claims_for_nobody(l_listener *l) {
  l_full_mode mode = l->pool->full.mode;
  if (mode == FULL_BACKLOG || mode == FULL_WAIT || has_queue(l)) return false;
  l->ready = false;
  return true;
}

/* False when there is nothing to do for now. */
static bool step(l_listener *l) {
  l_pool *pool = l->pool;
  if (pool->paused && !l->leaving) return stand_back(l);
  if (sd_timer_armed(&l->rest)) return stand_back(l);
  l_generation *g = sd_l_pool_current(pool);
  if (g == NULL) return l->leaving ? reject_one(l) : stand_back(l);
  if (claims_for_nobody(l)) return stand_back(l);
  sd_claim claim;
  /* What is about to close has no time for a rate. */
  int err = pool->full.line.count > 0 ? -EINPROGRESS : sd_l_accept_claim(pool, l->ticket, l->leaving, &claim);
  if (err == 0) return serve_one(l, g, &claim);
  return err != -EBUSY && step_when_full(l, err);
}

/* Of one that is in no list any more. */
static void end_listener(l_listener *l) {
  sd_loop_undefer(&sd_the_vm.loop, &l->again);
  end_rest(l);
  sd_scoreboard_count_accepting(sd_the_vm.scoreboard, l->pool->index, -1);
  if (l->source.fd >= 0) {
    sd_loop_unwatch(&sd_the_vm.loop, &l->source);
    close(l->source.fd);
  }
  if (l->offer != NULL) sd_l_offer_lost(l->offer, SD_ECLOSED);
  if (l->leaver != NULL) {
    lua_pushboolean(l->leaver->co, 1);
    sd_task_wake(l->leaver, 1);
  }
  free(l);
}

static void close_listener(l_listener *l) {
  l_listener **link = &l->pool->listeners;
  while (*link != l) link = &(*link)->next;
  l_pool *pool = l->pool;
  *link = l->next;
  end_listener(l);
  sd_l_accept_announce(pool);
}

/* How many may be accepted in this turn, and the rest after it. One that could accept
 * nothing anyhow does not ask. */
static uint32_t share_of(const l_listener *l, uint64_t *rest) {
  const l_generation *g = l->pool->paused || sd_timer_armed(&l->rest) ? NULL : acceptor_of(l);
  if (g == NULL || g->turn == LUA_NOREF) return ACCEPTS_A_TURN;
  return sd_l_acceptor_turn(l, g, ACCEPTS_A_TURN, rest);
}

/* What is to be done after a turn, or in place of the next one. A rest is for what was
 * accepted: who found no place looks again as soon as there is one. */
static void end_turn(l_listener *l, bool spent, bool taken, uint64_t rest) {
  if (taken && l->failures > 0) l->failures = 0;
  if (l->error != 0) {
    l->failures++;
    back_off(l);
  } else if (rest > 0 && (taken || spent)) {
    rest_for(l, rest, true);
    stand_back(l);
  } else if (spent) {
    sd_loop_defer(&sd_the_vm.loop, &l->again);
  }
}

static void accept_some(l_listener *l) {
  uint64_t rest = 0;
  uint32_t share = ACCEPTS_A_TURN, taken = 0;
  if (l->pool->acceptors > 0) share = share_of(l, &rest);
  while (taken < share && step(l)) taken++;
  end_turn(l, taken == share, taken > 0, rest);
  sd_l_accept_announce(l->pool);
  if (l->leaving && !l->ready && !l->more) close_listener(l);
}

static void on_again(sd_deferred *again) {
  accept_some((l_listener *)((char *)again - offsetof(l_listener, again)));
}

static void on_pending(sd_source *source, uint32_t events) {
  l_listener *l = (l_listener *)source;
  if (events & EPOLLHUP) l->hung_up = true;
  l->ready = true;
  if (!l->again.waiting) accept_some(l);
}

void sd_l_accept_init(l_pool *pool) {
  pool->retry.fire = on_retry;
}

void sd_l_accept_close(l_pool *pool) {
  sd_timers_disarm(&sd_the_vm.loop.timers, &pool->retry);
  for (l_listener *l; (l = pool->listeners) != NULL;) {
    pool->listeners = l->next;
    end_listener(l);
  }
  sd_l_accept_announce(pool);
}

/* accept(fd, id): takes over the descriptor; -1: it accepts what is offered. */
int sd_l_accept(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  int fd = (int)luaL_checkinteger(L, 2);
  int id = (int)luaL_checkinteger(L, 3);
  l_listener *l = calloc(1, sizeof *l);
  if (l == NULL) return sd_push_failure(L, -ENOMEM);
  l->source = (sd_source){ .fd = fd, .on_events = on_pending };
  l->again.run = on_again;
  l->rest.fire = on_rested;
  l->pool = pool;
  l->id = id;
  struct stat socket;
  if (fd >= 0 && fstat(fd, &socket) == 0) l->inode = socket.st_ino;
  int err = fd < 0 ? 0 : sd_loop_watch(&sd_the_vm.loop, &l->source, EPOLLIN);
  if (err) {
    free(l);
    return sd_push_failure(L, err);
  }
  l->next = pool->listeners;
  pool->listeners = l;
  sd_scoreboard_count_accepting(sd_the_vm.scoreboard, pool->index, 1);
  lua_pushboolean(L, 1);
  return 1;
}

static void unwait_leaving(sd_task *task) {
  ((l_listener *)task->waiting_for)->leaver = NULL;
}

static l_listener *find(const l_pool *pool, int id) {
  l_listener *l = pool->listeners;
  while (l != NULL && (l->id != id || (l->leaving && !l->more))) l = l->next;
  return l;
}

static void end_rest_now(l_listener *l) {
  if (!sd_timer_armed(&l->rest)) return;
  end_rest(l);
  sd_loop_defer(&sd_the_vm.loop, &l->again);
}

/* last_call(id): nothing new arrives there, so what its queue holds is accepted as fast
 * as there are places. */
int sd_l_last_call(lua_State *L) {
  l_listener *l = find(sd_l_pool_check(L), (int)luaL_checkinteger(L, 2));
  if (l == NULL) return 0;
  l->last_call = true;
  if (l->ordered) end_rest_now(l);
  return 0;
}

static bool flag(lua_State *L, const char *key) {
  if (!lua_istable(L, 3)) return false;
  lua_getfield(L, 3, key);
  bool yes = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return yes;
}

/* unaccept(id, { drain = bool, more = bool }) → true | nil, "ENOENT". `more`: it is leaving
 * from now on, but what is offered yet has its turn before it is drained. */
int sd_l_unaccept(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  l_listener *l = find(pool, (int)luaL_checkinteger(L, 2));
  if (l == NULL) return sd_push_failure(L, -ENOENT);
  bool drain = flag(L, "drain");
  l->more = flag(L, "more");
  lua_pushboolean(L, 1);
  if (l->more) {
    l->leaving = true;
    sd_loop_defer(&sd_the_vm.loop, &l->again);
    return 1;
  }
  if (!drain) {
    close_listener(l);
    return 1;
  }
  sd_task *task = sd_task_here(L, "unaccept");
  l->leaving = l->ready = true;
  end_rest(l);
  sd_loop_defer(&sd_the_vm.loop, &l->again);
  l->leaver = task;
  return sd_task_wait(L, task, l, unwait_leaving);
}
