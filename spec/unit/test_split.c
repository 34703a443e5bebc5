/* A canary gets exactly its share, and begins and ends with one store. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/split.h"

static const sd_split_network nobody = { .form = 0 };

static int canaries(const sd_split *s, sd_trial *t, int connections) {
  int n = 0;
  for (int i = 0; i < connections; i++) {
    sd_split_look look = sd_split_look_at(s);
    if (sd_split_choose(&look, t, false) == 2) n++;
  }
  return n;
}

static sd_split of_share(sd_trial *t, uint32_t share) {
  sd_split s = { .current = 1 };
  sd_split_begin(&s, t, 2, share, &nobody);
  return s;
}

static void test_exact(void **state) {
  static const uint32_t shares[] = { 1, 50000, 100000, 333333, 500000, 999999, SD_SPLIT_WHOLE };
  (void)state;
  for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
    sd_trial t = { 0 };
    sd_split s = of_share(&t, shares[i]);
    int sofar = 0;
    for (int n = 1; n <= 3000; n++) {
      sofar += canaries(&s, &t, 1);
      assert_int_equal(sofar, (int64_t)n * shares[i] / SD_SPLIT_WHOLE); /* at no time more than one behind */
    }
  }
}

static void test_whole_period(void **state) {
  (void)state;
  sd_trial t = { .turn = 0 };
  sd_split s = of_share(&t, 123457);
  canaries(&s, &t, 777);
  assert_int_equal(canaries(&s, &t, SD_SPLIT_WHOLE), 123457);
}

static void test_network(void **state) {
  (void)state;
  sd_trial t = { 0 };
  sd_split s = of_share(&t, 0);
  sd_split_look look = sd_split_look_at(&s);
  assert_int_equal(sd_split_choose(&look, &t, true), 2);
  assert_int_equal(sd_split_choose(&look, &t, false), 1);
  s = of_share(&t, 500000);
  look = sd_split_look_at(&s);
  for (int i = 0; i < 10; i++) assert_int_equal(sd_split_choose(&look, &t, true), 2);
  assert_int_equal(canaries(&s, &t, 10), 5); /* those of the network used up no turn of the others */
}

static void test_promotion_is_one_store(void **state) {
  (void)state;
  sd_trial t = { 0 };
  sd_split s = of_share(&t, 100000);
  assert_true(sd_split_is_live(&s, 1) && sd_split_is_live(&s, 2));
  s.current = 2;
  assert_int_equal(canaries(&s, &t, 100), 100);
  assert_false(sd_split_is_live(&s, 1));
}

static void test_taking_back_is_one_store(void **state) {
  (void)state;
  sd_trial t = { 0 };
  sd_split s = of_share(&t, SD_SPLIT_WHOLE);
  assert_int_equal(canaries(&s, &t, 10), 10);
  sd_split_end(&s);
  assert_int_equal(canaries(&s, &t, 100), 0);
  assert_false(sd_split_is_live(&s, 2));
}

static void test_counts_the_watched_one_only(void **state) {
  (void)state;
  sd_trial t = { 0 };
  sd_trial_failed(&t, 2);
  sd_trial_watch(&t, 2);
  sd_trial_served(&t, 2);
  sd_trial_served(&t, 1);
  sd_trial_failed(&t, 1);
  sd_trial_failed(&t, 2);
  sd_trial_failed(&t, 2);
  assert_int_equal(t.served, 1);
  assert_int_equal(t.failed, 2);
  sd_trial_watch(&t, 3);
  assert_int_equal(t.failed, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_exact),
    cmocka_unit_test(test_whole_period),
    cmocka_unit_test(test_network),
    cmocka_unit_test(test_promotion_is_one_store),
    cmocka_unit_test(test_taking_back_is_one_store),
    cmocka_unit_test(test_counts_the_watched_one_only),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
