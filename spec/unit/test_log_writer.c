/* Nobody waits for the log, and what it loses it counts. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log_writer.h"

#define RING 4096

typedef struct {
  int read, write;
  sd_log_writer *log;
} fixture;

static int setup(void **state) {
  fixture *f = calloc(1, sizeof *f);
  int fds[2];
  if (f == NULL || pipe2(fds, O_CLOEXEC) != 0) return -1;
  *f = (fixture){ .read = fds[0], .write = fds[1] };
  *state = f;
  return sd_log_writer_new(&f->log, f->write, RING);
}

static int teardown(void **state) {
  fixture *f = *state;
  if (f->log != NULL) sd_log_writer_close(f->log, 5);
  if (f->read >= 0) close(f->read);
  if (f->write >= 0) close(f->write);
  free(f);
  return 0;
}

static void say(fixture *f, const char *line) {
  sd_log_writer_write(f->log, line, strlen(line));
}

static int finish(fixture *f, double timeout) {
  sd_log_writer *log = f->log;
  f->log = NULL;
  return sd_log_writer_close(log, timeout);
}

static void expect(fixture *f, const char *text) {
  char got[RING];
  size_t want = strlen(text), len = 0;
  while (len < want) {
    ssize_t n = read(f->read, got + len, want - len);
    assert_true(n > 0);
    len += (size_t)n;
  }
  assert_memory_equal(got, text, want);
}

/* A line that says one is missing, whatever the time. */
static void expect_notice(fixture *f) {
  static const char shape[] = "ts=2026-01-31T12:00:00.123Z ";
  char got[sizeof shape - 1];
  for (size_t i = 0; i < sizeof got; i++) {
    assert_int_equal(read(f->read, got + i, 1), 1);
    if (isdigit((unsigned char)shape[i]))
      assert_true(isdigit((unsigned char)got[i]));
    else
      assert_int_equal(got[i], shape[i]);
  }
  expect(f, "level=warn event=log_dropped lines=1\n");
}

