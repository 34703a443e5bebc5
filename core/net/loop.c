/* libuv outside, an edge-triggered epoll inside. */
#include "loop.h"

#include <assert.h>
#include <errno.h>
#include <unistd.h>

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

static void on_epoll(uv_poll_t *poll, int status, int events) {
  sd_loop *loop = poll->data;
  (void)status;
  (void)events;
  int n = epoll_wait(loop->epoll, loop->batch, SD_LOOP_BATCH, 0);
  if (n <= 0) return;
  loop->batch_count = n;
  run_batch(loop);
}

static void on_clock(uv_timer_t *clock);

/* Once a turn, before the poll, and never from a timer: libuv runs one that is armed
 * for now in the same sweep, over and over, and sockets would never be looked at. */
static void set_clock(sd_loop *loop) {
  uint64_t next = sd_timers_next(&loop->timers);
  if (next == loop->clock_armed) return;
  loop->clock_armed = next;
  if (next == UINT64_MAX) {
    uv_timer_stop(&loop->clock);
    return;
  }
  uint64_t now = uv_now(&loop->uv);
  uv_timer_start(&loop->clock, on_clock, next > now ? next - now : 0, 0);
}

static void on_clock(uv_timer_t *clock) {
  sd_loop *loop = clock->data;
  loop->clock_armed = UINT64_MAX;
  sd_timers_run(&loop->timers, uv_now(&loop->uv));
}

static void on_awake(uv_idle_t *idle) {
  (void)idle; /* being active is all it does */
}

void sd_loop_stay_awake(sd_loop *loop) {
  uv_idle_start(&loop->awake, on_awake);
}

void sd_loop_defer(sd_loop *loop, sd_deferred *deferred) {
  if (deferred->waiting) return;
  deferred->waiting = true;
  deferred->turn = loop->turn;
  deferred->next = NULL;
  *loop->deferred_tail = deferred;
  loop->deferred_tail = &deferred->next;
  sd_loop_stay_awake(loop);
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

static void on_prepare(uv_prepare_t *prepare) {
  sd_loop *loop = prepare->data;
  loop->turn++;
  run_deferred(loop);
  bool more = loop->on_turn != NULL && loop->on_turn(loop->owner);
  if (more || loop->deferred != NULL)
    uv_idle_start(&loop->awake, on_awake);
  else
    uv_idle_stop(&loop->awake);
  set_clock(loop);
}

int sd_loop_init(sd_loop *loop) {
  int err = uv_loop_init(&loop->uv);
  if (err) return err;
  loop->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (loop->epoll < 0) {
    err = -errno;
    uv_loop_close(&loop->uv);
    return err;
  }
  err = uv_poll_init(&loop->uv, &loop->poll, loop->epoll);
  if (err) {
    close(loop->epoll);
    uv_loop_close(&loop->uv);
    return err;
  }
  loop->clock_armed = UINT64_MAX;
  loop->deferred_tail = &loop->deferred;
  loop->poll.data = loop->clock.data = loop->prepare.data = loop;
  uv_timer_init(&loop->uv, &loop->clock);
  uv_prepare_init(&loop->uv, &loop->prepare);
  uv_idle_init(&loop->uv, &loop->awake);
  uv_prepare_start(&loop->prepare, on_prepare);
  return uv_poll_start(&loop->poll, UV_READABLE, on_epoll);
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
