/* Networks, and who is in them. */
#include "network.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

static unsigned least(unsigned a, unsigned b) {
  return a < b ? a : b;
}

static void keep_bits(sd_network *n, unsigned bits) {
  n->bits = (uint8_t)bits;
  for (unsigned i = 0; i < n->size; i++) {
    unsigned here = bits > i * 8 ? least(bits - i * 8, 8) : 0;
    n->bytes[i] &= (uint8_t)(0xff00u >> here);
  }
}

static int refuse(const char *text, size_t len, sd_net_error *error) {
  sd_net_error_set(error,
    "\"%.*s\" is no network: allowed are an address or its first bits, like 10.0.0.0/8 or "
    "2001:db8::/32",
    (int)least((unsigned)len, 80), text);
  return UV_EINVAL;
}

/* Whole and decimal, up to `most`; -1 for anything else. */
static int parse_bits(const char *text, int most) {
  char *end;
  if (*text < '0' || *text > '9') return -1;
  long n = strtol(text, &end, 10);
  return *end == '\0' && n <= most ? (int)n : -1;
}

int sd_network_parse(sd_network *out, const char *text, size_t len, sd_net_error *error) {
  char copy[SD_NETWORK_TEXT];
  *out = (sd_network){ 0 };
  if (len >= sizeof copy || memchr(text, '\0', len) != NULL) return refuse(text, len, error);
  memcpy(copy, text, len);
  copy[len] = '\0';
  char *slash = strchr(copy, '/');
  if (slash != NULL) *slash = '\0';
  if (inet_pton(AF_INET, copy, out->bytes) == 1)
    out->size = 4;
  else if (inet_pton(AF_INET6, copy, out->bytes) == 1)
    out->size = 16;
  else
    return refuse(text, len, error);
  int bits = slash == NULL ? out->size * 8 : parse_bits(slash + 1, out->size * 8);
  if (bits < 0) return refuse(text, len, error);
  keep_bits(out, (unsigned)bits);
  return 0;
}

const char *sd_network_text(const sd_network *n, char *out, size_t size) {
  char host[INET6_ADDRSTRLEN] = "";
  if (n->size != 0) inet_ntop(n->size == 4 ? AF_INET : AF_INET6, n->bytes, host, sizeof host);
  if (n->bits == n->size * 8)
    snprintf(out, size, "%s", host);
  else
    snprintf(out, size, "%s/%u", host, n->bits);
  return out;
}

static void take(sd_network *n, const void *bytes, uint8_t size) {
  memcpy(n->bytes, bytes, size);
  n->size = size;
}

sd_network sd_network_around(const struct sockaddr *peer, unsigned v4, unsigned v6) {
  sd_network n = { .size = 0 };
  if (peer->sa_family == AF_INET) take(&n, &((const struct sockaddr_in *)peer)->sin_addr, 4);
  if (peer->sa_family == AF_INET6) {
    const struct in6_addr *bits = &((const struct sockaddr_in6 *)peer)->sin6_addr;
    bool mapped = IN6_IS_ADDR_V4MAPPED(bits);
    take(&n, mapped ? bits->s6_addr + 12 : bits->s6_addr, mapped ? 4 : 16);
  }
  keep_bits(&n, least(n.size == 4 ? v4 : v6, n.size * 8u));
  return n;
}

bool sd_network_contains(const sd_network *n, const sd_network *inner) {
  if (n->size != inner->size || n->size == 0 || n->bits > inner->bits) return false;
  unsigned whole = n->bits / 8, rest = n->bits % 8;
  if (memcmp(n->bytes, inner->bytes, whole) != 0) return false;
  return rest == 0 || ((n->bytes[whole] ^ inner->bytes[whole]) & (0xff00u >> rest) & 0xffu) == 0;
}

bool sd_networks_contain(const sd_networks *list, const sd_network *inner) {
  for (size_t i = 0; i < list->count; i++)
    if (sd_network_contains(&list->rows[i], inner)) return true;
  return false;
}
