/* Addresses, listen sockets and socket options for Lua. */
#include "l_socket.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <uv.h>

#include "base/errors.h"
#include "net/address.h"
#include "net/diag.h"
#include "net/listener.h"
#include "net/network.h"
#include "net/sockopt.h"
#include "net/steer.h"

#define MAX_INODES 4096

/* Only the resolver's failures are libuv's numbers and no errno. */
static const char *word_of(int err) {
  bool resolver = err <= UV_EAI_ADDRFAMILY && err >= UV_EAI_PROTOCOL;
  return resolver ? uv_err_name(err) : sd_error_word(err);
}

int sd_l_failure(lua_State *L, int err, const char *text) {
  lua_pushnil(L);
  lua_pushstring(L, word_of(err));
  if (text == NULL || *text == '\0') return 2;
  lua_pushstring(L, text);
  return 3;
}

static int succeed(lua_State *L, int err, const char *text) {
  if (err) return sd_l_failure(L, err, text);
  lua_pushboolean(L, 1);
  return 1;
}

static int check_fd(lua_State *L, int index) {
  lua_Integer fd = luaL_checkinteger(L, index);
  luaL_argcheck(L, fd >= 0, index, "descriptor expected");
  return (int)fd;
}

/* Fields of an argument table. */

static bool flag_field(lua_State *L, int index, const char *key) {
  lua_getfield(L, index, key);
  bool on = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return on;
}

static int integer_field(lua_State *L, int index, const char *key, int absent) {
  lua_getfield(L, index, key);
  if (!lua_isnil(L, -1) && !lua_isnumber(L, -1)) luaL_error(L, "field '%s' must be a number", key);
  int value = lua_isnil(L, -1) ? absent : (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return value;
}

/* Addresses. */

static void set_string(lua_State *L, const char *key, const char *value) {
  if (*value == '\0') return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, key);
}

static void set_integer(lua_State *L, const char *key, int value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, key);
}

static void push_address(lua_State *L, const sd_address *address) {
  char text[SD_ADDRESS_TEXT];
  lua_newtable(L);
  set_string(L, "scheme", sd_address_scheme_name(address->scheme));
  set_string(L, "text", sd_address_text(address, text, sizeof text));
  set_string(L, "host", address->host);
  set_string(L, "path", address->path);
  set_string(L, "owner", address->owner);
  set_string(L, "group", address->group);
  set_string(L, "name", address->name);
  if (sd_address_is_ip(address)) set_integer(L, "port", address->port);
  if (address->mode >= 0) set_integer(L, "mode", address->mode);
  if (address->fd >= 0) set_integer(L, "fd", address->fd);
}

/* parse_address(text [, folder]): a relative unix path is taken from `folder`. */
static int l_parse_address(lua_State *L) {
  size_t len;
  sd_address address;
  sd_net_error error;
  const char *text = luaL_checklstring(L, 1, &len);
  const char *folder = luaL_optstring(L, 2, NULL);
  int err = sd_address_parse(&address, text, len, &error);
  if (!err && folder && address.scheme == SD_ADDRESS_UNIX && address.path[0] != '/') {
    text = lua_pushfstring(L, "unix:%s/%s", folder, strchr(text, ':') + 1);
    err = sd_address_parse(&address, text, strlen(text), &error);
  }
  if (err == 0) {
    push_address(L, &address);
    return 1;
  }
  lua_pushnil(L);
  lua_pushstring(L, error.text);
  return 2;
}

/* parse_network(text) → its one spelling | nil, what is wrong */
static int l_parse_network(lua_State *L) {
  size_t len;
  sd_network network;
  sd_net_error error;
  char spelling[SD_NETWORK_TEXT];
  const char *text = luaL_checklstring(L, 1, &len);
  if (sd_network_parse(&network, text, len, &error)) {
    lua_pushnil(L);
    lua_pushstring(L, error.text);
    return 2;
  }
  lua_pushstring(L, sd_network_text(&network, spelling, sizeof spelling));
  return 1;
}

/* The field `address`, a text or what parse_address returned. */
static int address_field(lua_State *L, int index, sd_address *address, sd_net_error *error) {
  size_t len;
  lua_getfield(L, index, "address");
  if (lua_istable(L, -1)) lua_getfield(L, -1, "text");
  const char *text = lua_tolstring(L, -1, &len);
  if (text == NULL) return luaL_error(L, "field 'address' must be a text or a parsed address");
  return sd_address_parse(address, text, len, error);
}

