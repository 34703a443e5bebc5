/* A connection over real sockets: what goes out and when, who is told, and every way to its end. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "net/connection.h"

enum { BIG = 8 << 20, SHARE = 512 * 1024 };

static sd_loop *loop;
static sd_conn_limits limits;
static char *big;

/* A connection, and what it was told. */
typedef struct {
  sd_conn conn; /* first member */
  int peer;
  int readable, drained, deadlines, broken, closed;
  size_t got;
  bool reads; /* takes everything at once */
  bool carries;
  int gains; /* so often something has got on when that is asked */
} probe;

static void on_readable(sd_conn *c) {
  probe *p = (probe *)c;
  p->readable++;
  if (!p->reads) return;
  ssize_t n;
  while ((n = sd_conn_receive(c, loop->scratch, SD_LOOP_SCRATCH)) > 0) p->got += (size_t)n;
}

static void on_drained(sd_conn *c) {
  ((probe *)c)->drained++;
}

static void on_deadline(sd_conn *c) {
  ((probe *)c)->deadlines++;
}

static void on_broken(sd_conn *c) {
  ((probe *)c)->broken++;
  assert_int_equal(((probe *)c)->closed, 0);
}

static void on_closed(sd_conn *c) {
  ((probe *)c)->closed++;
  assert_int_equal(c->source.fd, -1);
}

static bool carries(const sd_conn *c) {
  return ((const probe *)c)->carries;
}

static bool gets_on(sd_conn *c) {
  return ((probe *)c)->gains-- > 0;
}

static const sd_conn_events events = { on_readable, on_drained, on_deadline, on_broken, on_closed, carries, gets_on };

static int open_loop(void **state) {
  (void)state;
  limits = (sd_conn_limits){ .write_high = 65536, .write_low = 16384, .write_max = 1 << 20, .read_buffer = 65536 };
  big = calloc(1, BIG);
  for (size_t i = 0; i < BIG; i++) big[i] = (char)(i * 7 + (i >> 8));
  loop = calloc(1, sizeof *loop);
  return sd_loop_init(loop);
}

static int close_loop(void **state) {
  (void)state;
  sd_loop_close(loop);
  free(loop);
  free(big);
  return 0;
}

/* What is gathered goes out before the loop waits, as after each task. */
static void turn_and(bool wait) {
  sd_conn_flush_dirty(loop);
  sd_loop_turn(loop, wait);
}

static void turn(void) {
  turn_and(false);
}

/* Turns until the counter moves; CTest ends a test that waits for ever. */
static void await(const int *counter) {
  int before = *counter;
  while (*counter == before) turn_and(true);
}

static probe *open_on(int fd, int peer) {
  probe *p = calloc(1, sizeof *p);
  p->peer = peer;
  assert_int_equal(sd_conn_open(&p->conn, loop, fd, &limits, &events), 0);
  turn();
  return p;
}

static probe *open_pair(void) {
  int fds[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
  return open_on(fds[0], fds[1]);
}

static probe *open_tcp(void) {
  struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  socklen_t length = sizeof at;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof at), 0);
  assert_int_equal(listen(listener, 1), 0);
  getsockname(listener, (struct sockaddr *)&at, &length);
  int peer = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(connect(peer, (struct sockaddr *)&at, sizeof at), 0);
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
  close(listener);
  fcntl(peer, F_SETFL, O_NONBLOCK);
  return open_on(fd, peer);
}

static void drop(probe *p) {
  sd_conn_abort(&p->conn, false);
  assert_int_equal(p->closed, 1);
  if (p->peer >= 0) close(p->peer);
  free(p);
}

static void close_peer(probe *p) {
  close(p->peer);
  p->peer = -1;
}

