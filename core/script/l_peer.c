/* Who is at the other end of a connection, and where it came to: as its socket says, or the
 * transport that carries its bytes. */
#include <sys/socket.h>

#include "l_connection.h"
#include "net/address.h"

static const struct sockaddr *peer_of(const l_conn *c, struct sockaddr_storage *room, socklen_t *len) {
  *len = sizeof *room;
  room->ss_family = AF_UNSPEC;
  if (c->conn.peer.any.sa_family != 0) {
    *len = c->conn.peer.any.sa_family == AF_INET ? sizeof c->conn.peer.v4 : sizeof c->conn.peer.v6;
    return &c->conn.peer.any;
  }
  int fd = sd_l_transport_socket(c);
  if (fd < 0 || getpeername(fd, (struct sockaddr *)room, len) < 0) return NULL;
  return (struct sockaddr *)room;
}

static const struct sockaddr *local_of(const l_conn *c, struct sockaddr_storage *room, socklen_t *len) {
  *len = sizeof *room;
  room->ss_family = AF_UNSPEC;
  int fd = sd_l_transport_socket(c);
  if (fd < 0 || getsockname(fd, (struct sockaddr *)room, len) < 0) return NULL;
  return (struct sockaddr *)room;
}

/* What its transport says of `which` end, as { text=, host=, port= }: false where it says
 * nothing. */
static bool push_presented(lua_State *L, const l_conn *c, const char *which) {
  if (!c->presents) return false;
  sd_vm_push_anchored(L, c);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    return false;
  }
  lua_getfenv(L, -1);
  lua_getfield(L, -1, which);
  lua_replace(L, -3);
  lua_pop(L, 1);
  if (lua_istable(L, -1)) return true;
  lua_pop(L, 1);
  return false;
}

static bool push_presented_text(lua_State *L, const l_conn *c, const char *which) {
  if (!push_presented(L, c, which)) return false;
  lua_getfield(L, -1, "text");
  lua_remove(L, -2);
  return true;
}

static int push_presented_place(lua_State *L, const l_conn *c, const char *which) {
  if (!push_presented(L, c, which)) return 0;
  lua_getfield(L, -1, "host");
  lua_getfield(L, -2, "port");
  return lua_isnil(L, -1) ? (lua_pop(L, 1), 1) : 2;
}

static void push_text(lua_State *L, const struct sockaddr *sa, socklen_t len) {
  char text[SD_SOCKADDR_TEXT];
  lua_pushstring(L, sa != NULL ? sd_sockaddr_text(sa, len, text, sizeof text) : "");
}

void sd_l_conn_push_peer(lua_State *L, const l_conn *c) {
  if (push_presented_text(L, c, "peer")) return;
  struct sockaddr_storage room;
  socklen_t len;
  const struct sockaddr *sa = peer_of(c, &room, &len);
  push_text(L, sa, len);
}

void sd_l_conn_push_local(lua_State *L, const l_conn *c) {
  if (push_presented_text(L, c, "local")) return;
  struct sockaddr_storage room;
  socklen_t len;
  const struct sockaddr *sa = local_of(c, &room, &len);
  push_text(L, sa, len);
}

/* ip, port; a unix path; nil, "closed". */
static int push_host_port(lua_State *L, const struct sockaddr *sa, socklen_t len) {
  char text[SD_SOCKADDR_TEXT];
  if (sa == NULL) return sd_push_failure(L, SD_ECLOSED);
  lua_pushstring(L, sd_sockaddr_host(sa, len, text, sizeof text));
  if (sa->sa_family == AF_UNIX) return 1;
  lua_pushinteger(L, sd_sockaddr_port(sa));
  return 2;
}

static int l_wire_peer(lua_State *L) {
  struct sockaddr_storage room;
  socklen_t len;
  const struct sockaddr *sa = peer_of(sd_l_conn_check(L, 1), &room, &len);
  return push_host_port(L, sa, len);
}

static int l_peer(lua_State *L) {
  int n = push_presented_place(L, sd_l_conn_check(L, 1), "peer");
  return n > 0 ? n : l_wire_peer(L);
}

static int l_local_addr(lua_State *L) {
  struct sockaddr_storage room;
  socklen_t len;
  const l_conn *c = sd_l_conn_check(L, 1);
  int n = push_presented_place(L, c, "local");
  if (n > 0) return n;
  const struct sockaddr *sa = local_of(c, &room, &len);
  return push_host_port(L, sa, len);
}

/* _present(which, { text=, host=, port= }): what to show of the "peer" or the "local" end. */
static int l_present(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  luaL_checkstring(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  sd_l_conn_push_extra(L, c);
  lua_insert(L, 2);
  lua_settop(L, 4);
  lua_rawset(L, 2);
  c->presents = true;
  return 0;
}

void sd_l_peer_register(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "peer", l_peer },
    { "wire_peer", l_wire_peer },
    { "local_addr", l_local_addr },
    { "_present", l_present },
    { NULL, NULL },
  };
  luaL_register(L, NULL, methods);
}
