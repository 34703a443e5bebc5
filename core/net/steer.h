/* Where new connections go, decided in the kernel: the part of closing a listen
 * socket that comes before the close.
 *
 * Closing a TCP listen socket resets what waits in its queue. So first nothing new
 * may arrive: with other members of the reuseport group left, a program sends
 * every new connection to those; with none left, a filter drops SYNs, which a
 * client answers by trying again later. Then handshakes in flight get their time,
 * the queue is accepted to its end, and the close finds nothing to reset.
 *
 * Member indices count from 0 in the order in which the sockets began to listen.
 * Closing member i moves the *last* member to i, so after every close the program
 * must be attached again. */
#ifndef SD_NET_STEER_H
#define SD_NET_STEER_H

#include <stddef.h>

#define SD_STEER_MAX 1024 /* members of one group */

/* New connections go to one of `members` (indices below `total`) by lot, whichever
 * member `fd` is. All others get none. Replaces the program before it.
 * UV_EINVAL for an empty list or an index out of range. */
int sd_steer_to(int fd, const unsigned *members, size_t count, size_t total);

/* Back to the kernel's own choice. Harmless when nothing is attached. */
int sd_steer_off(int fd);

/* From here on `fd` takes no new connection; handshakes in flight finish, and what
 * is queued can be accepted. The filter is inherited by accepted connections, where
 * it meets no SYN that matters. _resume takes it off again. */
int sd_steer_drop_syns(int fd);
int sd_steer_resume(int fd);

#endif
