/* The one operation that every read is: try with what is buffered and what the socket has; if
 * that is not enough, wait, and let each event try again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "l_read.h"

enum { SMALLEST_FILL = 4096 };

/* ---- ends of a read ---- */

static void forget_needle(read_op *op) {
  if (op->kind == READ_FRAME && op->frame.shape == SD_FRAME_NEEDLE) {
    free((char *)op->frame.needle);
    op->frame.needle = NULL;
  }
}

static int find(l_conn *c) {
  c->stopped = 0;
  c->time_left = 0;
  c->message_next = true; /* if there is one: neither starves the other */
  c->conn.active = sd_loop_now(c->conn.loop);
  return 1;
}

static int succeed(l_conn *c) {
  sd_conn_count_read(&c->conn);
  return find(c);
}

/* Making a string may run the collector, and that a finalizer which closes this very
 * connection or puts bytes back: meanwhile what is copied belongs to nobody. */
static sd_buffer borrow(l_conn *c) {
  sd_buffer held = c->conn.in;
  c->conn.in = (sd_buffer){ 0 };
  return held;
}

static void give_back(l_conn *c, sd_buffer held, size_t used) {
  sd_buffer unread = c->conn.in;
  if (used > 0) sd_buffer_consume(&held, used);
  if (c->conn.state != SD_CONN_OPEN) sd_buffer_free(&held);
  c->conn.in = held;
  if (sd_buffer_length(&unread) == 0) return;
  sd_buffer_prepend(&c->conn.in, sd_buffer_bytes(&unread), sd_buffer_length(&unread));
  sd_buffer_free(&unread);
}

/* What was received is nowhere else: memory is refused to whatever comes after it. */
static void push_bytes(lua_State *to, const char *bytes, size_t n) {
  sd_heap_shelter();
  sd_vm_push_bytes(to, bytes, n);
  sd_heap_expose();
}

/* The first `n` bytes of what is held; `used` of them are gone then. */
static void push_held(l_conn *c, lua_State *to, size_t n, size_t used) {
  sd_buffer held = borrow(c);
  push_bytes(to, sd_buffer_bytes(&held), n);
  give_back(c, held, used);
}

/* nil, word, and the partial input, which is consumed; an iterator says one nil
 * and leaves it. Up to `most` bytes of it. */
static int give_up(l_conn *c, lua_State *to, int err, size_t most) {
  const read_op *op = &c->op;
  c->stopped = err;
  sd_l_conn_happened(c, err == SD_ETIMEOUT && c->idle_out ? L_IDLE : L_READ, (uint32_t)err);
  if (op->iterator) {
    lua_pushnil(to);
    return 1;
  }
  sd_push_failure(to, err);
  size_t held = sd_buffer_length(&c->conn.in);
  if (op->kind == READ_PEEK || held == 0) return 2;
  if (held > most) held = most;
  push_held(c, to, held, held);
  return 3;
}

/* ---- tries: values pushed on `to`, or 0 when it must wait ---- */

static int end_or_wait(l_conn *c, lua_State *to, ssize_t n) {
  if (n == -EAGAIN) return 0;
  return give_up(c, to, n == 0 ? SD_ECLOSED : (int)n, SIZE_MAX);
}

int sd_l_read_take(lua_State *L, l_conn *c, size_t n) {
  push_held(c, L, n, n);
  return succeed(c);
}

static int try_some(l_conn *c, lua_State *to) {
  size_t max = c->op.max;
  size_t held = sd_buffer_length(&c->conn.in);
  if (held > 0) {
    if (held > max) held = max;
    push_held(c, to, held, held);
    return succeed(c);
  }
  char *scratch = c->conn.loop->scratch;
  ssize_t n = sd_conn_receive(&c->conn, scratch, max < SD_L_READ_STEP ? max : SD_L_READ_STEP);
  if (n <= 0) return end_or_wait(c, to, n);
  push_bytes(to, scratch, (size_t)n);
  return succeed(c);
}

static int try_lent(l_conn *c, lua_State *to) {
  l_lent *lent = c->op.lent;
  size_t held = sd_buffer_length(&c->conn.in);
  size_t max = c->op.max < SD_L_READ_STEP ? c->op.max : SD_L_READ_STEP;
  ssize_t n = 0;
  if (held == 0 && !c->conn.readable && !c->conn.eof && !c->conn.deaf) return 0; /* needs no block yet */
  if (!sd_l_lent_take_block(lent)) return give_up(c, to, -ENOMEM, 0);
  if (held > 0) {
    n = (ssize_t)(held < max ? held : max);
    memcpy(lent->block, sd_buffer_bytes(&c->conn.in), (size_t)n);
    sd_buffer_consume(&c->conn.in, (size_t)n);
  } else {
    n = sd_conn_receive(&c->conn, lent->block, max);
  }
  if (n <= 0) {
    sd_l_lent_give_back(lent);
    return end_or_wait(c, to, n);
  }
  lent->length = (size_t)n;
  sd_vm_push_anchored(to, lent);
  return succeed(c);
}

