/* Bytes in, bytes out, deadlines, and an orderly end. */
#include "connection.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bare.h"
#include "base/errors.h"

enum {
  DIRECT = 16384,            /* so much is not worth copying first */
  SPARE = 32768,             /* a block larger than that is not kept for others */
  SHARE = 512 * 1024,        /* bytes one connection may move in a turn */
  MESSAGE = 512,             /* bytes that a message counts for, at least */
  LINGER = 1000,             /* milliseconds between our FIN and the close */
  LINGER_BYTES = 16 << 20,   /* what a peer may still send meanwhile */
  FLUSH_AT_MOST = 30 * 1000, /* closing with the write timeout off */
};

static const char *const end_names[SD_END_REASONS] = {
  [SD_END_PEER] = "peer",
  [SD_END_HANDLER] = "handler",
  [SD_END_ERROR] = "error",
  [SD_END_IDLE] = "idle",
  [SD_END_HANDSHAKE] = "handshake",
  [SD_END_WRITE] = "write",
  [SD_END_LIFETIME] = "lifetime",
  [SD_END_MIN_RATE] = "min_rate",
  [SD_END_LIMIT] = "limit",
  [SD_END_DRAIN] = "drain",
  [SD_END_CUT] = "cut",
  [SD_END_PURGE] = "purge",
  [SD_END_RESET] = "reset",
  [SD_END_MOVED] = "moved",
  [SD_END_WORKER] = "worker",
};

const char *sd_end_name(sd_end why) {
  return why > SD_END_NONE && why < SD_END_REASONS ? end_names[why] : NULL;
}

int sd_end_named(const char *name) {
  for (int i = SD_END_NONE + 1; i < SD_END_REASONS; i++)
    if (strcmp(end_names[i], name) == 0) return i;
  return -1;
}

typedef struct kept_limits {
  struct kept_limits *next;
  sd_conn_limits limits;
} kept_limits;

static bool same_limits(const sd_conn_limits *a, const sd_conn_limits *b) {
  return a->line == b->line && a->frame == b->frame && a->read_buffer == b->read_buffer &&
         a->write_high == b->write_high && a->write_low == b->write_low && a->write_max == b->write_max &&
         a->idle == b->idle && a->write == b->write && a->lifetime == b->lifetime && a->header == b->header &&
         a->min_bytes == b->min_bytes && a->min_after == b->min_after;
}

const sd_conn_limits *sd_conn_limits_keep(const sd_conn_limits *limits) {
  static kept_limits *all;
  kept_limits *kept = all;
  while (kept != NULL && !same_limits(&kept->limits, limits)) kept = kept->next;
  if (kept != NULL) return &kept->limits;
  kept = malloc(sizeof *kept);
  if (kept == NULL) return NULL;
  *kept = (kept_limits){ .next = all, .limits = *limits };
  all = kept;
  return &kept->limits;
}

static const bool may_follow[4][4] = {
  [SD_CONN_OPEN] = { [SD_CONN_FLUSHING] = true, [SD_CONN_CLOSED] = true },
  [SD_CONN_FLUSHING] = { [SD_CONN_LINGERING] = true, [SD_CONN_CLOSED] = true },
  [SD_CONN_LINGERING] = { [SD_CONN_CLOSED] = true },
};

static void enter(sd_conn *c, sd_conn_state next) {
  assert(may_follow[c->state][next]);
  c->state = (uint8_t)next;
}

void sd_conn_note_end(sd_conn *c, sd_end why) {
  if (c->end == SD_END_NONE) c->end = (uint8_t)why;
}

/* ---- deadlines ---- */

static uint64_t earlier(uint64_t a, uint64_t b) {
  if (a == 0) return b;
  return b != 0 && b < a ? b : a;
}

void sd_conn_schedule(sd_conn *c) {
  if (c->state == SD_CONN_CLOSED) return; /* its memory may go before the timer fires */
  const sd_conn_terms *terms = sd_conn_terms_of(c);
  uint64_t due = earlier(c->read_deadline, earlier(c->write_deadline, terms->life));
  due = earlier(due, earlier(terms->pace, terms->header));
  if (c->tired) due = sd_loop_now(c->loop);
  if (due == 0) return; /* an armed timer may fire in vain, once */
  if (!sd_timer_armed(&c->timer) || c->timer.when > due) sd_loop_arm(c->loop, &c->timer, due);
}

