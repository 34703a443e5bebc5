/* The echo of limit.c on io_uring: accepting and receiving are asked for once and answered many times, bytes land in
 * buffers that all streams share and are sent from there, and all that a turn asks for goes to the kernel in the one
 * system call that waits for the next turn. Unlike limit.c it reads on while a peer takes nothing, until the buffers
 * are used up. usage: limit_uring PORT [PROCESSES]; prints `ready`. */
#include <liburing.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "listen.h"

enum { REQUESTS = 4096, ANSWERS = 16384, BUFFERS = 256, SIZE = 16384, GROUP = 0, NONE = -1 };
enum { SETUP = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN };

/* What is answered, in the low bits of the address of the stream. */
enum { ACCEPTED, RECEIVED, SENT, KIND = 3 };

typedef struct stream stream;
struct stream {
  stream *next_starved;
  int fd;
  int first, last; /* buffers to be sent; the first is being sent */
  bool receiving, broken;
};

static struct io_uring ring;
static struct io_uring_buf_ring *shared;
static char *memory;
static struct {
  int next;
  unsigned length;
} filled[BUFFERS];
static stream *starved; /* found no buffer: they receive again when one is free */

static struct io_uring_sqe *request(void) {
  struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
  if (sqe != NULL) return sqe;
  io_uring_submit(&ring);
  return io_uring_get_sqe(&ring);
}

static void answer_with(struct io_uring_sqe *sqe, stream *s, int kind) {
  io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)s | (unsigned)kind);
}

static void ask_accept(int listener) {
  struct io_uring_sqe *sqe = request();
  io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, SOCK_CLOEXEC);
  answer_with(sqe, NULL, ACCEPTED);
}

static void ask_receive(stream *s) {
  struct io_uring_sqe *sqe = request();
  io_uring_prep_recv_multishot(sqe, s->fd, NULL, 0, 0);
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = GROUP;
  answer_with(sqe, s, RECEIVED);
  s->receiving = true;
}

/* With MSG_WAITALL the kernel goes on after a short write by itself. */
static void ask_send(stream *s) {
  struct io_uring_sqe *sqe = request();
  io_uring_prep_send(sqe, s->fd, memory + (size_t)s->first * SIZE, filled[s->first].length, MSG_NOSIGNAL | MSG_WAITALL);
  answer_with(sqe, s, SENT);
}

static void give_back(int buffer) {
  io_uring_buf_ring_add(
    shared, memory + (size_t)buffer * SIZE, SIZE, (unsigned short)buffer, io_uring_buf_ring_mask(BUFFERS), 0);
  io_uring_buf_ring_advance(shared, 1);
  if (starved == NULL) return;
  stream *s = starved;
  starved = s->next_starved;
  ask_receive(s);
}

static void pop(stream *s) {
  int buffer = s->first;
  s->first = filled[buffer].next;
  give_back(buffer);
}

static void drop_if_done(stream *s) {
  if (s->receiving || s->first != NONE) return;
  struct io_uring_sqe *sqe = request();
  io_uring_prep_close(sqe, s->fd);
  sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
  answer_with(sqe, NULL, SENT);
  free(s);
}

static void on_accepted(int listener, const struct io_uring_cqe *cqe) {
  if (!(cqe->flags & IORING_CQE_F_MORE)) ask_accept(listener);
  if (cqe->res < 0) return;
  stream *s = calloc(1, sizeof *s);
  if (s == NULL) die("calloc");
  s->fd = cqe->res;
  s->first = NONE;
  ask_receive(s);
}

static void queue(stream *s, int buffer, unsigned length) {
  filled[buffer].next = NONE;
  filled[buffer].length = length;
  if (s->first == NONE) {
    s->first = s->last = buffer;
    ask_send(s);
  } else {
    filled[s->last].next = buffer;
    s->last = buffer;
  }
}

static void on_received(stream *s, const struct io_uring_cqe *cqe) {
  bool more = cqe->flags & IORING_CQE_F_MORE;
  if (!more) s->receiving = false;
  if (cqe->res > 0) {
    int buffer = (int)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
    if (s->broken)
      give_back(buffer);
    else
      queue(s, buffer, (unsigned)cqe->res);
    if (!more) ask_receive(s);
  } else if (cqe->res == -ENOBUFS) {
    s->receiving = true;
    s->next_starved = starved;
    starved = s;
  } else {
    drop_if_done(s);
  }
}

static void on_sent(stream *s, const struct io_uring_cqe *cqe) {
  if (s == NULL) return; /* a close */
  s->broken = cqe->res < (int)filled[s->first].length;
  pop(s);
  while (s->broken && s->first != NONE) pop(s);
  if (s->broken) shutdown(s->fd, SHUT_RDWR); /* receiving ends then */
  if (s->first != NONE)
    ask_send(s);
  else
    drop_if_done(s);
}

static void set_up(void) {
  struct io_uring_params params = { .flags = SETUP | IORING_SETUP_CQSIZE, .cq_entries = ANSWERS };
  int err = io_uring_queue_init_params(REQUESTS, &ring, &params);
  if (err < 0) errno = -err, die("io_uring");
  memory = mmap(NULL, (size_t)BUFFERS * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  shared =
    mmap(NULL, BUFFERS * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || shared == MAP_FAILED) die("mmap");
  struct io_uring_buf_reg reg = { .ring_addr = (uintptr_t)shared, .ring_entries = BUFFERS, .bgid = GROUP };
  err = io_uring_register_buf_ring(&ring, &reg, 0);
  if (err < 0) errno = -err, die("buffers");
  for (int i = 0; i < BUFFERS; i++) give_back(i);
}

/* Where io_uring is forbidden nobody is to find a server that is about to end. */
static int start(int port) {
  set_up();
  return listen_on(port, 0);
}

static void serve(int listener) {
  ask_accept(listener);
  for (;;) {
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    io_uring_submit_and_wait(&ring, 1);
    io_uring_for_each_cqe(&ring, head, cqe) {
      uint64_t data = io_uring_cqe_get_data64(cqe);
      stream *s = (stream *)(uintptr_t)(data & ~(uint64_t)KIND);
      if ((data & KIND) == ACCEPTED) on_accepted(listener, cqe);
      if ((data & KIND) == RECEIVED) on_received(s, cqe);
      if ((data & KIND) == SENT) on_sent(s, cqe);
      count++;
    }
    io_uring_cq_advance(&ring, count);
  }
}

int main(int argc, char **argv) {
  return serve_all(argc, argv, start, serve);
}