static int try_all(l_conn *c, lua_State *to) {
  for (;;) {
    size_t held = sd_buffer_length(&c->conn.in);
    if (held > c->op.max) return give_up(c, to, SD_ELIMIT, c->op.max);
    ssize_t n = sd_conn_fill(&c->conn, SD_L_READ_STEP);
    if (n == -EAGAIN) return 0;
    if (n < 0) return give_up(c, to, (int)n, SIZE_MAX);
    if (n > 0) continue;
    push_held(c, to, held, held);
    return succeed(c);
  }
}

static int try_peek(l_conn *c, lua_State *to) {
  while (sd_buffer_length(&c->conn.in) < c->op.max) {
    ssize_t n = sd_conn_fill(&c->conn, c->op.max - sd_buffer_length(&c->conn.in));
    if (n <= 0) return end_or_wait(c, to, n);
  }
  push_held(c, to, c->op.max, 0);
  sd_conn_count(&c->conn); /* nothing was read: the first line is not there yet */
  return find(c);
}

/* A header that says more than the length is part of the message. */
static bool is_whole(const sd_frame *frame) {
  return frame->shape == SD_FRAME_LENGTH && frame->header > frame->width;
}

/* Cuts a frame from bytes that may or may not be in the buffer already. Where it
 * cannot, piece->total is what to give up. */
static int cut(l_conn *c, lua_State *to, const char *bytes, size_t length, sd_frame_piece *piece) {
  sd_frame_verdict verdict = sd_frame_cut(&c->op.frame, bytes, length, c->op.max, &c->op.scanned, piece);
  if (verdict == SD_FRAME_COMPLETE) {
    size_t from = is_whole(&c->op.frame) ? 0 : piece->payload;
    push_bytes(to, bytes + from, piece->payload + piece->len - from);
    c->op.scanned = 0;
    return succeed(c);
  }
  if (verdict == SD_FRAME_MORE) return 0;
  c->op.scanned = 0;
  if (verdict == SD_FRAME_LIMIT) return SD_ELIMIT;
  piece->total = SIZE_MAX;
  return -EPROTO;
}

/* The first read of a message: from scratch space, so that a whole message never
 * sees the buffer. */
static int try_frame_fresh(l_conn *c, lua_State *to) {
  char *scratch = c->conn.loop->scratch;
  ssize_t n = sd_conn_receive(&c->conn, scratch, SD_L_READ_STEP);
  if (n <= 0) return end_or_wait(c, to, n);
  sd_frame_piece piece;
  int done = cut(c, to, scratch, (size_t)n, &piece);
  size_t used = done > 0 ? piece.total : 0;
  if (sd_buffer_append(&c->conn.in, scratch + used, (size_t)n - used) < 0) return give_up(c, to, -ENOMEM, 0);
  if (done < 0) return give_up(c, to, done, piece.total);
  return done;
}

static int try_frame(l_conn *c, lua_State *to) {
  sd_buffer *in = &c->conn.in;
  bool first = true;
  for (;;) {
    size_t held = sd_buffer_length(in);
    if (held == 0 && first && c->op.scanned == 0 && !(c->op.frame.shape == SD_FRAME_EXACT && c->op.frame.exact == 0)) {
      int done = try_frame_fresh(c, to);
      if (done != 0 || sd_buffer_length(in) == 0) return done;
      first = false;
      if (!c->conn.readable) return 0;
      continue;
    }
    sd_frame_piece piece = { 0 };
    sd_buffer bytes = borrow(c);
    int done = cut(c, to, held ? sd_buffer_bytes(&bytes) : "", held, &piece);
    give_back(c, bytes, done > 0 ? piece.total : 0);
    if (done < 0) return give_up(c, to, done, piece.total);
    if (done > 0) return done;
    size_t room = piece.need > held ? piece.need - held : SMALLEST_FILL;
    if (room < SMALLEST_FILL) room = SMALLEST_FILL;
    ssize_t n = sd_conn_fill(&c->conn, room);
    if (n <= 0) return end_or_wait(c, to, n);
    first = false;
  }
}

static int try_op(l_conn *c, lua_State *to) {
  if (c->conn.state != SD_CONN_OPEN) return give_up(c, to, SD_ECLOSED, 0);
  switch ((read_kind)c->op.kind) {
    case READ_SOME:
      return try_some(c, to);
    case READ_ALL:
      return try_all(c, to);
    case READ_PEEK:
      return try_peek(c, to);
    case READ_LENT:
      return try_lent(c, to);
    case READ_FRAME:
      return try_frame(c, to);
  }
  return 0;
}

