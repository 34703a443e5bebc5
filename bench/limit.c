/* What this machine can do at most: an echo on bare epoll, one loop, no limits, no timeouts, no logs.
 * Edge-triggered, each descriptor registered once, the system call tried at once, no second read after a short
 * one. usage: limit PORT [PROCESSES]; prints `ready`. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "listen.h"

enum { BUFFER = 65536, EVENTS = 512, ACCEPTS_A_TICK = 64 };

typedef struct {
  int fd;
  char *rest; /* what the socket did not take; nothing is read while there is some */
  size_t offset, length;
} stream;

static void drop(stream *s) {
  close(s->fd);
  free(s->rest);
  free(s);
}

static int keep_rest(stream *s, const char *bytes, size_t length) {
  s->rest = malloc(length);
  if (s->rest == NULL) return -1;
  memcpy(s->rest, bytes, length);
  s->offset = 0;
  s->length = length;
  return 0;
}

static int flush(stream *s) {
  while (s->offset < s->length) {
    ssize_t n = send(s->fd, s->rest + s->offset, s->length - s->offset, MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    s->offset += (size_t)n;
  }
  free(s->rest);
  s->rest = NULL;
  return 0;
}

/* -1 when the stream has ended. */
static int echo(stream *s, uint32_t events, char *buffer) {
  if (s->rest != NULL && flush(s) != 0) return -1;
  while (s->rest == NULL) {
    ssize_t n = recv(s->fd, buffer, BUFFER, 0);
    if (n == 0) return -1;
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    ssize_t sent = send(s->fd, buffer, (size_t)n, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return -1;
    if (sent < 0) sent = 0;
    if (sent < n) return keep_rest(s, buffer + sent, (size_t)(n - sent));
    if (n < BUFFER && !(events & EPOLLRDHUP)) return 0;
  }
  return 0;
}

static void accept_some(int poller, int listener) {
  for (int i = 0; i < ACCEPTS_A_TICK; i++) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    stream *s = calloc(1, sizeof *s);
    if (s == NULL) die("calloc");
    s->fd = fd;
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = s };
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
  }
}

static void serve(int listener) {
  static char buffer[BUFFER];
  static struct epoll_event events[EVENTS];
  int poller = epoll_create1(0);
  struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int n = epoll_wait(poller, events, EVENTS, -1);
    for (int i = 0; i < n; i++) {
      stream *s = events[i].data.ptr;
      if (s == NULL) {
        accept_some(poller, listener);
      } else if (echo(s, events[i].events, buffer) != 0) {
        drop(s);
      }
    }
  }
}

static int start(int port) {
  return listen_on(port, SOCK_NONBLOCK);
}

int main(int argc, char **argv) {
  return serve_all(argc, argv, start, serve);
}
