/* Policies choose exactly, and only among those that are there. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>

#include "base/binding.h"

#define SLOTS 5

/* We are slot 1; 2 and 3 can be reached, 4 cannot. Loops have the slot's number. */
typedef struct {
  sd_scoreboard whole, ours;
  sd_reach reach;
} fixture;

static int setup(void **state) {
  fixture *f = calloc(1, sizeof *f);
  if (f == NULL || sd_scoreboard_create(&f->whole, SLOTS, 1) != 0) return -1;
  sd_scoreboard_pool_open(&f->whole, 0, "web");
  if (sd_scoreboard_attach(&f->ours, f->whole.fd, f->whole.bell, 1) != 0) return -1;
  for (int32_t i = 1; i < SLOTS; i++) {
    f->whole.slots[i].pid = 100 + i;
    f->whole.slots[i].loop = i;
    f->whole.slots[i].state = SD_SLOT_RUNNING;
    sd_scoreboard_counters_of(&f->whole, (uint32_t)i, 0)->accepting = 1;
  }
  for (uint32_t i = 2; i < 4; i++) sd_reach_set(&f->reach, (sd_scoreboard_party){ i, 100 + (int32_t)i }, (int32_t)i);
  *state = f;
  return 0;
}

static int teardown(void **state) {
  fixture *f = *state;
  sd_scoreboard_close(&f->ours);
  sd_scoreboard_close(&f->whole);
  free(f);
  return 0;
}

static _Atomic uint64_t *connections(fixture *f, uint32_t slot) {
  return &sd_scoreboard_counters_of(&f->whole, slot, 0)->connections;
}

static uint32_t next(fixture *f, sd_binding binding, int cpu) {
  assert_int_equal(sd_scoreboard_reserve(&f->ours, 0), 0);
  return sd_binding_assign(&f->ours, 0, &binding, &f->reach, cpu).slot;
}

static uint32_t next_of(fixture *f, sd_binding_kind kind) {
  return next(f, (sd_binding){ kind, 0 }, -1);
}

static void least_connections_are_within_one(void **state) {
  fixture *f = *state;
  *connections(f, 2) = 7;
  for (int i = 0; i < 23; i++) next_of(f, SD_BINDING_LEAST_CONNECTIONS);
  for (uint32_t slot = 1; slot < 4; slot++) assert_int_equal(*connections(f, slot), 10);
  assert_int_equal(*connections(f, 4), 0);
  sd_pool_view view;
  sd_scoreboard_pool_read(&f->whole, 0, &view);
  assert_int_equal(view.reserved, 23);
  assert_int_equal(view.accepted, 23);
}

static void round_robin_goes_in_turn(void **state) {
  static const uint32_t expected[] = { 1, 2, 3, 1, 2, 3, 1 };
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
    assert_int_equal(next_of(*state, SD_BINDING_ROUND_ROBIN), expected[i]);
}

static void a_loop_is_meant_by_number(void **state) {
  assert_int_equal(next(*state, (sd_binding){ SD_BINDING_LOOP, 3 }, -1), 3);
  assert_int_equal(next(*state, (sd_binding){ SD_BINDING_LOOP, 4 }, -1), 1); /* out of reach */
}

static void processors_go_round_the_loops(void **state) {
  sd_binding cpu = { SD_BINDING_CPU, 0 };
  for (int i = 0; i < 9; i++) assert_int_equal(next(*state, cpu, i), i % 3 + 1);
  assert_int_equal(next(*state, cpu, -1), 1);
}

/* We are loop 5 of 2, 5 and 9, whatever the order in which they came. */
static void they_go_by_the_numbers_of_the_loops(void **state) {
  static const uint32_t expected[] = { 3, 1, 2, 3, 1, 2 };
  fixture *f = *state;
  f->whole.slots[1].loop = 5;
  f->whole.slots[2].loop = 9;
  f->whole.slots[3].loop = 2;
  sd_reach_set(&f->reach, (sd_scoreboard_party){ 2, 102 }, 9);
  sd_reach_set(&f->reach, (sd_scoreboard_party){ 3, 103 }, 2);
  for (int i = 0; i < 6; i++) assert_int_equal(next(f, (sd_binding){ SD_BINDING_CPU, 0 }, i), expected[i]);
}