/* Socket options. */

/* The value at the top for this row. False where it is of the wrong type. */
static bool to_value(lua_State *L, const sd_sockopt *option, double *value) {
  bool boolean = lua_isboolean(L, -1), on = lua_toboolean(L, -1);
  switch (option->type) {
    case SD_SOCKOPT_SWITCH:
      *value = on;
      return boolean;
    case SD_SOCKOPT_KEEPALIVE:
      *value = on ? SD_SOCKOPT_ON : SD_SOCKOPT_OFF;
      break;
    case SD_SOCKOPT_LINGER:
      *value = SD_SOCKOPT_OFF;
      if (on && boolean) return false;
      break;
    default:
      if (boolean) return false;
  }
  if (boolean) return true;
  *value = lua_tonumber(L, -1);
  /* -1 and -2 mean off and on inside only */
  return lua_type(L, -1) == LUA_TNUMBER && *value >= 0;
}

static int check_value(lua_State *L, const sd_sockopt *option, double *value, sd_net_error *error) {
  char allowed[96];
  if (to_value(L, option, value)) return sd_sockopt_check(option, *value, error);
  sd_sockopt_allowed(option, allowed, sizeof allowed);
  lua_pushvalue(L, -1); /* tostring in place would spoil a table being walked */
  const char *shown = lua_isboolean(L, -1) ? (lua_toboolean(L, -1) ? "true" : "false") : lua_tostring(L, -1);
  sd_net_error_set(error, "socket option \"%s\" cannot be %s; allowed is %s", option->name,
    shown ? shown : luaL_typename(L, -1), allowed);
  lua_pop(L, 1);
  return UV_EINVAL;
}

/* The pair (-2, -1) as one setting. */
static int to_setting(lua_State *L, sd_sockopt_setting *out, sd_net_error *error) {
  if (lua_type(L, -2) != LUA_TSTRING) {
    sd_net_error_set(error, "socket options go by name: { nodelay = true }");
    return UV_EINVAL;
  }
  out->option = sd_sockopt_find(lua_tostring(L, -2), error);
  return out->option ? check_value(L, out->option, &out->value, error) : UV_EINVAL;
}

/* All of it is checked before anything is set. */
int sd_l_settings(lua_State *L, int index, sd_sockopt_setting *list, size_t *count, sd_net_error *error) {
  *count = 0;
  lua_pushnil(L);
  while (lua_next(L, index)) {
    int err = to_setting(L, &list[*count], error);
    if (err) {
      lua_pop(L, 2);
      return err;
    }
    ++*count; /* names are unique: never more than there are rows */
    lua_pop(L, 1);
  }
  return 0;
}

int sd_l_setopt(lua_State *L, int fd, int index) {
  sd_sockopt_setting list[SD_L_SETTINGS];
  sd_net_error error = { "" };
  size_t count;
  luaL_checktype(L, index, LUA_TTABLE);
  int err = sd_l_settings(L, index, list, &count, &error);
  for (size_t i = 0; !err && i < count; i++) err = sd_sockopt_set(fd, list[i].option, list[i].value, &error);
  return succeed(L, err, error.text);
}

static void push_value(lua_State *L, const sd_sockopt *option, double value) {
  if (option->type == SD_SOCKOPT_SWITCH)
    lua_pushboolean(L, value != 0);
  else if (value < 0)
    lua_pushboolean(L, value == SD_SOCKOPT_ON);
  else
    lua_pushnumber(L, value);
}

int sd_l_getopt(lua_State *L, int fd, int index) {
  sd_net_error error = { "" };
  double value;
  const sd_sockopt *option = sd_sockopt_find(luaL_checkstring(L, index), &error);
  int err = option ? sd_sockopt_get(fd, option, &value, &error) : UV_EINVAL;
  if (err) return sd_l_failure(L, err, error.text);
  push_value(L, option, value);
  return 1;
}

static int l_setopt(lua_State *L) {
  return sd_l_setopt(L, check_fd(L, 1), 2);
}

int sd_l_resetopt(lua_State *L, int fd, int index) {
  sd_net_error error = { "" };
  const sd_sockopt *option = sd_sockopt_find(luaL_checkstring(L, index), &error);
  int err = option ? sd_sockopt_reset(fd, option, &error) : UV_EINVAL;
  return succeed(L, err, error.text);
}

