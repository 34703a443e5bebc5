/* Processors: a quota anywhere above us counts, in either version of cgroups. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cpus.h"

static char mount[64], membership[96];

static void put(const char *file, const char *text) {
  char path[160];
  snprintf(path, sizeof path, "%s/%s", mount, file);
  for (char *slash = path + strlen(mount) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
    *slash = '\0';
    mkdir(path, 0700);
  }
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
}

static double quota_with(const char *groups) {
  put("membership", groups);
  return sd_cpus_quota(membership, mount);
}

static int make_mount(void **state) {
  (void)state;
  strcpy(mount, "/tmp/sd_cpus_XXXXXX");
  if (mkdtemp(mount) == NULL) return 1;
  snprintf(membership, sizeof membership, "%s/membership", mount);
  return 0;
}

static int remove_mount(void **state) {
  char command[96];
  (void)state;
  snprintf(command, sizeof command, "rm -r %s", mount);
  return system(command);
}

static void no_quota_is_none(void **state) {
  (void)state;
  assert_true(quota_with("0::/\n") == 0);
  put("cpu.max", "max 100000\n");
  assert_true(quota_with("0::/\n") == 0);
  put("cpu/cpu.cfs_quota_us", "-1\n");
  put("cpu/cpu.cfs_period_us", "100000\n");
  assert_true(quota_with("1:cpu:/\n0::/\n") == 0);
  assert_true(sd_cpus_quota("/nonexistent", mount) == 0);
}

static void the_smallest_on_the_way_up_counts(void **state) {
  (void)state;
  put("a/b/c/cpu.max", "400000 100000\n");
  put("a/b/cpu.max", "max 100000\n");
  put("a/cpu.max", "150000 100000\n");
  assert_true(quota_with("0::/a/b/c\n") == 1.5);
  put("a/b/c/cpu.max", "50000 100000\n");
  assert_true(quota_with("0::/a/b/c\n") == 0.5);
}

static void version_1_is_read_too(void **state) {
  (void)state;
  put("cpu/x/cpu.cfs_quota_us", "250000\n");
  put("cpu/x/cpu.cfs_period_us", "100000\n");
  assert_true(quota_with("5:cpuset:/x\n4:cpu,cpuacct:/x\n0::/\n") == 2.5);
  assert_true(quota_with("5:cpuset:/x\n4:cpuacct:/x\n") == 0); /* not ours: no cpu */
}

/* Inside a container the file names a path of the outside. */
static void a_group_out_of_sight_counts_as_the_top(void **state) {
  (void)state;
  put("cpu.max", "300000 100000\n");
  assert_true(quota_with("0::/not/visible/here\n") == 3);
}

static void nonsense_is_no_quota(void **state) {
  (void)state;
  assert_true(quota_with("\nabc\n:\n0:\n::\n9:cpu\n") >= 0);
  put("cpu.max", "0 0\n");
  assert_true(quota_with("0::/\n") == 0);
}

static void the_affinity_mask_counts(void **state) {
  cpu_set_t all, one;
  (void)state;
  assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
  assert_in_range(sd_cpus(), 1, (unsigned)CPU_COUNT(&all));
  int cpu = 0;
  while (!CPU_ISSET(cpu, &all)) cpu++;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
  assert_int_equal(sd_cpus(), 1);
  sched_setaffinity(0, sizeof all, &all);
}

#define FRESH(test) cmocka_unit_test_setup_teardown(test, make_mount, remove_mount)

int main(void) {
  const struct CMUnitTest tests[] = {
    FRESH(no_quota_is_none),
    FRESH(the_smallest_on_the_way_up_counts),
    FRESH(version_1_is_read_too),
    FRESH(a_group_out_of_sight_counts_as_the_top),
    FRESH(nonsense_is_no_quota),
    cmocka_unit_test(the_affinity_mask_counts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