static void auto_waits_until_it_is_worth_it(void **state) {
  fixture *f = *state;
  sd_binding binding = { SD_BINDING_AUTO, 0 };
  *connections(f, 1) = 115;
  *connections(f, 2) = 120;
  *connections(f, 3) = 100;
  assert_false(sd_binding_matters(&f->ours, 0, &binding, &f->reach));
  *connections(f, 1) = 126;
  assert_true(sd_binding_matters(&f->ours, 0, &binding, &f->reach));
  assert_int_equal(next(f, binding, -1), 3);
  sd_scoreboard_counters_of(&f->whole, 3, 0)->accepting = 0;
  assert_false(sd_binding_matters(&f->ours, 0, &binding, &f->reach));
}

/* It looks at some of them for each accept, and at each of them before long. */
static void auto_finds_one_among_very_many(void **state) {
  enum { LOOPS = 64, SOON = 8 };
  sd_scoreboard sb;
  sd_reach reach = { 0 };
  sd_binding binding = { SD_BINDING_AUTO, 0 };
  (void)state;
  assert_int_equal(sd_scoreboard_create(&sb, LOOPS, 1), 0);
  sb.slot = 0;
  for (uint32_t i = 0; i < LOOPS; i++) {
    sb.slots[i].pid = 100;
    sb.slots[i].loop = (int32_t)i;
    sb.slots[i].state = SD_SLOT_RUNNING;
    sd_scoreboard_counters_of(&sb, i, 0)->accepting = 1;
    sd_scoreboard_counters_of(&sb, i, 0)->connections = 50;
    if (i > 0) sd_reach_set(&reach, (sd_scoreboard_party){ i, 100 }, (int32_t)i);
  }
  for (uint32_t free = 1; free < LOOPS; free++) {
    sd_scoreboard_counters_of(&sb, free, 0)->connections = 0;
    int accepts = 0;
    for (; accepts < SOON && !sd_binding_matters(&sb, 0, &binding, &reach); accepts++)
      sd_counter_add(&sd_scoreboard_counters(&sb, 0)->accepted, 1);
    assert_in_range(accepts, 0, SOON - 1);
    sd_scoreboard_counters_of(&sb, free, 0)->connections = 50;
  }
  sd_scoreboard_close(&sb);
}

static void only_who_serves_gets_any(void **state) {
  fixture *f = *state;
  *connections(f, 1) = 50;
  f->whole.slots[2].state = SD_SLOT_STUCK;
  f->whole.slots[3].pid = 999; /* another process by now */
  assert_int_equal(next_of(f, SD_BINDING_LEAST_CONNECTIONS), 1);
  f->whole.slots[3].pid = 103;
  assert_int_equal(next_of(f, SD_BINDING_LEAST_CONNECTIONS), 3);
  sd_reach_set(&f->reach, (sd_scoreboard_party){ 3, 0 }, 3);
  assert_int_equal(next_of(f, SD_BINDING_LEAST_CONNECTIONS), 1);
}

static void policies_have_names(void **state) {
  (void)state;
  assert_int_equal(sd_binding_named("least_connections"), SD_BINDING_LEAST_CONNECTIONS);
  assert_int_equal(sd_binding_named("kernel"), SD_BINDING_KERNEL);
  assert_int_equal(sd_binding_named("fastest"), -1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST(least_connections_are_within_one),
    TEST(round_robin_goes_in_turn),
    TEST(a_loop_is_meant_by_number),
    TEST(processors_go_round_the_loops),
    TEST(they_go_by_the_numbers_of_the_loops),
    TEST(auto_waits_until_it_is_worth_it),
    TEST(auto_finds_one_among_very_many),
    TEST(only_who_serves_gets_any),
    TEST(policies_have_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
