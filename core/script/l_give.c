/* A connection out of its handler's hands: its bare descriptor for a library of the
 * user's (conn:raw), or itself for another task (conn:give). */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "l_connection.h"

static const char *why_not_raw(l_conn *c) {
  if (c->conn.state != SD_CONN_OPEN || c->conn.err != 0) return "closed";
  if (sd_l_transport_has(c)) return "EOPNOTSUPP";
  if (sd_l_conn_taken(c) || c->reader != NULL || c->writers != NULL) return "busy";
  sd_conn_flush(&c->conn);
  return sd_conn_queued(&c->conn) > 0 ? "busy" : NULL;
}

/* raw() → a descriptor of the socket, the caller's to close, and what has come and was not
 * read; or nil and "closed", "busy" or an errno name. From now on nobody reads or writes
 * here; when the handler ends, or is cut, the socket is shut down. */
static int l_raw(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  if (c->pool != NULL && sd_the_vm.current != &c->task)
    return luaL_error(L, "conn:raw: only the connection's own handler can do that");
  const char *why = why_not_raw(c);
  int fd = why == NULL ? fcntl(c->conn.source.fd, F_DUPFD_CLOEXEC, 3) : -1;
  if (why == NULL && fd < 0) return sd_push_failure(L, -errno);
  if (why != NULL) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
  }
  sd_loop_unwatch(c->conn.loop, &c->conn.source);
  c->raw = c->conn.headed = true;
  sd_conn_unwatch(&c->conn);
  lua_pushinteger(L, fd);
  size_t length = sd_buffer_length(&c->conn.in);
  lua_pushlstring(L, length > 0 ? sd_buffer_bytes(&c->conn.in) : "", length);
  sd_buffer_free(&c->conn.in);
  return 2;
}

void sd_l_give_end_raw(l_conn *c) {
  if (c->raw && c->conn.source.fd >= 0) shutdown(c->conn.source.fd, SHUT_RDWR);
}

static bool owns(const sd_task *task, const l_conn *c) {
  const sd_owned *owned = task != NULL ? task->children.first : NULL;
  while (owned != NULL && owned != &c->owned) owned = owned->next;
  return owned != NULL;
}

/* _give(task) → true | nil, "EPERM": it is somebody else's; "closed": either has ended,
 * and then both have. Of connections that a task has opened. */
static int l_give(lua_State *L) {
  l_conn *c = sd_l_conn_check(L, 1);
  sd_task *to = sd_task_of_handle(L, 2);
  if (c->conn.state != SD_CONN_OPEN) return sd_push_failure(L, SD_ECLOSED);
  if (!owns(sd_the_vm.current, c)) return sd_push_failure(L, -EPERM);
  sd_disown(&c->owned);
  if (to == NULL) {
    c->owned.kind->cancel(&c->owned);
    return sd_push_failure(L, SD_ECLOSED);
  }
  sd_own(&to->children, &c->owned);
  lua_pushboolean(L, 1);
  return 1;
}

void sd_l_give_register(lua_State *L) {
  static const luaL_Reg methods[] = { { "raw", l_raw }, { "_give", l_give }, { NULL, NULL } };
  luaL_register(L, NULL, methods);
}
