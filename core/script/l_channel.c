/* Channels and line readers as Lua objects: received messages wait in a Lua
 * list until a task asks for them. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "net/channel.h"
#include "task.h"

#define CHANNEL "sockdrawer.channel"
#define READER "sockdrawer.line_reader"

enum { LONGEST_LINE = 65536 };

/* What both kinds do with what arrives: a task may wait for it. Entries of
 * `width` values lie in a Lua table anchored under the inbox. */
typedef struct {
  sd_task *reader;
  unsigned width, first, count; /* counted in entries */
  bool over;
} inbox;

static void open_inbox(lua_State *L, inbox *in, unsigned width) {
  *in = (inbox){ .width = width };
  lua_newtable(L);
  sd_vm_anchor(L, in, -1);
  lua_pop(L, 1);
}

static void unwait_inbox(sd_task *task) {
  ((inbox *)task->waiting_for)->reader = NULL;
}

/* Puts the entry on top of L into the box, or straight into the waiting task. */
static void put_entry(lua_State *L, inbox *in) {
  int width = (int)in->width;
  sd_task *task = in->reader;
  if (task != NULL) {
    in->reader = NULL;
    lua_xmove(L, task->co, width);
    sd_task_wake(task, width);
    return;
  }
  sd_vm_push_anchored(L, in);
  lua_insert(L, -1 - width);
  int at = (int)(in->first + in->count++) * width;
  for (int i = width; i >= 1; i--) lua_rawseti(L, -1 - i, at + i);
  lua_pop(L, 1);
}

static int pop_entry(lua_State *L, inbox *in) {
  int width = (int)in->width, at = (int)in->first * width;
  sd_vm_push_anchored(L, in);
  int box = lua_gettop(L);
  for (int i = 1; i <= width; i++) {
    lua_rawgeti(L, box, at + i);
    lua_pushnil(L);
    lua_rawseti(L, box, at + i);
  }
  in->count--;
  in->first = in->count == 0 ? 0 : in->first + 1;
  return width;
}

static void end_inbox(inbox *in) {
  if (in->over) return;
  in->over = true;
  if (in->reader == NULL) return;
  sd_task *task = in->reader;
  in->reader = NULL;
  sd_task_wake(task, sd_push_failure(task->co, SD_ECLOSED));
}

/* receive([timeout]) */
static int receive_value(lua_State *L, inbox *in) {
  sd_task *task = sd_task_here(L, "receive");
  if (in->count > 0) return pop_entry(L, in);
  if (in->over) return sd_push_failure(L, SD_ECLOSED);
  if (in->reader != NULL) return sd_push_failure(L, SD_EBUSY);
  if (!lua_isnoneornil(L, 2)) sd_task_set_timeout(task, sd_check_ms(L, 2));
  in->reader = task;
  return sd_task_wait(L, task, in, unwait_inbox);
}

/* ---- channels: an entry is bytes, { fds } ---- */

typedef struct {
  sd_channel channel; /* first member */
  inbox in;
} l_channel;

static void on_message(sd_channel *ch, const char *bytes, size_t length, const int *fds, unsigned nfds) {
  lua_State *L = sd_the_vm.L;
  lua_pushlstring(L, bytes, length);
  lua_createtable(L, (int)nfds, 0);
  for (unsigned i = 0; i < nfds; i++) {
    lua_pushinteger(L, fds[i]);
    lua_rawseti(L, -2, (int)i + 1);
  }
  put_entry(L, &((l_channel *)ch)->in);
}

static void on_channel_closed(sd_channel *ch) {
  l_channel *l = (l_channel *)ch;
  end_inbox(&l->in);
  sd_vm_unanchor(l);
}

static const sd_channel_events channel_events = { .on_message = on_message, .on_closed = on_channel_closed };

static int l_channel_new(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  l_channel *l = lua_newuserdata(L, sizeof *l);
  l->channel.closed = true; /* until nothing can raise any more */
  luaL_getmetatable(L, CHANNEL);
  lua_setmetatable(L, -2);
  open_inbox(L, &l->in, 2);
  sd_vm_anchor(L, l, -1);
  int err = sd_channel_open(&l->channel, &sd_the_vm.loop, fd, &channel_events);
  if (err == 0) return 1;
  l->channel.closed = true;
  sd_vm_unanchor(l);
  return sd_push_failure(L, err);
}

