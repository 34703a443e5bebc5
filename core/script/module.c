/* require "sockdrawer.core": everything Lua can ask of C. */
#include <signal.h>
#include <uv.h>

#include "base/errors.h"
#include "eager.h"
#include "heap.h"
#include "l_connection.h"
#include "l_log.h"
#include "l_scoreboard.h"
#include "l_shared.h"
#include "l_socket.h"
#include "task.h"

#define SOCKDRAWER_VERSION "0.1.0"

void sd_l_channel_register(lua_State *L); /* l_channel.c: channel, line_reader */
void sd_l_binding_register(lua_State *L); /* l_binding.c: reach, on_hand */
void sd_l_turn_register(lua_State *L);    /* l_turn.c: on_turn, turn, ring */
void sd_l_process_register(lua_State *L); /* l_process.c: process, signals */
void sd_l_work_register(lua_State *L);    /* l_work.c: workshop */
void sd_luv_register(lua_State *L);       /* luv.c: luv */

/* versions() → { sockdrawer=, luajit=, libuv= } */
static int l_versions(lua_State *L) {
  lua_createtable(L, 0, 3);
  lua_pushliteral(L, SOCKDRAWER_VERSION);
  lua_setfield(L, -2, "sockdrawer");
  lua_pushliteral(L, LUAJIT_VERSION);
  lua_setfield(L, -2, "luajit");
  lua_pushstring(L, uv_version_string());
  lua_setfield(L, -2, "libuv");
  return 1;
}

/* error_text(word) → prose; the word itself when nobody knows it. */
static int l_error_text(lua_State *L) {
  const char *word = luaL_checkstring(L, 1);
  int err = sd_error_named(word);
  lua_pushstring(L, err != 0 ? sd_error_text(err) : word);
  return 1;
}

__attribute__((visibility("default"))) int luaopen_sockdrawer_core(lua_State *L);

int luaopen_sockdrawer_core(lua_State *L) {
  static const luaL_Reg functions[] = { { "versions", l_versions }, { "error_text", l_error_text }, { NULL, NULL } };
  int main_state = lua_pushthread(L);
  lua_pop(L, 1);
  if (!main_state) return luaL_error(L, "sockdrawer.core must be loaded outside coroutines");
  sd_eager_begin(L);
  sd_l_system_begin(L);
  int err = sd_vm_open(L);
  if (err) return luaL_error(L, "sockdrawer.core: %s", sd_error_text(err));
  signal(SIGPIPE, SIG_IGN);
  lua_newtable(L);
  lua_insert(L, -2);
  lua_setfield(L, -2, "inherited");
  luaL_register(L, NULL, functions);
  sd_task_register(L);
  sd_l_channel_register(L);
  sd_l_process_register(L);
  sd_l_socket_register(L);
  sd_l_system_register(L);
  sd_l_scoreboard_register(L);
  sd_l_shared_register(L);
  sd_l_log_register(L);
  sd_l_connection_register(L);
  sd_l_connect_register(L);
  sd_l_pool_register(L);
  sd_l_binding_register(L);
  sd_l_turn_register(L);
  sd_l_work_register(L);
  sd_luv_register(L);
  sd_heap_register(L);
  return 1;
}