const sd_conn_terms sd_conn_no_terms;

/* To be written to. */
static sd_conn_terms *own_terms(sd_conn *c) {
  if (c->terms == NULL) c->terms = calloc(1, sizeof *c->terms);
  if (c->terms == NULL) abort(); /* without its deadlines it could stay for ever: let the worker be replaced */
  return c->terms;
}

void sd_conn_set_life_deadline(sd_conn *c, uint64_t when) {
  if (c->state == SD_CONN_CLOSED) return;
  if (when != 0 || c->terms != NULL) own_terms(c)->life = when;
  if (when != 0) sd_conn_schedule(c);
}

void sd_conn_set_owner_deadline(sd_conn *c, uint64_t when) {
  if (c->state == SD_CONN_CLOSED) return;
  if (when != 0 || c->terms != NULL) own_terms(c)->owner = when;
}

void sd_conn_unwatch(const sd_conn *c) {
  if (c->terms != NULL) c->terms->pace = c->terms->header = 0;
}

/* ---- slow peers ---- */

static sd_pace_look look_at(const sd_conn *c) {
  return (sd_pace_look){ .bytes_in = c->bytes_in,
    .bytes_out = c->bytes_out,
    .messages = c->messages,
    .awaits = (sd_awaits)c->awaits,
    .begun = sd_buffer_length(&c->in) > 0,
    .sending = sd_conn_queued(c) > 0 };
}

/* Watching goes on, or ends where the limits have changed. */
static void next_period(sd_conn *c) {
  bool wanted = c->limits->min_bytes > 0 && c->state == SD_CONN_OPEN;
  if (wanted || c->terms != NULL) own_terms(c)->pace = wanted ? sd_loop_now(c->loop) + c->limits->min_after : 0;
  if (wanted) sd_conn_schedule(c);
}

void sd_conn_watch_pace(sd_conn *c) {
  next_period(c);
  if (c->terms != NULL) c->terms->measure.before = look_at(c);
}

static bool is_too_slow(sd_conn *c) {
  sd_pace_look now = look_at(c);
  bool slow = sd_pace_too_slow(&c->terms->measure, &now, c->limits->min_bytes);
  next_period(c);
  return slow && c->terms->pace != 0;
}

void sd_conn_begin_header(sd_conn *c) {
  if (c->headed || c->limits->header == 0 || sd_conn_terms_of(c)->header != 0) return;
  own_terms(c)->header = sd_loop_now(c->loop) + c->limits->header;
  sd_conn_schedule(c);
}

void sd_conn_retime_header(sd_conn *c, uint32_t old) {
  uint32_t ms = c->limits->header;
  if (sd_conn_terms_of(c)->header == 0) return;
  c->terms->header = ms == 0 ? 0 : c->terms->header - old + ms;
  sd_conn_schedule(c);
}

static void set_write_deadline(sd_conn *c) {
  uint32_t ms = c->write;
  if (ms == 0 && c->state != SD_CONN_OPEN) ms = FLUSH_AT_MOST;
  c->write_deadline = ms == 0 ? 0 : sd_loop_now(c->loop) + ms;
  sd_conn_schedule(c);
}

void sd_conn_set_write_timeout(sd_conn *c, uint32_t ms) {
  c->write = ms;
  if (c->state == SD_CONN_OPEN && sd_conn_queued(c) > 0) set_write_deadline(c);
}

/* ---- the end ---- */

static void forget_dirty(sd_conn *c) {
  if (!c->dirty) return;
  sd_conn **link = &c->loop->dirty;
  while (*link != c) link = &(*link)->next_dirty;
  *link = c->next_dirty;
  c->dirty = false;
}

void sd_conn_discard(sd_conn *c) {
  if (c->source.fd >= 0) close(c->source.fd);
  c->source.fd = -1;
  sd_buffer_free(&c->in);
  sd_buffer_free(&c->out);
  free(c->terms);
  c->terms = NULL;
}

static void let_go(sd_conn *c) {
  enter(c, SD_CONN_CLOSED);
  sd_timers_disarm(&c->loop->timers, &c->timer);
  forget_dirty(c);
  sd_conn_discard(c);
}

