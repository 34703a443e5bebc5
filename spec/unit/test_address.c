/* Addresses: every form reads back in one spelling, and every mistake is named. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <uv.h>

#include "net/address.h"

#define COUNT(list) (sizeof(list) / sizeof *(list))

static sd_address parsed(const char *text) {
  sd_address a;
  sd_net_error error = { "" };
  if (sd_address_parse(&a, text, strlen(text), &error)) fail_msg("%s", error.text);
  return a;
}

static void every_form_has_one_spelling(void **state) {
  static const char *const pairs[][2] = {
    { ":7000", "tcp://0.0.0.0:7000" },
    { "tcp://:0", "tcp://0.0.0.0:0" },
    { "tcp://127.0.0.1:65535", "tcp://127.0.0.1:65535" },
    { "TCP://LocalHost:1", "tcp://localhost:1" },
    { "localhost:80", "tcp://localhost:80" },
    { "example.org:80", "tcp://example.org:80" },
    { "[::]:7000", "tcp://[::]:7000" },
    { "tcp://[0:0:0:0:0:0:0:1]:7000", "tcp://[::1]:7000" },
    { "tcp://[fe80::1%lo]:7000", "tcp://[fe80::1%lo]:7000" },
    { "tls://0.0.0.0:443", "tls://0.0.0.0:443" },
    { "udp://[::1]:53", "udp://[::1]:53" },
    { "unix:/run/x.sock", "unix:/run/x.sock" },
    { "unix:x.sock", "unix:x.sock" },
    { "unix:/a?mode=660", "unix:/a?mode=0660" },
    { "unix:/a?owner=u:g&mode=0600", "unix:/a?mode=0600&owner=u:g" },
    { "unix:/a?owner=:g", "unix:/a?owner=:g" },
    { "unix:/a?owner=1000", "unix:/a?owner=1000" },
    { "fd:0", "fd:0" },
    { "fd:003", "fd:3" },
    { "systemd:0", "systemd:0" },
    { "systemd:web.socket", "systemd:web.socket" },
  };
  char text[SD_ADDRESS_TEXT];
  (void)state;
  for (size_t i = 0; i < COUNT(pairs); i++) {
    sd_address a = parsed(pairs[i][0]);
    assert_string_equal(sd_address_text(&a, text, sizeof text), pairs[i][1]);
    sd_address again = parsed(text);
    assert_memory_equal(&a, &again, sizeof a);
  }
}

static void fields_are_taken_apart(void **state) {
  (void)state;
  sd_address a = parsed("unix:/run/x?mode=0640&owner=www:staff");
  assert_int_equal(a.scheme, SD_ADDRESS_UNIX);
  assert_string_equal(a.path, "/run/x");
  assert_int_equal(a.mode, 0640);
  assert_string_equal(a.owner, "www");
  assert_string_equal(a.group, "staff");
  a = parsed("tcp://[::1]:9");
  assert_string_equal(a.host, "::1");
  assert_int_equal(a.port, 9);
  assert_int_equal(a.mode, -1);
  assert_int_equal(a.fd, -1);
}

static void mistakes_are_named(void **state) {
  static const char *const pairs[][2] = {
    { "", "is empty" },
    { "7000", "neither scheme nor port" },
    { "tcp://127.0.0.1", "port is missing" },
    { "tcp://127.0.0.1:", "port is missing" },
    { "tcp://127.0.0.1:65536", "\"65536\" is no number from 0 to 65535" },
    { "tcp://127.0.0.1:-1", "\"-1\" is no number from 0 to 65535" },
    { "tcp://127.0.0.1:+1", "\"+1\" is no number" },
    { "tcp://127.0.0.1:1x", "\"1x\" is no number" },
    { "tcp://127.0.0.1:99999999999999999999", "is no number from 0 to 65535" },
    { "localhost:99999", "\"99999\" is no number from 0 to 65535" },
    { "tcp://256.0.0.1:1", "no IPv4 address" },
    { "tcp://::1:1", "needs brackets" },
    { "tcp://[::1", "']' is missing" },
    { "tcp://[::1]", "port is missing" },
    { "tcp://[::1]7", "port is missing" },
    { "[1.2.3.4]:7", "no IPv6 address" },
    { "[::1%]:7", "no network interface" },
    { "tcp://a b:7", "may hold letters" },
    { "tcp://host:7/path", "no path or query" },
    { "tcp://host:7?x=1", "no path or query" },
    { "tcp:127.0.0.1:x", "two slashes" },
    { "http://host:7", "unknown scheme \"http\"" },
    { "unixx:/path", "unknown scheme \"unixx\"" },
    { "unix:", "path is missing" },
    { "unix:?mode=0600", "path is missing" },
    { "unix:/a?", "unknown key \"\"" },
    { "unix:/a?color=red", "unknown key \"color\"; allowed are mode and owner" },
    { "unix:/a?mode", "\"mode\" has no value" },
    { "unix:/a?mode=0888", "octal" },
    { "unix:/a?mode=1777", "0777" },
    { "unix:/a?mode=", "octal" },
    { "unix:/a?mode=0600&mode=0600", "twice" },
    { "unix:/a?owner=", "user:group" },
    { "unix:/a?owner=u:", "user:group" },
    { "unix:/a?owner=a:b:c", "user:group" },
    { "unix:/a\n", "control character" },
    { "fd:", "no descriptor" },
    { "fd:x", "no descriptor" },
    { "fd:-1", "no descriptor" },
    { "fd:99999999999", "no descriptor" },
    { "systemd:", "name is missing" },
    { "systemd:a b", "blanks" },
  };
  (void)state;
  for (size_t i = 0; i < COUNT(pairs); i++) {
    sd_address a;
    sd_net_error error = { "" };
    assert_int_equal(sd_address_parse(&a, pairs[i][0], strlen(pairs[i][0]), &error), UV_EINVAL);
    if (strstr(error.text, pairs[i][1]) == NULL) fail_msg("\"%s\" does not say \"%s\"", error.text, pairs[i][1]);
    assert_int_equal(sd_address_parse(&a, pairs[i][0], strlen(pairs[i][0]), NULL), UV_EINVAL);
  }
}

static void lengths_are_limited(void **state) {
  char text[2048];
  sd_address a;
  sd_net_error error;
  (void)state;
  memset(text, 'x', sizeof text);
  memcpy(text, "unix:", 5);
  assert_int_equal(sd_address_parse(&a, text, 5 + 107, &error), 0);
  assert_int_equal(sd_address_parse(&a, text, 5 + 108, &error), UV_EINVAL);
  assert_non_null(strstr(error.text, "108 bytes, at most 107"));
  assert_int_equal(sd_address_parse(&a, text, sizeof text, &error), UV_EINVAL);
  assert_non_null(strstr(error.text, "too long"));
  memcpy(text, "tcp://", 6);
  text[500] = ':';
  assert_int_equal(sd_address_parse(&a, text, 502, &error), UV_EINVAL);
  assert_non_null(strstr(error.text, "at most 253"));
  assert_int_equal(sd_address_parse(&a, "unix:/a\0b", 9, &error), UV_EINVAL);
  assert_non_null(strstr(error.text, "NUL"));
}

/* No bytes may upset the parser; a sanitizer watches. */
static void noise_is_harmless(void **state) {
  static const char alphabet[] = "tcp:/[]?&=mode0wnrunixfd%.-_19\n";
  unsigned seed = 1;
  (void)state;
  for (int i = 0; i < 50000; i++) {
    char text[40], again[SD_ADDRESS_TEXT];
    size_t len = (seed >> 8) % sizeof text;
    static const char *const starts[] = { "", "tcp://", "unix:", "[" };
    size_t used = (size_t)snprintf(text, sizeof text, "%s", starts[i % 4]);
    for (; used < len; used++) text[used] = alphabet[((seed = seed * 1103515245u + 12345u) >> 16) % 31];
    seed = seed * 1103515245u + 12345u;
    sd_address a, b;
    if (sd_address_parse(&a, text, used, NULL)) continue;
    sd_address_text(&a, again, sizeof again);
    assert_int_equal(sd_address_parse(&b, again, strlen(again), NULL), 0);
    assert_memory_equal(&a, &b, sizeof a);
  }
}

