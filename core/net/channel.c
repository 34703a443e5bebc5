/* Length-prefixed messages; descriptors ride on the first byte of theirs. What one
 * recvmsg brings of them belongs to one message: the kernel does not merge them. */
#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/errors.h"

enum { CHUNK = 65536, PIECES_A_TURN = 16, LOST = -1 };

typedef struct {
  uint32_t length, nfds;
} header;

struct sd_channel_cargo {
  sd_channel_cargo *next;
  uint64_t at; /* goes with the byte at this position */
  unsigned nfds;
  int fds[SD_CHANNEL_FDS];
};

static void free_cargo(sd_channel_cargo *cargo) {
  for (unsigned i = 0; i < cargo->nfds; i++) close(cargo->fds[i]);
  free(cargo);
}

static void drop_cargo(sd_channel *ch) {
  sd_channel_cargo *cargo = ch->cargo;
  ch->cargo = cargo->next;
  if (ch->cargo == NULL) ch->cargo_tail = &ch->cargo;
  free_cargo(cargo);
}

static void drop_fds(sd_channel *ch) {
  while (ch->nreceived > 0)
    if (ch->received[--ch->nreceived] != LOST) close(ch->received[ch->nreceived]);
}

void sd_channel_close(sd_channel *ch) {
  if (ch->closed) return;
  ch->closed = true;
  sd_loop_undefer(ch->loop, &ch->again);
  sd_loop_unwatch(ch->loop, &ch->source);
  close(ch->source.fd);
  while (ch->cargo != NULL) drop_cargo(ch);
  drop_fds(ch);
  sd_buffer_free(&ch->in);
  sd_buffer_free(&ch->out);
}

bool sd_channel_quiet(const sd_channel *ch) {
  return !ch->closed && sd_buffer_length(&ch->in) == 0 && sd_buffer_length(&ch->out) == 0 && ch->nreceived == 0;
}

static void hang_up(sd_channel *ch) {
  if (ch->closed) return;
  sd_channel_close(ch);
  ch->events->on_closed(ch);
}

/* ---- sending ---- */

/* Up to the next cargo, so that descriptors stay with their message. */
static size_t sendable(const sd_channel *ch) {
  size_t length = sd_buffer_length(&ch->out);
  const sd_channel_cargo *next = ch->cargo;
  if (next != NULL && next->at == ch->sent) next = next->next;
  if (next != NULL && next->at - ch->sent < length) length = next->at - ch->sent;
  return length;
}

static ssize_t send_piece(sd_channel *ch) {
  union {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(int) * SD_CHANNEL_FDS)];
  } control;
  struct iovec piece = { (void *)sd_buffer_bytes(&ch->out), sendable(ch) };
  struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1 };
  sd_channel_cargo *cargo = ch->cargo;
  if (cargo != NULL && cargo->at == ch->sent) {
    size_t bytes = sizeof(int) * cargo->nfds;
    message.msg_control = control.space;
    message.msg_controllen = CMSG_SPACE(bytes);
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(c), cargo->fds, bytes);
  }
  ssize_t n = sendmsg(ch->source.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n > 0 && message.msg_control != NULL) drop_cargo(ch);
  return n;
}

/* A failure to send is told by the reading side: the peer's end. */
static void push_out(sd_channel *ch) {
  while (ch->writable && sd_buffer_length(&ch->out) > 0) {
    ssize_t n = send_piece(ch);
    if (n > 0) {
      ch->sent += (uint64_t)n;
      sd_buffer_consume(&ch->out, (size_t)n);
    } else if (errno != EINTR) {
      ch->writable = false;
    }
  }
}

static int load_cargo(sd_channel *ch, const int *fds, unsigned nfds) {
  sd_channel_cargo *cargo = calloc(1, sizeof *cargo);
  if (cargo == NULL) return -ENOMEM;
  cargo->at = ch->queued;
  for (; cargo->nfds < nfds; cargo->nfds++) {
    int copy = fcntl(fds[cargo->nfds], F_DUPFD_CLOEXEC, 3);
    if (copy < 0) {
      int err = -errno;
      free_cargo(cargo);
      return err;
    }
    cargo->fds[cargo->nfds] = copy;
  }
  *ch->cargo_tail = cargo;
  ch->cargo_tail = &cargo->next;
  return 0;
}

