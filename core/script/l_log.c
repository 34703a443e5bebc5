/* log_writer (the supervisor's way to stderr) and log_line (a worker's). */
#include "script/l_log.h"

#include <lauxlib.h>

#include "base/errors.h"
#include "base/log_writer.h"

#define METATABLE "sockdrawer.log_writer"
#define RING_MAX (1 << 30)

typedef struct {
  sd_log_writer *writer; /* NULL once closed: a late line is no error */
  uint64_t dropped;      /* what it had dropped by then */
} log_writer;

static log_writer *check_writer(lua_State *L) {
  return luaL_checkudata(L, 1, METATABLE);
}

static int push_failure(lua_State *L, int err) {
  lua_pushnil(L);
  lua_pushstring(L, sd_error_word(err));
  return 2;
}

static int l_write(lua_State *L) {
  log_writer *w = check_writer(L);
  size_t len;
  const char *line = luaL_checklstring(L, 2, &len);
  if (w->writer != NULL)
    sd_log_writer_write(w->writer, line, len);
  else
    w->dropped++;
  return 0;
}

static uint64_t count_dropped(const log_writer *w) {
  if (w->writer == NULL) return w->dropped;
  return sd_log_writer_dropped(w->writer);
}

static int l_dropped(lua_State *L) {
  lua_pushnumber(L, (lua_Number)count_dropped(check_writer(L)));
  return 1;
}

static int close_writer(log_writer *w, double timeout) {
  if (w->writer == NULL) return 0;
  sd_log_writer *writer = w->writer;
  w->dropped = count_dropped(w);
  w->writer = NULL;
  return sd_log_writer_close(writer, timeout);
}

static int l_close(lua_State *L) {
  log_writer *w = check_writer(L);
  int err = close_writer(w, luaL_optnumber(L, 2, 0));
  if (err) return push_failure(L, SD_ETIMEOUT);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_gc(lua_State *L) {
  close_writer(check_writer(L), 0);
  return 0;
}

static int l_log_writer(lua_State *L) {
  int fd = luaL_checkint(L, 1);
  lua_Number ring = luaL_checknumber(L, 2);
  luaL_argcheck(L, ring >= 0 && ring <= RING_MAX, 2, "no size of a ring");
  log_writer *w = lua_newuserdata(L, sizeof *w);
  *w = (log_writer){ 0 };
  luaL_getmetatable(L, METATABLE);
  lua_setmetatable(L, -2);
  int err = sd_log_writer_new(&w->writer, fd, (size_t)ring);
  return err ? push_failure(L, err) : 1;
}

static int l_log_line(lua_State *L) {
  size_t len;
  const char *line = luaL_checklstring(L, 1, &len);
  sd_log_line(line, len);
  return 0;
}

static int l_use_json(lua_State *L) {
  log_writer *w = check_writer(L);
  if (w->writer != NULL) sd_log_writer_use_json(w->writer, lua_toboolean(L, 2));
  return 0;
}

static const luaL_Reg methods[] = {
  { "write", l_write },
  { "use_json", l_use_json },
  { "dropped", l_dropped },
  { "close", l_close },
  { "__gc", l_gc },
  { NULL, NULL },
};

void sd_l_log_register(lua_State *L) {
  luaL_newmetatable(L, METATABLE);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  luaL_register(L, NULL, methods);
  lua_pop(L, 1);
  lua_pushcfunction(L, l_log_writer);
  lua_setfield(L, -2, "log_writer");
  lua_pushcfunction(L, l_log_line);
  lua_setfield(L, -2, "log_line");
}
