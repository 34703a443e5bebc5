/* Steering: before a listen socket closes, nothing new may reach it, and what has
 * reached it must stay acceptable. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "net/listener.h"
#include "net/steer.h"

enum { MEMBERS = 4, CLIENTS = 200 };

static int group[MEMBERS];
static char where[SD_ADDRESS_TEXT];

static sd_listener opened(const char *text, int port, bool reuseport) {
  sd_listener_options o = { .port = port, .reuseport = reuseport };
  sd_address a;
  sd_listener l;
  sd_net_error error = { "" };
  assert_int_equal(sd_address_parse(&a, text, strlen(text), &error), 0);
  if (sd_listener_open(&l, &a, &o, &error)) fail_msg("%s", error.text);
  return l;
}

static int open_group(void **state) {
  int port = -1;
  (void)state;
  for (int i = 0; i < MEMBERS; i++) {
    sd_listener l = opened("tcp://127.0.0.1:0", port, true);
    strcpy(where, l.text);
    port = atoi(strrchr(where, ':') + 1);
    group[i] = l.fd;
  }
  return 0;
}

static int close_group(void **state) {
  (void)state;
  for (int i = 0; i < MEMBERS; i++)
    if (group[i] >= 0) close(group[i]);
  return 0;
}

/* Non-blocking: it may stay pending. */
static int start_dialing(const char *text) {
  struct sockaddr_storage ss;
  socklen_t len;
  sd_address a;
  assert_int_equal(sd_address_parse(&a, text, strlen(text), NULL), 0);
  assert_int_equal(sd_address_numeric(&a, &ss, &len), 0);
  int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (connect(fd, (struct sockaddr *)&ss, len) && errno != EINPROGRESS) fail_msg("connect: %s", strerror(errno));
  return fd;
}

static bool is_connected(int fd, int milliseconds) {
  struct pollfd p = { .fd = fd, .events = POLLOUT };
  int err = -1;
  socklen_t len = sizeof err;
  if (poll(&p, 1, milliseconds) != 1) return false;
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
  return err == 0;
}

/* Accepts what is queued; how many that were. */
static int empty(int listener) {
  int n = 0;
  for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0; n++) close(fd);
  assert_int_equal(errno, EAGAIN);
  return n;
}

/* Many connections; counts[i] is how many of them came to member i. */
static void spread(int *counts) {
  int clients[CLIENTS], sum = 0;
  for (int i = 0; i < CLIENTS; i++) {
    clients[i] = start_dialing(where);
    assert_true(is_connected(clients[i], 2000));
  }
  for (int i = 0; i < MEMBERS; i++) sum += counts[i] = group[i] < 0 ? 0 : empty(group[i]);
  for (int i = 0; i < CLIENTS; i++) close(clients[i]);
  assert_int_equal(sum, CLIENTS);
}

static void excluded_members_get_nothing(void **state) {
  static const unsigned chosen[] = { 1, 3 };
  int counts[MEMBERS];
  (void)state;
  assert_int_equal(sd_steer_to(group[0], chosen, 2, MEMBERS), 0);
  spread(counts);
  assert_int_equal(counts[0] + counts[2], 0);
  assert_true(counts[1] > CLIENTS / 4 && counts[3] > CLIENTS / 4); /* by lot */
}

static void any_member_speaks_for_the_group(void **state) {
  static const unsigned chosen[] = { 2 };
  int counts[MEMBERS];
  (void)state;
  assert_int_equal(sd_steer_to(group[3], chosen, 1, MEMBERS), 0);
  spread(counts);
  assert_int_equal(counts[2], CLIENTS);
}

static void a_new_program_replaces_the_old(void **state) {
  static const unsigned first[] = { 0 }, second[] = { 1 };
  int counts[MEMBERS];
  (void)state;
  assert_int_equal(sd_steer_to(group[0], first, 1, MEMBERS), 0);
  assert_int_equal(sd_steer_to(group[0], second, 1, MEMBERS), 0);
  spread(counts);
  assert_int_equal(counts[1], CLIENTS);
}

static void switched_off_all_get_some(void **state) {
  static const unsigned chosen[] = { 0 };
  int counts[MEMBERS];
  (void)state;
  assert_int_equal(sd_steer_off(group[0]), 0); /* harmless without a program */
  assert_int_equal(sd_steer_to(group[0], chosen, 1, MEMBERS), 0);
  assert_int_equal(sd_steer_off(group[1]), 0);
  spread(counts);
  for (int i = 0; i < MEMBERS; i++) assert_true(counts[i] > 0);
}

/* The header's promise about indices: the last member takes the closed one's. */
static void a_close_moves_the_last_member(void **state) {
  static const unsigned chosen[] = { 1 };
  int counts[MEMBERS];
  (void)state;
  close(group[1]);
  group[1] = -1;
  assert_int_equal(sd_steer_to(group[0], chosen, 1, MEMBERS - 1), 0);
  spread(counts);
  assert_int_equal(counts[3], CLIENTS);
}

