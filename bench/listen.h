/* How the limits of this machine listen: a socket on 127.0.0.1 for each of their processes, all on the same port, and
 * the kernel splits. usage: PROGRAM PORT [PROCESSES]; prints `ready`. */
#ifndef BENCH_LISTEN_H
#define BENCH_LISTEN_H

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static void die(const char *what) {
  perror(what);
  exit(1);
}

/* `flags`: of the type of a socket. */
static int listen_on(int port, int flags) {
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* accepted sockets inherit it */
  struct sockaddr_in address = {
    .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)
  };
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4096) != 0) die("listen");
  return fd;
}

/* Serves in as many processes as are asked for: start() gives each the socket that serve() has for ever. */
static int serve_all(int argc, char **argv, int (*start)(int port), void (*serve)(int listener)) {
  if (argc < 2) return 2;
  signal(SIGPIPE, SIG_IGN);
  int port = atoi(argv[1]), processes = argc > 2 ? atoi(argv[2]) : 1;
  pid_t parent = getpid();
  for (int i = 1; i < processes; i++) {
    if (fork() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) return 1;
    serve(start(port));
  }
  int listener = start(port);
  puts("ready");
  fflush(stdout);
  serve(listener);
  return 0;
}

#endif