/* close(2) takes it out of the epoll too: no one else holds the descriptor. */
static void close_now(sd_conn *c) {
  if (c->state == SD_CONN_CLOSED) return;
  sd_loop_forget(c->loop, &c->source);
  let_go(c);
  c->events->on_closed(c);
}

void sd_conn_detach(sd_conn *c) {
  if (c->state == SD_CONN_CLOSED) return;
  sd_loop_unwatch(c->loop, &c->source); /* the copy elsewhere would keep it in the epoll */
  let_go(c);
}

static void break_off(sd_conn *c, int err, sd_end why) {
  if (c->err == 0) c->err = err;
  sd_conn_note_end(c, why);
  if (c->state == SD_CONN_OPEN) c->events->on_broken(c);
  close_now(c);
}

static bool carries(const sd_conn *c) {
  return c->events->carries != NULL && c->events->carries(c);
}

static bool gets_on(sd_conn *c) {
  return c->events->gets_on != NULL && c->events->gets_on(c);
}

/* Reads on and throws away: closing with bytes unread would send RST, and the
 * peer could lose the end of our answer. */
static void linger(sd_conn *c) {
  for (;;) {
    ssize_t n = sd_conn_receive(c, c->loop->waste, SD_LOOP_SCRATCH);
    if (n == -EAGAIN) return;
    if (n == 0 && carries(c)) return; /* who carries it hangs up when that is done */
    if (n <= 0 || n >= c->linger_left) break;
    c->linger_left -= (uint32_t)n;
  }
  close_now(c);
}

static void send_fin(sd_conn *c) {
  if (c->fin) return;
  c->fin = true;
  shutdown(c->source.fd, SHUT_WR);
}

static void begin_linger(sd_conn *c) {
  if (c->err || (c->eof && !carries(c))) {
    close_now(c);
    return;
  }
  send_fin(c);
  enter(c, SD_CONN_LINGERING);
  sd_buffer_free(&c->in);
  c->read_deadline = 0;
  c->write_deadline = sd_loop_now(c->loop) + LINGER;
  c->linger_left = LINGER_BYTES;
  sd_conn_schedule(c);
  linger(c);
}

void sd_conn_close(sd_conn *c) {
  if (c->state != SD_CONN_OPEN) return;
  enter(c, SD_CONN_FLUSHING);
  sd_conn_flush(c);
}

