/* Turns: timers, tasks, sockets, and libuv when it has something to do. */
#include "loop.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include "bare.h"

/* With many connections, what belongs to the next ones is in no near cache: it is fetched while
 * the kernel works for those before. What is fetched in vain does no harm. */
static void fetch_ahead(const sd_loop *loop, int at) {
  if (at >= loop->batch_count) return;
  const char *source = loop->batch[at].data.ptr;
  if (source == NULL) return;
  for (int line = 0; line < SD_LOOP_FETCH; line++) __builtin_prefetch(source + (ptrdiff_t)line * 64, 1);
}

static void end_group(sd_loop *loop) {
  if (loop->on_group != NULL) loop->on_group(loop->owner);
}

/* In groups: what was received for some is taken in, and then all their tasks run. The same code
 * runs for one after the other and finds itself in the nearest cache. Nothing else overtakes
 * them: who is accepted comes after those who were there. */
static void run_batch(sd_loop *loop) {
  for (loop->batch_at = 0; loop->batch_at < loop->batch_count; loop->batch_at++) {
    struct epoll_event *event = &loop->batch[loop->batch_at];
    fetch_ahead(loop, loop->batch_at + 1);
    sd_source *source = event->data.ptr;
    if (source == NULL) continue;
    if (!source->groups) end_group(loop);
    source = event->data.ptr; /* what has run may have closed it */
    if (source != NULL) source->on_events(source, event->events);
    if (loop->batch_at % SD_LOOP_GROUP == SD_LOOP_GROUP - 1) end_group(loop);
  }
  end_group(loop);
  loop->batch_count = 0;
}

void sd_loop_defer(sd_loop *loop, sd_deferred *deferred) {
  if (deferred->waiting) return;
  deferred->waiting = true;
  deferred->turn = loop->turn;
  deferred->next = NULL;
  *loop->deferred_tail = deferred;
  loop->deferred_tail = &deferred->next;
}

void sd_loop_undefer(sd_loop *loop, sd_deferred *deferred) {
  if (!deferred->waiting) return;
  deferred->waiting = false;
  sd_deferred **link = &loop->deferred;
  while (*link != deferred) link = &(*link)->next;
  *link = deferred->next;
  if (*link == NULL) loop->deferred_tail = link;
}

/* Those put off during this turn wait for the next one. */
static void run_deferred(sd_loop *loop) {
  while (loop->deferred != NULL && loop->deferred->turn < loop->turn) {
    sd_deferred *d = loop->deferred;
    sd_loop_undefer(loop, d);
    d->run(d);
  }
}

static void on_libuv(sd_source *source, uint32_t events) {
  (void)events;
  sd_loop *loop = (sd_loop *)(void *)((char *)source - offsetof(sd_loop, libuv));
  loop->libuv_due = true;
}

/* How long a poll may take at most, in milliseconds; -1: for ever. From now on, and tasks have just run. */
static int patience(sd_loop *loop) {
  uv_update_time(&loop->uv);
  int libuv = uv_backend_timeout(&loop->uv);
  uint64_t next = sd_timers_next(&loop->timers), now = sd_loop_now(loop);
  if (next == UINT64_MAX) return libuv;
  uint64_t own = next > now ? next - now : 0;
  if (libuv >= 0 && (uint64_t)libuv < own) return libuv;
  return own < INT_MAX ? (int)own : INT_MAX;
}

static void poll_sockets(sd_loop *loop, int ms) {
  int n = sd_bare_epoll_wait(loop->epoll, loop->batch, SD_LOOP_BATCH, ms);
  uv_update_time(&loop->uv);
  if (n <= 0) return;
  loop->batch_count = n;
  run_batch(loop);
}

static void run_timers(sd_loop *loop) {
  uint64_t now = sd_loop_now(loop);
  if (sd_timers_next(&loop->timers) <= now) sd_timers_run(&loop->timers, now);
}

/* No descriptor tells of handles that close, descriptors that it has not registered yet, and timers. */
static bool is_libuv_due(const sd_loop *loop) {
  return loop->libuv_due || loop->libuv_always || uv_backend_timeout(&loop->uv) == 0;
}

static void poll_libuv(sd_loop *loop) {
  if (!is_libuv_due(loop)) return;
  loop->libuv_due = false;
  uv_run(&loop->uv, UV_RUN_NOWAIT);
}

void sd_loop_turn(sd_loop *loop, bool wait) {
  loop->turn++;
  run_deferred(loop);
  bool more = loop->on_turn != NULL && loop->on_turn(loop->owner);
  bool waits = wait && !more && !loop->stopped && loop->deferred == NULL;
  poll_sockets(loop, waits ? patience(loop) : 0);
  run_timers(loop);
  poll_libuv(loop);
}

void sd_loop_run(sd_loop *loop) {
  uv_update_time(&loop->uv);
  while (!loop->stopped) sd_loop_turn(loop, true);
  loop->stopped = false;
}

void sd_loop_stop(sd_loop *loop) {
  loop->stopped = true;
}

static void do_nothing(uv_prepare_t *presence) {
  (void)presence;
}

/* Level-triggered: libuv may leave some of it for its next turn. */
static int watch_libuv(sd_loop *loop) {
  loop->libuv = (sd_source){ .on_events = on_libuv, .fd = uv_backend_fd(&loop->uv), .groups = true };
  struct epoll_event event = { .events = EPOLLIN, .data.ptr = &loop->libuv };
  return epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->libuv.fd, &event) < 0 ? -errno : 0;
}

static int open_epoll(sd_loop *loop) {
  loop->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (loop->epoll < 0) return -errno;
  int err = watch_libuv(loop);
  if (err) close(loop->epoll);
  return err;
}

int sd_loop_init(sd_loop *loop) {
  int err = uv_loop_init(&loop->uv);
  if (err) return err;
  err = open_epoll(loop);
  if (err) {
    uv_loop_close(&loop->uv);
    return err;
  }
  loop->deferred_tail = &loop->deferred;
  uv_prepare_init(&loop->uv, &loop->presence);
  return uv_prepare_start(&loop->presence, do_nothing);
}

int sd_loop_watch(sd_loop *loop, sd_source *source, uint32_t events) {
  struct epoll_event event = { .events = events | EPOLLET, .data.ptr = source };
  return epoll_ctl(loop->epoll, EPOLL_CTL_ADD, source->fd, &event) < 0 ? -errno : 0;
}

void sd_loop_unwatch(sd_loop *loop, sd_source *source) {
  epoll_ctl(loop->epoll, EPOLL_CTL_DEL, source->fd, NULL);
  sd_loop_forget(loop, source);
}

void sd_loop_forget(sd_loop *loop, sd_source *source) {
  for (int i = loop->batch_at; i < loop->batch_count; i++)
    if (loop->batch[i].data.ptr == source) loop->batch[i].data.ptr = NULL;
}

int sd_loop_arm(sd_loop *loop, sd_timer *timer, uint64_t when) {
  return sd_timers_arm(&loop->timers, timer, when);
}

static void on_handle(uv_handle_t *handle, void *unused) {
  (void)unused;
  if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

void sd_loop_close(sd_loop *loop) {
  uv_walk(&loop->uv, on_handle, NULL);
  while (uv_run(&loop->uv, UV_RUN_DEFAULT) != 0) continue;
  int err = uv_loop_close(&loop->uv);
  assert(err == 0);
  (void)err;
  close(loop->epoll);
  sd_buffer_free(&loop->spare);
  sd_timers_free(&loop->timers);
}
