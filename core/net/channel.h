/* Framed messages and descriptors between two processes of an instance, over a
 * stream socket pair. Sending never waits: what the kernel does not take is
 * queued, up to a bound. */
#ifndef SD_CHANNEL_H
#define SD_CHANNEL_H

#include "base/buffer.h"
#include "loop.h"

enum {
  SD_CHANNEL_FDS = 64,            /* descriptors one message may carry */
  SD_CHANNEL_QUEUE = 256 << 20,   /* bytes that may wait to be sent */
  SD_CHANNEL_MESSAGE = 192 << 20, /* a longer one is a broken peer */
};

typedef struct sd_channel sd_channel;

typedef struct {
  /* A whole message. Its descriptors are the receiver's to close. */
  void (*on_message)(sd_channel *channel, const char *bytes, size_t length, const int *fds, unsigned nfds);
  void (*on_closed)(sd_channel *channel); /* the peer is gone; once */
} sd_channel_events;

/* Descriptors that wait with their message. */
typedef struct sd_channel_cargo sd_channel_cargo;

struct sd_channel {
  sd_source source;
  sd_deferred again;
  sd_loop *loop;
  const sd_channel_events *events;
  sd_buffer in, out;
  sd_channel_cargo *cargo, **cargo_tail;
  uint64_t queued, sent; /* positions in the stream of bytes */
  int received[SD_CHANNEL_FDS * 4];
  unsigned nreceived;
  bool writable, closed;
};

/* Takes over `fd`. 0 or -errno. */
int sd_channel_open(sd_channel *channel, sd_loop *loop, int fd, const sd_channel_events *events);

/* Queues a message; the descriptors are duplicated. 0, SD_ECLOSED, SD_ELIMIT or
 * -errno. */
int sd_channel_send(sd_channel *channel, const char *bytes, size_t length, const int *fds, unsigned nfds);

/* Nothing is under way in this process, in neither direction: whoever gets the
 * descriptor can go on from here. */
bool sd_channel_quiet(const sd_channel *channel);

/* Closes without a word. Harmless twice. */
void sd_channel_close(sd_channel *channel);

#endif
