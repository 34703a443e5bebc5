/* An interpreter like `luajit`, for builds with sanitizers: `host [-e CODE]… SCRIPT [ARG]…`.
 *
 * A sanitized module cannot be loaded into a program that was built without. And LuaJIT's own allocator takes
 * its memory straight from mmap, where no sanitizer looks; here every Lua object comes from malloc, so a
 * userdata that C keeps using after its collection is found. */
#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <lualib.h>
#include <sanitizer/lsan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Asked by the runtime at start; ASAN_OPTIONS in the environment goes over it. Specs crash processes on purpose:
 * those die of their own signal, at once and without a report. And specs measure memory: what is kept after a free,
 * to find its late users, is little. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "exitcode=99:handle_segv=0:handle_sigbus=0:handle_sigfpe=0:detect_stack_use_after_return=0:"
         "allocator_may_return_null=1:quarantine_size_mb=8";
}

static void *allocate(void *unused, void *block, size_t old_size, size_t size) {
  (void)unused;
  (void)old_size;
  if (size == 0) {
    free(block);
    return NULL;
  }
  block = realloc(block, size);
  /* os.exit leaves the state as it is, which is no leak. What C code reaches from there is not lost either. */
  if (block != NULL) __lsan_ignore_object(block);
  return block;
}

static int add_traceback(lua_State *L) {
  luaL_traceback(L, L, lua_tostring(L, 1), 1);
  return 1;
}

/* Calls the function below `nargs` arguments; its error goes to stderr. */
static int call(lua_State *L, int nargs) {
  int handler = lua_gettop(L) - nargs;
  lua_pushcfunction(L, add_traceback);
  lua_insert(L, handler);
  int status = lua_pcall(L, nargs, 0, handler);
  if (status != 0) fprintf(stderr, "host: %s\n", lua_tostring(L, -1));
  lua_settop(L, handler - 1);
  return status;
}

static int load_failed(lua_State *L) {
  fprintf(stderr, "host: %s\n", lua_tostring(L, -1));
  return 1;
}

static int run_script(lua_State *L, char **argv, int script) {
  int i;
  lua_newtable(L);
  for (i = 0; argv[i] != NULL; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i - script);
  }
  lua_setglobal(L, "arg");
  if (luaL_loadfile(L, argv[script]) != 0) return load_failed(L);
  for (i = script + 1; argv[i] != NULL; i++) lua_pushstring(L, argv[i]);
  return call(L, i - script - 1);
}

int main(int argc, char **argv) {
  int script = 1;
  lua_State *L = lua_newstate(allocate, NULL);
  if (L == NULL) return 1;
  luaL_openlibs(L);
  for (; script + 1 < argc && strcmp(argv[script], "-e") == 0; script += 2) {
    if (luaL_loadstring(L, argv[script + 1]) != 0) return load_failed(L);
    if (call(L, 0) != 0) return 1;
  }
  if (script >= argc) {
    fprintf(stderr, "usage: host [-e CODE]... SCRIPT [ARG]...\n");
    return 2;
  }
  int failed = run_script(L, argv, script);
  lua_close(L);
  return failed ? 1 : 0;
}