/* Compares what the peer gets with `expected`; turns the loop while more is to come. */
static void expect_at_peer(probe *p, const char *expected, size_t length) {
  static char bytes[65536];
  size_t got = 0;
  while (got < length) {
    ssize_t n = recv(p->peer, bytes, sizeof bytes, 0);
    if (n < 0) {
      assert_int_equal(errno, EAGAIN);
      turn();
      continue;
    }
    assert_true(n > 0 && got + (size_t)n <= length);
    assert_memory_equal(bytes, expected + got, n);
    got += (size_t)n;
  }
}

static ssize_t peer_recv(const probe *p) {
  char byte;
  ssize_t n = recv(p->peer, &byte, 1, 0);
  return n < 0 ? -errno : n;
}

/* ---- writing ---- */

static void gathers_writes_until_they_are_flushed(void **state) {
  (void)state;
  probe *p = open_pair();
  assert_int_equal(sd_conn_write(&p->conn, "hello ", 6), 0);
  assert_int_equal(sd_conn_write(&p->conn, "world", 5), 0);
  assert_int_equal(peer_recv(p), -EAGAIN);
  sd_conn_flush_dirty(loop);
  expect_at_peer(p, "hello world", 11);
  assert_int_equal(p->conn.bytes_out, 11);
  drop(p);
}

static void sends_long_writes_piece_by_piece_in_order(void **state) {
  (void)state;
  probe *p = open_pair();
  assert_int_equal(sd_conn_write(&p->conn, big, 10), 0);
  assert_int_equal(sd_conn_write(&p->conn, big + 10, BIG - 10 - 5), 0);
  assert_int_equal(sd_conn_write(&p->conn, big + BIG - 5, 5), 0);
  sd_conn_flush_dirty(loop);
  assert_true(sd_conn_queued(&p->conn) > 0);
  expect_at_peer(p, big, BIG);
  assert_int_equal(sd_conn_queued(&p->conn), 0);
  drop(p);
}

static void says_once_that_output_has_drained(void **state) {
  (void)state;
  probe *p = open_pair();
  sd_conn_write(&p->conn, big, BIG);
  p->conn.want_drained = true;
  p->conn.drain_to = (uint32_t)limits.write_low;
  sd_conn_flush(&p->conn);
  assert_int_equal(p->drained, 0);
  expect_at_peer(p, big, BIG);
  for (int i = 0; i < 10; i++) turn();
  assert_int_equal(p->drained, 1);
  drop(p);
}

static void a_peer_that_is_gone_fails_writes_but_not_what_it_sent(void **state) {
  (void)state;
  probe *p = open_pair();
  assert_int_equal(write(p->peer, "last words", 10), 10);
  close_peer(p);
  turn();
  sd_conn_write(&p->conn, "hello", 5);
  p->conn.want_drained = true;
  sd_conn_flush_dirty(loop);
  assert_int_equal(p->drained, 1); /* waiting writers are told */
  assert_int_equal(p->conn.err, -EPIPE);
  assert_int_equal(sd_conn_write(&p->conn, "more", 4), -EPIPE);
  assert_int_equal(p->conn.end, SD_END_RESET);
  assert_int_equal(sd_conn_receive(&p->conn, loop->scratch, 100), 10);
  assert_int_equal(sd_conn_receive(&p->conn, loop->scratch, 100), 0);
  drop(p);
}

static void a_write_that_stands_still_ends_the_connection(void **state) {
  (void)state;
  limits.write = 50;
  probe *p = open_pair();
  sd_conn_write(&p->conn, big, BIG);
  uint64_t start = sd_loop_now(loop);
  await(&p->closed);
  assert_true(sd_loop_now(loop) >= start + 50);
  assert_int_equal(p->broken, 1);
  assert_int_equal(p->conn.err, SD_ETIMEOUT);
  assert_int_equal(p->conn.end, SD_END_WRITE);
  drop(p);
}

static void a_write_may_stand_still_while_bytes_get_on_behind_it(void **state) {
  (void)state;
  limits.write = 30;
  probe *p = open_pair();
  p->gains = 2;
  sd_conn_write(&p->conn, big, BIG);
  uint64_t start = sd_loop_now(loop);
  await(&p->closed);
  assert_true(sd_loop_now(loop) >= start + 90);
  assert_int_equal(p->conn.end, SD_END_WRITE);
  drop(p);
}

