/* The loop: events of sources that go while others are handled, work put off, and a share for everybody. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/loop.h"

static sd_loop *loop;

static int open_loop(void **state) {
  (void)state;
  loop = calloc(1, sizeof *loop);
  return loop == NULL ? -1 : sd_loop_init(loop);
}

static int close_loop(void **state) {
  (void)state;
  sd_loop_close(loop);
  free(loop);
  return 0;
}

static void turn(void) {
  sd_loop_turn(loop, false);
}

typedef struct watched watched;
struct watched {
  sd_source source; /* first member */
  int peer, events;
  void (*then)(watched *w);
};

static void on_events(sd_source *source, uint32_t events) {
  watched *w = (watched *)source;
  (void)events;
  w->events++;
  if (w->then != NULL) w->then(w);
}

static watched *watch(void) {
  int fds[2];
  watched *w = calloc(1, sizeof *w);
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
  w->source = (sd_source){ .fd = fds[0], .on_events = on_events };
  w->peer = fds[1];
  assert_int_equal(sd_loop_watch(loop, &w->source, EPOLLIN), 0);
  return w;
}

static void drop(watched *w) {
  sd_loop_unwatch(loop, &w->source);
  close(w->source.fd);
  close(w->peer);
  free(w);
}

static void poke(const watched *w) {
  assert_int_equal(write(w->peer, "x", 1), 1);
}

static void tells_once_for_each_edge(void **state) {
  (void)state;
  watched *w = watch();
  poke(w);
  turn();
  turn();
  assert_int_equal(w->events, 1);
  poke(w);
  turn();
  assert_int_equal(w->events, 2);
  drop(w);
}

/* ---- a source that goes while others of its batch are handled ---- */

enum { CROWD = 20 };
static watched *crowd[CROWD];
static int survivors;

static void drop_all_others(watched *me) {
  for (int i = 0; i < CROWD; i++) {
    if (crowd[i] == me || crowd[i] == NULL) continue;
    drop(crowd[i]);
    crowd[i] = NULL;
  }
  survivors++;
}

static void forgets_events_of_sources_that_are_gone(void **state) {
  (void)state;
  survivors = 0;
  for (int i = 0; i < CROWD; i++) {
    crowd[i] = watch();
    crowd[i]->then = drop_all_others;
    poke(crowd[i]);
  }
  turn();
  assert_int_equal(survivors, 1);
  for (int i = 0; i < CROWD; i++)
    if (crowd[i] != NULL) drop(crowd[i]);
}

static void drop_itself(watched *w) {
  drop(w);
  survivors++;
}

static void lets_a_source_end_itself(void **state) {
  (void)state;
  survivors = 0;
  for (int i = 0; i < CROWD; i++) {
    crowd[i] = watch();
    crowd[i]->then = drop_itself;
    poke(crowd[i]);
  }
  turn();
  assert_int_equal(survivors, CROWD);
}

/* ---- work put off ---- */

static sd_deferred first, second;
static char order[32];

static void say(char c) {
  order[strlen(order)] = c;
}

static void run_first(sd_deferred *d) {
  say('1');
  sd_loop_defer(loop, d);
}

static void run_second(sd_deferred *d) {
  (void)d;
  say('2');
}

static void runs_deferred_work_once_a_turn_in_order(void **state) {
  (void)state;
  memset(order, 0, sizeof order);
  first = (sd_deferred){ .run = run_first };
  second = (sd_deferred){ .run = run_second };
  sd_loop_defer(loop, &first);
  sd_loop_defer(loop, &second);
  sd_loop_defer(loop, &first); /* twice is once */
  turn();
  turn();
  turn();
  assert_string_equal(order, "12"
                             "11");
  sd_loop_undefer(loop, &first);
  sd_loop_undefer(loop, &first);
  turn();
  assert_string_equal(order, "1211");
}

static void undefer_second(sd_deferred *d) {
  (void)d;
  say('u');
  sd_loop_undefer(loop, &second);
  sd_loop_defer(loop, &second); /* and at the end again: in the next turn */
}

static void takes_deferred_work_off_while_it_runs(void **state) {
  (void)state;
  memset(order, 0, sizeof order);
  first = (sd_deferred){ .run = undefer_second };
  second = (sd_deferred){ .run = run_second };
  sd_loop_defer(loop, &first);
  sd_loop_defer(loop, &second);
  turn();
  assert_string_equal(order, "u");
  turn();
  assert_string_equal(order, "u2");
}

/* ---- a share for everybody ---- */

static sd_timer hasty;
static int fired;

static void arm_for_now(sd_timer *timer) {
  fired++;
  uv_update_time(&loop->uv);
  sd_loop_arm(loop, timer, sd_loop_now(loop));
}

static void looks_at_sockets_although_a_timer_is_always_due(void **state) {
  (void)state;
  watched *w = watch();
  fired = 0;
  hasty = (sd_timer){ .fire = arm_for_now };
  sd_loop_arm(loop, &hasty, sd_loop_now(loop));
  poke(w);
  for (int i = 0; i < 5; i++) turn();
  assert_int_equal(w->events, 1);
  assert_in_range(fired, 3, 5);
  sd_timers_disarm(&loop->timers, &hasty);
  drop(w);
}

static uint64_t fired_at;

static void note_time(sd_timer *timer) {
  (void)timer;
  fired_at = sd_loop_now(loop);
}

