/* Processors: the affinity mask, cut by the quota of control groups. */
#include "cpus.h"

#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH 4096

static bool read_line(const char *folder, const char *file, char *line, int size) {
  char path[PATH + 64];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  FILE *f = fopen(path, "re");
  if (f == NULL) return false;
  bool ok = fgets(line, size, f) != NULL;
  fclose(f);
  return ok;
}

/* One folder's quota in processors; 0 for none ("max", -1, or no such file). */
static double quota_of(const char *folder) {
  char line[128];
  double quota = 0, period = 0;
  if (read_line(folder, "cpu.max", line, sizeof line)) {
    if (sscanf(line, "%lf %lf", &quota, &period) != 2) return 0;
  } else {
    if (!read_line(folder, "cpu.cfs_quota_us", line, sizeof line)) return 0;
    quota = atof(line);
    if (!read_line(folder, "cpu.cfs_period_us", line, sizeof line)) return 0;
    period = atof(line);
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

static double smaller(double a, double b) {
  if (a == 0 || b == 0) return a + b;
  return fmin(a, b);
}

/* From mount/group up to mount itself. */
static double quota_above(const char *mount, const char *group) {
  char folder[PATH];
  double quota = 0;
  size_t top = strlen(mount);
  if ((size_t)snprintf(folder, sizeof folder, "%s%s", mount, group) >= sizeof folder) folder[top] = '\0';
  for (;;) {
    quota = smaller(quota, quota_of(folder));
    char *slash = strrchr(folder + top, '/');
    if (slash == NULL) return quota;
    *slash = '\0';
  }
}

static bool lists_cpu(const char *controllers) {
  size_t len;
  for (const char *c = controllers; *c; c += len + (c[len] == ',')) {
    len = strcspn(c, ",");
    if (len == 3 && strncmp(c, "cpu", 3) == 0) return true;
  }
  return false;
}

/* One line of /proc/self/cgroup, "7:cpu,cpuacct:/group" or, in version 2, "0::/group". */
static double quota_of_line(char *line, const char *mount) {
  char where[PATH];
  char *controllers = strchr(line, ':');
  char *group = controllers ? strchr(++controllers, ':') : NULL;
  if (group == NULL) return 0;
  *group++ = '\0';
  if (*controllers != '\0' && !lists_cpu(controllers)) return 0;
  if (*controllers == '\0') return quota_above(mount, group);
  snprintf(where, sizeof where, "%s/%s", mount, controllers);
  double quota = quota_above(where, group);
  snprintf(where, sizeof where, "%s/cpu", mount); /* the usual link to it */
  return smaller(quota, quota_above(where, group));
}

double sd_cpus_quota(const char *membership, const char *mount) {
  char line[PATH];
  double quota = 0;
  FILE *f = fopen(membership, "re");
  if (f == NULL) return 0;
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = '\0';
    quota = smaller(quota, quota_of_line(line, mount));
  }
  fclose(f);
  return quota;
}

/* The mask may be wider than cpu_set_t on very large machines; then its kind of
 * call fails with EINVAL until there is room. */
static unsigned affinity(void) {
  for (int room = CPU_SETSIZE; room <= 1 << 20; room *= 4) {
    cpu_set_t *set = CPU_ALLOC((size_t)room);
    size_t size = CPU_ALLOC_SIZE((size_t)room);
    int count = 0;
    if (set && sched_getaffinity(0, size, set) == 0) count = CPU_COUNT_S(size, set);
    CPU_FREE(set);
    if (count > 0) return (unsigned)count;
  }
  return 1;
}

unsigned sd_cpus(void) {
  unsigned cpus = affinity();
  double quota = sd_cpus_quota("/proc/self/cgroup", "/sys/fs/cgroup");
  if (quota > 0 && ceil(quota) < cpus) cpus = (unsigned)ceil(quota);
  return cpus;
}
