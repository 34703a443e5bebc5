/* Token buckets, and connections counted by network; the clock is a number. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "base/headcount.h"

#define SECOND UINT64_C(1000000000)
#define SLOTS 4

static const uint64_t seed = 42;

static int setup(void **state) {
  *state = calloc(1, sd_headcount_size(SLOTS));
  return *state == NULL;
}

static int teardown(void **state) {
  free(*state);
  return 0;
}

static int enter(sd_headcount *h, uint32_t slot, uint64_t network, uint32_t most, uint32_t *ticket) {
  sd_headcount_key key = { { network } };
  sd_headcount_limits limits = { .connections = most };
  return sd_headcount_enter(h, SLOTS, slot, &key, seed, &limits, 1, ticket);
}

static int taken(sd_rate rate, uint64_t *bucket, uint64_t now) {
  int n = 0;
  while (sd_bucket_wait(*bucket, &rate, now) == 0) {
    *bucket = sd_bucket_take(*bucket, &rate, now);
    n++;
  }
  return n;
}

static void a_bucket_gives_a_burst_and_then_its_rate(void **state) {
  (void)state;
  sd_rate rate = sd_rate_of(10, 5);
  uint64_t bucket = 0, now = 100 * SECOND;
  assert_int_equal(taken(rate, &bucket, now), 5);
  assert_int_equal(sd_bucket_wait(bucket, &rate, now), SECOND / 10);
  assert_int_equal(taken(rate, &bucket, now + SECOND / 10), 1);
  assert_int_equal(taken(rate, &bucket, now + SECOND * 4 / 10), 3);
  assert_int_equal(taken(rate, &bucket, now + 60 * SECOND), 5);
}

static void what_was_taken_for_nothing_can_be_returned(void **state) {
  (void)state;
  sd_rate rate = sd_rate_of(1, 1);
  uint64_t bucket = sd_bucket_take(0, &rate, SECOND);
  assert_int_equal(sd_bucket_wait(bucket, &rate, SECOND), SECOND);
  assert_int_equal(sd_bucket_wait(sd_bucket_return(bucket, &rate), &rate, SECOND), 0);
}

static void a_network_has_its_limit_over_all_slots(void **state) {
  uint32_t t[4];
  assert_int_equal(enter(*state, 0, 7, 2, &t[0]), 0);
  assert_int_equal(enter(*state, 3, 7, 2, &t[1]), 0);
  assert_int_equal(enter(*state, 1, 7, 2, &t[2]), -EUSERS);
  assert_int_equal(enter(*state, 1, 8, 2, &t[2]), 0);
  sd_headcount_leave(*state, SLOTS, 3, t[1]);
  assert_int_equal(enter(*state, 1, 7, 2, &t[3]), 0);
}

static void the_dead_hold_nothing(void **state) {
  uint32_t t;
  for (uint64_t network = 1; network <= 100; network++) assert_int_equal(enter(*state, 2, network, 1, &t), 0);
  assert_int_equal(enter(*state, 0, 5, 1, &t), -EUSERS);
  sd_headcount_reap(*state, SLOTS, 2);
  for (uint64_t network = 1; network <= 100; network++) assert_int_equal(enter(*state, 0, network, 1, &t), 0);
}

static void a_moved_connection_is_counted_where_it_is(void **state) {
  uint32_t t;
  assert_int_equal(enter(*state, 0, 5, 1, &t), 0);
  sd_headcount_adopt(*state, SLOTS, 1, t);
  sd_headcount_leave(*state, SLOTS, 0, t);
  sd_headcount_reap(*state, SLOTS, 0);
  assert_int_equal(enter(*state, 0, 5, 1, &t), -EUSERS);
  sd_headcount_reap(*state, SLOTS, 1);
  assert_int_equal(enter(*state, 0, 5, 1, &t), 0);
}

static void what_a_crash_left_half_done_is_mended(void **state) {
  uint32_t t;
  for (uint64_t network = 1; network <= 1000; network++) assert_int_equal(enter(*state, 1, network, 1, &t), 0);
  sd_headcount_mend(*state, SLOTS, seed);
  for (uint64_t network = 1; network <= 1000; network++) assert_int_equal(enter(*state, 0, network, 1, &t), -EUSERS);
}

static void networks_that_are_gone_make_room(void **state) {
  uint32_t t;
  for (uint64_t network = 0; network < 10 * SD_HEADCOUNT_NETWORKS; network++) {
    assert_int_equal(enter(*state, 0, network, 1, &t), 0);
    assert_int_not_equal(t, 0);
    assert_int_equal(enter(*state, 0, network, 1, &(uint32_t){ 0 }), -EUSERS);
    sd_headcount_leave(*state, SLOTS, 0, t);
  }
}

static void a_full_table_counts_no_more_but_refuses_nobody(void **state) {
  uint32_t t, other;
  for (uint64_t network = 0; network < SD_HEADCOUNT_NETWORKS; network++)
    assert_int_equal(enter(*state, 0, network, 1, &t), 0);
  assert_int_equal(enter(*state, 0, 1 << 20, 1, &other), 0);
  assert_int_equal(other, 0);
  sd_headcount_leave(*state, SLOTS, 0, other);
  assert_int_equal(enter(*state, 0, 3, 1, &other), -EUSERS);
}

static void each_network_has_a_rate_of_its_own(void **state) {
  sd_headcount_limits limits = { .rate = sd_rate_of(2, 3) };
  uint32_t t;
  for (uint64_t network = 1; network <= 2; network++) {
    sd_headcount_key key = { { network } };
    for (int i = 0; i < 3; i++)
      assert_int_equal(sd_headcount_enter(*state, SLOTS, 0, &key, seed, &limits, SECOND, &t), 0);
    assert_int_equal(sd_headcount_enter(*state, SLOTS, 1, &key, seed, &limits, SECOND, &t), -EAGAIN);
    assert_int_equal(sd_headcount_enter(*state, SLOTS, 1, &key, seed, &limits, 3 * SECOND / 2, &t), 0);
  }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST(a_bucket_gives_a_burst_and_then_its_rate),
    TEST(what_was_taken_for_nothing_can_be_returned),
    TEST(a_network_has_its_limit_over_all_slots),
    TEST(the_dead_hold_nothing),
    TEST(a_moved_connection_is_counted_where_it_is),
    TEST(what_a_crash_left_half_done_is_mended),
    TEST(networks_that_are_gone_make_room),
    TEST(a_full_table_counts_no_more_but_refuses_nobody),
    TEST(each_network_has_a_rate_of_its_own),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
