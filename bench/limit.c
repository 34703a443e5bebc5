/* What this machine can do at most: an echo on bare epoll, one loop, no limits, no timeouts, no logs.
 * Edge-triggered, each descriptor registered once, the system call tried at once, no second read after a short
 * one. usage: limit PORT [PROCESSES]; prints `ready`. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { BUFFER = 65536, EVENTS = 512, ACCEPTS_A_TICK = 64 };

typedef struct {
  int fd;
  char *rest; /* what the socket did not take; nothing is read while there is some */
  size_t offset, length;
} stream;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int listen_on(int port) {
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* accepted sockets inherit it */
  struct sockaddr_in address = {
    .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)
  };
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4096) != 0) die("listen");
  return fd;
}

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

/* Each process has its own socket on the same port: the kernel splits. */
int main(int argc, char **argv) {
  if (argc < 2) return 2;
  signal(SIGPIPE, SIG_IGN);
  int port = atoi(argv[1]), processes = argc > 2 ? atoi(argv[2]) : 1, listener = listen_on(port);
  pid_t parent = getpid();
  for (int i = 1; i < processes; i++) {
    if (fork() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) return 1;
    close(listener);
    serve(listen_on(port));
  }
  puts("ready");
  fflush(stdout);
  serve(listener);
}
