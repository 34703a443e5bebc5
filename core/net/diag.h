/* What the kernel knows of a listen socket and its neighbours, asked over
 * NETLINK_SOCK_DIAG. Each question walks a table of the kernel's, so these are for
 * changes, not for the data path. */
#ifndef SD_NET_DIAG_H
#define SD_NET_DIAG_H

#include <stddef.h>
#include <sys/types.h>

/* Connections wait in the accept queue: 1 or 0, or what poll() said; -EINVAL if it
 * does not listen any more, since somebody who shares it has shut it down. */
int sd_diag_queued(int fd);

/* How many handshakes are under way on the socket's port, whichever socket of the
 * port they belong to; they would be reset if theirs closed. 0 for a unix socket. */
int sd_diag_handshakes(int fd, size_t *count);

/* The inodes of all sockets, of any process, that listen on the very address of this
 * one, up to `size` of them. */
int sd_diag_listeners(int fd, ino_t *list, size_t size, size_t *count);

#endif
