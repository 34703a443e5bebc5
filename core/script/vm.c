/* The process' Lua state and what C keeps in it. */
#include "vm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "heap.h"
#include "task.h"

sd_vm sd_the_vm;

int sd_vm_open(lua_State *L) {
  sd_vm *vm = &sd_the_vm;
  if (vm->L != NULL) return 0;
  int err = sd_loop_init(&vm->loop);
  if (err) return err;
  vm->L = L;
  vm->ready_tail = &vm->ready;
  vm->loop.on_turn = sd_task_run_ready;
  vm->loop.on_group = sd_task_run_woken;
  vm->on_task_error = vm->on_task_over = LUA_NOREF;
  snprintf(vm->id_prefix, sizeof vm->id_prefix, "0.%x.", (unsigned)getpid());
  lua_newtable(L);
  vm->anchors = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

void sd_vm_anchor(lua_State *L, const void *key, int index) {
  lua_pushvalue(L, index);
  lua_rawgeti(L, LUA_REGISTRYINDEX, sd_the_vm.anchors);
  lua_pushlightuserdata(L, (void *)key);
  lua_pushvalue(L, -3);
  sd_heap_shelter();
  lua_rawset(L, -3);
  sd_heap_expose();
  lua_pop(L, 2);
}

void sd_vm_push_anchored(lua_State *L, const void *key) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, sd_the_vm.anchors);
  lua_pushlightuserdata(L, (void *)key);
  lua_rawget(L, -2);
  lua_remove(L, -2);
}

void sd_vm_unanchor(const void *key) {
  lua_State *L = sd_the_vm.L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, sd_the_vm.anchors);
  lua_pushlightuserdata(L, (void *)key);
  lua_pushnil(L);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

sd_ref sd_vm_keep(lua_State *L, int index, sd_ref old) {
  luaL_unref(L, LUA_REGISTRYINDEX, old);
  if (lua_isnoneornil(L, index)) return LUA_NOREF;
  lua_pushvalue(L, index);
  return luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Not with %d of lua_pushfstring: a busy loop would come to its end in a day. */
void sd_vm_push_id(lua_State *L, uint64_t serial) {
  char text[sizeof sd_the_vm.id_prefix + 20];
  snprintf(text, sizeof text, "%s%" PRIu64, sd_the_vm.id_prefix, serial);
  lua_pushstring(L, text);
}

static int l_error_text(lua_State *L) {
  if (luaL_callmeta(L, 1, "__tostring") && lua_isstring(L, -1)) return 1;
  lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  return 1;
}

/* An error may be any value, and its __tostring may raise too. */
void sd_vm_error_text(lua_State *L) {
  if (lua_isstring(L, -1)) return;
  lua_pushcfunction(L, l_error_text);
  lua_insert(L, -2);
  if (lua_pcall(L, 1, 1, 0) == 0) return;
  lua_pop(L, 1);
  lua_pushliteral(L, "(error object whose __tostring raises)");
}

/* On the stack of one who waits, no finalizer may run: when it catches an error, LuaJIT takes a coroutine that has
 * yielded for one that has not begun, and the next resume calls what is at hand. */
void sd_vm_push_bytes(lua_State *to, const char *bytes, size_t n) {
  lua_State *L = lua_status(to) == LUA_YIELD ? sd_the_vm.L : to;
  lua_pushlstring(L, bytes, n);
  lua_xmove(L, to, 1);
}

void sd_vm_push_text(lua_State *to, const char *text) {
  sd_vm_push_bytes(to, text, strlen(text));
}

int sd_push_failure(lua_State *L, int err) {
  sd_heap_shelter(); /* it may be another's state, who waits */
  lua_pushnil(L);
  sd_vm_push_text(L, sd_error_word(err));
  sd_heap_expose();
  return 2;
}

int sd_push_failure_text(lua_State *L, int err, const char *text) {
  sd_push_failure(L, err);
  lua_pushstring(L, text);
  return 3;
}

int64_t sd_opt_ms(lua_State *L, int index, const char *key) {
  lua_getfield(L, index, key);
  int type = lua_type(L, -1);
  int64_t ms = -1;
  if (type == LUA_TNUMBER) {
    double seconds = lua_tonumber(L, -1);
    ms = !(seconds < 4e6) ? 0 : seconds <= 0 ? 1 : (int64_t)(seconds * 1000 + 0.999);
  } else if (type == LUA_TBOOLEAN && !lua_toboolean(L, -1)) {
    ms = 0;
  } else if (type != LUA_TNIL) {
    luaL_error(L, "%s: seconds or false expected, got %s", key, lua_typename(L, type));
  }
  lua_pop(L, 1);
  return ms;
}

uint64_t sd_check_ms(lua_State *L, int index) {
  double seconds = luaL_checknumber(L, index);
  if (!(seconds > 0)) return 0;
  return seconds < 4e9 ? (uint64_t)(seconds * 1000 + 0.999) : (uint64_t)4e12;
}

void sd_class(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc) {
  luaL_newmetatable(L, name);
  lua_newtable(L);
  for (; methods->name != NULL; methods++) {
    lua_pushcfunction(L, methods->func);
    lua_setfield(L, -2, methods->name);
  }
  lua_setfield(L, -2, "__index");
  lua_pushstring(L, name);
  lua_setfield(L, -2, "__metatable");
  if (gc != NULL) {
    lua_pushcfunction(L, gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_pop(L, 1);
}
