/* Orders for who holds its loop, and their answers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/order.h"
#include "base/scoreboard.h"

static sd_order order;
static char text[SD_ORDER_TEXT];

static int setup(void **state) {
  (void)state;
  sd_order_clear(&order);
  return 0;
}

static void has_no_answer_before_one_is_given(void **state) {
  (void)state;
  assert_int_equal(sd_order_told(&order, text), -1);
  assert_int_equal(sd_order_place(&order), 0);
  sd_order_give(&order, 7, false);
  assert_int_equal(sd_order_told(&order, text), -1);
  assert_int_equal(sd_order_place(&order), 0);
}

static void is_answered_for_its_own_stretch_only(void **state) {
  (void)state;
  sd_order_give(&order, 7, true);
  sd_order_note_place(&order, 7, 0x1234);
  sd_order_tell(&order, 7, "here");
  assert_int_equal(sd_order_told(&order, text), 4);
  assert_string_equal(text, "here");
  assert_int_equal(sd_order_place(&order), 0x1234);
  sd_order_give(&order, 8, true);
  assert_int_equal(sd_order_told(&order, text), -1);
  assert_int_equal(sd_order_place(&order), 0);
}

static void keeps_as_much_of_a_long_answer_as_there_is_room_for(void **state) {
  (void)state;
  char lengthy[2 * SD_ORDER_TEXT];
  memset(lengthy, 'x', sizeof lengthy);
  lengthy[sizeof lengthy - 1] = '\0';
  sd_order_give(&order, 7, false);
  sd_order_tell(&order, 7, lengthy);
  assert_int_equal(sd_order_told(&order, text), SD_ORDER_TEXT - 1);
}

static void ends_an_answer_that_somebody_has_written_over(void **state) {
  (void)state;
  sd_order_give(&order, 7, false);
  sd_order_tell(&order, 7, "here");
  memset(order.text, 'x', sizeof order.text);
  assert_int_equal(sd_order_told(&order, text), SD_ORDER_TEXT - 1);
}

static void asks_anew_what_is_left_after_each_collection(void **state) {
  (void)state;
  order.kept = 1000;
  sd_order_collect(&order);
  assert_int_equal(order.kept, 0);
  assert_true(order.collect && order.weigh);
}

static void is_given_only_to_who_is_in_the_stretch_that_was_seen(void **state) {
  (void)state;
  sd_scoreboard sb, own;
  assert_int_equal(sd_scoreboard_create(&sb, 2, 1), 0);
  assert_int_equal(sd_scoreboard_attach(&own, sb.fd, sb.bell, 1), 0);
  assert_false(sd_scoreboard_order(&sb, 1, 0, false));
  sd_scoreboard_slot_enter(&own, sd_scoreboard_clock(), 0, 1, 5);
  uint64_t seen = sd_scoreboard_stretch(&own);
  sd_scoreboard_slot_leave(&own);
  sd_scoreboard_slot_enter(&own, seen, 0, 1, 5);
  assert_int_not_equal(sd_scoreboard_stretch(&own), seen);
  assert_false(sd_scoreboard_order(&sb, 1, seen, false));
  assert_true(sd_scoreboard_order(&sb, 1, sd_scoreboard_stretch(&own), true));
  assert_int_equal(sb.slots[1].order.stretch, sd_scoreboard_stretch(&own));
  assert_true(sd_scoreboard_in_pool(&own));
  sd_scoreboard_slot_leave(&own);
  assert_false(sd_scoreboard_in_pool(&own));
  sd_scoreboard_slot_reap(&sb, 1);
  assert_int_equal(sb.slots[1].order.stretch, 0);
  sd_scoreboard_close(&own);
  sd_scoreboard_close(&sb);
}

static void preempted_handlers_stay_counted_when_their_process_has_ended(void **state) {
  (void)state;
  sd_scoreboard sb, own;
  sd_pool_view view;
  assert_int_equal(sd_scoreboard_create(&sb, 2, 1), 0);
  assert_int_equal(sd_scoreboard_attach(&own, sb.fd, sb.bell, 1), 0);
  assert_int_equal(sd_scoreboard_pool_open(&sb, 0, "p"), 0);
  sd_scoreboard_count_preempted(&own, 0);
  sd_scoreboard_slot_reap(&sb, 1);
  sd_scoreboard_pool_read(&sb, 0, &view);
  assert_int_equal(view.preempted, 1);
  sd_scoreboard_close(&own);
  sd_scoreboard_close(&sb);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(has_no_answer_before_one_is_given, setup),
    cmocka_unit_test_setup(is_answered_for_its_own_stretch_only, setup),
    cmocka_unit_test_setup(keeps_as_much_of_a_long_answer_as_there_is_room_for, setup),
    cmocka_unit_test_setup(ends_an_answer_that_somebody_has_written_over, setup),
    cmocka_unit_test_setup(asks_anew_what_is_left_after_each_collection, setup),
    cmocka_unit_test_setup(is_given_only_to_who_is_in_the_stretch_that_was_seen, setup),
    cmocka_unit_test_setup(preempted_handlers_stay_counted_when_their_process_has_ended, setup),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
