/* Socket options: what is set is read back, and what cannot be set is named. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "net/sockopt.h"

static const sd_sockopt *row(const char *name) {
  sd_net_error error = { "" };
  const sd_sockopt *option = sd_sockopt_find(name, &error);
  if (option == NULL) fail_msg("%s", error.text);
  return option;
}

static int put(int fd, const char *name, double value) {
  sd_net_error error = { "" };
  int err = sd_sockopt_set(fd, row(name), value, &error);
  assert_true((err != 0) == (error.text[0] != '\0')); /* a failure always speaks */
  if (err) assert_non_null(strstr(error.text, name));
  return err;
}

static double value_of(int fd, const char *name) {
  double value = NAN;
  sd_net_error error = { "" };
  if (sd_sockopt_get(fd, row(name), &value, &error)) fail_msg("%s", error.text);
  return value;
}

static int new_socket(int domain) {
  int fd = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  return fd;
}

static void what_is_set_is_read_back(void **state) {
  static const struct {
    const char *name;
    double value;
  } cases[] = {
    { "nodelay", 1 },
    { "nodelay", 0 },
    { "keepalive", 61 },
    { "keepalive", SD_SOCKOPT_OFF },
    { "keepalive_idle", 62 },
    { "keepalive_interval", 7 },
    { "keepalive_count", 3 },
    { "linger", 0 },
    { "linger", 5 },
    { "linger", SD_SOCKOPT_OFF },
    { "rcvbuf", 65536 },
    { "sndbuf", 65536 },
    { "tos", 16 },
    { "priority", 4 },
    { "user_timeout", 1.5 },
    { "notsent_lowat", 16384 },
  };
  static const int domains[] = { AF_INET, AF_INET6 };
  (void)state;
  for (size_t d = 0; d < 2; d++) {
    int fd = new_socket(domains[d]);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
      assert_int_equal(put(fd, cases[i].name, cases[i].value), 0);
      assert_true(value_of(fd, cases[i].name) == cases[i].value);
    }
    close(fd);
  }
}

static void what_was_set_goes_back_to_the_kernels(void **state) {
  static const struct {
    const char *name;
    double value;
  } cases[] = {
    { "nodelay", 1 },
    { "keepalive", 61 },
    { "keepalive_idle", 62 },
    { "linger", 0 },
    { "rcvbuf", 65536 },
    { "sndbuf", 65536 },
    { "tos", 16 },
    { "user_timeout", 1.5 },
    { "notsent_lowat", 4096 },
  };
  (void)state;
  int fd = new_socket(AF_INET), fresh = new_socket(AF_INET);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    sd_net_error error = { "" };
    assert_int_equal(put(fd, cases[i].name, cases[i].value), 0);
    if (sd_sockopt_reset(fd, row(cases[i].name), &error)) fail_msg("%s", error.text);
    assert_true(value_of(fd, cases[i].name) == value_of(fresh, cases[i].name));
  }
  close(fd);
  close(fresh);
}

static void a_dual_stack_socket_marks_both_kinds_of_packets(void **state) {
  int tos = 0, fd = new_socket(AF_INET6);
  socklen_t len = sizeof tos;
  (void)state;
  assert_int_equal(put(fd, "tos", 32), 0);
  assert_int_equal(getsockopt(fd, IPPROTO_IP, IP_TOS, &tos, &len), 0);
  assert_int_equal(tos, 32);
  close(fd);
}

static void keepalive_is_switch_and_number(void **state) {
  int fd = new_socket(AF_INET);
  (void)state;
  assert_true(value_of(fd, "keepalive") == SD_SOCKOPT_OFF);
  assert_int_equal(put(fd, "keepalive", SD_SOCKOPT_ON), 0);
  assert_true(value_of(fd, "keepalive") > 0); /* the kernel's own time */
  close(fd);
}

static void values_out_of_range_are_refused(void **state) {
  static const struct {
    const char *name;
    double value;
  } cases[] = {
    { "keepalive", 0 },
    { "keepalive", 40000 },
    { "keepalive_count", 128 },
    { "linger", -3 },
    { "linger", 1.5 },
    { "rcvbuf", 0 },
    { "tos", 256 },
    { "priority", 7 },
    { "user_timeout", -1 },
    { "backlog", 0 },
    { "nodelay", 2 },
    { "rcvbuf", 1e300 },
    { "keepalive_idle", 0.5 },
  };
  int fd = new_socket(AF_INET);
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_int_equal(put(fd, cases[i].name, cases[i].value), UV_EINVAL);
  assert_int_equal(put(fd, "tos", NAN), UV_EINVAL);
  assert_int_equal(put(fd, "user_timeout", INFINITY), UV_EINVAL);
  close(fd);
}

static void unknown_names_are_answered_with_the_allowed_ones(void **state) {
  sd_net_error error = { "" };
  size_t count;
  const sd_sockopt *rows = sd_sockopt_rows(&count);
  (void)state;
  assert_null(sd_sockopt_find("no_delay", &error));
  assert_non_null(strstr(error.text, "unknown socket option \"no_delay\""));
  for (size_t i = 0; i < count; i++) assert_non_null(strstr(error.text, rows[i].name));
}