/* The whole way: steer away, accept the queue to its end, close. Nobody is reset. */
static void a_member_leaves_without_a_reset(void **state) {
  static const unsigned rest[] = { 0, 1, 2 };
  int clients[CLIENTS], counts[MEMBERS];
  char byte;
  (void)state;
  for (int i = 0; i < CLIENTS; i++) {
    clients[i] = start_dialing(where);
    assert_true(is_connected(clients[i], 2000));
  }
  assert_int_equal(sd_steer_to(group[0], rest, 3, MEMBERS), 0);
  int late = empty(group[3]);
  close(group[3]);
  group[3] = -1;
  assert_true(late > 0);
  for (int i = 0; i < MEMBERS - 1; i++) late += empty(group[i]);
  assert_int_equal(late, CLIENTS);
  for (int i = 0; i < CLIENTS; i++) { /* all were accepted and closed in order */
    fcntl(clients[i], F_SETFL, 0);
    assert_int_equal(read(clients[i], &byte, 1), 0);
    close(clients[i]);
  }
  spread(counts);
}

static void wrong_members_are_refused(void **state) {
  static const unsigned beyond[] = { 4 };
  (void)state;
  assert_int_equal(sd_steer_to(group[0], beyond, 0, MEMBERS), UV_EINVAL);
  assert_int_equal(sd_steer_to(group[0], beyond, 1, MEMBERS), UV_EINVAL);
}

static void every_size_of_group_is_taken(void **state) {
  unsigned members[SD_STEER_MAX];
  (void)state;
  for (unsigned i = 0; i < SD_STEER_MAX; i++) members[i] = i;
  assert_int_equal(sd_steer_to(group[0], members, SD_STEER_MAX, SD_STEER_MAX), 0);
  assert_int_equal(sd_steer_off(group[0]), 0);
}

static void a_lone_socket_cannot_be_steered(void **state) {
  static const unsigned chosen[] = { 0 };
  (void)state;
  sd_listener l = opened("tcp://127.0.0.1:0", -1, false);
  assert_true(sd_steer_to(l.fd, chosen, 1, 1) < 0);
  close(l.fd);
}

static void syns_are_dropped_and_the_queue_stays(const char *address) {
  char byte = 'x';
  sd_listener l = opened(address, -1, false);
  int early = start_dialing(l.text);
  assert_true(is_connected(early, 2000));
  assert_int_equal(sd_steer_drop_syns(l.fd), 0);
  int late = start_dialing(l.text);
  assert_false(is_connected(late, 300));
  int conn = accept(l.fd, NULL, NULL);
  assert_true(conn >= 0); /* and it works in both directions, its end included */
  assert_int_equal(write(early, "a", 1), 1);
  assert_int_equal(read(conn, &byte, 1), 1);
  assert_int_equal(byte, 'a');
  assert_int_equal(write(conn, "b", 1), 1);
  fcntl(early, F_SETFL, 0);
  assert_int_equal(read(early, &byte, 1), 1);
  assert_int_equal(byte, 'b');
  close(conn);
  assert_int_equal(read(early, &byte, 1), 0);
  assert_int_equal(accept(l.fd, NULL, NULL), -1);
  assert_int_equal(sd_steer_resume(l.fd), 0);
  assert_true(is_connected(late, 5000)); /* its next SYN, after a second */
  close(late);
  close(early);
  close(l.fd);
}

static void an_ipv4_listener_drops_syns(void **state) {
  (void)state;
  syns_are_dropped_and_the_queue_stays("tcp://127.0.0.1:0");
}

static void an_ipv6_listener_drops_syns(void **state) {
  (void)state;
  syns_are_dropped_and_the_queue_stays("tcp://[::1]:0");
}

/* With defer_accept the server's half of the handshake stays open until the first
 * byte: a handshake in flight for as long as the test likes. */
static void a_handshake_in_flight_finishes(void **state) {
  sd_listener l = opened("tcp://127.0.0.1:0", -1, false);
  struct pollfd ready = { .fd = l.fd, .events = POLLIN };
  (void)state;
  assert_int_equal(sd_sockopt_set(l.fd, sd_sockopt_find("defer_accept", NULL), 30, NULL), 0);
  int client = start_dialing(l.text);
  assert_true(is_connected(client, 2000));
  assert_int_equal(poll(&ready, 1, 100), 0);
  assert_int_equal(sd_steer_drop_syns(l.fd), 0);
  assert_int_equal(write(client, "a", 1), 1);
  assert_int_equal(poll(&ready, 1, 2000), 1);
  assert_int_equal(empty(l.fd), 1);
  close(client);
  close(l.fd);
}

static void only_tcp_listeners_drop_syns(void **state) {
  int pair[2];
  (void)state;
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  assert_int_equal(sd_steer_drop_syns(pair[0]), UV_ENOPROTOOPT);
  assert_int_equal(sd_steer_resume(pair[0]), 0);
  close(pair[0]);
  close(pair[1]);
}

#define WITH_GROUP(test) cmocka_unit_test_setup_teardown(test, open_group, close_group)

int main(void) {
  const struct CMUnitTest tests[] = {
    WITH_GROUP(excluded_members_get_nothing),
    WITH_GROUP(any_member_speaks_for_the_group),
    WITH_GROUP(a_new_program_replaces_the_old),
    WITH_GROUP(switched_off_all_get_some),
    WITH_GROUP(a_close_moves_the_last_member),
    WITH_GROUP(a_member_leaves_without_a_reset),
    WITH_GROUP(wrong_members_are_refused),
    WITH_GROUP(every_size_of_group_is_taken),
    cmocka_unit_test(a_lone_socket_cannot_be_steered),
    cmocka_unit_test(an_ipv4_listener_drops_syns),
    cmocka_unit_test(an_ipv6_listener_drops_syns),
    cmocka_unit_test(a_handshake_in_flight_finishes),
    cmocka_unit_test(only_tcp_listeners_drop_syns),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
