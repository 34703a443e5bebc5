/* Two connections joined: bytes both ways with back-pressure, ends that pass on, and owners that get them back. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/errors.h"
#include "net/pipe.h"

enum { LENGTH = 6 << 20 };

static sd_loop *loop;
static sd_conn_limits limits;
static sd_conn conns[2];
static int ends[2]; /* the peers of both, and what they have sent and got */
static size_t sent[2], got[2];
static char *content[2];
static sd_pipe *pipe_;
static int over, closed, readable;

static void on_readable(sd_conn *c) {
  (void)c;
  readable++;
}

static void on_nothing(sd_conn *c) {
  (void)c;
}

static void on_closed(sd_conn *c) {
  assert_null(c->pipe);
  closed++;
}

static const sd_conn_events events = { .on_readable = on_readable,
  .on_drained = on_nothing,
  .on_deadline = on_nothing,
  .on_broken = on_nothing,
  .on_closed = on_closed };

static sd_pipe at_the_end;

/* Frees it, as the real owner does: a sanitizer finds whoever looks at it afterwards. */
static void on_over(sd_pipe *p) {
  assert_true(p->over);
  over++;
  at_the_end = *p;
  free(p);
  pipe_ = NULL;
}

static int set_up(void **state) {
  (void)state;
  limits = (sd_conn_limits){ .write_high = 65536, .write_low = 16384, .write_max = 1 << 20 };
  over = closed = readable = 0;
  loop = calloc(1, sizeof *loop);
  sd_loop_init(loop);
  for (int i = 0; i < 2; i++) {
    int fds[2];
    sent[i] = got[i] = 0;
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds);
    conns[i] = (sd_conn){ 0 };
    sd_conn_open(&conns[i], loop, fds[0], &limits, &events);
    ends[i] = fds[1];
    content[i] = malloc(LENGTH);
    for (size_t j = 0; j < LENGTH; j++) content[i][j] = (char)(j * 31 + (j >> 9) + (size_t)i);
  }
  sd_loop_turn(loop, false);
  pipe_ = calloc(1, sizeof *pipe_);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++) {
    sd_conn_abort(&conns[i], false);
    if (ends[i] >= 0) close(ends[i]);
    free(content[i]);
  }
  free(pipe_);
  sd_loop_close(loop);
  free(loop);
  return 0;
}

static void join(void) {
  sd_pipe_join(pipe_, &conns[0], &conns[1], on_over);
}

static void turn(void) {
  sd_conn_flush_dirty(loop);
  sd_loop_turn(loop, false);
}

static void send_some(int i) {
  ssize_t n = sent[i] < LENGTH ? send(ends[i], content[i] + sent[i], LENGTH - sent[i], MSG_NOSIGNAL) : 0;
  if (n > 0) sent[i] += (size_t)n;
}

static void receive_some(int i) {
  static char bytes[100000];
  ssize_t n = recv(ends[i], bytes, sizeof bytes, 0);
  if (n <= 0) return;
  assert_true(got[i] + (size_t)n <= LENGTH);
  assert_memory_equal(bytes, content[!i] + got[i], n);
  got[i] += (size_t)n;
}

static bool ended(int i) {
  char byte;
  return recv(ends[i], &byte, 1, MSG_PEEK) == 0;
}

static void carries_bytes_both_ways(void **state) {
  (void)state;
  join();
  while (got[0] < LENGTH || got[1] < LENGTH) {
    for (int i = 0; i < 2; i++) {
      send_some(i);
      receive_some(i);
    }
    turn();
  }
  assert_int_equal(pipe_->side[0].sent, LENGTH);
  assert_int_equal(pipe_->side[1].sent, LENGTH);
  assert_int_equal(over, 0);
}