static int l_send(lua_State *L) {
  l_channel *l = luaL_checkudata(L, 1, CHANNEL);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  int fds[SD_CHANNEL_FDS];
  unsigned nfds = 0;
  if (!lua_isnoneornil(L, 3)) {
    luaL_checktype(L, 3, LUA_TTABLE);
    nfds = (unsigned)lua_objlen(L, 3);
    luaL_argcheck(L, nfds <= SD_CHANNEL_FDS, 3, "too many descriptors");
    for (unsigned i = 0; i < nfds; i++) {
      lua_rawgeti(L, 3, (int)i + 1);
      fds[i] = (int)lua_tointeger(L, -1);
      lua_pop(L, 1);
    }
  }
  int err = sd_channel_send(&l->channel, bytes, length, fds, nfds);
  if (err) return sd_push_failure(L, err);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_channel_receive(lua_State *L) {
  return receive_value(L, &((l_channel *)luaL_checkudata(L, 1, CHANNEL))->in);
}

static int l_channel_close(lua_State *L) {
  l_channel *l = luaL_checkudata(L, 1, CHANNEL);
  if (l->channel.closed) return 0;
  sd_channel_close(&l->channel);
  on_channel_closed(&l->channel);
  return 0;
}

/* pending() → bytes that wait to be sent. */
static int l_channel_pending(lua_State *L) {
  const l_channel *l = luaL_checkudata(L, 1, CHANNEL);
  lua_pushnumber(L, (lua_Number)sd_buffer_length(&l->channel.out));
  return 1;
}

/* handle() → its descriptor, if all that came has been received and all that was
 * sent has left; otherwise nil. */
static int l_channel_handle(lua_State *L) {
  l_channel *l = luaL_checkudata(L, 1, CHANNEL);
  if (!sd_channel_quiet(&l->channel) || l->in.count > 0) return 0;
  lua_pushinteger(L, l->channel.source.fd);
  return 1;
}

static int channel_gc(lua_State *L) {
  l_channel *l = lua_touserdata(L, 1);
  sd_channel_close(&l->channel);
  sd_vm_unanchor(&l->in);
  return 0;
}

static const luaL_Reg channel_methods[] = { { "send", l_send }, { "receive", l_channel_receive },
  { "pending", l_channel_pending }, { "handle", l_channel_handle }, { "close", l_channel_close }, { NULL, NULL } };

/* ---- lines from a pipe ---- */

typedef struct {
  sd_source source; /* first member */
  sd_deferred again;
  sd_buffer bytes;
  inbox in;
  bool closed;
} line_reader;

static void put_line(line_reader *r, const char *bytes, size_t length) {
  lua_pushlstring(sd_the_vm.L, bytes, length);
  put_entry(sd_the_vm.L, &r->in);
}

static void cut_lines(line_reader *r) {
  size_t length;
  while ((length = sd_buffer_length(&r->bytes)) > 0) {
    const char *bytes = sd_buffer_bytes(&r->bytes);
    const char *end = memchr(bytes, '\n', length);
    if (end == NULL && length < LONGEST_LINE) return;
    size_t line = end != NULL ? (size_t)(end - bytes) : length;
    put_line(r, bytes, line);
    sd_buffer_consume(&r->bytes, end != NULL ? line + 1 : line);
  }
}

static void close_reader(line_reader *r) {
  if (r->closed) return;
  r->closed = true;
  sd_loop_undefer(&sd_the_vm.loop, &r->again);
  sd_loop_unwatch(&sd_the_vm.loop, &r->source);
  close(r->source.fd);
  sd_buffer_free(&r->bytes);
  end_inbox(&r->in);
  sd_vm_unanchor(r);
}

/* Once a turn: who writes without end must not keep the loop from everybody else,
 * nor from the task that takes the lines away. */
static void read_some(line_reader *r) {
  ssize_t n = read(r->source.fd, sd_the_vm.loop.scratch, SD_LOOP_SCRATCH);
  if (n < 0 && errno == EAGAIN) return;
  if (n > 0 || (n < 0 && errno == EINTR)) {
    if (n > 0) sd_buffer_append(&r->bytes, sd_the_vm.loop.scratch, (size_t)n);
    cut_lines(r);
    sd_loop_defer(&sd_the_vm.loop, &r->again);
    return;
  }
  if (sd_buffer_length(&r->bytes) > 0) put_line(r, sd_buffer_bytes(&r->bytes), sd_buffer_length(&r->bytes));
  close_reader(r);
}

static void on_pipe(sd_source *source, uint32_t events) {
  line_reader *r = (line_reader *)source;
  (void)events;
  if (!r->again.waiting) read_some(r);
}

static void on_again(sd_deferred *again) {
  read_some((line_reader *)((char *)again - offsetof(line_reader, again)));
}

/* line_reader(fd [, beginning of the first line]) */
static int l_line_reader(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  size_t length;
  const char *begun = luaL_optlstring(L, 2, "", &length);
  line_reader *r = lua_newuserdata(L, sizeof *r);
  *r = (line_reader){ .source = { .fd = fd, .on_events = on_pipe }, .again = { .run = on_again } };
  r->closed = true; /* until nothing can raise any more */
  luaL_getmetatable(L, READER);
  lua_setmetatable(L, -2);
  open_inbox(L, &r->in, 1);
  sd_vm_anchor(L, r, -1);
  /* Ours alone: the other end of the pipe has flags of its own. */
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  int err = sd_loop_watch(&sd_the_vm.loop, &r->source, EPOLLIN);
  r->closed = err != 0;
  if (err == 0) {
    sd_buffer_append(&r->bytes, begun, length);
    return 1;
  }
  sd_vm_unanchor(r);
  return sd_push_failure(L, err);
}

static int l_reader_receive(lua_State *L) {
  return receive_value(L, &((line_reader *)luaL_checkudata(L, 1, READER))->in);
}

static int l_reader_close(lua_State *L) {
  close_reader(luaL_checkudata(L, 1, READER));
  return 0;
}

/* handle() → its descriptor, and the beginning of a line that has no end yet; nil
 * when it is closed, or lines wait to be received. */
static int l_reader_handle(lua_State *L) {
  line_reader *r = luaL_checkudata(L, 1, READER);
  if (r->closed || r->in.count > 0) return 0;
  lua_pushinteger(L, r->source.fd);
  lua_pushlstring(L, sd_buffer_bytes(&r->bytes), sd_buffer_length(&r->bytes));
  return 2;
}

static int reader_gc(lua_State *L) {
  line_reader *r = lua_touserdata(L, 1);
  close_reader(r);
  sd_vm_unanchor(&r->in);
  return 0;
}

static const luaL_Reg reader_methods[] = { { "receive", l_reader_receive }, { "handle", l_reader_handle },
  { "close", l_reader_close }, { NULL, NULL } };

void sd_l_channel_register(lua_State *L) {
  static const luaL_Reg functions[] = { { "channel", l_channel_new }, { "line_reader", l_line_reader },
    { NULL, NULL } };
  sd_class(L, CHANNEL, channel_methods, channel_gc);
  sd_class(L, READER, reader_methods, reader_gc);
  luaL_register(L, NULL, functions);
}
