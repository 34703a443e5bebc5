/* Waiting in line; the clock is a number of milliseconds. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/line.h"

#define MANY 20000

static sd_line line;
static sd_waiter people[MANY];

static int setup(void **state) {
  (void)state;
  memset(&line, 0, sizeof line);
  return 0;
}

static long serve(void) {
  sd_waiter *w = sd_line_next(&line);
  if (w == NULL) return -1;
  sd_line_leave(&line, w);
  return w - people;
}

static void come(int from, int to, uint64_t key) {
  for (int i = from; i < to; i++) sd_line_join(&line, &people[i], key, 1000 + (uint64_t)i);
}

static void fifo_serves_who_came_first(void **state) {
  (void)state;
  come(0, 5, 0);
  sd_line_leave(&line, &people[2]);
  for (long i = 0; i < 5; i++)
    if (i != 2) assert_int_equal(serve(), i);
  assert_int_equal(serve(), -1);
  assert_int_equal(line.count, 0);
}

static void lifo_serves_who_came_last(void **state) {
  (void)state;
  sd_line_set(&line, SD_LINE_LIFO, 0, 0);
  come(0, 3, 0);
  assert_int_equal(serve(), 2);
  come(3, 4, 0);
  assert_int_equal(serve(), 3);
  assert_int_equal(serve(), 1);
  assert_int_equal(serve(), 0);
}

static void fair_lets_keys_take_turns(void **state) {
  (void)state;
  sd_line_set(&line, SD_LINE_FAIR, 0, 0);
  come(0, 1000, 1);
  come(1000, 1002, 2);
  come(1002, 1003, 3);
  long seen[6], modest = 0;
  for (int i = 0; i < 6; i++) {
    seen[i] = serve();
    modest += seen[i] >= 1000;
  }
  assert_int_equal(modest, 3); /* all of them within two rounds */
  for (int i = 0; i < 997; i++) assert_true(serve() < 1000);
  assert_int_equal(serve(), -1);
}

static void changing_the_kind_loses_nobody(void **state) {
  (void)state;
  come(0, 100, 7);
  sd_line_set(&line, SD_LINE_FAIR, 0, 0);
  assert_int_equal(serve(), 0);
  sd_line_set(&line, SD_LINE_LIFO, 0, 0);
  assert_int_equal(serve(), 99);
  sd_line_set(&line, SD_LINE_FIFO, 0, 0);
  for (long i = 1; i < 99; i++) assert_int_equal(serve(), i);
}

static void codel_spares_a_burst_that_passes(void **state) {
  (void)state;
  sd_line_set(&line, SD_LINE_CODEL, 50, 1000);
  come(0, 100, 0);
  for (uint64_t now = 1100; line.count > 0; now += 9) {
    assert_false(sd_line_overdue(&line, now));
    serve();
  }
}

/* 150 come a second and 100 can be served: what a fifo would make of it is ever
 * longer waits for all. */
static void codel_keeps_the_wait_near_its_target_under_overload(void **state) {
  (void)state;
  sd_line_set(&line, SD_LINE_CODEL, 50, 500);
  int came = 0, dropped = 0, served = 0;
  uint64_t late = 0;
  for (uint64_t ms = 1; ms <= 60000; ms++) {
    if (ms * 150 / 1000 > (ms - 1) * 150 / 1000) sd_line_join(&line, &people[came++], 0, ms);
    if (ms % 10 != 0) continue;
    while (sd_line_overdue(&line, ms)) {
      serve();
      dropped++;
    }
    sd_waiter *w = sd_line_next(&line);
    if (w == NULL) continue;
    if (ms > 40000) late += ms - w->since;
    served += ms > 40000;
    serve();
  }
  assert_in_range(dropped, 2900, 3100);
  assert_in_range(late / (uint64_t)served, 0, 60);
}

#define TEST(name) cmocka_unit_test_setup(name, setup)

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST(fifo_serves_who_came_first),
    TEST(lifo_serves_who_came_last),
    TEST(fair_lets_keys_take_turns),
    TEST(changing_the_kind_loses_nobody),
    TEST(codel_spares_a_burst_that_passes),
    TEST(codel_keeps_the_wait_near_its_target_under_overload),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