/* resetopt(fd, name): back to what a new socket has. */
static int l_resetopt(lua_State *L) {
  return sd_l_resetopt(L, check_fd(L, 1), 2);
}

static int l_getopt(lua_State *L) {
  return sd_l_getopt(L, check_fd(L, 1), 2);
}

/* check_sockopt(name, value) → true | nil, text: for those that only validate. */
static int l_check_sockopt(lua_State *L) {
  sd_sockopt_setting setting;
  sd_net_error error = { "" };
  luaL_checkstring(L, 1);
  luaL_checkany(L, 2);
  lua_settop(L, 2);
  if (to_setting(L, &setting, &error) == 0) return succeed(L, 0, NULL);
  lua_pushnil(L);
  lua_pushstring(L, error.text);
  return 2;
}

static int l_sockopt_names(lua_State *L) {
  size_t count;
  const sd_sockopt *rows = sd_sockopt_rows(&count);
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    lua_pushstring(L, rows[i].name);
    lua_rawseti(L, -2, (int)i + 1);
  }
  return 1;
}

/* sockopts() → { { name=, allowed=, where="listen"|"connection"|"both", help= }, … } */
static int l_sockopts(lua_State *L) {
  static const char *const where[] = { "", "listen", "connection", "both", "listen" };
  char allowed[96];
  size_t count;
  const sd_sockopt *rows = sd_sockopt_rows(&count);
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    sd_sockopt_allowed(&rows[i], allowed, sizeof allowed);
    lua_newtable(L);
    set_string(L, "name", rows[i].name);
    set_string(L, "allowed", allowed);
    set_string(L, "where", where[rows[i].where]);
    set_string(L, "help", rows[i].help);
    lua_rawseti(L, -2, (int)i + 1);
  }
  return 1;
}

/* Listen sockets. */

/* What `socket` may say about opening, where the argument itself does not. */
static void take_arguments(sd_listener_options *o, const sd_sockopt_setting *list) {
  for (size_t i = 0; i < o->option_count; i++) {
    const char *name = list[i].option->name;
    if (strcmp(name, "backlog") == 0 && o->backlog == 0) o->backlog = (int)list[i].value;
    if (strcmp(name, "reuseport") == 0) o->reuseport |= list[i].value != 0;
    if (strcmp(name, "v6only") == 0) o->v6only |= list[i].value != 0;
  }
}

/* listen{ address=, backlog=, reuseport=, v6only=, port=, bind_only=, replace=, socket={…} }
 * → fd, bound text [, inode, device of a unix socket] */
static int l_listen(lua_State *L) {
  sd_sockopt_setting list[SD_L_SETTINGS];
  sd_listener_options options;
  sd_listener listener;
  sd_address address;
  sd_net_error error = { "" };
  luaL_checktype(L, 1, LUA_TTABLE);
  options = (sd_listener_options){
    .backlog = integer_field(L, 1, "backlog", 0),
    .reuseport = flag_field(L, 1, "reuseport"),
    .v6only = flag_field(L, 1, "v6only"),
    .port = integer_field(L, 1, "port", -1),
    .bind_only = flag_field(L, 1, "bind_only"),
    .replace = flag_field(L, 1, "replace"),
    .options = list,
  };
  luaL_argcheck(L, options.port >= -1 && options.port <= 65535, 1, "port out of range");
  int err = address_field(L, 1, &address, &error);
  lua_getfield(L, 1, "socket");
  if (!err && lua_istable(L, -1)) err = sd_l_settings(L, lua_gettop(L), list, &options.option_count, &error);
  take_arguments(&options, list);
  if (!err) err = sd_listener_open(&listener, &address, &options, &error);
  if (err) return sd_l_failure(L, err, error.text);
  lua_pushinteger(L, listener.fd);
  lua_pushstring(L, listener.text);
  if (!listener.made_path) return 2;
  lua_pushnumber(L, (lua_Number)listener.ino);
  lua_pushnumber(L, (lua_Number)listener.dev);
  return 4;
}

static int l_probe_address(lua_State *L) {
  sd_address address;
  sd_net_error error = { "" };
  luaL_checktype(L, 1, LUA_TTABLE);
  bool v6only = flag_field(L, 1, "v6only");
  int err = address_field(L, 1, &address, &error);
  if (!err) err = sd_listener_probe(&address, v6only, &error);
  return succeed(L, err, error.text);
}

