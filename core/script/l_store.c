/* A shared store as Lua sees it. All arguments are checked before it is touched, and no
 * Lua value is made before it is let go: what a call answers lies in room of ours. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l_shared.h"

#define STORE "sockdrawer.store"

enum { ROOM_KEPT = 256 * 1024 };

static sd_room spare; /* for the next call */

void sd_l_store_push(lua_State *L, const sd_store *store) {
  const sd_store **handle = lua_newuserdata(L, sizeof *handle);
  *handle = store;
  luaL_getmetatable(L, STORE);
  lua_setmetatable(L, -2);
}

const sd_store *sd_l_store_check(lua_State *L, int index) {
  return *(const sd_store **)luaL_checkudata(L, index, STORE);
}

/* ---- arguments ---- */

sd_text sd_l_store_key(lua_State *L, int index) {
  sd_text key;
  if (lua_type(L, index) != LUA_TSTRING) {
    lua_pushfstring(L, "a key is a string, not a %s", luaL_typename(L, index));
    luaL_argerror(L, index, lua_tostring(L, -1));
  }
  key.bytes = lua_tolstring(L, index, &key.length);
  if (key.length > SD_STORE_KEY_MOST) {
    lua_pushfstring(L, "a key has up to %d bytes, not %d", SD_STORE_KEY_MOST, (int)key.length);
    luaL_argerror(L, index, lua_tostring(L, -1));
  }
  return key;
}

static sd_text check_prefix(lua_State *L, int index) {
  if (lua_isnoneornil(L, index)) return (sd_text){ "", 0 };
  return sd_l_store_key(L, index);
}

static double check_number(lua_State *L, int index, double otherwise) {
  if (lua_isnoneornil(L, index)) return otherwise;
  luaL_checktype(L, index, LUA_TNUMBER);
  return lua_tonumber(L, index);
}

/* A string, a number or a boolean; nil, which is nothing, only where `nothing` says so. */
static sd_value check_value(lua_State *L, int index, bool nothing) {
  sd_value v = { .type = SD_VALUE_NONE };
  switch (lua_type(L, index)) {
    case LUA_TSTRING:
      v.type = SD_VALUE_STRING;
      v.bytes = lua_tolstring(L, index, &v.length);
      return v;
    case LUA_TNUMBER:
      v.type = SD_VALUE_NUMBER;
      v.number = lua_tonumber(L, index);
      return v;
    case LUA_TBOOLEAN:
      v.type = SD_VALUE_BOOLEAN;
      v.boolean = lua_toboolean(L, index);
      return v;
    default:
      if (nothing && lua_isnoneornil(L, index)) return v;
  }
  lua_pushfstring(L, "a value is a string, a number or a boolean, not a %s", luaL_typename(L, index));
  luaL_argerror(L, index, lua_tostring(L, -1));
  return v;
}

/* What stands in a table of options. */
typedef struct {
  uint64_t expires;
  double init;
  bool nx, owned;
} options;

static int bad_option(lua_State *L, const char *key, const char *wanted) {
  return luaL_error(L, "%s: %s was expected, not a %s", key, wanted, luaL_typename(L, -1));
}

static uint64_t expiry(lua_State *L) {
  if (lua_isboolean(L, -1) && !lua_toboolean(L, -1)) return 0;
  if (lua_type(L, -1) != LUA_TNUMBER || !(lua_tonumber(L, -1) > 0)) bad_option(L, "ttl", "a number of seconds above 0");
  double seconds = lua_tonumber(L, -1);
  return seconds < 1e9 ? sd_scoreboard_clock() + (uint64_t)(seconds * 1e9 + 1) : 0;
}

static void read_option(lua_State *L, options *o, const char *key) {
  if (strcmp(key, "ttl") == 0) {
    o->expires = expiry(L);
  } else if (strcmp(key, "nx") == 0) {
    o->nx = lua_toboolean(L, -1);
  } else if (strcmp(key, "init") == 0) {
    if (lua_type(L, -1) != LUA_TNUMBER) bad_option(L, key, "a number");
    o->init = lua_tonumber(L, -1);
  } else {
    if (lua_type(L, -1) != LUA_TSTRING) bad_option(L, key, "the id of a task or connection");
    o->owned = true;
  }
}

static const char *const set_names[] = { "ttl", "nx", "owner", NULL };
static const char *const add_names[] = { "ttl", "owner", NULL };
static const char *const incr_names[] = { "init", "ttl", NULL };

static int unknown_option(lua_State *L, const char *key, const char *const *names) {
  lua_pushstring(L, names[0]);
  for (int i = 1; names[i] != NULL; i++) lua_pushfstring(L, "%s, %s", lua_tostring(L, -1), names[i]);
  return luaL_error(L, "unknown option '%s': there are %s", key, lua_tostring(L, -1));
}

static options read_options(lua_State *L, int index, const char *const *names) {
  options o = { .init = 0 };
  if (lua_isnoneornil(L, index)) return o;
  luaL_checktype(L, index, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    int i = 0;
    while (names[i] != NULL && strcmp(names[i], key) != 0) i++;
    if (names[i] == NULL) unknown_option(L, key, names);
    read_option(L, &o, key);
  }
  return o;
}

/* ---- results ---- */

static int push_true(lua_State *L) {
  lua_pushboolean(L, 1);
  return 1;
}

static int push_result(lua_State *L, int err) {
  return err ? sd_push_failure(L, err) : push_true(L);
}

/* Making a Lua value may run a finalizer, and that may call us: so each call has its own. */
static sd_room borrow_room(void) {
  sd_room room = spare;
  spare = (sd_room){ NULL, 0 };
  return room;
}

