/* Reading: read, read_until, read_frame, peek, unread and the iterators.
 *
 * All are one operation: try with what is buffered and what the socket has; if
 * that is not enough, wait, and let each event try again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "l_connection.h"

enum { STEP = 65536, SMALLEST_STEP = 4096 };

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

static int try_some(l_conn *c, lua_State *to) {
  size_t max = c->op.max;
  size_t held = sd_buffer_length(&c->conn.in);
  if (held > 0) {
    if (held > max) held = max;
    push_held(c, to, held, held);
    return succeed(c);
  }
  char *scratch = c->conn.loop->scratch;
  ssize_t n = sd_conn_receive(&c->conn, scratch, max < STEP ? max : STEP);
  if (n <= 0) return end_or_wait(c, to, n);
  push_bytes(to, scratch, (size_t)n);
  return succeed(c);
}

static int try_lent(l_conn *c, lua_State *to) {
  l_lent *lent = c->op.lent;
  size_t held = sd_buffer_length(&c->conn.in);
  size_t max = c->op.max < STEP ? c->op.max : STEP;
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
    ssize_t n = sd_conn_fill(&c->conn, STEP);
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
  ssize_t n = sd_conn_receive(&c->conn, scratch, STEP);
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
    size_t room = piece.need > held ? piece.need - held : SMALLEST_STEP;
    if (room < SMALLEST_STEP) room = SMALLEST_STEP;
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

/* What can be had at once: values pushed, or 0. */
static int try_now(lua_State *L, l_conn *c) {
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

/* Runs the operation in c->op for the running task. */
static int perform(lua_State *L, l_conn *c, sd_task *task) {
  int n = finds_nothing(c) ? 0 : try_now(L, c);
  if (n == 0 && !set_deadline(c)) n = give_up(c, L, SD_ETIMEOUT, SIZE_MAX);
  if (n > 0) {
    forget_needle(&c->op);
    return n;
  }
  c->reader = task;
  note_wait(c);
  return sd_task_wait(L, task, c, unwait);
}

static void answer(l_conn *c, int n) {
  sd_task *task = c->reader;
  stop_waiting(c);
  sd_task_continue(task, n);
}

/* The task runs when the group of events has been taken in. */
void sd_l_read_on_readable(sd_conn *conn) {
  l_conn *c = (l_conn *)conn;
  if (c->reader == NULL) return;
  sd_task *task = c->reader;
  int n = try_op(c, task->co);
  if (n > 0) {
    stop_waiting(c);
    sd_task_wake(task, n);
  } else {
    note_wait(c);
  }
}

void sd_l_read_on_deadline(sd_conn *conn) {
  l_conn *c = (l_conn *)conn;
  if (c->reader == NULL) return;
  conn->readable = true; /* timers come before sockets: it may lie there already */
  int n = try_op(c, c->reader->co);
  if (n == 0) {
    uint64_t owner = sd_conn_terms_of(conn)->owner;
    c->idle_out = c->op.timeout < 0 && (owner == 0 || owner > sd_loop_now(conn->loop));
    n = give_up(c, c->reader->co, SD_ETIMEOUT, SIZE_MAX);
    c->time_left = 0;
  }
  answer(c, n);
}

static void cap_now(l_conn *c) {
  const sd_conn_limits *limits = c->conn.limits;
  if (c->op.cap == CAP_LINE) c->op.max = limits->line;
  if (c->op.cap == CAP_FRAME) c->op.max = limits->frame;
  if (c->op.cap == CAP_BUFFER) c->op.max = limits->read_buffer;
}

void sd_l_read_retime(l_conn *c) {
  cap_now(c);
  if (c->reader != NULL && !set_deadline(c)) sd_conn_set_read_deadline(&c->conn, sd_loop_now(c->conn.loop));
}

void sd_l_read_fail(l_conn *c, int err) {
  if (c->reader == NULL) return;
  sd_task *task = c->reader;
  int n = give_up(c, task->co, err, SIZE_MAX);
  stop_waiting(c);
  sd_task_wake(task, n);
}

bool sd_l_read_outdate(l_conn *c) {
  if (c->reader == NULL || !c->op.follow || !is_outdated(c)) return false;
  if (!c->op.driven && sd_buffer_length(&c->conn.in) > 0) return false;
  sd_task *task = c->reader;
  int n = say_outdated(c, task->co);
  stop_waiting(c);
  sd_task_wake(task, n);
  return true;
}

void sd_l_read_mail(l_conn *c) {
  if (c->reader == NULL || !c->op.mail) return;
  sd_task *task = c->reader;
  int n = say_message(c, task->co, true);
  stop_waiting(c);
  sd_task_wake(task, n);
}

bool sd_l_read_interrupt(l_conn *c) {
  if (c->reader == NULL || !may_interrupt(c)) return false;
  sd_task *task = c->reader;
  int n = say_shutdown(c, task->co);
  stop_waiting(c);
  sd_task_wake(task, n);
  return true;
}

/* ---- orders from Lua ---- */

static read_op some(const l_conn *c) {
  return (read_op){
    .kind = READ_SOME, .cap = CAP_BUFFER, .max = c->conn.limits->read_buffer, .timeout = -1, .interrupt = true
  };
}

static void take_max(lua_State *L, int index, read_op *op) {
  lua_getfield(L, index, "max");
  if (!lua_isnil(L, -1)) {
    double n = luaL_checknumber(L, -1);
    if (!(n >= 1)) luaL_error(L, "max: at least 1 byte");
    op->cap = CAP_OWN;
    op->max = n < 4e9 ? (size_t)n : (size_t)4e9;
  }
  lua_pop(L, 1);
}

static bool field_true(lua_State *L, int index, const char *key) {
  lua_getfield(L, index, key);
  bool yes = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return yes;
}

/* { timeout=, max=, interrupt=, follow= } in the last argument, if it is a table. */
static void take_options(lua_State *L, int index, read_op *op) {
  if (lua_isnoneornil(L, index)) return;
  luaL_checktype(L, index, LUA_TTABLE);
  op->timeout = sd_opt_ms(L, index, "timeout");
  take_max(L, index, op);
  op->follow = field_true(L, index, "follow");
  if (op->follow || field_true(L, index, "interrupt")) op->interrupt = true;
}

static int perform_as(lua_State *L, l_conn *c, const read_op *op, const char *what) {
  sd_task *task = sd_task_here(L, what);
  if (c->reader != NULL || sd_l_conn_taken(c)) return sd_push_failure(L, SD_EBUSY);
  c->op = *op;
  cap_now(c);
  if (op->follow && !op->driven) c->follows = true;
  return perform(L, c, task);
}

/* Messages that lie in the buffer already, as those of a sender do that does not wait for
 * answers: no operation is begun for them. */
static bool holds(l_conn *c, double n) {
  if (!(n >= 1) || n > (double)sd_buffer_length(&c->conn.in) || n > (double)c->conn.limits->frame) return false;
  if (c->reader != NULL || sd_l_conn_taken(c) || c->conn.state != SD_CONN_OPEN) return false;
  return !sd_conn_tired(&c->conn);
}

static int read_exactly(lua_State *L, l_conn *c) {
  double n = lua_tonumber(L, 2);
  bool plain = lua_gettop(L) == 2;
  if (plain && holds(c, n)) {
    sd_task_here(L, "conn:read");
    push_held(c, L, (size_t)n, (size_t)n);
    return succeed(c);
  }
  luaL_argcheck(L, n >= 0, 2, "a count of bytes is not negative");
  size_t limit = c->conn.limits->frame;
  read_op op = { .kind = READ_FRAME, .cap = CAP_FRAME, .max = limit, .timeout = -1 };
  op.frame = sd_frame_exact(n < 4e9 ? (size_t)n : (size_t)4e9);
  if (!plain) take_options(L, 3, &op);
  if (op.frame.exact > op.max) {
    c->stopped = SD_ELIMIT;
    sd_l_conn_happened(c, L_READ, (uint32_t)SD_ELIMIT);
    return sd_push_failure(L, SD_ELIMIT);
  }
  return perform_as(L, c, &op, "conn:read");
}

static int read_format(lua_State *L, l_conn *c) {
  const char *format = lua_tostring(L, 2);
  if (*format == '*') format++; /* as LuaSocket and Lua 5.1 spell them */
  read_op op = { .timeout = -1 };
  if (*format == 'a') {
    op.kind = READ_ALL;
    op.cap = CAP_FRAME;
    op.max = c->conn.limits->frame;
  } else if (*format == 'l' || *format == 'L') {
    op.kind = READ_FRAME;
    op.cap = CAP_LINE;
    op.max = c->conn.limits->line;
    sd_frame_named(&op.frame, *format == 'l' ? "l" : "L");
  } else {
    return luaL_argerror(L, 2, "a count, \"l\", \"L\" or \"a\" expected");
  }
  take_options(L, 3, &op);
  return perform_as(L, c, &op, "conn:read");
}

static int l_read(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  int type = lua_type(L, 2);
  if (type == LUA_TNUMBER) return read_exactly(L, c);
  if (type == LUA_TSTRING) return read_format(L, c);
  read_op op = some(c);
  take_options(L, 2, &op);
  return perform_as(L, c, &op, "conn:read");
}

static int l_read_until(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  size_t length;
  const char *needle = luaL_checklstring(L, 2, &length);
  luaL_argcheck(L, length > 0, 2, "the needle is empty");
  read_op op = { .kind = READ_FRAME, .cap = CAP_FRAME, .max = c->conn.limits->frame, .timeout = -1 };
  bool inclusive = false;
  if (lua_istable(L, 3)) inclusive = field_true(L, 3, "inclusive");
  take_options(L, 3, &op);
  sd_task *task = sd_task_here(L, "conn:read_until");
  if (c->reader != NULL || sd_l_conn_taken(c)) return sd_push_failure(L, SD_EBUSY);
  char *copy = malloc(length); /* the wait may outlive the argument */
  if (copy == NULL) return sd_push_failure(L, -ENOMEM);
  c->op = op;
  c->op.frame = sd_frame_until(needle, length, inclusive);
  c->op.frame.needle = memcpy(copy, needle, length);
  return perform(L, c, task);
}

/* A kind by name, or { length = "u32be", at =, header =, includes_header = }. */
static void check_kind(lua_State *L, int index, sd_frame *frame) {
  if (lua_type(L, index) == LUA_TSTRING) {
    if (sd_frame_named(frame, lua_tostring(L, index)) == 0) return;
    luaL_error(L,
      "unknown frame kind '%s': l, L, u8, u16be, u16le, u24be, u32be, u32le, varint, "
      "netstring, or a table with length",
      lua_tostring(L, index));
  }
  luaL_checktype(L, index, LUA_TTABLE);
  lua_getfield(L, index, "length");
  const char *length = luaL_checkstring(L, -1);
  lua_getfield(L, index, "at");
  lua_getfield(L, index, "header");
  lua_getfield(L, index, "includes_header");
  size_t at = (size_t)luaL_optinteger(L, -3, 0);
  sd_frame field;
  size_t header = sd_frame_named(&field, length) == 0 ? at + field.width : at;
  if (!lua_isnil(L, -2)) header = (size_t)luaL_checkinteger(L, -2);
  if (sd_frame_custom(frame, length, at, header, lua_toboolean(L, -1)) != 0)
    luaL_error(
      L, "frame: a length of kind %s at byte %d does not fit a header of %d bytes", length, (int)at, (int)header);
  lua_pop(L, 4);
}

static read_op framed(lua_State *L, const l_conn *c, int index) {
  read_op op = { .kind = READ_FRAME, .timeout = -1 };
  check_kind(L, index, &op.frame);
  bool line = op.frame.shape == SD_FRAME_LINE || op.frame.shape == SD_FRAME_LINE_KEPT;
  op.cap = line ? CAP_LINE : CAP_FRAME;
  op.max = line ? c->conn.limits->line : c->conn.limits->frame;
  return op;
}

static int l_read_frame(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  read_op op = framed(L, c, 2);
  take_options(L, 3, &op);
  return perform_as(L, c, &op, "conn:read_frame");
}

static int l_peek(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  lua_Integer n = luaL_checkinteger(L, 2);
  luaL_argcheck(L, n > 0, 2, "at least 1 byte");
  read_op op = { .kind = READ_PEEK, .max = (size_t)n, .timeout = -1 };
  if (lua_istable(L, 3)) op.timeout = sd_opt_ms(L, 3, "timeout");
  if ((size_t)n > c->conn.limits->frame) return sd_push_failure(L, SD_ELIMIT);
  return perform_as(L, c, &op, "conn:peek");
}

static int l_unread(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  if (c->conn.state != SD_CONN_OPEN) return sd_push_failure(L, SD_ECLOSED);
  if (c->reader != NULL || sd_l_conn_taken(c)) return sd_push_failure(L, SD_EBUSY);
  if (sd_buffer_length(&c->conn.in) + length > c->conn.limits->frame + STEP) return sd_push_failure(L, SD_ELIMIT);
  int err = sd_buffer_prepend(&c->conn.in, bytes, length);
  if (err) return sd_push_failure(L, err);
  lua_pushboolean(L, 1);
  return 1;
}

static void take_patience(lua_State *L, int index, read_op *op) {
  if (lua_isnumber(L, index)) {
    double seconds = lua_tonumber(L, index);
    op->timeout = seconds < 4e6 ? (int64_t)(seconds * 1000 + 0.999) : 0;
    if (op->timeout == 0 && seconds < 4e6) op->timeout = 1;
  } else if (lua_isboolean(L, index)) {
    op->timeout = 0;
  }
}

/* _await(seconds | nil): until there is something; takes nothing. */
static int l_await(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  read_op op = { .kind = READ_PEEK, .max = 1, .timeout = -1, .interrupt = true, .mail = true };
  take_patience(L, 2, &op);
  return perform_as(L, c, &op, "conn:wait");
}

/* _await_aside(): the same, while its task's parent waits for other things too. Messages do not
 * end it. */
static int l_await_aside(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  read_op op = { .kind = READ_PEEK, .max = 1, .timeout = -1, .interrupt = true, .aside = true, .resumes = true };
  return perform_as(L, c, &op, "sd.select");
}

/* _poll(): what _await_aside would give at once; nothing where it would wait. */
static int l_poll(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  if (c->reader != NULL || sd_l_conn_taken(c)) return sd_push_failure(L, SD_EBUSY);
  c->op = (read_op){ .kind = READ_PEEK, .max = 1, .interrupt = true, .aside = true };
  bool tired = c->conn.state == SD_CONN_OPEN && sd_conn_tired(&c->conn);
  int n = tired ? 0 : try_op(c, L);
  return n == 0 && may_interrupt(c) ? say_shutdown(c, L) : n;
}

/* _heard(): the handler has been told of the draining. */
static int l_heard(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  if (c->draining) c->told = true;
  return 0;
}

/* _read_message(kind | nil, idle | nil, resumes, driven, mail): the wait between two messages of
 * the peer's. With `mail` one in the mailbox ends it too: nil, "message"; `resumes`: what that
 * ended had a part of its time left, which is what there is now. */
static int l_read_message(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  read_op op = lua_isnoneornil(L, 2) ? some(c) : framed(L, c, 2);
  op.interrupt = true;
  op.resumes = lua_toboolean(L, 4);
  op.follow = op.driven = lua_toboolean(L, 5);
  op.mail = lua_toboolean(L, 6);
  take_patience(L, 3, &op);
  return perform_as(L, c, &op, op.driven ? "a callback" : "conn:event");
}

/* ---- iterators: lua/sockdrawer/iterators.lua makes them of a step and, where it is no usual one, an order ---- */

static int step(lua_State *L, l_conn *c, const read_op *op) {
  if (op->lent != NULL) sd_l_lent_give_back(op->lent);
  if (c->reader != NULL || sd_l_conn_taken(c)) {
    c->stopped = SD_EBUSY;
    lua_pushnil(L);
    return 1;
  }
  return perform_as(L, c, op, "a read iterator");
}

/* _next_chunk() */
static int l_next_chunk(lua_State *L) {
  static const read_op chunk = {
    .kind = READ_SOME, .cap = CAP_BUFFER, .timeout = -1, .interrupt = true, .iterator = true
  };
  return step(L, sd_l_conn_check(L, 1), &chunk);
}

static const read_op line = {
  .kind = READ_FRAME,
  .cap = CAP_LINE,
  .timeout = -1,
  .interrupt = true,
  .iterator = true,
  .frame = { .shape = SD_FRAME_LINE },
};

/* _next_line() */
static int l_next_line(lua_State *L) {
  return step(L, sd_l_conn_check(L, 1), &line);
}

static const void *order_class; /* the metatable: compared instead of looked up */

/* _next(order) */
static int l_next(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  const read_op *order = lua_touserdata(L, 2);
  bool known = order != NULL && lua_getmetatable(L, 2) && lua_topointer(L, -1) == order_class;
  if (!known) return luaL_argerror(L, 2, "an order of chunks, lines, frames or buffers expected");
  return step(L, c, order);
}

static int order_gc(lua_State *L) {
  const read_op *standing = lua_touserdata(L, 1);
  if (standing->lent != NULL) sd_vm_unanchor(standing->lent);
  return 0;
}

static void push_order(lua_State *L, const read_op *op) {
  read_op *standing = lua_newuserdata(L, sizeof *standing);
  *standing = *op;
  standing->iterator = true;
  luaL_getmetatable(L, "sockdrawer.order");
  lua_setmetatable(L, -2);
}

/* Functions of Lua's: (conn) and (conn, order) → what a loop calls for each step. */
static sd_ref makers[3] = { LUA_NOREF, LUA_NOREF, LUA_NOREF };
enum { CHUNKS, LINES, ORDERED };

static int make(lua_State *L, int which) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, makers[which]);
  lua_pushvalue(L, 1);
  if (which == ORDERED) lua_pushvalue(L, -3);
  lua_call(L, which == ORDERED ? 2 : 1, 1);
  return 1;
}

