/* recv, send and epoll_wait as the kernel has them. glibc's are cancellation points: with more than
 * one thread in the process each call sets and clears a mark, with a locked instruction
 * each time. No thread of ours is ever cancelled. */
#ifndef SD_NET_BARE_H
#define SD_NET_BARE_H

#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/* recv(2), without flags. */
static inline ssize_t sd_bare_recv(int fd, void *into, size_t size) {
  return syscall(SYS_recvfrom, fd, into, size, 0, NULL, NULL);
}

/* send(2); a broken pipe is an error and no signal. */
static inline ssize_t sd_bare_send(int fd, const void *bytes, size_t length) {
  return syscall(SYS_sendto, fd, bytes, length, MSG_NOSIGNAL, NULL, 0);
}

/* epoll_wait(2); `ms` as there. */
static inline int sd_bare_epoll_wait(int fd, struct epoll_event *events, int size, int ms) {
  return (int)syscall(SYS_epoll_pwait, fd, events, size, ms, NULL, 0);
}

#endif
