/* Listen sockets: who may share a port, and whose file may be removed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "net/listener.h"

static const sd_listener_options plain = { .port = -1 };
static const sd_listener_options shared = { .port = -1, .reuseport = true };

static char folder[64];

static sd_address address_of(const char *format, ...) {
  char text[256];
  va_list args;
  sd_address a;
  sd_net_error error = { "" };
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (sd_address_parse(&a, text, strlen(text), &error)) fail_msg("%s", error.text);
  return a;
}

static sd_listener opened(const sd_address *address, const sd_listener_options *options) {
  sd_listener l;
  sd_net_error error = { "" };
  if (sd_listener_open(&l, address, options, &error)) fail_msg("%s", error.text);
  return l;
}

/* It must fail with this errno and say these words. */
static void refused(const sd_address *address, const sd_listener_options *options, int err, const char *words) {
  sd_listener l;
  sd_net_error error = { "" };
  int got = sd_listener_open(&l, address, options, &error);
  if (got == 0 || strstr(error.text, words) == NULL) fail_msg("%d: \"%s\" does not say \"%s\"", got, error.text, words);
  assert_int_equal(got, err);
  assert_int_equal(l.fd, -1);
}

static int dial(const char *text) {
  struct sockaddr_storage ss;
  socklen_t len;
  sd_address a = address_of("%s", text);
  assert_int_equal(sd_address_numeric(&a, &ss, &len), 0);
  int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, (struct sockaddr *)&ss, len) == 0) return fd;
  close(fd);
  return -1;
}

static int port_of(const char *text) {
  return atoi(strrchr(text, ':') + 1);
}

static int open_descriptors(void) {
  int n = 0;
  for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
  return n;
}

/* TCP. */

static void a_socket_is_ready_to_serve(void **state) {
  sd_address a = address_of("tcp://127.0.0.1:0");
  sd_listener l = opened(&a, &plain);
  (void)state;
  assert_true(fcntl(l.fd, F_GETFD) & FD_CLOEXEC);
  assert_true(fcntl(l.fd, F_GETFL) & O_NONBLOCK);
  assert_true(port_of(l.text) > 0);
  assert_false(l.made_path);
  int client = dial(l.text);
  assert_true(client >= 0);
  close(client);
  close(l.fd);
}

static void the_backlog_is_4096_unless_asked(void **state) {
  sd_listener_options o = plain;
  sd_address a = address_of("tcp://127.0.0.1:0");
  double backlog;
  (void)state;
  o.backlog = 7;
  sd_listener l = opened(&a, &o);
  assert_int_equal(sd_sockopt_get(l.fd, sd_sockopt_find("backlog", NULL), &backlog, NULL), 0);
  assert_int_equal((int)backlog, 7);
  close(l.fd);
}

static void port_0_is_shared_by_several_sockets(void **state) {
  sd_address a = address_of("tcp://127.0.0.1:0");
  sd_listener_options o = shared;
  sd_listener group[4];
  (void)state;
  group[0] = opened(&a, &o);
  o.port = port_of(group[0].text);
  for (int i = 1; i < 4; i++) {
    group[i] = opened(&a, &o);
    assert_string_equal(group[i].text, group[0].text);
  }
  for (int i = 0; i < 4; i++) close(group[i].fd);
}

static void without_reuseport_a_port_has_one_owner(void **state) {
  sd_address any = address_of("tcp://127.0.0.1:0");
  sd_listener l = opened(&any, &plain);
  sd_address same = address_of("%s", l.text);
  char words[SD_ADDRESS_TEXT + 64];
  (void)state;
  snprintf(words, sizeof words, "listen %s: EADDRINUSE (address already in use)", l.text);
  refused(&same, &plain, UV_EADDRINUSE, words);
  refused(&same, &shared, UV_EADDRINUSE, words);
  close(l.fd);
  l = opened(&same, &plain); /* and is free again at once */
  close(l.fd);
}

static void a_probe_finds_who_would_share_silently(void **state) {
  sd_address any = address_of("tcp://127.0.0.1:0");
  sd_listener foreign = opened(&any, &shared);
  sd_address same = address_of("%s", foreign.text);
  sd_net_error error = { "" };
  (void)state;
  sd_listener silent = opened(&same, &shared); /* what the probe is for */
  close(silent.fd);
  assert_int_equal(sd_listener_probe(&same, false, &error), UV_EADDRINUSE);
  assert_non_null(strstr(error.text, "EADDRINUSE"));
  close(foreign.fd);
  assert_int_equal(sd_listener_probe(&same, false, &error), 0);
  assert_int_equal(sd_listener_probe(&any, false, &error), 0);
}