static void a_peer_that_got_lost_can_still_be_read_and_then_fails(void **state) {
  (void)state;
  probe *p = open_pair();
  assert_int_equal(write(p->peer, "last words", 10), 10);
  turn();
  sd_conn_lose(&p->conn, -EPROTO, true);
  assert_int_equal(sd_conn_write(&p->conn, "x", 1), -EPROTO);
  assert_int_equal(sd_conn_receive(&p->conn, loop->scratch, 100), 10);
  close_peer(p);
  turn();
  assert_int_equal(sd_conn_receive(&p->conn, loop->scratch, 100), -EPROTO);
  assert_int_equal(sd_conn_receive(&p->conn, loop->scratch, 100), 0);
  assert_int_equal(p->conn.end, SD_END_RESET);
  drop(p);
}

/* ---- reading ---- */

static void reads_only_when_the_kernel_said_so(void **state) {
  (void)state;
  probe *p = open_pair();
  assert_int_equal(sd_conn_receive(&p->conn, loop->scratch, 100), -EAGAIN);
  assert_int_equal(write(p->peer, "abc", 3), 3);
  assert_int_equal(sd_conn_receive(&p->conn, loop->scratch, 100), -EAGAIN);
  await(&p->readable);
  assert_int_equal(sd_conn_fill(&p->conn, 2), 2);
  assert_int_equal(sd_conn_fill(&p->conn, 100), 1);
  assert_int_equal(sd_conn_fill(&p->conn, 100), -EAGAIN);
  assert_memory_equal(sd_buffer_bytes(&p->conn.in), "abc", 3);
  drop(p);
}

static void sees_the_end_behind_the_last_bytes(void **state) {
  (void)state;
  probe *p = open_pair();
  assert_int_equal(write(p->peer, "abc", 3), 3);
  shutdown(p->peer, SHUT_WR);
  p->reads = true;
  await(&p->readable);
  assert_int_equal(p->got, 3);
  assert_true(p->conn.eof);
  sd_conn_write(&p->conn, "answer", 6); /* half closed: the other way is open */
  sd_conn_flush_dirty(loop);
  expect_at_peer(p, "answer", 6);
  drop(p);
}

static void closes_its_half_behind_what_is_queued(void **state) {
  (void)state;
  probe *p = open_pair();
  sd_conn_write(&p->conn, big, BIG);
  sd_conn_shutdown_write(&p->conn);
  assert_int_equal(sd_conn_write(&p->conn, "more", 4), SD_ECLOSED);
  expect_at_peer(p, big, BIG);
  turn();
  assert_int_equal(peer_recv(p), 0);
  p->reads = true;
  assert_int_equal(write(p->peer, "still", 5), 5);
  await(&p->readable);
  assert_int_equal(p->got, 5);
  drop(p);
}

static void tells_of_a_passed_deadline_once(void **state) {
  (void)state;
  probe *p = open_pair();
  uint64_t start = sd_loop_now(loop);
  sd_conn_set_read_deadline(&p->conn, start + 20);
  sd_conn_set_read_deadline(&p->conn, start + 60); /* moved: the timer fires in vain */
  await(&p->deadlines);
  assert_true(sd_loop_now(loop) >= start + 60);
  turn();
  assert_int_equal(p->deadlines, 1);
  assert_int_equal(p->conn.read_deadline, 0);
  drop(p);
}

/* ---- fairness ---- */

