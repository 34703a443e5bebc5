/* The shelf as Lua sees it. */
#include <string.h>

#include "l_shared.h"

#define SHELF "sockdrawer.shelf"

static sd_shelf *own;

sd_shelf *sd_l_own_shelf(void) {
  return own;
}

/* The registry keeps it, so that handles of stores may hold bare pointers. */
static void make_own(lua_State *L, sd_shelf *shelf) {
  lua_getfield(L, LUA_REGISTRYINDEX, SHELF ".all");
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, SHELF ".all");
  }
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
  lua_pop(L, 1);
  own = shelf;
}

static sd_shelf *check(lua_State *L) {
  return luaL_checkudata(L, 1, SHELF);
}

static lua_Number number_field(lua_State *L, const char *key, lua_Number otherwise) {
  lua_getfield(L, 1, key);
  lua_Number n = luaL_optnumber(L, -1, otherwise);
  lua_pop(L, 1);
  return n;
}

/* ---- asking for a store ---- */

static const char *const full_words[] = { [SD_STORE_ERROR] = "error", [SD_STORE_EVICT] = "evict" };
static const char *const kinds[] = { [SD_SHELF_SHARED] = "shared", [SD_SHELF_LIMITER] = "limiter" };

static int word_field(lua_State *L, const char *key, const char *const words[2]) {
  lua_getfield(L, 2, key);
  const char *word = luaL_optstring(L, -1, NULL);
  int found = -1;
  for (int i = 0; word != NULL && i < 2; i++)
    if (strcmp(word, words[i]) == 0) found = i;
  lua_pop(L, 1);
  return found;
}

static void push_place(lua_State *L, const sd_shelf_place *place) {
  lua_createtable(L, 0, 8);
  lua_pushstring(L, place->name);
  lua_setfield(L, -2, "name");
  lua_pushstring(L, kinds[place->kind]);
  lua_setfield(L, -2, "kind");
  lua_pushstring(L, full_words[place->full]);
  lua_setfield(L, -2, "full");
  lua_pushnumber(L, (lua_Number)place->size);
  lua_setfield(L, -2, "size");
}

/* get{ name=, kind=, size=, otherwise=, full= } → store | nil, word [, place] */
static int l_get(lua_State *L) {
  sd_shelf *shelf = check(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  sd_shelf_wish wish = { .full = word_field(L, "full", full_words) };
  wish.kind = (sd_shelf_kind)word_field(L, "kind", kinds);
  lua_getfield(L, 2, "size");
  wish.size = (uint64_t)luaL_optnumber(L, -1, 0);
  lua_getfield(L, 2, "otherwise");
  wish.otherwise = (uint64_t)luaL_optnumber(L, -1, 0);
  lua_getfield(L, 2, "name");
  wish.name = luaL_checkstring(L, -1);
  luaL_argcheck(L, strlen(wish.name) < SD_SHELF_NAME_MAX, 2, "the name is too long");
  const sd_store *store;
  const sd_shelf_place *place = NULL;
  int err = sd_shelf_get(shelf, &wish, &store, &place);
  if (err) {
    sd_push_failure(L, err);
    if (place == NULL) return 2;
    push_place(L, place);
    return 3;
  }
  sd_l_store_push(L, store);
  return 1;
}

/* ---- the whole ---- */

static void put(lua_State *L, const char *key, uint64_t n) {
  lua_pushnumber(L, (lua_Number)n);
  lua_setfield(L, -2, key);
}

/* list() → rows, in order of their making */
static int l_list(lua_State *L) {
  sd_shelf *shelf = check(L);
  lua_newtable(L);
  for (uint32_t n = 0; n < sd_shelf_count(shelf); n++) {
    push_place(L, sd_shelf_place_of(shelf, n));
    const sd_store *store = sd_shelf_store(shelf, n);
    if (store != NULL) {
      sd_store_stats stats = sd_store_look(store);
      put(L, "count", stats.count);
      put(L, "used", stats.used);
      put(L, "capacity", stats.capacity);
      put(L, "evicted", stats.evicted);
    }
    lua_rawseti(L, -2, (int)n + 1);
  }
  return 1;
}

/* reap(pid) → whether that was all: the process has ended, and with it all owners in it. */
static int l_reap(lua_State *L) {
  sd_shelf *shelf = check(L);
  int32_t home = (int32_t)luaL_checkinteger(L, 2);
  bool all = true;
  for (uint32_t n = 0; n < sd_shelf_count(shelf); n++) {
    const sd_store *store = sd_shelf_store(shelf, n);
    if (store != NULL && !sd_store_reap(store, home)) all = false;
  }
  lua_pushboolean(L, all);
  return 1;
}

/* clear(): empties all stores. */
static int l_clear(lua_State *L) {
  sd_shelf *shelf = check(L);
  for (uint32_t n = 0; n < sd_shelf_count(shelf); n++) {
    const sd_store *store = sd_shelf_store(shelf, n);
    if (store != NULL) sd_store_clear(store, (sd_text){ "", 0 });
  }
  return 0;
}

static int l_fd(lua_State *L) {
  lua_pushinteger(L, check(L)->fd);
  return 1;
}

/* shelf{ rehearsal= } makes one; shelf{ fd= } joins one, and leaves the descriptor to
 * the caller, who keeps it open. From then on it is this process's. */
static int l_shelf(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  int fd = (int)number_field(L, "fd", -1);
  lua_getfield(L, 1, "rehearsal");
  bool rehearsal = lua_toboolean(L, -1);
  sd_shelf *shelf = lua_newuserdata(L, sizeof *shelf);
  int err = fd >= 0 ? sd_shelf_attach(shelf, fd) : sd_shelf_create(shelf, rehearsal);
  if (err) return sd_push_failure(L, err);
  luaL_getmetatable(L, SHELF);
  lua_setmetatable(L, -2);
  make_own(L, shelf);
  return 1;
}

/* own_shelf() → the one of this process, or nil */
static int l_own_shelf(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, SHELF ".all");
  if (lua_istable(L, -1)) lua_rawgeti(L, -1, (int)lua_objlen(L, -1));
  return 1;
}

void sd_l_shared_register(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "get", l_get },
    { "list", l_list },
    { "reap", l_reap },
    { "fd", l_fd },
    { "clear", l_clear },
    { NULL, NULL },
  };
  static const luaL_Reg functions[] = { { "shelf", l_shelf }, { "own_shelf", l_own_shelf }, { NULL, NULL } };
  sd_class(L, SHELF, methods, NULL);
  luaL_register(L, NULL, functions);
  sd_l_store_register(L);
  sd_l_limiter_register(L);
}