static void ipv6_takes_ipv4_too_unless_v6only(void **state) {
  sd_listener_options o = plain;
  sd_address a = address_of("[::]:0");
  char ipv4[SD_ADDRESS_TEXT];
  (void)state;
  for (int only = 0; only < 2; only++) {
    o.v6only = only;
    sd_listener l = opened(&a, &o);
    snprintf(ipv4, sizeof ipv4, "tcp://127.0.0.1:%d", port_of(l.text));
    int client = dial(ipv4);
    assert_int_equal(client >= 0, !only);
    if (client >= 0) close(client);
    close(l.fd);
  }
}

static void failures_read_well_and_leave_nothing(void **state) {
  sd_address elsewhere = address_of("tcp://192.0.2.1:80"), udp = address_of("udp://127.0.0.1:0");
  sd_address systemd = address_of("systemd:web"), nowhere = address_of("tcp://no-such-host.invalid:1");
  sd_listener_options o = plain;
  sd_sockopt_setting bad = { sd_sockopt_find("tos", NULL), 999 };
  int before = open_descriptors();
  (void)state;
  refused(&elsewhere, &plain, UV_EADDRNOTAVAIL, "listen tcp://192.0.2.1:80: EADDRNOTAVAIL (address not available)");
  refused(&udp, &plain, UV_EPROTONOSUPPORT, "listen udp://127.0.0.1:0: EPROTONOSUPPORT");
  refused(&systemd, &plain, UV_EPROTONOSUPPORT, "listen systemd:web:");
  sd_listener l;
  sd_net_error error = { "" };
  assert_true(sd_listener_open(&l, &nowhere, &plain, &error) < 0);
  assert_non_null(strstr(error.text, "listen tcp://no-such-host.invalid:1: EAI_"));
  o.options = &bad;
  o.option_count = 1;
  sd_address any = address_of("tcp://127.0.0.1:0");
  refused(&any, &o, UV_EINVAL, "listen tcp://127.0.0.1:0: socket option \"tos\" cannot be 999");
  assert_int_equal(open_descriptors(), before);
}

static void options_are_set_before_the_first_connection(void **state) {
  sd_sockopt_setting list[] = { { sd_sockopt_find("nodelay", NULL), 1 }, { sd_sockopt_find("rcvbuf", NULL), 20000 } };
  sd_listener_options o = { .port = -1, .options = list, .option_count = 2 };
  sd_address a = address_of("tcp://127.0.0.1:0");
  double value;
  (void)state;
  sd_listener l = opened(&a, &o);
  int client = dial(l.text), conn = accept(l.fd, NULL, NULL);
  assert_true(conn >= 0);
  assert_int_equal(sd_sockopt_get(conn, list[0].option, &value, NULL), 0);
  assert_true(value == 1);
  assert_int_equal(sd_sockopt_get(conn, list[1].option, &value, NULL), 0);
  assert_true(value == 20000);
  close(conn);
  close(client);
  close(l.fd);
}

/* Unix. */

static bool exists(const char *path) {
  struct stat st;
  return lstat(path, &st) == 0;
}

static void a_unix_socket_comes_and_goes(void **state) {
  sd_address a = address_of("unix:%s/s", folder);
  sd_listener l = opened(&a, &plain);
  (void)state;
  assert_true(l.made_path);
  int client = dial(l.text);
  assert_true(client >= 0);
  close(client);
  assert_int_equal(sd_listener_unlink(a.path, l.dev, l.ino + 1), UV_EEXIST);
  assert_true(exists(a.path));
  assert_int_equal(sd_listener_unlink(a.path, l.dev, l.ino), 0);
  assert_int_equal(sd_listener_unlink(a.path, l.dev, l.ino), UV_ENOENT);
  close(l.fd);
}

static void mode_and_owner_are_as_asked_whatever_the_umask(void **state) {
  static const int modes[] = { 0600, 0660, 0666, 0777, 0 };
  struct stat st;
  mode_t mask = umask(077);
  (void)state;
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
    sd_address a = address_of("unix:%s/m?mode=%04o&owner=%u:%u", folder, modes[i], getuid(), getgid());
    sd_listener l = opened(&a, &plain);
    assert_int_equal(lstat(a.path, &st), 0);
    assert_int_equal(st.st_mode & 07777, modes[i]);
    assert_int_equal(sd_listener_unlink(a.path, l.dev, l.ino), 0);
    close(l.fd);
  }
  umask(mask);
}

static void an_unknown_owner_is_named_and_no_file_stays(void **state) {
  sd_address a = address_of("unix:%s/o?owner=no-such-user-here", folder);
  sd_address b = address_of("unix:%s/o?owner=:no-such-group", folder);
  (void)state;
  refused(&a, &plain, UV_ENOENT, "there is no user \"no-such-user-here\"");
  refused(&b, &plain, UV_ENOENT, "there is no group \"no-such-group\"");
  assert_false(exists(a.path));
}

