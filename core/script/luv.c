/* luv on our loop, for Lua code that wants libuv itself.
 *
 * It must be opened on the main state (it remembers the state that opened it),
 * with our loop, with a callback runner that does not end the process, and only
 * if it uses the same libuv: a luv built by LuaRocks may carry its own. luv is
 * not linked: its two setters are found where package.loadlib put them. */
#include <dlfcn.h>
#include <uv.h>

#include "task.h"

typedef int (*luv_runner)(lua_State *L, int nargs, int nresults, int flags);
typedef void (*luv_set_loop_fn)(lua_State *L, uv_loop_t *loop);
typedef void (*luv_set_callback_fn)(lua_State *L, luv_runner runner);

static int add_traceback(lua_State *L) {
  const char *message = lua_tostring(L, 1);
  luaL_traceback(L, L, message != NULL ? message : "error in a luv callback", 1);
  return 1;
}

/* Runs a callback of luv: an error is reported, and the loop goes on. */
static int run_callback(lua_State *L, int nargs, int nresults, int flags) {
  int base = lua_gettop(L) - nargs;
  (void)flags;
  lua_pushcfunction(L, add_traceback);
  lua_insert(L, base);
  sd_vm_enter(SD_SCOREBOARD_NO_POOL, 0, 0);
  int status = lua_pcall(L, nargs, nresults, base);
  sd_vm_leave();
  lua_remove(L, base);
  if (status == 0) return nresults == LUA_MULTRET ? lua_gettop(L) - base + 1 : nresults;
  sd_task_report(0, lua_tostring(L, -1), NULL);
  lua_pop(L, 1);
  return -status;
}

static int refuse(lua_State *L) {
  return luaL_error(L, "uv.run, uv.stop and uv.walk belong to sockdrawer: its loop runs already, with handles of its own");
}

static void refuse_field(lua_State *L, const char *key) {
  lua_pushcfunction(L, refuse);
  lua_setfield(L, -2, key);
}

/* Its callbacks are to run in each turn, also where libuv has nothing else to do. */
static int take_turns(lua_State *L) {
  sd_the_vm.loop.libuv_always = true;
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

static void take_turns_from(lua_State *L, const char *key) {
  lua_getfield(L, -1, key);
  lua_pushcclosure(L, take_turns, 1);
  lua_setfield(L, -2, key);
}

static const char *prepare(lua_State *L, const char *path) {
  void *lib = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (lib == NULL) return dlerror();
  luv_set_loop_fn set_loop = (luv_set_loop_fn)dlsym(lib, "luv_set_loop");
  luv_set_callback_fn set_callback = (luv_set_callback_fn)dlsym(lib, "luv_set_callback");
  if (set_loop == NULL || set_callback == NULL) return "this luv is too old: 1.44 is needed";
  if (dlsym(lib, "uv_run") != (void *)uv_run)
    return "luv was built with its own libuv; reinstall it with WITH_SHARED_LIBUV=ON";
  set_loop(L, &sd_the_vm.loop.uv);
  set_callback(L, run_callback);
  return NULL;
}

/* Pushes the path of the luv module, or nil. */
static void push_path(lua_State *L) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "searchpath");
  lua_pushliteral(L, "luv");
  lua_getfield(L, -3, "cpath");
  lua_call(L, 2, 1);
  lua_remove(L, -2);
}

/* luv() → module | nil, why not. The first call must be outside tasks. */
static int l_luv(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "sockdrawer.luv");
  if (!lua_isnil(L, -1)) return 1;
  const char *problem = NULL;
  if (L != sd_the_vm.L) problem = "luv has to be opened before the loop runs";
  if (problem == NULL) push_path(L);
  if (problem == NULL && lua_isnil(L, -1)) problem = "luv is not installed";
  if (problem == NULL) problem = prepare(L, lua_tostring(L, -1));
  if (problem != NULL) {
    lua_pushnil(L);
    lua_pushstring(L, problem);
    return 2;
  }
  lua_getglobal(L, "require");
  lua_pushliteral(L, "luv");
  lua_call(L, 1, 1);
  refuse_field(L, "run");
  refuse_field(L, "stop");
  refuse_field(L, "walk");
  take_turns_from(L, "new_prepare");
  take_turns_from(L, "new_check");
  lua_pushvalue(L, -1);
  lua_setfield(L, LUA_REGISTRYINDEX, "sockdrawer.luv");
  return 1;
}

void sd_luv_register(lua_State *L) {
  lua_pushcfunction(L, l_luv);
  lua_setfield(L, -2, "luv");
}
