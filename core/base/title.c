/* The name under which ps and top show this process. */
#include "base/title.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Where the kernel laid argv and, right behind it, the environment. */
static struct {
  char *start;
  size_t size; /* 0: not to be had */
} area;

#define FIELD_AFTER_COMM 3 /* as numbered in the manual of /proc/pid/stat */
#define FIELD_ARG_START 48

static int read_stat(char *text, size_t size) {
  int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  ssize_t n = read(fd, text, size - 1);
  close(fd);
  if (n <= 0) return -EIO;
  text[n] = '\0';
  return 0;
}

/* The process can have any name, brackets and blanks included, so the fields
 * are counted from behind the last bracket. */
static const char *find_field(const char *stat, int field) {
  const char *at = strrchr(stat, ')');
  for (int i = FIELD_AFTER_COMM; at != NULL && i <= field; i++) at = strchr(at + 1, ' ');
  return at;
}

static void find_area(void) {
  char stat[2048];
  unsigned long arg_start, arg_end, env_start, env_end;
  if (read_stat(stat, sizeof stat) != 0) return;
  const char *at = find_field(stat, FIELD_ARG_START);
  if (at == NULL) return;
  int found = sscanf(at, "%lu %lu %lu %lu", &arg_start, &arg_end, &env_start, &env_end);
  if (found != 4 || arg_start == 0 || arg_end <= arg_start) return;
  /* The kernel reads on into the environment only when it lies right behind. */
  if (env_start == arg_end && env_end > env_start) arg_end = env_end;
  area.start = (char *)(uintptr_t)arg_start;
  area.size = arg_end - arg_start;
}

static int inside(const char *s) {
  uintptr_t at = (uintptr_t)s, start = (uintptr_t)area.start;
  return at >= start && at < start + area.size;
}

/* The copies live as long as the process: getenv may have handed them out. */
static int move_environment(void) {
  for (char **e = environ; e != NULL && *e != NULL; e++) {
    if (!inside(*e)) continue;
    char *copy = strdup(*e);
    if (copy == NULL) return -ENOMEM;
    *e = copy;
  }
  return 0;
}

/* glibc names us in its messages by a pointer into argv[0]. */
static int move_program_name(void) {
  if (!inside(program_invocation_name)) return 0;
  char *copy = strdup(program_invocation_name);
  if (copy == NULL) return -ENOMEM;
  char *slash = strrchr(copy, '/');
  program_invocation_name = copy;
  program_invocation_short_name = slash != NULL ? slash + 1 : copy;
  return 0;
}

static void prepare(void) {
  find_area();
  if (area.size == 0) return;
  if (move_environment() != 0 || move_program_name() != 0) area.size = 0;
}

void sd_title_set(const char *title) {
  static int prepared;
  if (!prepared) prepare();
  prepared = 1;
  prctl(PR_SET_NAME, title); /* the kernel cuts it at 15 bytes */
  if (area.size == 0) return;
  size_t len = strlen(title);
  if (len > area.size - 1) len = area.size - 1;
  memcpy(area.start, title, len);
  memset(area.start + len, 0, area.size - len);
}