void sd_conn_abort(sd_conn *c, bool reset) {
  if (c->state == SD_CONN_CLOSED) return;
  c->reset = reset;
  if (reset) {
    struct linger none = { .l_onoff = 1, .l_linger = 0 };
    setsockopt(c->source.fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
  }
  close_now(c);
}

/* ---- writing ---- */

static void progress(sd_conn *c, size_t n) {
  c->bytes_out += n;
  c->spent += (uint32_t)n;
  if (c->write_deadline) set_write_deadline(c);
}

static ssize_t send_some(sd_conn *c, const char *bytes, size_t length) {
  ssize_t n;
  do n = sd_bare_send(c->source.fd, bytes, length);
  while (n < 0 && errno == EINTR);
  if (n >= 0) {
    progress(c, (size_t)n);
    return n;
  }
  if (errno != EAGAIN) return -errno;
  c->writable = false;
  return -EAGAIN;
}

static void all_sent(sd_conn *c) {
  if (c->state == SD_CONN_LINGERING) return; /* write_deadline is the end of that now */
  c->write_deadline = 0;
  if (c->want_fin) send_fin(c);
  if (c->state == SD_CONN_FLUSHING) begin_linger(c);
}

static void tell_drained(sd_conn *c) {
  if (!c->want_drained || sd_conn_queued(c) > c->drain_to) return;
  if (!c->err && sd_conn_tired(c)) return;
  c->want_drained = false;
  c->events->on_drained(c);
}

/* What the peer sent before can still be read, so only writing ends here. */
static void write_failed(sd_conn *c, int err) {
  c->err = err;
  c->write_deadline = 0;
  sd_conn_note_end(c, SD_END_RESET);
  sd_buffer_free(&c->out);
  if (c->state != SD_CONN_OPEN)
    close_now(c);
  else
    tell_drained(c);
}

void sd_conn_lose(sd_conn *c, int err, bool reads) {
  if (c->state == SD_CONN_CLOSED) return;
  if (reads && c->lost == 0) c->lost = err;
  write_failed(c, err);
}

/* Most gather a little, send it and are done, one after the other: they share one block. */
static void borrow_spare(sd_conn *c) {
  sd_buffer_hand_on(&c->loop->spare, &c->out);
}

static void consume_sent(sd_conn *c, size_t n) {
  if (n == sd_conn_queued(c) && sd_buffer_capacity(&c->out) <= SPARE) sd_buffer_hand_on(&c->out, &c->loop->spare);
  sd_buffer_consume(&c->out, n);
}

void sd_conn_flush(sd_conn *c) {
  while (c->writable && sd_conn_queued(c) > 0) {
    ssize_t n = send_some(c, sd_buffer_bytes(&c->out), sd_conn_queued(c));
    if (n > 0)
      consume_sent(c, (size_t)n);
    else if (n != -EAGAIN) {
      write_failed(c, (int)n);
      return;
    }
  }
  if (sd_conn_queued(c) == 0)
    all_sent(c);
  else if (c->write_deadline == 0)
    set_write_deadline(c);
  if (c->state == SD_CONN_OPEN) tell_drained(c);
}

static void mark_dirty(sd_conn *c) {
  if (c->dirty || !c->writable) return;
  c->dirty = true;
  c->next_dirty = c->loop->dirty;
  c->loop->dirty = c;
}

void sd_conn_flush_dirty(sd_loop *loop) {
  while (loop->dirty != NULL) {
    sd_conn *c = loop->dirty;
    loop->dirty = c->next_dirty;
    c->dirty = false;
    sd_conn_flush(c);
  }
}

int sd_conn_write(sd_conn *c, const char *bytes, size_t length) {
  if (c->err) return c->err;
  if (c->state != SD_CONN_OPEN || c->want_fin) return SD_ECLOSED;
  if (length >= DIRECT && c->writable && sd_conn_queued(c) == 0) {
    ssize_t n = send_some(c, bytes, length);
    if (n < 0 && n != -EAGAIN) {
      write_failed(c, (int)n);
      return (int)n;
    }
    if (n > 0) bytes += n, length -= (size_t)n;
    if (length == 0) return 0;
  }
  borrow_spare(c);
  if (sd_buffer_append(&c->out, bytes, length) < 0) {
    write_failed(c, -ENOMEM); /* a part may be sent: nothing can follow it */
    return -ENOMEM;
  }
  if (!c->writable && c->write_deadline == 0) set_write_deadline(c);
  mark_dirty(c);
  return 0;
}

void sd_conn_shutdown_write(sd_conn *c) {
  if (c->state != SD_CONN_OPEN || c->want_fin) return;
  c->want_fin = true;
  sd_conn_flush(c);
}

/* ---- reading ---- */

bool sd_conn_tired(sd_conn *c) {
  if (c->turn != c->loop->turn) {
    c->turn = c->loop->turn;
    c->spent = 0; /* but `tired` stays until the timer has woken who waits */
  }
  if (c->spent < SHARE) return false;
  c->tired = true;
  sd_conn_schedule(c);
  return true;
}

void sd_conn_count(sd_conn *c) {
  c->spent += MESSAGE;
}

void sd_conn_count_read(sd_conn *c) {
  sd_conn_count(c);
  c->messages++;
  c->headed = true;
  if (c->terms != NULL) c->terms->header = 0;
}

ssize_t sd_conn_receive(sd_conn *c, char *into, size_t size) {
  if (c->eof || (c->deaf && c->state == SD_CONN_OPEN)) return 0;
  if (!c->readable || sd_conn_tired(c)) return -EAGAIN;
  ssize_t n;
  do n = sd_bare_recv(c->source.fd, into, size);
  while (n < 0 && errno == EINTR);
  if (n > 0) {
    if ((size_t)n < size) c->readable = c->hangup; /* the rest will be an event */
    c->bytes_in += (uint64_t)n;
    c->spent += (uint32_t)n;
    return n;
  }
  if (n == 0 && c->lost == 0) {
    c->eof = true;
    return 0;
  }
  if (n < 0 && errno == EAGAIN) {
    c->readable = false;
    return -EAGAIN;
  }
  c->err = n < 0 ? -errno : c->lost;
  c->eof = true; /* said once as an error, then as the end */
  sd_conn_note_end(c, SD_END_RESET);
  return c->err;
}

ssize_t sd_conn_fill(sd_conn *c, size_t room) {
  if (c->eof || c->deaf || !c->readable) return sd_conn_receive(c, NULL, 0);
  char *into = sd_buffer_reserve(&c->in, room);
  if (into == NULL) return -ENOMEM;
  ssize_t n = sd_conn_receive(c, into, room);
  if (n > 0)
    sd_buffer_commit(&c->in, (size_t)n);
  else if (sd_buffer_length(&c->in) == 0)
    sd_buffer_free(&c->in);
  return n;
}

/* The kernel is not told: it would take what comes all the same, but hide the
 * peer's FIN, and closing over unread bytes sends RST before our answer is read. */
void sd_conn_shutdown_read(sd_conn *c) {
  if (c->state != SD_CONN_OPEN) return;
  sd_buffer_free(&c->in);
  c->deaf = true;
}

/* ---- events ---- */

static void on_events(sd_source *source, uint32_t events) {
  sd_conn *c = (sd_conn *)source;
  if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) c->hangup = true;
  if (events & ~(uint32_t)EPOLLOUT) c->readable = true;
  if (events & EPOLLOUT && !c->writable) {
    c->writable = true;
    if (sd_conn_queued(c) > 0) sd_conn_flush(c);
  }
  if (!c->readable) return;
  if (c->state == SD_CONN_OPEN)
    c->events->on_readable(c);
  else if (c->state == SD_CONN_LINGERING)
    linger(c);
}

