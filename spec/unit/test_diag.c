/* What the kernel says of listen sockets, of their handshakes and of their neighbours. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/diag.h"
#include "net/listener.h"

static sd_listener open_at(const char *text, int port, bool bind_only) {
  sd_listener_options o = { .port = port, .reuseport = true, .bind_only = bind_only };
  sd_listener l;
  sd_address a;
  sd_net_error error = { "" };
  assert_int_equal(sd_address_parse(&a, text, strlen(text), &error), 0);
  if (sd_listener_open(&l, &a, &o, &error)) fail_msg("%s", error.text);
  return l;
}

static int port_of(const sd_listener *l) {
  return atoi(strrchr(l->text, ':') + 1);
}

static int dial(int port) {
  struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
  return fd;
}

static ino_t inode_of(int fd) {
  struct stat st;
  assert_int_equal(fstat(fd, &st), 0);
  return st.st_ino;
}

static size_t handshakes(int fd) {
  size_t count;
  assert_int_equal(sd_diag_handshakes(fd, &count), 0);
  return count;
}

static void a_queue_is_empty_until_somebody_comes(void **state) {
  sd_listener l = open_at("tcp://127.0.0.1:0", -1, false);
  (void)state;
  assert_int_equal(sd_diag_queued(l.fd), 0);
  int client = dial(port_of(&l));
  assert_int_equal(sd_diag_queued(l.fd), 1);
  close(accept(l.fd, NULL, NULL));
  assert_int_equal(sd_diag_queued(l.fd), 0);
  close(client);
  close(l.fd);
}

static void one_that_was_shut_down_has_no_queue(void **state) {
  sd_listener l = open_at("tcp://127.0.0.1:0", -1, false);
  (void)state;
  assert_int_equal(shutdown(l.fd, SHUT_RDWR), 0);
  assert_int_equal(sd_diag_queued(l.fd), -EINVAL);
  close(l.fd);
}

/* With TCP_DEFER_ACCEPT a handshake is under way until the first byte has come. */
static void handshakes_under_way_are_counted(const char *address) {
  sd_listener l = open_at(address, -1, false);
  int seconds = 30, clients[3];
  assert_int_equal(setsockopt(l.fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds), 0);
  assert_int_equal(handshakes(l.fd), 0);
  for (int i = 0; i < 3; i++) clients[i] = dial(port_of(&l));
  assert_int_equal(handshakes(l.fd), 3);
  assert_int_equal(sd_diag_queued(l.fd), 0);
  assert_int_equal(send(clients[0], "x", 1, 0), 1);
  struct pollfd p = { .fd = l.fd, .events = POLLIN };
  assert_int_equal(poll(&p, 1, 5000), 1);
  assert_int_equal(handshakes(l.fd), 2);
  for (int i = 0; i < 3; i++) close(clients[i]);
  close(l.fd);
}

static void handshakes_of_ipv4(void **state) {
  (void)state;
  handshakes_under_way_are_counted("tcp://127.0.0.1:0");
}

static void handshakes_of_both_families(void **state) {
  (void)state;
  handshakes_under_way_are_counted("tcp://[::]:0");
}

static bool holds(const ino_t *list, size_t count, ino_t wanted) {
  for (size_t i = 0; i < count; i++)
    if (list[i] == wanted) return true;
  return false;
}

static void neighbours_are_those_who_listen_there(void **state) {
  ino_t list[8];
  size_t count;
  (void)state;
  sd_listener first = open_at("tcp://127.0.0.1:0", -1, false);
  int port = port_of(&first);
  sd_listener second = open_at("tcp://127.0.0.1:0", port, false);
  sd_listener bound = open_at("tcp://127.0.0.1:0", port, true);
  sd_listener elsewhere = open_at("tcp://127.0.0.2:0", port, false);
  assert_int_equal(sd_diag_listeners(first.fd, list, 8, &count), 0);
  assert_int_equal(count, 2);
  assert_true(holds(list, count, inode_of(first.fd)));
  assert_true(holds(list, count, inode_of(second.fd)));
  assert_int_equal(sd_diag_listeners(first.fd, list, 1, &count), 0);
  assert_int_equal(count, 1); /* no more than there is room for */
  close(first.fd);
  close(second.fd);
  close(bound.fd);
  close(elsewhere.fd);
}

static void a_unix_socket_has_neither(void **state) {
  ino_t list[8];
  size_t count = 9;
  int pair[2];
  (void)state;
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  assert_int_equal(handshakes(pair[0]), 0);
  assert_int_equal(sd_diag_listeners(pair[0], list, 8, &count), 0);
  assert_int_equal(count, 0);
  close(pair[0]);
  close(pair[1]);
}

static void a_port_that_is_only_bound_refuses_and_stays_ours(void **state) {
  sd_listener bound = open_at("tcp://127.0.0.1:0", -1, true);
  struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port_of(&bound)) };
  (void)state;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int stranger = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  assert_int_equal(setsockopt(stranger, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
  assert_int_equal(connect(stranger, (struct sockaddr *)&to, sizeof to), -1);
  assert_int_equal(bind(stranger, (struct sockaddr *)&to, sizeof to), -1);
  sd_listener ours = open_at("tcp://127.0.0.1:0", port_of(&bound), false);
  close(dial(port_of(&ours)));
  close(stranger);
  close(ours.fd);
  close(bound.fd);
}

static void a_port_can_be_shared_later(void **state) {
  sd_listener_options alone = { .port = -1 }, beside = { .port = -1, .reuseport = true };
  sd_listener first, second;
  sd_address a;
  sd_net_error error = { "" };
  (void)state;
  assert_int_equal(sd_address_parse(&a, "tcp://127.0.0.1:0", 17, &error), 0);
  assert_int_equal(sd_listener_open(&first, &a, &alone, &error), 0);
  assert_int_equal(sd_address_parse(&a, first.text, strlen(first.text), &error), 0);
  assert_int_not_equal(sd_listener_open(&second, &a, &beside, &error), 0);
  assert_int_equal(sd_listener_share(first.fd), 0);
  assert_int_equal(sd_listener_open(&second, &a, &beside, &error), 0);
  close(first.fd);
  close(dial(port_of(&second)));
  close(second.fd);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_queue_is_empty_until_somebody_comes),
    cmocka_unit_test(one_that_was_shut_down_has_no_queue),
    cmocka_unit_test(handshakes_of_ipv4),
    cmocka_unit_test(handshakes_of_both_families),
    cmocka_unit_test(neighbours_are_those_who_listen_there),
    cmocka_unit_test(a_unix_socket_has_neither),
    cmocka_unit_test(a_port_that_is_only_bound_refuses_and_stays_ours),
    cmocka_unit_test(a_port_can_be_shared_later),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
