/* The least that a round trip between two processes can cost: one byte there and one back over a socket pair, each
 * side waiting in read. Prints nanoseconds of CPU per round trip of both sides together, and of time. usage: pair ROUNDS */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double cpu_of(int who) {
  struct rusage u;
  getrusage(who, &u);
  return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e9 + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e3;
}

static void answer(int fd) {
  char byte;
  while (read(fd, &byte, 1) == 1)
    if (write(fd, &byte, 1) != 1) break;
  _exit(0);
}

int main(int argc, char **argv) {
  long rounds = argc > 1 ? atol(argv[1]) : 100000;
  int pair[2];
  char byte = 'x';
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) return 1;
  pid_t other = fork();
  if (other < 0) return 1;
  if (other == 0) {
    close(pair[0]);
    answer(pair[1]);
  }
  close(pair[1]);
  double begun = now();
  for (long i = 0; i < rounds; i++)
    if (write(pair[0], &byte, 1) != 1 || read(pair[0], &byte, 1) != 1) return 1;
  double took = now() - begun;
  close(pair[0]);
  waitpid(other, NULL, 0);
  double cpu = cpu_of(RUSAGE_SELF) + cpu_of(RUSAGE_CHILDREN);
  printf("%.0f %.0f\n", cpu / (double)rounds, took / (double)rounds);
  return 0;
}