static bool due(uint64_t *deadline, uint64_t now) {
  if (*deadline == 0 || *deadline > now) return false;
  *deadline = 0;
  return true;
}

/* It had moved its share of a turn; who waits for it was told to let others go first. */
static void go_on(sd_conn *c) {
  if (c->state == SD_CONN_LINGERING) linger(c);
  if (c->state == SD_CONN_OPEN) tell_drained(c);
  if (c->state == SD_CONN_OPEN) c->events->on_readable(c);
}

static sd_end ended_by_terms(sd_conn *c, uint64_t now) {
  sd_conn_terms *terms = c->terms;
  if (due(&terms->life, now)) return SD_END_LIFETIME;
  if (due(&terms->header, now) && c->state == SD_CONN_OPEN) return SD_END_HANDSHAKE;
  if (due(&terms->pace, now) && is_too_slow(c)) return SD_END_MIN_RATE;
  return SD_END_NONE;
}

static void on_timer(sd_timer *timer) {
  sd_conn *c = (sd_conn *)((char *)timer - offsetof(sd_conn, timer));
  uint64_t now = sd_loop_now(c->loop);
  if (due(&c->write_deadline, now)) {
    if (gets_on(c))
      set_write_deadline(c);
    else if (c->state == SD_CONN_OPEN)
      break_off(c, SD_ETIMEOUT, SD_END_WRITE);
    else
      close_now(c);
    return;
  }
  sd_end why = c->terms != NULL ? ended_by_terms(c, now) : SD_END_NONE;
  if (why != SD_END_NONE) {
    break_off(c, SD_ECLOSED, why);
    return;
  }
  if (c->tired) {
    c->tired = false;
    c->spent = 0;
    sd_conn_schedule(c); /* a deadline that is due too has the next turn */
    go_on(c);
  } else if (due(&c->read_deadline, now)) {
    sd_conn_schedule(c);
    c->events->on_deadline(c); /* last: it may run a handler, and that may end it */
  } else {
    sd_conn_schedule(c);
  }
}

int sd_conn_open(sd_conn *c, sd_loop *loop, int fd, const sd_conn_limits *limits, const sd_conn_events *events) {
  c->source = (sd_source){ .fd = fd, .on_events = on_events, .groups = true };
  c->timer.fire = on_timer;
  c->loop = loop;
  c->limits = limits;
  c->events = events;
  c->idle = limits->idle;
  c->write = limits->write;
  c->opened = c->active = sd_loop_now(loop);
  c->writable = true;
  int err = sd_loop_watch(loop, &c->source, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
  if (err) return err;
  if (limits->lifetime) sd_conn_set_life_deadline(c, c->opened + limits->lifetime);
  return 0;
}