/* ---- waiting ---- */

static void stop_waiting(l_conn *c) {
  c->reader = NULL;
  c->conn.awaits = SD_AWAITS_NOTHING;
  sd_conn_set_read_deadline(&c->conn, 0);
  forget_needle(&c->op);
}

static bool wants_line(const l_conn *c) {
  sd_frame_shape shape = c->op.frame.shape;
  if (c->op.kind != READ_FRAME) return false;
  return shape == SD_FRAME_LINE || shape == SD_FRAME_LINE_KEPT || shape == SD_FRAME_NEEDLE;
}

/* What a slow peer is measured by while the read waits. */
static void note_wait(l_conn *c) {
  bool any = c->op.kind == READ_SOME || c->op.kind == READ_LENT;
  c->conn.awaits = any ? SD_AWAITS_BYTES : SD_AWAITS_MESSAGE;
  if (c->pool == NULL || c->conn.headed || sd_buffer_length(&c->conn.in) == 0) return;
  if (wants_line(c))
    sd_conn_begin_header(&c->conn);
  else
    c->conn.headed = true;
}

/* What is left of a wait that the next one is to have. */
static void keep_time(l_conn *c) {
  uint64_t now = sd_loop_now(c->conn.loop), due = c->op.due;
  c->time_left = due == 0 ? 0 : due > now ? (uint32_t)(due - now) : 1;
}

static void unwait(sd_task *task) {
  l_conn *c = task->waiting_for;
  if (c->op.resumes) keep_time(c);
  stop_waiting(c);
}

static bool may_interrupt(const l_conn *c) {
  return c->draining && !c->told && c->op.interrupt && sd_buffer_length(&c->conn.in) == 0;
}

static int say_shutdown(l_conn *c, lua_State *to) {
  if (!c->op.aside) c->told = true;
  return give_up(c, to, SD_ESHUTDOWN, 0);
}

/* Newer code is live or somebody wants it elsewhere, and the handler was not told. */
static bool is_outdated(const l_conn *c) {
  if (c->wanted && !c->asked) return true;
  return !c->op.driven && c->pool != NULL && sd_l_pool_newer(c) > c->told_of;
}

static int say_outdated(l_conn *c, lua_State *to) {
  c->asked = true;
  if (c->pool != NULL && !c->op.driven) {
    uint64_t newer = sd_l_pool_newer(c);
    if (newer != 0) c->told_of = newer;
  }
  return give_up(c, to, SD_EOUTDATED, 0);
}

/* Messages never move the idle timer: what the wait has left is kept for the next. */
static int say_message(l_conn *c, lua_State *to, bool waited) {
  if (waited) keep_time(c);
  c->message_next = false;
  return sd_push_failure(to, SD_EMESSAGE);
}

/* When the wait is over: the operation's own timeout, or the idle one, and the
 * connection's deadline, whichever is first. False when that is now already. */
static bool set_deadline(l_conn *c) {
  if (c->op.timeout < 0 && !c->op.resumes && c->conn.terms == NULL) { /* the idle timeout and nothing else */
    c->op.due = c->conn.idle > 0 ? sd_loop_now(c->conn.loop) + c->conn.idle : 0;
    c->idle_out = false;
    sd_conn_set_read_deadline(&c->conn, c->op.due);
    return true;
  }
  /* A turn may have been long, and a short timeout began only now. */
  if (c->op.timeout > 0) uv_update_time(&c->conn.loop->uv);
  uint64_t now = sd_loop_now(c->conn.loop), when = 0, last = sd_conn_terms_of(&c->conn)->owner;
  int64_t ms = c->op.timeout < 0 ? (int64_t)c->conn.idle : c->op.timeout;
  c->idle_out = false;
  if (c->op.resumes && c->time_left > 0) ms = c->time_left;
  if (ms > 0) when = now + (uint64_t)ms;
  c->op.due = when;
  if (last != 0 && last <= now) return false;
  if (last != 0 && (when == 0 || last < when)) when = last;
  sd_conn_set_read_deadline(&c->conn, when);
  return true;
}

/* Nothing has come, nothing is held and nobody is to be told anything: as most reads find
 * it, who answer the message before. */
static bool finds_nothing(const l_conn *c) {
  const sd_conn *conn = &c->conn;
  if (conn->readable || conn->eof || conn->deaf || conn->state != SD_CONN_OPEN) return false;
  if (sd_buffer_length(&conn->in) > 0 || c->draining || c->op.follow || c->op.mail) return false;
  return c->op.kind != READ_FRAME || c->op.frame.shape != SD_FRAME_EXACT || c->op.frame.exact > 0;
}

