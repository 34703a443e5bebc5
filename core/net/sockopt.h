/* Socket options by name, one row each: the pool key `socket`, conn:setopt and
 * conn:getopt all read this table.
 *
 * A value is a number; switches are 0 and 1. `keepalive` and `linger` are both
 * switch and number: SD_SOCKOPT_OFF is off, and keepalive's SD_SOCKOPT_ON is on
 * with the kernel's own times. */
#ifndef SD_NET_SOCKOPT_H
#define SD_NET_SOCKOPT_H

#include <stdbool.h>
#include <stddef.h>

#include "address.h"

#define SD_SOCKOPT_OFF (-1)
#define SD_SOCKOPT_ON (-2)

typedef enum {
  SD_SOCKOPT_SWITCH,       /* true or false */
  SD_SOCKOPT_COUNT,        /* a whole number */
  SD_SOCKOPT_BUFFER,       /* bytes; read back as they were set, not doubled */
  SD_SOCKOPT_TOS,          /* a byte, for both IP versions */
  SD_SOCKOPT_SECONDS,      /* whole seconds */
  SD_SOCKOPT_MILLISECONDS, /* seconds that may have a fraction */
  SD_SOCKOPT_KEEPALIVE,    /* false, true or whole seconds */
  SD_SOCKOPT_LINGER        /* false or whole seconds */
} sd_sockopt_type;

/* Where an option can be given. A connection inherits those of its listen socket,
 * and rcvbuf only counts in full if it was there before. */
enum {
  SD_SOCKOPT_LISTEN = 1,
  SD_SOCKOPT_CONNECTION = 2,
  SD_SOCKOPT_BOTH = 3,
  SD_SOCKOPT_BIND = 4 /* decided when the address is opened, never after */
};

typedef struct {
  const char *name;
  int level, optname;
  sd_sockopt_type type;
  double min, max;
  int where;
  bool only_ip; /* means nothing to a unix socket */
  const char *help;
} sd_sockopt;

/* The rows, in the order in which they are documented. */
const sd_sockopt *sd_sockopt_rows(size_t *count);

/* The row of that name, or NULL and why: an unknown name lists the allowed ones,
 * one that the engine itself depends on says so. */
const sd_sockopt *sd_sockopt_find(const char *name, sd_net_error *error);

/* What may be given to this row, in words: "true, false or whole seconds from 1 to
 * 32767". */
void sd_sockopt_allowed(const sd_sockopt *option, char *out, size_t size);

/* 0 or UV_EINVAL: may `value` be given to this row at all? */
int sd_sockopt_check(const sd_sockopt *option, double value, sd_net_error *error);

/* Does the row mean anything to this socket? Pool defaults are set where it does
 * and skipped where not; asking for one that does not is UV_ENOPROTOOPT. */
bool sd_sockopt_applies(const sd_sockopt *option, int fd);

/* 0, UV_EINVAL (see _check; or an option of listen sockets given to a connection),
 * UV_ENOPROTOOPT (see _applies) or what the kernel said. */
int sd_sockopt_set(int fd, const sd_sockopt *option, double value, sd_net_error *error);
/* Back to what a new socket of its kind has. Of a buffer's size the kernel takes
 * over the tuning again where it can (Linux 5.15), else UV_ENOTSUP. */
int sd_sockopt_reset(int fd, const sd_sockopt *option, sd_net_error *error);

int sd_sockopt_get(int fd, const sd_sockopt *option, double *value, sd_net_error *error);

/* One setting of a list: the way a pool's `socket` table travels. */
typedef struct {
  const sd_sockopt *option;
  double value;
} sd_sockopt_setting;

/* Applies those of a list that are meant for `where` and mean something to this
 * socket; `backlog`, `reuseport` and `v6only` are arguments of the listener. Stops
 * at the first failure. */
int sd_sockopt_apply(int fd, const sd_sockopt_setting *list, size_t count, int where, sd_net_error *error);

/* To be called before close() on a socket that was given a positive `linger`. Linux
 * waits inside close() for it even on a non-blocking socket, which would hold the
 * whole loop; without the option the same bytes are delivered in the background.
 * linger = 0, the reset, stays. */
void sd_sockopt_before_close(int fd);

#endif