static void begins_with_what_is_buffered(void **state) {
  (void)state;
  sd_buffer_append(&conns[0].in, content[0], 1000);
  sent[0] = 1000;
  join();
  while (got[1] < 3000) {
    if (sent[0] < 3000) sent[0] += (size_t)write(ends[0], content[0] + sent[0], 3000 - sent[0]);
    receive_some(1);
    turn();
  }
  assert_int_equal(sd_buffer_length(&conns[0].in), 0);
}

static void holds_no_more_than_its_marks_for_a_slow_side(void **state) {
  (void)state;
  join();
  for (int i = 0; i < 200; i++) {
    send_some(0);
    turn();
    assert_true(sd_conn_queued(&conns[1]) <= limits.write_high + SD_LOOP_SCRATCH);
  }
  assert_true(sent[0] < LENGTH);
  while (got[1] < sent[0]) {
    receive_some(1);
    turn();
  }
}

static void passes_each_end_on_and_is_over_after_both(void **state) {
  (void)state;
  join();
  send_some(0);
  size_t all = sent[0];
  shutdown(ends[0], SHUT_WR);
  while (got[1] < all) {
    receive_some(1);
    turn();
  }
  while (!ended(1)) turn();
  assert_int_equal(over, 0);
  assert_int_equal(write(ends[1], content[1], 5), 5); /* the other way is open */
  while (got[0] < 5) {
    receive_some(0);
    turn();
  }
  shutdown(ends[1], SHUT_WR);
  while (!over) turn();
  assert_int_equal(at_the_end.err, 0);
  assert_true(ended(0));
  assert_int_equal(over, 1);
}

static void a_side_that_breaks_ends_it_with_its_error(void **state) {
  (void)state;
  join();
  send_some(0);
  turn();
  close(ends[1]); /* with bytes unread */
  ends[1] = -1;
  while (!over) {
    send_some(0);
    turn();
  }
  assert_true(at_the_end.err == -EPIPE || at_the_end.err == -ECONNRESET);
  assert_int_equal(conns[0].state, SD_CONN_OPEN); /* it is its owner's again */
  assert_ptr_equal(conns[0].events, &events);
}

static void a_side_that_is_closed_under_it_ends_it(void **state) {
  (void)state;
  join();
  sd_conn_abort(&conns[1], true);
  assert_int_equal(over, 1);
  assert_int_equal(closed, 1);
  assert_int_equal(at_the_end.err, SD_ECLOSED);
  assert_null(conns[0].pipe);
}

static void silence_on_both_sides_ends_it(void **state) {
  (void)state;
  conns[0].idle = conns[1].idle = 60;
  uint64_t start = sd_loop_now(loop);
  join();
  while (sd_loop_now(loop) < start + 40) turn();
  assert_int_equal(write(ends[0], content[0], 5), 5); /* one side moving keeps both */
  while (got[1] < 5) {
    receive_some(1);
    turn();
  }
  uint64_t moved = sd_loop_now(loop);
  while (!over) sd_loop_turn(loop, true);
  assert_true(sd_loop_now(loop) >= moved + 59);
  assert_int_equal(at_the_end.err, SD_ETIMEOUT);
}

static void parting_gives_both_back_without_a_word(void **state) {
  (void)state;
  join();
  sd_pipe_part(pipe_);
  sd_pipe_part(pipe_); /* twice is harmless */
  assert_int_equal(over, 0);
  assert_ptr_equal(conns[1].events, &events);
  assert_int_equal(write(ends[0], "x", 1), 1);
  while (readable == 0) turn();
  assert_int_equal(conns[0].read_deadline, 0);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST(carries_bytes_both_ways),
    TEST(begins_with_what_is_buffered),
    TEST(holds_no_more_than_its_marks_for_a_slow_side),
    TEST(passes_each_end_on_and_is_over_after_both),
    TEST(a_side_that_breaks_ends_it_with_its_error),
    TEST(a_side_that_is_closed_under_it_ends_it),
    TEST(silence_on_both_sides_ends_it),
    TEST(parting_gives_both_back_without_a_word),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
