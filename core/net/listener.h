/* Listen sockets: opened by the supervisor, inherited by workers, never closed
 * with a queue (see steer.h).
 *
 * Every socket that leaves here is CLOEXEC and non-blocking. For a passed-in
 * fd:N that changes the shared description too, which is what every server does
 * with a passed listen socket: whoever accepts from it has to expect EAGAIN
 * anyway once two processes hold it. */
#ifndef SD_NET_LISTENER_H
#define SD_NET_LISTENER_H

#include <stdbool.h>
#include <sys/types.h>

#include "address.h"
#include "sockopt.h"

typedef struct {
  int backlog;    /* 0: SD_LISTENER_BACKLOG */
  bool reuseport; /* one of several sockets on the address; IP only */
  bool v6only;    /* off: an IPv6 socket takes IPv4 peers too */
  int port;       /* in place of the address's own, unless -1: all sockets of
                      an address with port 0 share the first one's port */
  bool bind_only; /* IP: keep the port, but do not listen */
  bool replace;   /* unix: open beside and rename over a live socket; the old
                      one's queue stays acceptable. Its own name (getsockname)
                      remains the one from before the rename */
  const sd_sockopt_setting *options;
  size_t option_count;
} sd_listener_options;

#define SD_LISTENER_BACKLOG 4096

typedef struct {
  int fd;
  char text[SD_ADDRESS_TEXT]; /* where it really listens: "tcp://127.0.0.1:41233" */
  bool made_path;             /* a unix socket of our own: sd_listener_unlink wants these */
  dev_t dev;
  ino_t ino;
} sd_listener;

/* On failure nothing is left behind, and the text reads like
 * "listen tcp://127.0.0.1:80: EACCES (permission denied)".
 *
 * A socket file that is in the way is removed only if nobody answers on it; a live
 * one is UV_EADDRINUSE, and what is no socket is left alone: UV_EEXIST. `udp:` and
 * `systemd:` are UV_EPROTONOSUPPORT here: systemd names are turned into fd:N by the
 * caller, who has seen the environment. */
int sd_listener_open(
  sd_listener *out, const sd_address *address, const sd_listener_options *options, sd_net_error *error);

/* Would the address be ours alone? With SO_REUSEPORT two servers of one user can
 * share a port without noticing, so before its first bind an address is bound once
 * without. 0, UV_EADDRINUSE, or what else stands in the way. Once our own sockets
 * listen there the answer is EADDRINUSE as well. */
int sd_listener_probe(const sd_address *address, bool v6only, sd_net_error *error);

/* Lets others of our user bind the port of a socket that was opened without
 * reuseport; they have to ask for it as well. There is no way back: the kernel
 * remembers of the port that it is shared. */
int sd_listener_share(int fd);

/* Removes the unix socket at `path` if it is still that inode; UV_ENOENT when it is
 * gone, UV_EEXIST when somebody else's is there now. Call it while the listen socket
 * is still open: until then the number cannot be given to another file. */
int sd_listener_unlink(const char *path, dev_t dev, ino_t ino);

#endif