/* No other event wakes the loop here: the clock alone must. */
static void wakes_for_the_first_timer_however_they_move(void **state) {
  (void)state;
  sd_timer far = { .fire = note_time }, near = { .fire = note_time };
  uint64_t start = sd_loop_now(loop);
  fired_at = 0;
  sd_loop_arm(loop, &far, start + 60000);
  turn();
  sd_loop_arm(loop, &near, start + 40);
  turn();
  sd_loop_arm(loop, &near, start + 20); /* earlier again */
  while (fired_at == 0) sd_loop_turn(loop, true);
  assert_in_range(fired_at, start + 20, start + 5000);
  sd_timers_disarm(&loop->timers, &far);
}

static bool stay(void *count) {
  return --*(int *)count > 0;
}

static void does_not_block_while_there_is_more_to_do(void **state) {
  int turns = 10;
  (void)state;
  loop->on_turn = stay;
  loop->owner = &turns;
  while (turns > 1) sd_loop_turn(loop, true); /* hangs if one of them blocks */
}

/* ---- its clock ---- */

static uint64_t burnt_until, heard_at;

static bool burn(void *unused) {
  (void)unused;
  uint64_t start = uv_hrtime();
  while (uv_hrtime() - start < 20000000) continue;
  burnt_until = uv_hrtime() / 1000000;
  return true; /* so the poll does not wait */
}

static void note_hearing(watched *w) {
  (void)w;
  heard_at = sd_loop_now(loop);
}

/* Waits that begin there would be over before their time. */
static void tells_sockets_the_time_after_the_tasks(void **state) {
  (void)state;
  watched *w = watch();
  w->then = note_hearing;
  loop->on_turn = burn;
  poke(w);
  turn();
  assert_int_equal(w->events, 1);
  assert_true(heard_at >= burnt_until);
  drop(w);
}

/* ---- libuv, the guest ---- */

static int guests;

static void guest_timer(uv_timer_t *timer) {
  (void)timer;
  guests++;
}

static void guest_poll(uv_poll_t *poll, int status, int events) {
  (void)status;
  (void)events;
  guests++;
  uv_poll_stop(poll);
}

static void guest_work(uv_work_t *work) {
  (void)work;
}

static void guest_worked(uv_work_t *work, int status) {
  (void)work;
  (void)status;
  guests++;
}

static void on_gone(uv_handle_t *guest) {
  guest->data = NULL;
}

static void see_off(void *guest) {
  uv_handle_t *handle = guest;
  handle->data = loop;
  uv_close(handle, on_gone);
  while (handle->data != NULL) sd_loop_turn(loop, true);
}

/* No socket and no timer of ours wakes the loop in these: it hangs if libuv's do not. */
static void wakes_for_a_timer_of_libuv(void **state) {
  uv_timer_t timer;
  (void)state;
  guests = 0;
  uv_timer_init(&loop->uv, &timer);
  uv_timer_start(&timer, guest_timer, 20, 0);
  while (guests == 0) sd_loop_turn(loop, true);
  see_off(&timer);
}

static void wakes_for_a_descriptor_that_libuv_has_not_registered_yet(void **state) {
  uv_poll_t poll;
  int fds[2];
  (void)state;
  guests = 0;
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
  sd_loop_turn(loop, false);
  uv_poll_init(&loop->uv, &poll, fds[0]);
  uv_poll_start(&poll, UV_READABLE, guest_poll);
  assert_int_equal(write(fds[1], "x", 1), 1);
  while (guests == 0) sd_loop_turn(loop, true);
  see_off(&poll);
  close(fds[0]);
  close(fds[1]);
}

static void wakes_for_work_that_a_thread_has_done(void **state) {
  uv_work_t work;
  (void)state;
  guests = 0;
  uv_queue_work(&loop->uv, &work, guest_work, guest_worked);
  while (guests == 0) sd_loop_turn(loop, true);
}

static void serves_libuv_although_there_is_always_more_to_do(void **state) {
  int turns = 1 << 30;
  (void)state;
  loop->on_turn = stay;
  loop->owner = &turns;
  wakes_for_a_timer_of_libuv(NULL);
  wakes_for_a_descriptor_that_libuv_has_not_registered_yet(NULL);
  wakes_for_work_that_a_thread_has_done(NULL);
}

static void guest_stops(uv_timer_t *timer) {
  (void)timer;
  sd_loop_stop(loop);
}

static void runs_until_it_is_stopped(void **state) {
  uv_timer_t timer;
  (void)state;
  uv_timer_init(&loop->uv, &timer);
  for (int i = 0; i < 2; i++) {
    uv_timer_start(&timer, guest_stops, 1, 0);
    sd_loop_run(loop);
  }
  see_off(&timer);
}

static bool stop_now(void *unused) {
  (void)unused;
  sd_loop_stop(loop);
  return false;
}

/* Nothing would wake it if it waited once more. */
static void does_not_wait_once_it_is_stopped(void **state) {
  (void)state;
  loop->on_turn = stop_now;
  sd_loop_run(loop);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_loop, close_loop)
  const struct CMUnitTest tests[] = {
    TEST(tells_once_for_each_edge),
    TEST(forgets_events_of_sources_that_are_gone),
    TEST(lets_a_source_end_itself),
    TEST(runs_deferred_work_once_a_turn_in_order),
    TEST(takes_deferred_work_off_while_it_runs),
    TEST(looks_at_sockets_although_a_timer_is_always_due),
    TEST(wakes_for_the_first_timer_however_they_move),
    TEST(does_not_block_while_there_is_more_to_do),
    TEST(tells_sockets_the_time_after_the_tasks),
    TEST(wakes_for_a_timer_of_libuv),
    TEST(wakes_for_a_descriptor_that_libuv_has_not_registered_yet),
    TEST(wakes_for_work_that_a_thread_has_done),
    TEST(serves_libuv_although_there_is_always_more_to_do),
    TEST(runs_until_it_is_stopped),
    TEST(does_not_wait_once_it_is_stopped),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
