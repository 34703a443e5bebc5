/* Alarms; the clock is a number of milliseconds. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/alarm.h"

static sd_alarm alarm_;
static sd_alarm_order order;
static uint64_t again;

static int setup(void **state) {
  (void)state;
  alarm_ = (sd_alarm){ 0 };
  order = (sd_alarm_order){ .threshold = 10, .cooldown = 5000 };
  return 0;
}

static bool at(uint64_t now, uint64_t count) {
  return sd_alarm_judge(&alarm_, &order, count, now, &again);
}

static void goes_off_at_the_threshold_and_not_below(void **state) {
  (void)state;
  assert_false(at(1000, 9));
  assert_int_equal(again, 0);
  assert_true(at(1001, 10));
  assert_int_equal(again, 6001);
}

static void goes_off_once_in_a_cooldown(void **state) {
  (void)state;
  assert_true(at(1000, 10));
  for (uint64_t now = 1001; now < 6000; now += 7) {
    assert_false(at(now, 15));
    assert_int_equal(again, 6000);
  }
  assert_true(at(6000, 10));
  assert_int_equal(again, 11000);
}

static void is_silent_below_and_ready_at_once_when_the_cooldown_is_over(void **state) {
  (void)state;
  assert_true(at(1000, 10));
  assert_false(at(6000, 9));
  assert_int_equal(again, 0);
  assert_true(at(7000, 10));
}

static void a_changed_cooldown_keeps_what_has_passed(void **state) {
  (void)state;
  assert_true(at(1000, 10));
  order.cooldown = 3000;
  assert_false(at(3999, 10));
  assert_int_equal(again, 4000);
  assert_true(at(4000, 10));
  order.cooldown = 60000;
  assert_false(at(10000, 10));
  assert_int_equal(again, 64000);
  order.cooldown = 1000;
  assert_true(at(10001, 10));
}

static void a_threshold_of_none_goes_off_for_everybody(void **state) {
  (void)state;
  order.threshold = 0;
  assert_true(at(1, 0));
}

#define TEST(name) cmocka_unit_test_setup(name, setup)

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST(goes_off_at_the_threshold_and_not_below),
    TEST(goes_off_once_in_a_cooldown),
    TEST(is_silent_below_and_ready_at_once_when_the_cooldown_is_over),
    TEST(a_changed_cooldown_keeps_what_has_passed),
    TEST(a_threshold_of_none_goes_off_for_everybody),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