static void a_stale_socket_is_replaced(void **state) {
  sd_address a = address_of("unix:%s/stale", folder);
  sd_net_error error = { "" };
  (void)state;
  close(opened(&a, &plain).fd); /* what kill -9 leaves */
  assert_true(exists(a.path));
  assert_int_equal(sd_listener_probe(&a, false, &error), 0);
  assert_true(exists(a.path)); /* a probe removes nothing */
  sd_listener l = opened(&a, &plain);
  int client = dial(l.text);
  assert_true(client >= 0);
  close(client);
  close(l.fd);
  unlink(a.path);
}

static void a_live_server_keeps_its_socket(void **state) {
  sd_address a = address_of("unix:%s/live", folder);
  sd_listener l = opened(&a, &plain);
  (void)state;
  refused(&a, &plain, UV_EADDRINUSE, "EADDRINUSE (another server answers there)");
  assert_int_equal(sd_listener_probe(&a, false, NULL), UV_EADDRINUSE);
  int client = dial(l.text);
  assert_true(client >= 0);
  close(client);
  close(l.fd);
  unlink(a.path);
}

/* Its queue is full, so that knocking finds no room. */
static void a_busy_server_is_alive(void **state) {
  sd_listener_options o = plain;
  sd_address a = address_of("unix:%s/busy", folder);
  int clients[4];
  (void)state;
  o.backlog = 1;
  sd_listener l = opened(&a, &o);
  for (int i = 0; i < 2; i++) clients[i] = dial(l.text);
  refused(&a, &plain, UV_EADDRINUSE, "another server answers there");
  for (int i = 0; i < 2; i++) close(clients[i]);
  close(l.fd);
  unlink(a.path);
}

static void what_is_no_socket_is_left_alone(void **state) {
  char path[128], target[128];
  struct stat st;
  (void)state;
  snprintf(path, sizeof path, "%s/file", folder);
  snprintf(target, sizeof target, "%s/link", folder);
  int fd = open(path, O_CREAT | O_WRONLY, 0600);
  assert_int_equal(write(fd, "mine", 4), 4);
  close(fd);
  assert_int_equal(symlink(path, target), 0);
  sd_address file = address_of("unix:%s", path), link = address_of("unix:%s", target);
  sd_address dir = address_of("unix:%s", folder), none = address_of("unix:%s/none/s", folder);
  sd_listener_options over = plain;
  over.replace = true;
  refused(&file, &plain, UV_EEXIST, "a regular file is there, and is left alone");
  refused(&link, &plain, UV_EEXIST, "a symbolic link is there, and is left alone");
  refused(&dir, &plain, UV_EEXIST, "a folder is there");
  refused(&file, &over, UV_EEXIST, "a regular file");
  refused(&none, &plain, UV_ENOENT, "no such file or directory");
  assert_int_equal(lstat(path, &st), 0);
  assert_int_equal(st.st_size, 4);
  unlink(target);
  unlink(path);
}

static void a_datagram_socket_is_left_alone(void **state) {
  sd_address a = address_of("unix:%s/dgram", folder);
  struct sockaddr_storage ss;
  socklen_t len;
  (void)state;
  sd_address_numeric(&a, &ss, &len);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&ss, len), 0);
  refused(&a, &plain, UV_EEXIST, "a socket of another type");
  close(fd);
  unlink(a.path);
}

static void a_live_socket_can_be_replaced_with_its_queue_kept(void **state) {
  sd_address a = address_of("unix:%s/swap", folder);
  sd_listener_options over = plain;
  (void)state;
  over.replace = true;
  sd_listener old = opened(&a, &plain);
  int queued = dial(old.text);
  sd_listener new = opened(&a, &over);
  assert_string_equal(new.text, old.text);
  assert_true(new.ino != old.ino);
  assert_int_equal(sd_listener_unlink(a.path, old.dev, old.ino), UV_EEXIST);
  int client = dial(new.text);
  int conn = accept(old.fd, NULL, NULL), later = accept(new.fd, NULL, NULL);
  assert_true(queued >= 0 && client >= 0 && conn >= 0 && later >= 0);
  assert_int_equal(accept(old.fd, NULL, NULL), -1);
  const int all[] = { queued, client, conn, later, old.fd, new.fd };
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) close(all[i]);
  unlink(a.path);
}

/* Many start at once over a stale file: exactly one may win. Each waits at the first
 * pipe and stays, whatever it got, until the last one is closed. */
