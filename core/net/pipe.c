/* Bytes from socket to socket. */
#include "pipe.h"

#include <errno.h>

#include "base/errors.h"

static sd_pipe *pipe_of(const sd_conn *c) {
  return c->pipe;
}

static sd_pipe_side *side_of(sd_conn *c) {
  sd_pipe *p = pipe_of(c);
  return &p->side[p->side[1].conn == c];
}

static sd_pipe_side *across(sd_conn *c) {
  sd_pipe *p = pipe_of(c);
  return &p->side[p->side[1].conn != c];
}

static void release(sd_pipe_side *side) {
  side->conn->events = side->events;
  side->conn->pipe = NULL;
  side->conn->want_drained = false;
  sd_conn_set_read_deadline(side->conn, 0);
}

void sd_pipe_part(sd_pipe *p) {
  if (p->over) return;
  p->over = true;
  release(&p->side[0]);
  release(&p->side[1]);
}

static void finish(sd_pipe *p, int err) {
  if (p->over) return;
  sd_pipe_part(p);
  p->err = err;
  p->on_over(p);
}

/* Hands one piece over. False when the direction cannot go on for now. */
static bool pass(sd_conn *from, sd_conn *to, const char *bytes, size_t length) {
  sd_pipe *p = pipe_of(from);
  side_of(from)->sent += length;
  p->active = sd_loop_now(from->loop);
  int err = sd_conn_write(to, bytes, length);
  if (err) {
    finish(p, err);
    return false;
  }
  if (sd_conn_queued(to) <= to->limits->write_high) return true;
  sd_conn_flush(to);
  if (p->over || sd_conn_queued(to) <= to->limits->write_high) return !p->over;
  to->want_drained = true;
  to->drain_to = (uint32_t)to->limits->write_low;
  return false;
}

static bool pass_buffered(sd_conn *from, sd_conn *to) {
  size_t length = sd_buffer_length(&from->in);
  if (length == 0) return true;
  bool more = pass(from, to, sd_buffer_bytes(&from->in), length);
  sd_buffer_consume(&from->in, length);
  return more;
}

static void end_direction(sd_conn *from, sd_conn *to) {
  sd_pipe *p = pipe_of(from);
  side_of(from)->ended = true;
  sd_conn_shutdown_write(to);
  if (!p->over && p->side[0].ended && p->side[1].ended) finish(p, 0);
}

static void pump(sd_conn *from, sd_conn *to) {
  sd_pipe *p = pipe_of(from);
  if (side_of(from)->ended || to->want_drained || !pass_buffered(from, to)) return;
  for (;;) {
    ssize_t n = sd_conn_receive(from, from->loop->scratch, SD_LOOP_SCRATCH);
    if (n == -EAGAIN) break;
    if (n == 0) {
      end_direction(from, to);
      return;
    }
    if (n < 0) {
      finish(p, (int)n);
      return;
    }
    if (!pass(from, to, from->loop->scratch, (size_t)n)) return;
  }
  sd_conn_flush(to);
}

static void on_readable(sd_conn *c) {
  pump(c, across(c)->conn);
}

static void on_drained(sd_conn *c) {
  if (c->err)
    finish(pipe_of(c), c->err);
  else
    pump(across(c)->conn, c);
}

/* Silence counts for the pair: as long as one direction moves, both live. */
static uint64_t due(const sd_conn *c) {
  uint64_t silence = c->idle ? pipe_of(c)->active + c->idle : 0;
  uint64_t owner = sd_conn_terms_of(c)->owner;
  if (silence == 0 || (owner != 0 && owner < silence)) return owner;
  return silence;
}

void sd_pipe_watch(sd_pipe *p) {
  for (int i = 0; i < 2; i++) sd_conn_set_read_deadline(p->side[i].conn, due(p->side[i].conn));
}

static void on_deadline(sd_conn *c) {
  sd_pipe *p = pipe_of(c);
  uint64_t when = due(c);
  if (when == 0 || when > sd_loop_now(c->loop))
    sd_pipe_watch(p);
  else
    finish(p, SD_ETIMEOUT);
}

static void on_broken(sd_conn *c) {
  finish(pipe_of(c), c->err ? c->err : SD_ECLOSED);
}

static void on_closed(sd_conn *c) {
  const sd_conn_events *events = side_of(c)->events;
  finish(pipe_of(c), SD_ECLOSED);
  events->on_closed(c);
}

static bool carries(const sd_conn *c) {
  const sd_conn_events *events = side_of((sd_conn *)c)->events;
  return events->carries != NULL && events->carries(c);
}

static bool gets_on(sd_conn *c) {
  const sd_conn_events *events = side_of(c)->events;
  return events->gets_on != NULL && events->gets_on(c);
}

static const sd_conn_events piped = {
  .on_readable = on_readable,
  .on_drained = on_drained,
  .on_deadline = on_deadline,
  .on_broken = on_broken,
  .on_closed = on_closed,
  .carries = carries,
  .gets_on = gets_on,
};

void sd_pipe_join(sd_pipe *p, sd_conn *a, sd_conn *b, void (*on_over)(sd_pipe *)) {
  *p = (sd_pipe){ .on_over = on_over, .active = sd_loop_now(a->loop) };
  p->side[0] = (sd_pipe_side){ .conn = a, .events = a->events };
  p->side[1] = (sd_pipe_side){ .conn = b, .events = b->events };
  a->events = b->events = &piped;
  a->pipe = b->pipe = p;
  sd_pipe_watch(p);
  pump(a, b);
  if (!p->over) pump(b, a);
}