/* All until the last writer of the pipe has gone. */
static char *read_all(int fd) {
  size_t len = 0, size = 1 << 20;
  char *text = malloc(size);
  assert_non_null(text);
  for (ssize_t n = 1; n > 0; len += (size_t)n) {
    n = read(fd, text + len, size - 1 - len);
    assert_true(n >= 0);
  }
  text[len] = '\0';
  return text;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void lines_come_out_in_order(void **state) {
  fixture *f = *state;
  say(f, "one");
  say(f, "two\n");
  say(f, "");
  expect(f, "one\ntwo\n\n");
  assert_int_equal(sd_log_writer_dropped(f->log), 0);
}

static void closing_writes_what_is_queued(void **state) {
  fixture *f = *state;
  for (int i = 0; i < 100; i++) say(f, "line");
  assert_int_equal(finish(f, 5), 0);
  close(f->write);
  f->write = -1;
  char *text = read_all(f->read);
  assert_int_equal(strlen(text), 500);
  free(text);
}

#define PIPE 4096

/* First the pipe, so that the thread is stuck, and then the ring. */
static void fill(fixture *f) {
  char page[PIPE], line[100];
  memset(page, '-', sizeof page);
  memset(line, 'x', sizeof line);
  assert_int_equal(fcntl(f->write, F_SETPIPE_SZ, PIPE), PIPE);
  assert_int_equal(write(f->write, page, sizeof page), PIPE);
  while (sd_log_writer_dropped(f->log) < 10) sd_log_writer_write(f->log, line, sizeof line);
}

static void let_go(fixture *f) {
  char page[PIPE];
  assert_int_equal(read(f->read, page, sizeof page), PIPE);
}

static uint64_t said_dropped(const char *text) {
  uint64_t sum = 0, n;
  for (const char *at = text; (at = strstr(at, "event=log_dropped ")) != NULL; at++)
    if (sscanf(at, "event=log_dropped lines=%" SCNu64 "\n", &n) == 1) sum += n;
  return sum;
}

static uint64_t count_lines(const char *text, char first) {
  uint64_t lines = 0;
  for (const char *at = text; *at != '\0'; at = strchr(at, '\n') + 1) lines += *at == first;
  return lines;
}

/* A larger pipe is the room that comes at last. */
static char *close_and_read(fixture *f) {
  assert_int_equal(fcntl(f->read, F_SETPIPE_SZ, 1 << 20), 1 << 20);
  assert_int_equal(finish(f, 5), 0);
  close(f->write);
  f->write = -1;
  return read_all(f->read);
}

static void lost_lines_are_counted_and_told(void **state) {
  fixture *f = *state;
  fill(f);
  uint64_t dropped = sd_log_writer_dropped(f->log);
  let_go(f);
  char *text = close_and_read(f);
  assert_int_equal(said_dropped(text), dropped);
  free(text);
}

static void the_notice_is_json_where_the_log_is(void **state) {
  fixture *f = *state;
  unsigned long dropped;
  sd_log_writer_use_json(f->log, true);
  fill(f);
  let_go(f);
  char *text = close_and_read(f);
  const char *at = strstr(text, "{\"ts\":\"20");
  assert_non_null(at);
  at = strstr(at, "Z\",\"level\":\"warn\",\"event\":\"log_dropped\"");
  assert_non_null(at);
  assert_int_equal(sscanf(at, "Z\",\"level\":\"warn\",\"event\":\"log_dropped\",\"lines\":%lu}\n", &dropped), 1);
  free(text);
}

/* Faster than the thread: every line is either there or told as missing. */
static void nothing_is_lost_in_silence(void **state) {
  fixture *f = *state;
  const uint64_t lines = 20000;
  assert_int_equal(fcntl(f->read, F_SETPIPE_SZ, 1 << 20), 1 << 20);
  for (uint64_t i = 0; i < lines; i++) say(f, "x 2345678901234567890");
  uint64_t dropped = sd_log_writer_dropped(f->log);
  char *text = close_and_read(f);
  assert_int_equal(said_dropped(text), dropped);
  assert_int_equal(count_lines(text, 'x') + dropped, lines);
  free(text);
}

static void a_gap_is_told_where_it_is(void **state) {
  fixture *f = *state;
  char huge[RING + 1];
  memset(huge, 'h', sizeof huge);
  say(f, "before");
  sd_log_writer_write(f->log, huge, sizeof huge);
  say(f, "after");
  expect(f, "before\n");
  expect_notice(f);
  expect(f, "after\n");
}

static void a_gap_is_told_without_another_line(void **state) {
  fixture *f = *state;
  char huge[RING + 1];
  memset(huge, 'h', sizeof huge);
  sd_log_writer_write(f->log, huge, sizeof huge);
  expect_notice(f);
}

static void a_stuck_reader_does_not_hold_up_the_end(void **state) {
  fixture *f = *state;
  fill(f);
  double start = now();
  assert_int_equal(finish(f, 0.1), -ETIMEDOUT);
  assert_true(now() - start >= 0.1);
  assert_true(now() - start < 2);
}

static void a_gone_reader_costs_lines_and_nothing_else(void **state) {
  fixture *f = *state;
  close(f->read);
  f->read = -1;
  for (int i = 0; i < 3; i++) {
    say(f, "to nobody");
    while (sd_log_writer_dropped(f->log) < (uint64_t)i + 1) usleep(1000);
  }
  assert_int_equal(sd_log_writer_dropped(f->log), 3);
  assert_int_equal(finish(f, 5), 0); /* nor does it try without end */
}

static void a_non_blocking_descriptor_is_waited_for(void **state) {
  fixture *f = *state;
  assert_int_equal(fcntl(f->write, F_SETFL, O_NONBLOCK), 0);
  fill(f);
  uint64_t dropped = sd_log_writer_dropped(f->log);
  let_go(f);
  char *text = close_and_read(f);
  assert_int_equal(said_dropped(text), dropped);
  free(text);
}

static void a_bad_descriptor_is_refused(void **state) {
  (void)state;
  sd_log_writer *log;
  assert_int_equal(sd_log_writer_new(&log, -1, RING), -EBADF);
}

/* ---- sd_log_line ---- */

static int drops;

static void count_drop(void) {
  drops++;
}

static int saved_stderr;

static int take_stderr(void **state) {
  if (setup(state) != 0) return -1;
  fixture *f = *state;
  saved_stderr = dup(STDERR_FILENO);
  drops = 0;
  sd_log_line_on_drop(count_drop);
  if (fcntl(f->write, F_SETFL, O_NONBLOCK) != 0) return -1;
  return dup2(f->write, STDERR_FILENO) < 0 ? -1 : 0;
}

static int give_stderr(void **state) {
  dup2(saved_stderr, STDERR_FILENO);
  close(saved_stderr);
  sd_log_line_on_drop(NULL);
  return teardown(state);
}

static void a_line_goes_out_at_once(void **state) {
  fixture *f = *state;
  sd_log_line("one", 3);
  sd_log_line("two\n", 4);
  expect(f, "one\ntwo\n");
  assert_int_equal(drops, 0);
}

static void a_line_without_room_is_dropped(void **state) {
  fixture *f = *state;
  char line[100];
  memset(line, 'x', sizeof line);
  while (drops == 0) sd_log_line(line, sizeof line);
  sd_log_line(line, sizeof line);
  assert_int_equal(drops, 2);
  char *text = malloc(1 << 16);
  assert_non_null(text);
  ssize_t n = read(f->read, text, 1 << 16);
  assert_true(n > 0 && text[n - 1] == '\n');
  free(text);
}

static void a_torn_line_does_not_spoil_the_next(void **state) {
  fixture *f = *state;
  size_t size = 1 << 17;
  char *huge = malloc(size);
  assert_non_null(huge);
  memset(huge, 'h', size);
  sd_log_line(huge, size);
  assert_int_equal(drops, 1);
  ssize_t n = read(f->read, huge, size);
  assert_true(n > 0 && (size_t)n < size && huge[n - 1] == 'h');
  free(huge);
  sd_log_line("next", 4);
  expect(f, "\nnext\n");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define LINE_TEST(name) cmocka_unit_test_setup_teardown(name, take_stderr, give_stderr)

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST(lines_come_out_in_order),
    TEST(closing_writes_what_is_queued),
    TEST(lost_lines_are_counted_and_told),
    TEST(the_notice_is_json_where_the_log_is),
    TEST(nothing_is_lost_in_silence),
    TEST(a_gap_is_told_where_it_is),
    TEST(a_gap_is_told_without_another_line),
    TEST(a_stuck_reader_does_not_hold_up_the_end),
    TEST(a_gone_reader_costs_lines_and_nothing_else),
    TEST(a_non_blocking_descriptor_is_waited_for),
    cmocka_unit_test(a_bad_descriptor_is_refused),
    LINE_TEST(a_line_goes_out_at_once),
    LINE_TEST(a_line_without_room_is_dropped),
    LINE_TEST(a_torn_line_does_not_spoil_the_next),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