int sd_channel_send(sd_channel *ch, const char *bytes, size_t length, const int *fds, unsigned nfds) {
  if (ch->closed) return SD_ECLOSED;
  if (length > SD_CHANNEL_MESSAGE || nfds > SD_CHANNEL_FDS || sd_buffer_length(&ch->out) + length > SD_CHANNEL_QUEUE)
    return SD_ELIMIT;
  if (sd_buffer_reserve(&ch->out, sizeof(header) + length) == NULL) return -ENOMEM;
  int err = nfds > 0 ? load_cargo(ch, fds, nfds) : 0;
  if (err) return err;
  header head = { .length = (uint32_t)length, .nfds = nfds };
  sd_buffer_append(&ch->out, (const char *)&head, sizeof head); /* room is there */
  sd_buffer_append(&ch->out, bytes, length);
  ch->queued += sizeof head + length;
  push_out(ch);
  return 0;
}

/* ---- receiving ---- */

static void keep_fd(sd_channel *ch, int fd) {
  if (ch->nreceived < SD_CHANNEL_FDS * 4)
    ch->received[ch->nreceived++] = fd;
  else if (fd != LOST)
    close(fd);
}

/* A process without room for new descriptors gets fewer than were sent, or none.
 * Half of them are no use to anybody: one LOST stands for them all. */
static void take_fds(sd_channel *ch, struct msghdr *message) {
  bool cut = message->msg_flags & MSG_CTRUNC;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    unsigned n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    int fds[SD_CHANNEL_FDS];
    memcpy(fds, CMSG_DATA(c), n * sizeof(int));
    for (unsigned i = 0; i < n; i++) {
      if (cut)
        close(fds[i]);
      else
        keep_fd(ch, fds[i]);
    }
  }
  if (cut) keep_fd(ch, LOST);
}

static ssize_t receive_piece(sd_channel *ch) {
  union {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(int) * SD_CHANNEL_FDS)];
  } control;
  char *room = sd_buffer_reserve(&ch->in, CHUNK);
  if (room == NULL) {
    errno = ENOMEM;
    return -1;
  }
  struct iovec piece = { room, CHUNK };
  struct msghdr message = {
    .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space
  };
  ssize_t n = recvmsg(ch->source.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n > 0) {
    take_fds(ch, &message);
    sd_buffer_commit(&ch->in, (size_t)n);
  } else if (sd_buffer_length(&ch->in) == 0) {
    sd_buffer_free(&ch->in);
  }
  return n;
}

static void shift_fds(sd_channel *ch, unsigned n) {
  ch->nreceived -= n;
  memmove(ch->received, ch->received + n, ch->nreceived * sizeof(int));
}

/* False when the stream makes no sense: then nothing in it can be trusted. */
static bool deliver(sd_channel *ch) {
  while (!ch->closed && sd_buffer_length(&ch->in) >= sizeof(header)) {
    header head;
    memcpy(&head, sd_buffer_bytes(&ch->in), sizeof head);
    if (head.length > SD_CHANNEL_MESSAGE || head.nfds > SD_CHANNEL_FDS) return false;
    if (sd_buffer_length(&ch->in) < sizeof head + head.length) break;
    if (head.nfds > 0 && ch->nreceived > 0 && ch->received[0] == LOST) {
      shift_fds(ch, 1);
      head.nfds = 0;
    }
    if (head.nfds > ch->nreceived) return false;
    int fds[SD_CHANNEL_FDS];
    memcpy(fds, ch->received, head.nfds * sizeof(int));
    shift_fds(ch, head.nfds);
    ch->events->on_message(ch, sd_buffer_bytes(&ch->in) + sizeof head, head.length, fds, head.nfds);
    if (!ch->closed) sd_buffer_consume(&ch->in, sizeof head + head.length);
  }
  return true;
}

/* So much a turn: a peer that sends without end must not keep the loop for itself. */
static void receive_some(sd_channel *ch) {
  for (int i = 0; i < PIECES_A_TURN; i++) {
    ssize_t n = receive_piece(ch);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0 || !deliver(ch)) {
      hang_up(ch);
      return;
    }
    if (ch->closed) return;
  }
  sd_loop_defer(ch->loop, &ch->again);
}

static void on_again(sd_deferred *again) {
  receive_some((sd_channel *)((char *)again - offsetof(sd_channel, again)));
}

static void on_events(sd_source *source, uint32_t events) {
  sd_channel *ch = (sd_channel *)source;
  if (events & EPOLLOUT) {
    ch->writable = true;
    push_out(ch);
  }
  if (!ch->again.waiting) receive_some(ch);
}

int sd_channel_open(sd_channel *ch, sd_loop *loop, int fd, const sd_channel_events *events) {
  *ch = (sd_channel){ .source = { .fd = fd, .on_events = on_events },
    .again = { .run = on_again },
    .loop = loop,
    .events = events,
    .writable = true };
  ch->cargo_tail = &ch->cargo;
  return sd_loop_watch(loop, &ch->source, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
}