static int make_ordered(lua_State *L, const read_op *op) {
  push_order(L, op);
  return make(L, ORDERED);
}

static int l_chunks(lua_State *L) {
  read_op op = some(sd_l_conn_check(L, 1));
  if (lua_isnoneornil(L, 2)) return make(L, CHUNKS);
  take_options(L, 2, &op);
  return make_ordered(L, &op);
}

static int l_lines(lua_State *L) {
  sd_l_conn_check(L, 1);
  if (lua_isnoneornil(L, 2)) return make(L, LINES);
  read_op op = line;
  take_options(L, 2, &op);
  return make_ordered(L, &op);
}

static int l_frames(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  read_op op = framed(L, c, 2);
  op.interrupt = true;
  take_options(L, 3, &op);
  return make_ordered(L, &op);
}

static int l_buffers(lua_State *L) {
  read_op op = some(sd_l_conn_check(L, 1));
  op.kind = READ_LENT;
  take_options(L, 2, &op);
  op.lent = sd_l_lent_new(L);
  sd_vm_anchor(L, op.lent, -1);
  return make_ordered(L, &op);
}

/* read_iterators(chunks, lines, ordered) */
static int l_read_iterators(lua_State *L) {
  for (int i = CHUNKS; i <= ORDERED; i++) makers[i] = sd_vm_keep(L, i + 1, makers[i]);
  return 0;
}

