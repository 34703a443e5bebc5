/* Networks: one spelling each, and membership down to the bit. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

#include "net/network.h"

#define COUNT(list) (sizeof(list) / sizeof *(list))

static sd_network parsed(const char *text) {
  sd_network n;
  sd_net_error error = { "" };
  if (sd_network_parse(&n, text, strlen(text), &error)) fail_msg("%s", error.text);
  return n;
}

static bool is_in(const char *network, const char *address) {
  sd_network n = parsed(network), a = parsed(address);
  return sd_network_contains(&n, &a);
}

static void every_network_has_one_spelling(void **state) {
  static const char *const pairs[][2] = {
    { "10.1.2.3/8", "10.0.0.0/8" },
    { "10.1.2.3", "10.1.2.3" },
    { "10.1.2.3/32", "10.1.2.3" },
    { "0.0.0.0/0", "0.0.0.0/0" },
    { "192.168.255.129/25", "192.168.255.128/25" },
    { "2001:DB8:0::1/32", "2001:db8::/32" },
    { "::1/128", "::1" },
    { "::/0", "::/0" },
  };
  (void)state;
  for (size_t i = 0; i < COUNT(pairs); i++) {
    char text[SD_NETWORK_TEXT];
    sd_network n = parsed(pairs[i][0]);
    assert_string_equal(sd_network_text(&n, text, sizeof text), pairs[i][1]);
  }
}

static void mistakes_are_named(void **state) {
  static const char *const texts[] = { "", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/-1", "::1/129",
    "::1/1x", "example.org", "10.0.0.256", "fe80::1%lo", "10.0.0.0/8/8",
    "1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111" };
  (void)state;
  for (size_t i = 0; i < COUNT(texts); i++) {
    sd_network n;
    sd_net_error error = { "" };
    assert_true(sd_network_parse(&n, texts[i], strlen(texts[i]), &error) < 0);
    assert_non_null(strstr(error.text, "is no network: allowed are"));
  }
}

static void membership_counts_bits(void **state) {
  (void)state;
  assert_true(is_in("10.0.0.0/8", "10.255.0.1"));
  assert_false(is_in("10.0.0.0/8", "11.0.0.1"));
  assert_true(is_in("192.168.4.0/22", "192.168.7.255"));
  assert_false(is_in("192.168.4.0/22", "192.168.8.0"));
  assert_true(is_in("0.0.0.0/0", "1.2.3.4"));
  assert_false(is_in("0.0.0.0/0", "::1"));
  assert_true(is_in("2001:db8::/33", "2001:db8:7fff::1"));
  assert_false(is_in("2001:db8::/33", "2001:db8:8000::1"));
  assert_false(is_in("10.1.0.0/16", "10.0.0.0/8"));
}

static void a_mapped_peer_is_ipv4(void **state) {
  struct sockaddr_in6 six = { .sin6_family = AF_INET6 };
  struct sockaddr_in four = { .sin_family = AF_INET };
  (void)state;
  inet_pton(AF_INET6, "::ffff:10.1.2.3", &six.sin6_addr);
  inet_pton(AF_INET, "10.1.2.3", &four.sin_addr);
  sd_network a = sd_network_around((struct sockaddr *)&six, 32, 128);
  sd_network b = sd_network_around((struct sockaddr *)&four, 32, 128);
  assert_memory_equal(&a, &b, sizeof a);
  a = sd_network_around((struct sockaddr *)&six, 24, 64);
  char text[SD_NETWORK_TEXT];
  assert_string_equal(sd_network_text(&a, text, sizeof text), "10.1.2.0/24");
  inet_pton(AF_INET6, "2001:db8:1:2:3::4", &six.sin6_addr);
  a = sd_network_around((struct sockaddr *)&six, 24, 64);
  assert_string_equal(sd_network_text(&a, text, sizeof text), "2001:db8:1:2::/64");
}

static void a_unix_peer_is_nowhere(void **state) {
  struct sockaddr_un local = { .sun_family = AF_UNIX };
  sd_network everywhere[] = { parsed("0.0.0.0/0"), parsed("::/0") };
  sd_networks list = { everywhere, 2 };
  (void)state;
  sd_network peer = sd_network_around((struct sockaddr *)&local, 32, 128);
  assert_int_equal(peer.size, 0);
  assert_false(sd_networks_contain(&list, &peer));
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_network_has_one_spelling),
    cmocka_unit_test(mistakes_are_named),
    cmocka_unit_test(membership_counts_bits),
    cmocka_unit_test(a_mapped_peer_is_ipv4),
    cmocka_unit_test(a_unix_peer_is_nowhere),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