int sd_l_read_now(lua_State *L, l_conn *c) {
  bool tired = c->conn.state == SD_CONN_OPEN && sd_conn_tired(&c->conn);
  int n = 0;
  /* Before the first byte of the next message is looked at: a sender without end
   * must not keep it from following. */
  if (c->op.follow && c->conn.state == SD_CONN_OPEN && is_outdated(c))
    n = say_outdated(c, L);
  else if (c->op.mail && c->has_mail && c->message_next)
    n = say_message(c, L, false);
  else if (!tired)
    n = try_op(c, L);
  if (n == 0 && may_interrupt(c)) n = say_shutdown(c, L);
  if (n == 0 && c->op.mail && c->has_mail) n = say_message(c, L, false);
  return n;
}

static int perform(lua_State *L, l_conn *c, sd_task *task) {
  int n = finds_nothing(c) ? 0 : sd_l_read_now(L, c);
  if (n == 0 && !set_deadline(c)) n = give_up(c, L, SD_ETIMEOUT, SIZE_MAX);
  if (n > 0) {
    forget_needle(&c->op);
    return n;
  }
  c->reader = task;
  note_wait(c);
  return sd_task_wait(L, task, c, unwait);
}

static void cap_now(l_conn *c) {
  const sd_conn_limits *limits = c->conn.limits;
  if (c->op.cap == CAP_LINE) c->op.max = limits->line;
  if (c->op.cap == CAP_FRAME) c->op.max = limits->frame;
  if (c->op.cap == CAP_BUFFER) c->op.max = limits->read_buffer;
}

/* The wait may outlive the argument that it lies in. */
static int keep_needle(sd_frame *frame) {
  if (frame->shape != SD_FRAME_NEEDLE) return 0;
  char *copy = malloc(frame->needle_len);
  if (copy != NULL) memcpy(copy, frame->needle, frame->needle_len);
  frame->needle = copy;
  return copy != NULL ? 0 : -ENOMEM;
}

int sd_l_read_begin(lua_State *L, l_conn *c, const read_op *op, const char *what) {
  sd_task *task = sd_task_here(L, what);
  if (c->reader != NULL || sd_l_conn_taken(c)) return sd_push_failure(L, SD_EBUSY);
  c->op = *op;
  if (op->kind == READ_FRAME && keep_needle(&c->op.frame) != 0) return sd_push_failure(L, -ENOMEM);
  cap_now(c);
  if (op->follow && !op->driven) c->follows = true;
  return perform(L, c, task);
}

/* ---- events ---- */

/* The `n` values on it are what it waited for. */
static void wake(l_conn *c, int n) {
  sd_task *task = c->reader;
  stop_waiting(c);
  sd_task_wake(task, n);
}

/* The task runs when the group of events has been taken in. */
void sd_l_read_on_readable(sd_conn *conn) {
  l_conn *c = (l_conn *)conn;
  if (c->reader == NULL) return;
  int n = try_op(c, c->reader->co);
  if (n > 0)
    wake(c, n);
  else
    note_wait(c);
}

void sd_l_read_on_deadline(sd_conn *conn) {
  l_conn *c = (l_conn *)conn;
  if (c->reader == NULL) return;
  conn->readable = true; /* it may lie there already, and its event not be in this turn's */
  int n = try_op(c, c->reader->co);
  if (n == 0) {
    uint64_t owner = sd_conn_terms_of(conn)->owner;
    c->idle_out = c->op.timeout < 0 && (owner == 0 || owner > sd_loop_now(conn->loop));
    n = give_up(c, c->reader->co, SD_ETIMEOUT, SIZE_MAX);
    c->time_left = 0;
  }
  sd_task *task = c->reader;
  stop_waiting(c);
  sd_task_continue(task, n);
}

void sd_l_read_retime(l_conn *c) {
  cap_now(c);
  if (c->reader != NULL && !set_deadline(c)) sd_conn_set_read_deadline(&c->conn, sd_loop_now(c->conn.loop));
}

void sd_l_read_fail(l_conn *c, int err) {
  if (c->reader == NULL) return;
  wake(c, give_up(c, c->reader->co, err, SIZE_MAX));
}

bool sd_l_read_outdate(l_conn *c) {
  if (c->reader == NULL || !c->op.follow || !is_outdated(c)) return false;
  if (!c->op.driven && sd_buffer_length(&c->conn.in) > 0) return false;
  wake(c, say_outdated(c, c->reader->co));
  return true;
}

void sd_l_read_mail(l_conn *c) {
  if (c->reader == NULL || !c->op.mail) return;
  wake(c, say_message(c, c->reader->co, true));
}

bool sd_l_read_interrupt(l_conn *c) {
  if (c->reader == NULL || !may_interrupt(c)) return false;
  wake(c, say_shutdown(c, c->reader->co));
  return true;
}
