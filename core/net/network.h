/* Networks: is this peer in 10.0.0.0/8 or 2001:db8::/32?
 *
 * An IPv4 peer of a dual-stack socket (::ffff:1.2.3.4) is the IPv4 address it is.
 * Unix peers are in no network. */
#ifndef SD_NET_NETWORK_H
#define SD_NET_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"

typedef struct {
  uint8_t bytes[16]; /* beyond `bits` all zero */
  uint8_t bits;
  uint8_t size; /* in bytes: 4, 16, or 0 for no address at all */
} sd_network;

#define SD_NETWORK_TEXT 64

/* "10.0.0.0/8", "::1", "2001:db8::/32". 0, or UV_EINVAL and what is allowed. */
int sd_network_parse(sd_network *out, const char *text, size_t len, sd_net_error *error);

/* The one spelling: host bits are zero, and a single address has no "/". */
const char *sd_network_text(const sd_network *network, char *out, size_t size);

/* The peer itself, or a network around it: its first `v4` or `v6` bits. */
sd_network sd_network_around(const struct sockaddr *peer, unsigned v4, unsigned v6);

bool sd_network_contains(const sd_network *network, const sd_network *inner);

/* A list in any order. */
typedef struct {
  sd_network *rows;
  size_t count;
} sd_networks;

bool sd_networks_contain(const sd_networks *list, const sd_network *inner);

#endif