static int winners_among(const sd_address *a, int rivals) {
  int start[2], result[2], stay[2], winners = 0;
  char word;
  assert_int_equal(pipe(start) | pipe(result) | pipe(stay), 0);
  for (int i = 0; i < rivals; i++) {
    if (fork() != 0) continue;
    sd_listener l;
    close(start[1]);
    close(stay[1]);
    (void)!read(start[0], &word, 1);
    word = sd_listener_open(&l, a, &plain, NULL) == 0 ? 'w' : 'l';
    (void)!write(result[1], &word, 1);
    (void)!read(stay[0], &word, 1);
    _exit(0);
  }
  close(start[1]);
  for (int i = 0; i < rivals; i++) {
    assert_int_equal(read(result[0], &word, 1), 1);
    winners += word == 'w';
  }
  close(stay[1]);
  while (wait(NULL) > 0) continue;
  const int rest[] = { start[0], result[0], result[1], stay[0] };
  for (size_t i = 0; i < 4; i++) close(rest[i]);
  return winners;
}

static void of_many_that_find_a_stale_socket_one_wins(void **state) {
  sd_address a = address_of("unix:%s/race", folder);
  (void)state;
  for (int round = 0; round < 100; round++) { /* the last winner's file is stale by now */
    if (round == 0) close(opened(&a, &plain).fd);
    assert_int_equal(winners_among(&a, 8), 1);
  }
  unlink(a.path);
}

/* Passed in. */

static void a_passed_listen_socket_is_served(void **state) {
  sd_address any = address_of("tcp://127.0.0.1:0");
  sd_listener given = opened(&any, &plain);
  sd_address a = address_of("fd:%d", given.fd);
  (void)state;
  fcntl(given.fd, F_SETFD, 0);
  sd_listener l = opened(&a, &plain);
  assert_int_not_equal(l.fd, given.fd);
  assert_string_equal(l.text, given.text);
  assert_true(fcntl(l.fd, F_GETFD) & FD_CLOEXEC);
  assert_true(fcntl(given.fd, F_GETFD) & FD_CLOEXEC);
  assert_int_equal(sd_listener_probe(&a, false, NULL), 0);
  close(l.fd);
  close(given.fd);
}

static void other_descriptors_are_refused(void **state) {
  int fds[2], tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
  (void)state;
  assert_int_equal(pipe(fds), 0);
  sd_address a = address_of("fd:%d", fds[0]), b = address_of("fd:%d", tcp);
  sd_address c = address_of("fd:%d", udp), d = address_of("fd:900");
  refused(&a, &plain, UV_ENOTSOCK, "it is no socket");
  refused(&b, &plain, UV_EINVAL, "it is no listen socket");
  refused(&c, &plain, UV_EPROTOTYPE, "it is no stream socket");
  refused(&d, &plain, UV_EBADF, "listen fd:900: EBADF (no such descriptor is open)");
  const int all[] = { fds[0], fds[1], tcp, udp };
  for (size_t i = 0; i < 4; i++) close(all[i]);
}

static int make_folder(void **state) {
  (void)state;
  strcpy(folder, "/tmp/sd_listener_XXXXXX");
  return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state) {
  (void)state;
  return rmdir(folder); /* fails if a test has left something behind */
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_socket_is_ready_to_serve),
    cmocka_unit_test(the_backlog_is_4096_unless_asked),
    cmocka_unit_test(port_0_is_shared_by_several_sockets),
    cmocka_unit_test(without_reuseport_a_port_has_one_owner),
    cmocka_unit_test(a_probe_finds_who_would_share_silently),
    cmocka_unit_test(ipv6_takes_ipv4_too_unless_v6only),
    cmocka_unit_test(failures_read_well_and_leave_nothing),
    cmocka_unit_test(options_are_set_before_the_first_connection),
    cmocka_unit_test(a_unix_socket_comes_and_goes),
    cmocka_unit_test(mode_and_owner_are_as_asked_whatever_the_umask),
    cmocka_unit_test(an_unknown_owner_is_named_and_no_file_stays),
    cmocka_unit_test(a_stale_socket_is_replaced),
    cmocka_unit_test(a_live_server_keeps_its_socket),
    cmocka_unit_test(a_busy_server_is_alive),
    cmocka_unit_test(what_is_no_socket_is_left_alone),
    cmocka_unit_test(a_datagram_socket_is_left_alone),
    cmocka_unit_test(a_live_socket_can_be_replaced_with_its_queue_kept),
    cmocka_unit_test(of_many_that_find_a_stale_socket_one_wins),
    cmocka_unit_test(a_passed_listen_socket_is_served),
    cmocka_unit_test(other_descriptors_are_refused),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