/* unlink_socket(path, inode, device) */
static int l_unlink_socket(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  ino_t ino = (ino_t)luaL_checknumber(L, 2);
  dev_t dev = (dev_t)luaL_checknumber(L, 3);
  return succeed(L, sd_listener_unlink(path, dev, ino), NULL);
}

/* steer(fd, {members}, total) | steer(fd, false) */
static int l_steer(lua_State *L) {
  unsigned members[SD_STEER_MAX];
  int fd = check_fd(L, 1);
  if (lua_isboolean(L, 2) && !lua_toboolean(L, 2)) return succeed(L, sd_steer_off(fd), NULL);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_Integer total = luaL_checkinteger(L, 3);
  size_t count = lua_objlen(L, 2);
  luaL_argcheck(L, count <= SD_STEER_MAX, 2, "too many members");
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, 2, (int)i + 1);
    lua_Integer member = lua_tointeger(L, -1);
    luaL_argcheck(L, lua_isnumber(L, -1) && member >= 0, 2, "members are indices from 0 on");
    members[i] = (unsigned)member;
    lua_pop(L, 1);
  }
  return succeed(L, sd_steer_to(fd, members, count, total > 0 ? (size_t)total : 0), NULL);
}

/* drop_syns(fd [, false]): false lets them in again. */
static int l_drop_syns(lua_State *L) {
  int fd = check_fd(L, 1);
  bool resume = lua_isboolean(L, 2) && !lua_toboolean(L, 2);
  return succeed(L, resume ? sd_steer_resume(fd) : sd_steer_drop_syns(fd), NULL);
}

/* share_port(fd) */
static int l_share_port(lua_State *L) {
  return succeed(L, sd_listener_share(check_fd(L, 1)), NULL);
}

/* queued(fd) → boolean: somebody waits to be accepted. */
static int l_queued(lua_State *L) {
  int queued = sd_diag_queued(check_fd(L, 1));
  if (queued < 0) return sd_l_failure(L, queued, NULL);
  lua_pushboolean(L, queued);
  return 1;
}

/* handshakes(fd) → number of those under way on its port */
static int l_handshakes(lua_State *L) {
  size_t count;
  int err = sd_diag_handshakes(check_fd(L, 1), &count);
  if (err) return sd_l_failure(L, err, NULL);
  lua_pushinteger(L, (lua_Integer)count);
  return 1;
}

/* listeners_at(fd) → the inodes of all sockets that listen on its address */
static int l_listeners_at(lua_State *L) {
  ino_t list[MAX_INODES];
  size_t count;
  int err = sd_diag_listeners(check_fd(L, 1), list, MAX_INODES, &count);
  if (err) return sd_l_failure(L, err, NULL);
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    lua_pushnumber(L, (lua_Number)list[i]);
    lua_rawseti(L, -2, (int)i + 1);
  }
  return 1;
}

/* inode(fd): the name that listeners_at has for it */
static int l_inode(lua_State *L) {
  struct stat st;
  if (fstat(check_fd(L, 1), &st)) return sd_l_failure(L, -errno, NULL);
  lua_pushnumber(L, (lua_Number)st.st_ino);
  return 1;
}

static int l_peer_credentials(lua_State *L) {
  struct ucred cred;
  socklen_t len = sizeof cred;
  if (getsockopt(check_fd(L, 1), SOL_SOCKET, SO_PEERCRED, &cred, &len)) return sd_l_failure(L, -errno, NULL);
  lua_pushinteger(L, cred.pid);
  lua_pushnumber(L, cred.uid);
  lua_pushnumber(L, cred.gid);
  return 3;
}

void sd_l_socket_register(lua_State *L) {
  static const luaL_Reg functions[] = {
    { "parse_address", l_parse_address },
    { "parse_network", l_parse_network },
    { "listen", l_listen },
    { "probe_address", l_probe_address },
    { "unlink_socket", l_unlink_socket },
    { "steer", l_steer },
    { "drop_syns", l_drop_syns },
    { "share_port", l_share_port },
    { "queued", l_queued },
    { "handshakes", l_handshakes },
    { "listeners_at", l_listeners_at },
    { "inode", l_inode },
    { "setopt", l_setopt },
    { "resetopt", l_resetopt },
    { "getopt", l_getopt },
    { "check_sockopt", l_check_sockopt },
    { "sockopt_names", l_sockopt_names },
    { "sockopts", l_sockopts },
    { "peer_credentials", l_peer_credentials },
    { NULL, NULL },
  };
  luaL_setfuncs(L, functions, 0);
}
