/* The object that conn:buffers() lends: the bytes of one read, without a Lua
 * string. Good until the iterator's next step; empty after it. */
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "l_connection.h"

#define LENT "sockdrawer.buffer"

enum { SPARE_BLOCKS = SD_LOOP_GROUP };

static const void *lent_class; /* the metatable: compared instead of looked up */

static char *spares[SPARE_BLOCKS];
static int nspares;

bool sd_l_lent_take_block(l_lent *lent) {
  lent->length = 0;
  if (lent->block == NULL) lent->block = nspares > 0 ? spares[--nspares] : malloc(SD_LOOP_SCRATCH);
  return lent->block != NULL;
}

void sd_l_lent_give_back(l_lent *lent) {
  if (lent->block == NULL) return;
  if (nspares < SPARE_BLOCKS)
    spares[nspares++] = lent->block;
  else
    free(lent->block);
  lent->block = NULL;
  lent->length = 0;
}

l_lent *sd_l_lent_new(lua_State *L) {
  l_lent *lent = lua_newuserdata(L, sizeof *lent);
  *lent = (l_lent){ 0 };
  luaL_getmetatable(L, LENT);
  lua_setmetatable(L, -2);
  return lent;
}

l_lent *sd_l_lent_test(lua_State *L, int index) {
  void *p = lua_touserdata(L, index);
  if (p == NULL || !lua_getmetatable(L, index)) return NULL;
  bool same = lua_topointer(L, -1) == lent_class;
  lua_pop(L, 1);
  return same ? p : NULL;
}

/* Making a string may run the collector, and that a finalizer which takes the iterator's next step. */
void sd_l_lent_push(lua_State *L, l_lent *lent, size_t from, size_t length) {
  bool outer = lent->copied;
  lent->copied = true;
  sd_heap_shelter(); /* an error would leave the mark */
  sd_vm_push_bytes(L, lent->block == NULL ? "" : lent->block + from, length);
  sd_heap_expose();
  lent->copied = outer;
}

static int l_length(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)((l_lent *)luaL_checkudata(L, 1, LENT))->length);
  return 1;
}

static int l_tostring(lua_State *L) {
  l_lent *lent = luaL_checkudata(L, 1, LENT);
  sd_l_lent_push(L, lent, 0, lent->length);
  return 1;
}

/* As string.sub counts: from 1, negative from the end. */
static size_t position(lua_Integer i, size_t length) {
  if (i < 0) i += (lua_Integer)length + 1;
  return i < 0 ? 0 : (size_t)i;
}

static int l_sub(lua_State *L) {
  l_lent *lent = luaL_checkudata(L, 1, LENT);
  size_t from = position(luaL_optinteger(L, 2, 1), lent->length);
  size_t to = position(luaL_optinteger(L, 3, -1), lent->length);
  if (from < 1) from = 1;
  if (to > lent->length) to = lent->length;
  if (from > to)
    lua_pushliteral(L, "");
  else
    sd_l_lent_push(L, lent, from - 1, to - from + 1);
  return 1;
}

/* find(plain [, init]) → first, last | nil */
static int l_find(lua_State *L) {
  const l_lent *lent = luaL_checkudata(L, 1, LENT);
  size_t length, from = position(luaL_optinteger(L, 3, 1), lent->length);
  const char *needle = luaL_checklstring(L, 2, &length);
  if (from < 1) from = 1;
  if (from > lent->length + 1) return 0;
  const char *start = lent->block + from - 1;
  const char *hit = memmem(start, lent->length - from + 1, needle, length);
  if (hit == NULL) return 0;
  lua_pushinteger(L, hit - lent->block + 1);
  lua_pushinteger(L, hit - lent->block + (lua_Integer)length);
  return 2;
}

static int lent_gc(lua_State *L) {
  sd_l_lent_give_back(lua_touserdata(L, 1));
  return 0;
}

void sd_l_lent_register(lua_State *L) {
  static const luaL_Reg methods[] = { { "sub", l_sub }, { "find", l_find }, { NULL, NULL } };
  sd_class(L, LENT, methods, lent_gc);
  luaL_getmetatable(L, LENT);
  lent_class = lua_topointer(L, -1);
  lua_pushcfunction(L, l_length);
  lua_setfield(L, -2, "__len");
  lua_pushcfunction(L, l_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pop(L, 1);
}
