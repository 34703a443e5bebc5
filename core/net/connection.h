/* One open stream, from its first byte to the close of its descriptor. Knows
 * nothing of Lua: the floor above waits for bytes and for room, and is told.
 *
 *   OPEN ──close──> FLUSHING ──all sent, FIN──> LINGERING ──EOF or 1 s──> CLOSED
 *     └───────────────────────abort, broken, out of time──────────────────────┘
 *
 * Reads are tried only when the kernel has said there is something. Writes are
 * gathered and go out when the task that wrote waits, or at 64 KiB. */
#ifndef SD_CONNECTION_H
#define SD_CONNECTION_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "loop.h"
#include "pace.h"

enum { SD_CONN_GATHER = 65536 }; /* so much queued is sent, even if the writer goes on */

typedef enum { SD_CONN_OPEN, SD_CONN_FLUSHING, SD_CONN_LINGERING, SD_CONN_CLOSED } sd_conn_state;

/* Why a connection ended; the first reason stays. */
typedef enum {
  SD_END_NONE,
  SD_END_PEER,
  SD_END_HANDLER,
  SD_END_ERROR,
  SD_END_IDLE,
  SD_END_HANDSHAKE,
  SD_END_WRITE,
  SD_END_LIFETIME,
  SD_END_MIN_RATE,
  SD_END_LIMIT,
  SD_END_DRAIN,
  SD_END_CUT,
  SD_END_PURGE,
  SD_END_RESET,
  SD_END_MOVED,
  SD_END_WORKER,
  SD_END_REASONS
} sd_end;

/* Bytes and milliseconds; 0 milliseconds is "off". */
typedef struct sd_conn_limits {
  size_t line, frame, read_buffer, write_high, write_low, write_max;
  size_t min_bytes; /* in each `min_after`; 0: however slow */
  uint32_t idle, write, lifetime, header, min_after;
} sd_conn_limits;

/* One for all with the same numbers; never freed, since each set that was ever
 * given is a few dozen bytes and nobody has to count who still goes by it. NULL:
 * out of memory. */
const sd_conn_limits *sd_conn_limits_keep(const sd_conn_limits *limits);

typedef struct sd_conn sd_conn;

typedef struct {
  void (*on_readable)(sd_conn *conn); /* bytes, the end or an error can be had */
  void (*on_drained)(sd_conn *conn);  /* output is at the low mark or below */
  void (*on_deadline)(sd_conn *conn); /* read_deadline has passed; it is 0 again */
  void (*on_broken)(sd_conn *conn);   /* out of time: it will be closed at once */
  void (*on_closed)(sd_conn *conn);   /* the descriptor is gone: the last call */

  /* Of one whose descriptor is not the peer's, or NULL: whether what was sent may still
   * be on its way to the peer, and whether some of it has got on since this was asked last. */
  bool (*carries)(const sd_conn *conn);
  bool (*gets_on)(sd_conn *conn);
} sd_conn_events;

/* Deadlines that few connections have. Loop time; 0: none. */
typedef struct {
  uint64_t life, pace, header;
  uint64_t owner; /* for all the waits of its owner, and kept for it here */
  sd_pace measure;
} sd_conn_terms;

/* What each message looks at comes first, together: with many connections the time goes
 * into fetching them. */
struct sd_conn {
  sd_source source;
  sd_loop *loop;
  const sd_conn_events *events;
  const sd_conn_limits *limits;
  sd_buffer in, out;
  uint8_t state, end;
  uint8_t awaits;             /* sd_awaits: what a reader waits for */
  bool headed;                /* its first line has come, or what it begins with is no line */
  bool readable, hangup, eof; /* hangup: reading must go on until 0 */
  bool writable, dirty, want_drained, want_fin, fin, tired;
  bool deaf;            /* reads answer the end, whatever comes */
  bool reset;           /* it was closed with a reset */
  int32_t err;          /* what broke it, or 0 */
  int32_t lost;         /* what its end means; 0: the peer's FIN */
  uint32_t messages;    /* that were read */
  uint32_t spent;       /* in this turn */
  uint64_t turn;        /* when that was last reset */
  uint32_t idle, write; /* milliseconds; the limits' until changed */
  uint64_t bytes_in, bytes_out;
  uint64_t active;                        /* loop time */
  uint64_t read_deadline, write_deadline; /* likewise; 0: none */
  sd_timer timer;                         /* one for all deadlines, moved lazily */
  sd_conn *next_dirty;
  struct sd_pipe *pipe; /* while joined to another (pipe.h) */
  sd_conn_terms *terms; /* NULL: it has no others */
  uint64_t opened;      /* loop time */
  uint32_t drain_to;    /* want_drained means: down to so many bytes */
  uint32_t linger_left; /* bytes that it may still send while we linger */
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } peer; /* family 0: unknown, or a unix socket */
};

