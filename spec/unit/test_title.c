/* The title is what other programs see, and the environment survives it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/title.h"

static size_t read_proc(const char *path, char *out, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  assert_true(fd >= 0);
  ssize_t n = read(fd, out, size - 1);
  assert_true(n >= 0);
  close(fd);
  out[n] = '\0';
  return (size_t)n;
}

static void is_seen_by_others(void **state) {
  (void)state;
  char seen[8192];
  sd_title_set("drawer: one");
  size_t len = read_proc("/proc/self/cmdline", seen, sizeof seen);
  assert_string_equal(seen, "drawer: one");
  for (size_t i = strlen(seen); i < len; i++) assert_int_equal(seen[i], 0);
}

static void leaves_nothing_of_a_longer_one(void **state) {
  (void)state;
  char seen[8192];
  sd_title_set("drawer: a rather long title, longer than what follows");
  sd_title_set("short");
  size_t len = read_proc("/proc/self/cmdline", seen, sizeof seen);
  assert_string_equal(seen, "short");
  for (size_t i = strlen(seen); i < len; i++) assert_int_equal(seen[i], 0);
}

static void may_be_longer_than_the_arguments_were(void **state) {
  (void)state;
  char title[300], seen[8192];
  memset(title, 'x', sizeof title - 1);
  title[sizeof title - 1] = '\0';
  sd_title_set(title);
  read_proc("/proc/self/cmdline", seen, sizeof seen);
  assert_string_equal(seen, title);
}

static void is_cut_where_the_room_ends(void **state) {
  (void)state;
  size_t size = 4 << 20; /* more than a stack may hold of arguments here */
  char *title = malloc(size);
  assert_non_null(title);
  memset(title, 'y', size - 1);
  title[size - 1] = '\0';
  sd_title_set(title);
  free(title);
  assert_string_equal(getenv("SD_TITLE_SPEC"), "kept");
}

static void names_the_thread_too(void **state) {
  (void)state;
  char name[16];
  sd_title_set("drawer: one that is cut");
  assert_int_equal(prctl(PR_GET_NAME, name), 0);
  assert_string_equal(name, "drawer: one tha");
}

static void keeps_the_environment(void **state) {
  (void)state;
  sd_title_set("drawer: two");
  assert_string_equal(getenv("SD_TITLE_SPEC"), "kept");
  assert_string_equal(getenv("SD_TITLE_LAST"), "kept too");
  assert_string_equal(program_invocation_short_name, "test_title");
}

/* Starts itself again, so that the environment lies where the kernel put it. */
static int again(void) {
  char padding[600];
  memset(padding, 'p', sizeof padding - 1);
  padding[sizeof padding - 1] = '\0';
  setenv("SD_TITLE_SPEC", "kept", 1);
  setenv("SD_TITLE_PADDING", padding, 1);
  setenv("SD_TITLE_LAST", "kept too", 1);
  char *args[] = { "test_title", NULL };
  execv("/proc/self/exe", args);
  return 1;
}

int main(void) {
  if (getenv("SD_TITLE_SPEC") == NULL) return again();
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(is_seen_by_others),
    cmocka_unit_test(leaves_nothing_of_a_longer_one),
    cmocka_unit_test(may_be_longer_than_the_arguments_were),
    cmocka_unit_test(is_cut_where_the_room_ends),
    cmocka_unit_test(names_the_thread_too),
    cmocka_unit_test(keeps_the_environment),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