static int l_stopped(lua_State *L) {
  const l_conn *c = sd_l_conn_check(L, 1);
  if (c->stopped == 0)
    lua_pushnil(L);
  else
    lua_pushstring(L, sd_error_word(c->stopped));
  return 1;
}

void sd_l_read_register_core(lua_State *L) {
  lua_pushcfunction(L, l_read_iterators);
  lua_setfield(L, -2, "read_iterators");
}

void sd_l_read_register(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "read", l_read },
    { "read_until", l_read_until },
    { "read_frame", l_read_frame },
    { "peek", l_peek },
    { "unread", l_unread },
    { "_read_message", l_read_message },
    { "_await", l_await },
    { "_await_aside", l_await_aside },
    { "_poll", l_poll },
    { "_heard", l_heard },
    { "_next_chunk", l_next_chunk },
    { "_next_line", l_next_line },
    { "_next", l_next },
    { "chunks", l_chunks },
    { "lines", l_lines },
    { "frames", l_frames },
    { "buffers", l_buffers },
    { "stopped", l_stopped },
    { NULL, NULL },
  };
  luaL_register(L, NULL, methods);
  luaL_newmetatable(L, "sockdrawer.order");
  order_class = lua_topointer(L, -1);
  lua_pushcfunction(L, order_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}