/* Takes over `fd` (non-blocking). The struct is zero but for what the owner keeps
 * behind it. 0, or -errno and the descriptor is still the caller's. */
int sd_conn_open(sd_conn *conn, sd_loop *loop, int fd, const sd_conn_limits *limits, const sd_conn_events *events);

/* Reads what is there: > 0 bytes, 0 at the end of the stream, -EAGAIN when
 * nothing is there or this turn's share is used up, else -errno. */
ssize_t sd_conn_receive(sd_conn *conn, char *into, size_t size);

/* The same, into `in`, at most `room` bytes. */
ssize_t sd_conn_fill(sd_conn *conn, size_t room);

/* Takes bytes to be sent, all of them. 0, or what broke the connection. */
int sd_conn_write(sd_conn *conn, const char *bytes, size_t length);

/* Sends what is queued as far as the kernel takes it. */
void sd_conn_flush(sd_conn *conn);

/* Sends what was gathered on this loop since the last call. */
void sd_conn_flush_dirty(sd_loop *loop);

static inline size_t sd_conn_queued(const sd_conn *conn) {
  return sd_buffer_length(&conn->out);
}

/* More than its share of this turn was moved: let others go first. on_readable
 * or on_drained follow in the next turn where they are wanted. */
bool sd_conn_tired(sd_conn *conn);

/* One more message went through its owner's hands: a thousand tiny ones cost a
 * turn what a few large ones do. */
void sd_conn_count(sd_conn *conn);
void sd_conn_count_read(sd_conn *conn); /* that one was the peer's */

/* Its further deadlines, to be read. */
extern const sd_conn_terms sd_conn_no_terms;
static inline const sd_conn_terms *sd_conn_terms_of(const sd_conn *conn) {
  return conn->terms != NULL ? conn->terms : &sd_conn_no_terms;
}

/* Its owner's deadline for all its waits, which only the owner looks at. */
void sd_conn_set_owner_deadline(sd_conn *conn, uint64_t when);

/* Nobody watches its pace or its header any more. */
void sd_conn_unwatch(const sd_conn *conn);

/* Frees what else it has, if it was never closed. */
void sd_conn_discard(sd_conn *conn);

/* Sees to it that the timer is armed for the first of the deadlines, or before it. */
void sd_conn_schedule(sd_conn *conn);

/* Waits for the peer until then (loop time; 0: for ever). Nearly always the timer is armed
 * for an earlier moment: then it is not moved. */
static inline void sd_conn_set_read_deadline(sd_conn *conn, uint64_t when) {
  conn->read_deadline = when;
  if (when != 0 && (!sd_timer_armed(&conn->timer) || conn->timer.when > when)) sd_conn_schedule(conn);
}

/* So long may what is queued stand still, from now on. */
void sd_conn_set_write_timeout(sd_conn *conn, uint32_t ms);

/* From now on its peer must keep the pace of the limits, if there is one. */
void sd_conn_watch_pace(sd_conn *conn);

/* The first line has begun: so long may it take from now on. Once is enough. */
void sd_conn_begin_header(sd_conn *conn);

/* The limits are others: a first line that has begun may take as long as they say, and
 * not as long as the old ones did. */
void sd_conn_retime_header(sd_conn *conn, uint32_t old);

/* The whole connection ends then. */
void sd_conn_set_life_deadline(sd_conn *conn, uint64_t when);

/* FIN after what is queued; reading goes on. */
void sd_conn_shutdown_write(sd_conn *conn);

/* No more reading: what is buffered is dropped, reads answer the end. */
void sd_conn_shutdown_read(sd_conn *conn);

/* Notes why it ends, unless a reason stands already. */
void sd_conn_note_end(sd_conn *conn, sd_end why);

/* Sends the rest, FIN, a bounded lingering read, close. Harmless when closing. */
void sd_conn_close(sd_conn *conn);

/* The peer has got lost behind the descriptor: writes fail from now on; what has come
 * can still be read, and then reads fail too, if `reads` says so. */
void sd_conn_lose(sd_conn *conn, int err, bool reads);

/* Lets go of it, since another process has the descriptor too: nothing is sent, no
 * event fires. */
void sd_conn_detach(sd_conn *conn);

/* Closes at once; with `reset` the peer gets RST. */
void sd_conn_abort(sd_conn *conn, bool reset);

const char *sd_end_name(sd_end why);
int sd_end_named(const char *name); /* -1 for an unknown one */

#endif