static void moves_no_more_than_its_share_in_a_turn(void **state) {
  (void)state;
  probe *p = open_tcp();
  int size = 4 << 20;
  setsockopt(p->conn.source.fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  setsockopt(p->peer, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  p->reads = true;
  size_t sent = 0, most = 0;
  while (p->got < BIG) {
    ssize_t n = sent < BIG ? send(p->peer, big + sent, BIG - sent, 0) : 0;
    if (n > 0) sent += (size_t)n;
    size_t before = p->got;
    turn();
    if (p->got - before > most) most = p->got - before;
  }
  assert_true(most <= 2 * (SHARE + SD_LOOP_SCRATCH)); /* timers and events of one turn */
  drop(p);
}

/* Somebody reads between the moment the wake-up was promised and the timer that keeps the promise. */
static void keeps_its_promise_to_wake_whoever_was_tired(void **state) {
  (void)state;
  probe *p = open_pair();
  p->conn.spent = 2 * SHARE;
  p->conn.turn = loop->turn;
  assert_true(sd_conn_tired(&p->conn));
  p->conn.want_drained = true;
  loop->turn++;
  assert_false(sd_conn_tired(&p->conn));
  await(&p->drained);
  assert_int_equal(p->readable, 1);
  turn();
  assert_int_equal(p->drained, 1);
  drop(p);
}

/* ---- ends ---- */

static void closes_behind_what_is_queued_and_lingers(void **state) {
  (void)state;
  probe *p = open_tcp();
  assert_int_equal(write(p->peer, "unread", 6), 6);
  sd_conn_write(&p->conn, big, BIG);
  sd_conn_close(&p->conn);
  sd_conn_close(&p->conn);
  assert_int_equal(p->conn.state, SD_CONN_FLUSHING);
  expect_at_peer(p, big, BIG); /* a RST over the unread bytes would cut it */
  while (p->conn.state == SD_CONN_FLUSHING) turn();
  assert_int_equal(p->conn.state, SD_CONN_LINGERING);
  assert_int_equal(peer_recv(p), 0);
  assert_int_equal(p->closed, 0);
  close_peer(p);
  await(&p->closed);
  assert_int_equal(p->broken, 0);
  drop(p);
}

static void lingers_no_longer_than_a_second(void **state) {
  (void)state;
  probe *p = open_pair();
  sd_conn_write(&p->conn, "bye", 3);
  uint64_t start = sd_loop_now(loop);
  sd_conn_close(&p->conn);
  sd_conn_flush_dirty(loop);
  await(&p->closed);
  assert_in_range(sd_loop_now(loop), start + 1000, start + 3000);
  drop(p);
}

static void lingers_as_long_as_its_bytes_are_on_their_way(void **state) {
  (void)state;
  probe *p = open_pair();
  p->carries = true;
  shutdown(p->peer, SHUT_WR);
  turn();
  assert_int_equal(sd_conn_receive(&p->conn, loop->scratch, 100), 0);
  sd_conn_write(&p->conn, "bye", 3);
  sd_conn_close(&p->conn);
  for (int i = 0; i < 5; i++) turn();
  assert_int_equal(p->conn.state, SD_CONN_LINGERING);
  expect_at_peer(p, "bye", 3);
  for (int i = 0; i < 5; i++) turn();
  assert_int_equal(p->closed, 0);
  p->carries = false;
  close_peer(p);
  await(&p->closed);
  drop(p);
}

static void lingering_leaves_bytes_of_others_alone(void **state) {
  (void)state;
  probe *p = open_pair();
  assert_int_equal(write(p->peer, "garbage", 7), 7);
  turn();
  memcpy(loop->scratch, "precious", 8); /* as while Lua makes a string of it, and collects */
  sd_conn_close(&p->conn);
  assert_int_equal(p->conn.bytes_in, 7);
  assert_memory_equal(loop->scratch, "precious", 8);
  drop(p);
}

static void closing_waits_for_a_peer_only_so_long(void **state) {
  (void)state;
  limits.write = 50;
  probe *p = open_pair();
  sd_conn_write(&p->conn, big, BIG);
  sd_conn_close(&p->conn);
  await(&p->closed);
  assert_int_equal(p->broken, 0); /* it was closing already */
  drop(p);
}

static void abort_with_reset_tells_the_peer(void **state) {
  (void)state;
  probe *p = open_tcp();
  sd_conn_abort(&p->conn, true);
  assert_int_equal(p->closed, 1);
  usleep(1000);
  assert_int_equal(peer_recv(p), -ECONNRESET);
  drop(p);
}

static void a_reset_is_said_once_and_then_the_end(void **state) {
  (void)state;
  probe *p = open_tcp();
  struct linger none = { .l_onoff = 1, .l_linger = 0 };
  setsockopt(p->peer, SOL_SOCKET, SO_LINGER, &none, sizeof none);
  close_peer(p);
  await(&p->readable);
  assert_int_equal(sd_conn_receive(&p->conn, loop->scratch, 100), -ECONNRESET);
  assert_int_equal(sd_conn_receive(&p->conn, loop->scratch, 100), 0);
  assert_int_equal(p->conn.end, SD_END_RESET);
  sd_conn_close(&p->conn);
  assert_int_equal(p->closed, 1);
  drop(p);
}

static void ends_with_its_lifetime(void **state) {
  (void)state;
  limits.lifetime = 30;
  probe *p = open_pair();
  uint64_t start = p->conn.opened;
  await(&p->closed);
  assert_true(sd_loop_now(loop) >= start + 30);
  assert_int_equal(p->broken, 1);
  assert_int_equal(p->conn.end, SD_END_LIFETIME);
  drop(p);
}

static void a_closed_one_arms_no_timer(void **state) {
  (void)state;
  probe *p = open_pair();
  sd_conn_abort(&p->conn, false);
  sd_conn_set_life_deadline(&p->conn, sd_loop_now(loop) + 1);
  sd_conn_set_read_deadline(&p->conn, sd_loop_now(loop) + 1);
  assert_int_equal(sd_timers_next(&loop->timers), UINT64_MAX);
  assert_int_equal(sd_conn_write(&p->conn, "x", 1), SD_ECLOSED);
  drop(p);
}

static void the_first_reason_of_an_end_stays(void **state) {
  (void)state;
  probe *p = open_pair();
  sd_conn_note_end(&p->conn, SD_END_DRAIN);
  sd_conn_note_end(&p->conn, SD_END_ERROR);
  assert_string_equal(sd_end_name((sd_end)p->conn.end), "drain");
  assert_int_equal(sd_end_named("drain"), SD_END_DRAIN);
  assert_int_equal(sd_end_named("weariness"), -1);
  drop(p);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_loop, close_loop)
  const struct CMUnitTest tests[] = {
    TEST(gathers_writes_until_they_are_flushed),
    TEST(sends_long_writes_piece_by_piece_in_order),
    TEST(says_once_that_output_has_drained),
    TEST(a_peer_that_is_gone_fails_writes_but_not_what_it_sent),
    TEST(a_write_that_stands_still_ends_the_connection),
    TEST(a_write_may_stand_still_while_bytes_get_on_behind_it),
    TEST(a_peer_that_got_lost_can_still_be_read_and_then_fails),
    TEST(reads_only_when_the_kernel_said_so),
    TEST(sees_the_end_behind_the_last_bytes),
    TEST(closes_its_half_behind_what_is_queued),
    TEST(tells_of_a_passed_deadline_once),
    TEST(moves_no_more_than_its_share_in_a_turn),
    TEST(keeps_its_promise_to_wake_whoever_was_tired),
    TEST(closes_behind_what_is_queued_and_lingers),
    TEST(lingers_no_longer_than_a_second),
    TEST(lingers_as_long_as_its_bytes_are_on_their_way),
    TEST(lingering_leaves_bytes_of_others_alone),
    TEST(closing_waits_for_a_peer_only_so_long),
    TEST(abort_with_reset_tells_the_peer),
    TEST(a_reset_is_said_once_and_then_the_end),
    TEST(ends_with_its_lifetime),
    TEST(a_closed_one_arms_no_timer),
    TEST(the_first_reason_of_an_end_stays),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