/* One that was needed for something big is not kept. */
static void give_back(sd_room room) {
  if (spare.bytes != NULL || room.size > ROOM_KEPT)
    free(room.bytes);
  else
    spare = room;
}

static void push_value(lua_State *L, const sd_value *v) {
  if (v->type == SD_VALUE_STRING)
    lua_pushlstring(L, v->length > 0 ? v->bytes : "", v->length);
  else if (v->type == SD_VALUE_NUMBER)
    lua_pushnumber(L, v->number);
  else if (v->type == SD_VALUE_BOOLEAN)
    lua_pushboolean(L, v->boolean);
  else
    lua_pushnil(L);
}

/* A value, or nil where there is none. */
static int push_found(lua_State *L, int err, const sd_value *v, sd_room room) {
  bool failed = err && err != -ENOENT;
  if (!failed) push_value(L, v);
  give_back(room);
  return failed ? sd_push_failure(L, err) : 1;
}

/* ---- one key ---- */

static int l_get(lua_State *L) {
  const sd_store *s = sd_l_store_check(L, 1);
  sd_text key = sd_l_store_key(L, 2);
  sd_room room = borrow_room();
  sd_value v;
  int err = sd_store_get(s, key, &v, &room);
  return push_found(L, err, &v, room);
}

static int put(lua_State *L, bool fresh) {
  const sd_store *s = sd_l_store_check(L, 1);
  sd_text key = sd_l_store_key(L, 2);
  sd_store_item item = { .value = check_value(L, 3, false) };
  options o = read_options(L, 4, fresh ? add_names : set_names);
  sd_owner_key owner;
  item.expires = o.expires;
  item.fresh = fresh || o.nx;
  if (o.owned) {
    lua_getfield(L, 4, "owner");
    int err = sd_l_owner_take(L, lua_gettop(L), &owner);
    if (err) return sd_push_failure(L, err);
    item.owner = &owner;
    item.home = (int32_t)getpid();
  }
  return push_result(L, sd_store_set(s, key, &item));
}

/* set(key, value [, { ttl=, nx=, owner= }]) → true | nil, word */
static int l_set(lua_State *L) {
  return put(L, false);
}

/* add(key, value [, { ttl=, owner= }]) → true | nil, "exists", … */
static int l_add(lua_State *L) {
  return put(L, true);
}

/* incr(key [, by [, { init=, ttl= }]]) → number | nil, word */
static int l_incr(lua_State *L) {
  const sd_store *s = sd_l_store_check(L, 1);
  sd_text key = sd_l_store_key(L, 2);
  double by = check_number(L, 3, 1), sum;
  options o = read_options(L, 4, incr_names);
  int err = sd_store_incr(s, key, by, o.init, o.expires, &sum);
  if (err) return sd_push_failure(L, err);
  lua_pushnumber(L, sum);
  return 1;
}

/* cas(key, old, new) → true | nil, "changed", current; nil is no value. */
static int l_cas(lua_State *L) {
  const sd_store *s = sd_l_store_check(L, 1);
  sd_text key = sd_l_store_key(L, 2);
  sd_value old = check_value(L, 3, true), value = check_value(L, 4, true), current;
  sd_room room = borrow_room();
  int err = sd_store_cas(s, key, &old, &value, &current, &room);
  int n = push_result(L, err);
  if (err == SD_ECHANGED) push_value(L, &current);
  give_back(room);
  return err == SD_ECHANGED ? n + 1 : n;
}

/* delete(key) → the old value, or nil */
static int l_delete(lua_State *L) {
  const sd_store *s = sd_l_store_check(L, 1);
  sd_text key = sd_l_store_key(L, 2);
  sd_room room = borrow_room();
  sd_value old;
  int err = sd_store_delete(s, key, &old, &room);
  return push_found(L, err, &old, room);
}

/* ---- all of them ---- */

static int push_keys(lua_State *L, sd_room room, size_t length, int count) {
  for (size_t at = 0; at < length;) {
    uint16_t n;
    memcpy(&n, room.bytes + at, sizeof n);
    lua_pushlstring(L, room.bytes + at + sizeof n, n);
    lua_rawseti(L, -2, ++count);
    at += sizeof n + n;
  }
  return count;
}

/* keys([prefix]) → a list, in no order */
static int l_keys(lua_State *L) {
  const sd_store *s = sd_l_store_check(L, 1);
  sd_text prefix = check_prefix(L, 2);
  sd_store_walk walk = { 0 };
  size_t length;
  int more, count = 0;
  lua_newtable(L);
  sd_room room = borrow_room();
  while ((more = sd_store_keys(s, &walk, prefix, &room, &length)) == 1) count = push_keys(L, room, length, count);
  give_back(room);
  return more < 0 ? sd_push_failure(L, more) : 1;
}

/* clear([prefix]) → how many there were */
static int l_clear(lua_State *L) {
  const sd_store *s = sd_l_store_check(L, 1);
  lua_pushnumber(L, (lua_Number)sd_store_clear(s, check_prefix(L, 2)));
  return 1;
}

static int l_count(lua_State *L) {
  lua_pushnumber(L, (lua_Number)sd_store_count(sd_l_store_check(L, 1)));
  return 1;
}

void sd_l_store_register(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "get", l_get },
    { "set", l_set },
    { "add", l_add },
    { "incr", l_incr },
    { "cas", l_cas },
    { "delete", l_delete },
    { "keys", l_keys },
    { "clear", l_clear },
    { "count", l_count },
    { NULL, NULL },
  };
  sd_class(L, STORE, methods, NULL);
  luaL_getmetatable(L, STORE);
  lua_getfield(L, -1, "__index"); /* Lua adds methods of its own to this table */
  lua_setfield(L, -3, "store_methods");
  lua_pop(L, 1);
}
