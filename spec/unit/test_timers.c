/* The heap of deadlines against a plain list, and what a timer may do while timers fire. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "net/timers.h"

enum { TIMERS = 300, STEPS = 200000 };

typedef struct {
  sd_timer timer; /* first member */
  bool armed;     /* what the list says */
  uint64_t when;
  int fired;
} watched;

static sd_timers timers;
static watched all[TIMERS];
static uint64_t last; /* when of the one fired last */

static void note(sd_timer *timer) {
  watched *w = (watched *)timer;
  assert_true(w->armed);
  assert_false(sd_timer_armed(timer));
  assert_true(w->when >= last);
  last = w->when;
  w->armed = false;
  w->fired++;
}

static uint64_t next_in_list(void) {
  uint64_t next = UINT64_MAX;
  for (int i = 0; i < TIMERS; i++)
    if (all[i].armed && all[i].when < next) next = all[i].when;
  return next;
}

static void random_step(uint64_t now) {
  watched *w = &all[rand() % TIMERS];
  if (rand() % 4 == 0) {
    sd_timers_disarm(&timers, &w->timer);
    w->armed = false;
    return;
  }
  w->when = now + (uint64_t)(rand() % 50);
  w->armed = true;
  assert_int_equal(sd_timers_arm(&timers, &w->timer, w->when), 0);
}

static void fires_what_is_due_in_order(void **state) {
  (void)state;
  srand(1);
  uint64_t now = 1000;
  for (int i = 0; i < TIMERS; i++) all[i].timer.fire = note;
  for (int i = 0; i < STEPS; i++) {
    random_step(now);
    assert_int_equal(sd_timers_next(&timers), next_in_list());
    if (rand() % 10 != 0) continue;
    now += (uint64_t)(rand() % 20);
    last = 0;
    sd_timers_run(&timers, now);
    assert_true(next_in_list() > now);
  }
  for (int i = 0; i < TIMERS; i++) assert_int_equal(sd_timer_armed(&all[i].timer), all[i].armed);
  sd_timers_free(&timers);
  memset(all, 0, sizeof all);
}

/* ---- what happens while they fire ---- */

static char order[16];

static void say(char c) {
  order[strlen(order)] = c;
}

static sd_timer again, other, later;

static void fire_again(sd_timer *timer) {
  say('a');
  sd_timers_arm(&timers, timer, 10); /* long past */
}

static void fire_other(sd_timer *timer) {
  (void)timer;
  say('o');
}

static void a_timer_armed_for_now_waits_for_the_next_run(void **state) {
  (void)state;
  memset(order, 0, sizeof order);
  again.fire = fire_again;
  other.fire = later.fire = fire_other;
  sd_timers_arm(&timers, &again, 10);
  sd_timers_arm(&timers, &other, 20);
  for (int i = 0; i < 50; i++) { /* a full heap gives nobody more turns */
    all[i].timer.fire = fire_other;
    sd_timers_arm(&timers, &all[i].timer, 1000);
  }
  sd_timers_run(&timers, 20);
  assert_string_equal(order, "ao");
  assert_int_equal(sd_timers_next(&timers), 20);
  sd_timers_run(&timers, 20);
  sd_timers_run(&timers, 21);
  assert_string_equal(order, "aoaa");
  sd_timers_free(&timers);
  memset(all, 0, sizeof all);
  again = other = later = (sd_timer){ 0 };
}

static void disarm_later(sd_timer *timer) {
  (void)timer;
  say('d');
  sd_timers_disarm(&timers, &later);
}

static void a_timer_that_is_disarmed_by_another_does_not_fire(void **state) {
  (void)state;
  memset(order, 0, sizeof order);
  other.fire = disarm_later;
  later.fire = fire_other;
  sd_timers_arm(&timers, &later, 20);
  sd_timers_arm(&timers, &other, 10);
  sd_timers_run(&timers, 30);
  assert_string_equal(order, "d");
  sd_timers_disarm(&timers, &later); /* twice is harmless */
  assert_int_equal(sd_timers_next(&timers), UINT64_MAX);
  sd_timers_free(&timers);
}

static void one_that_moves_for_now_lets_those_that_are_due_go_first(void **state) {
  (void)state;
  memset(order, 0, sizeof order);
  again.fire = fire_again;
  other.fire = fire_other;
  sd_timers_run(&timers, 100);
  sd_timers_arm(&timers, &other, 100);
  sd_timers_arm(&timers, &again, 500);
  sd_timers_arm(&timers, &again, 0);
  sd_timers_run(&timers, 100);
  assert_int_equal(strlen(order), 2);
  sd_timers_run(&timers, 100);
  assert_int_equal(strlen(order), 3);
  sd_timers_free(&timers);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(fires_what_is_due_in_order),
    cmocka_unit_test(a_timer_armed_for_now_waits_for_the_next_run),
    cmocka_unit_test(a_timer_that_is_disarmed_by_another_does_not_fire),
    cmocka_unit_test(one_that_moves_for_now_lets_those_that_are_due_go_first),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