static void what_the_engine_depends_on_is_refused_by_name(void **state) {
  static const char *const names[] = { "nonblock", "reuseaddr", "cloexec", "attach_filter", "rcvlowat" };
  (void)state;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    sd_net_error error = { "" };
    assert_null(sd_sockopt_find(names[i], &error));
    assert_non_null(strstr(error.text, names[i]));
    assert_non_null(strstr(error.text, "belongs to the engine"));
  }
}

static void unix_sockets_take_what_means_something_to_them(void **state) {
  int fd = new_socket(AF_UNIX);
  sd_net_error error = { "" };
  double value;
  sd_sockopt_setting defaults[] = { { row("nodelay"), 1 }, { row("keepalive"), 60 }, { row("backlog"), 4096 },
    { row("sndbuf"), 65536 } };
  (void)state;
  assert_int_equal(put(fd, "nodelay", 1), UV_ENOPROTOOPT);
  assert_int_equal(put(fd, "keepalive", 60), UV_ENOPROTOOPT);
  assert_int_equal(sd_sockopt_get(fd, row("tos"), &value, &error), UV_ENOPROTOOPT);
  assert_int_equal(sd_sockopt_apply(fd, defaults, 4, SD_SOCKOPT_CONNECTION, &error), 0);
  assert_true(value_of(fd, "sndbuf") == 65536);
  close(fd);
}

static void listen_options_are_for_listen_sockets(void **state) {
  int fd = new_socket(AF_INET);
  struct sockaddr_in any = { .sin_family = AF_INET };
  (void)state;
  assert_int_equal(put(fd, "defer_accept", 3), UV_EINVAL);
  assert_int_equal(put(fd, "backlog", 10), UV_EINVAL);
  assert_int_equal(put(fd, "reuseport", 1), UV_EINVAL);
  assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof any), 0);
  assert_int_equal(listen(fd, 5), 0);
  assert_true(value_of(fd, "backlog") == 5);
  assert_int_equal(put(fd, "backlog", 10), 0);
  assert_true(value_of(fd, "backlog") == 10);
  assert_int_equal(put(fd, "defer_accept", 3), 0);
  assert_true(value_of(fd, "defer_accept") >= 3); /* rounded to retransmissions */
  assert_int_equal(put(fd, "fastopen", 16), 0);
  assert_true(value_of(fd, "fastopen") == 16);
  close(fd);
}

static void a_list_applies_where_it_is_meant(void **state) {
  sd_sockopt_setting list[] = { { row("quickack"), 1 }, { row("defer_accept"), 2 }, { row("nodelay"), 1 },
    { row("v6only"), 1 }, { row("backlog"), 9 } };
  int fd = new_socket(AF_INET);
  sd_net_error error = { "" };
  (void)state;
  assert_int_equal(sd_sockopt_apply(fd, list, 5, SD_SOCKOPT_CONNECTION, &error), 0);
  assert_true(value_of(fd, "nodelay") == 1);
  assert_true(value_of(fd, "defer_accept") == 0);
  assert_int_equal(sd_sockopt_apply(fd, list, 5, SD_SOCKOPT_LISTEN, &error), 0);
  assert_true(value_of(fd, "defer_accept") >= 2);
  close(fd);
}

static void a_broken_descriptor_is_a_failure_with_words(void **state) {
  int fds[2];
  (void)state;
  assert_int_equal(pipe(fds), 0);
  assert_true(put(fds[0], "rcvbuf", 4096) == UV_ENOTSOCK);
  close(fds[0]);
  close(fds[1]);
  assert_int_equal(put(fds[0], "rcvbuf", 4096), UV_EBADF);
  assert_int_equal(put(fds[0], "nodelay", 1), UV_EBADF);
}

static void closing_never_waits_for_linger(void **state) {
  int fd = new_socket(AF_INET);
  (void)state;
  put(fd, "linger", 30);
  sd_sockopt_before_close(fd);
  assert_true(value_of(fd, "linger") == SD_SOCKOPT_OFF);
  put(fd, "linger", 0);
  sd_sockopt_before_close(fd);
  assert_true(value_of(fd, "linger") == 0); /* the reset stays */
  close(fd);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(what_is_set_is_read_back),
    cmocka_unit_test(what_was_set_goes_back_to_the_kernels),
    cmocka_unit_test(a_dual_stack_socket_marks_both_kinds_of_packets),
    cmocka_unit_test(keepalive_is_switch_and_number),
    cmocka_unit_test(values_out_of_range_are_refused),
    cmocka_unit_test(unknown_names_are_answered_with_the_allowed_ones),
    cmocka_unit_test(what_the_engine_depends_on_is_refused_by_name),
    cmocka_unit_test(unix_sockets_take_what_means_something_to_them),
    cmocka_unit_test(listen_options_are_for_listen_sockets),
    cmocka_unit_test(a_list_applies_where_it_is_meant),
    cmocka_unit_test(a_broken_descriptor_is_a_failure_with_words),
    cmocka_unit_test(closing_never_waits_for_linger),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
