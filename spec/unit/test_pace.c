/* Slow peers, seen at the ends of periods in which at least 100 bytes are to move. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "net/pace.h"

static sd_pace pace;
static sd_pace_look look;

static int setup(void **state) {
  (void)state;
  pace = (sd_pace){ 0 };
  look = (sd_pace_look){ .awaits = SD_AWAITS_MESSAGE };
  return 0;
}

static bool after(uint64_t in, uint64_t out) {
  look.bytes_in += in;
  look.bytes_out += out;
  return sd_pace_too_slow(&pace, &look, 100);
}

static void silence_is_not_slow(void **state) {
  (void)state;
  for (int i = 0; i < 5; i++) assert_false(after(0, 0));
  look.awaits = SD_AWAITS_BYTES;
  for (int i = 0; i < 5; i++) assert_false(after(0, 0));
}

static void a_message_that_drags_on_is(void **state) {
  (void)state;
  look.begun = true;
  assert_false(after(1, 0)); /* it may have begun just now */
  assert_true(after(99, 0));
}

static void so_is_one_that_stops_half_way(void **state) {
  (void)state;
  look.begun = true;
  assert_false(after(5000, 0));
  assert_true(after(0, 0));
}

static void a_long_message_at_a_good_pace_is_not(void **state) {
  (void)state;
  look.begun = true;
  for (int i = 0; i < 100; i++) assert_false(after(100, 0));
}

static void neither_are_many_small_messages(void **state) {
  (void)state;
  for (int i = 0; i < 100; i++) {
    look.messages++;
    look.begun = i % 3 != 0;
    assert_false(after(10, 0));
  }
}

static void nobody_is_slow_whom_nobody_waits_for(void **state) {
  (void)state;
  look.begun = true;
  look.awaits = SD_AWAITS_NOTHING;
  for (int i = 0; i < 5; i++) assert_false(after(1, 0));
}

static void who_takes_too_little_is(void **state) {
  (void)state;
  look.sending = true;
  assert_false(after(0, 10));
  assert_false(after(0, 100));
  assert_true(after(1000, 99));
}

static void who_dribbles_on_and_on_is(void **state) {
  (void)state;
  look.awaits = SD_AWAITS_BYTES;
  assert_false(after(3, 0));
  assert_false(after(0, 0));
  assert_false(after(3, 0));
  assert_true(after(3, 0));
}

#define TEST(name) cmocka_unit_test_setup(name, setup)

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST(silence_is_not_slow),
    TEST(a_message_that_drags_on_is),
    TEST(so_is_one_that_stops_half_way),
    TEST(a_long_message_at_a_good_pace_is_not),
    TEST(neither_are_many_small_messages),
    TEST(nobody_is_slow_whom_nobody_waits_for),
    TEST(who_takes_too_little_is),
    TEST(who_dribbles_on_and_on_is),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