static void numbers_resolve_without_asking(void **state) {
  struct sockaddr_storage ss;
  socklen_t len;
  char text[SD_SOCKADDR_TEXT];
  (void)state;
  sd_address a = parsed("tcp://localhost:80");
  assert_int_equal(sd_address_numeric(&a, &ss, &len), 0);
  assert_string_equal(sd_sockaddr_text((struct sockaddr *)&ss, len, text, sizeof text), "127.0.0.1:80");
  a = parsed("[::1]:80");
  assert_int_equal(sd_address_numeric(&a, &ss, &len), 0);
  assert_string_equal(
    sd_sockaddr_uri((struct sockaddr *)&ss, len, SD_ADDRESS_TLS, text, sizeof text), "tls://[::1]:80");
  a = parsed("tcp://some.name:80");
  assert_int_equal(sd_address_numeric(&a, &ss, &len), UV_EAI_NONAME);
  a = parsed("fd:3");
  assert_int_equal(sd_address_numeric(&a, &ss, &len), UV_EINVAL);
}

static void a_mapped_peer_is_shown_as_ipv4(void **state) {
  struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(99) };
  char text[SD_SOCKADDR_TEXT];
  (void)state;
  inet_pton(AF_INET6, "::ffff:10.1.2.3", &in6.sin6_addr);
  const struct sockaddr *sa = (struct sockaddr *)&in6;
  assert_string_equal(sd_sockaddr_text(sa, sizeof in6, text, sizeof text), "10.1.2.3:99");
  assert_string_equal(sd_sockaddr_host(sa, sizeof in6, text, sizeof text), "10.1.2.3");
  assert_int_equal(sd_sockaddr_port(sa), 99);
}

static void unix_names_need_no_terminator(void **state) {
  struct sockaddr_un un = { .sun_family = AF_UNIX };
  char text[SD_SOCKADDR_TEXT];
  (void)state;
  const struct sockaddr *sa = (struct sockaddr *)&un;
  assert_string_equal(sd_sockaddr_text(sa, sizeof(sa_family_t), text, sizeof text), "");
  assert_int_equal(sd_sockaddr_port(sa), 0);
  memset(un.sun_path, 'p', sizeof un.sun_path);
  assert_int_equal(strlen(sd_sockaddr_text(sa, sizeof un, text, sizeof text)), sizeof un.sun_path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_form_has_one_spelling),
    cmocka_unit_test(fields_are_taken_apart),
    cmocka_unit_test(mistakes_are_named),
    cmocka_unit_test(lengths_are_limited),
    cmocka_unit_test(noise_is_harmless),
    cmocka_unit_test(numbers_resolve_without_asking),
    cmocka_unit_test(a_mapped_peer_is_shown_as_ipv4),
    cmocka_unit_test(unix_names_need_no_terminator),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
