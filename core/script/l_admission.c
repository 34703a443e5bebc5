/* Who gets in, by the options. */
#include "l_admission.h"

#include <stdlib.h>

#include "vm.h"

/* ---- configuration ---- */

static void add_row(lua_State *L, sd_networks *list) {
  size_t len;
  const char *text = lua_tolstring(L, -1, &len);
  if (text != NULL && sd_network_parse(&list->rows[list->count], text, len, NULL) == 0) list->count++;
}

/* The list on top of the stack. */
static sd_networks read_list(lua_State *L) {
  sd_networks list = { NULL, 0 };
  size_t n = lua_objlen(L, -1);
  list.rows = calloc(n + 1, sizeof *list.rows);
  if (list.rows == NULL) luaL_error(L, "not enough memory");
  for (size_t i = 1; i <= n; i++) {
    lua_rawgeti(L, -1, (int)i);
    add_row(L, &list);
    lua_pop(L, 1);
  }
  return list;
}

/* Whether there is a list now. */
static bool take_list(lua_State *L, int index, const char *key, sd_networks *into, bool was) {
  lua_getfield(L, index, key);
  bool given = lua_istable(L, -1), said = !lua_isnil(L, -1);
  if (said) {
    sd_networks list = { NULL, 0 };
    if (given) list = read_list(L);
    free(into->rows);
    *into = list;
  }
  lua_pop(L, 1);
  return said ? given : was;
}

void sd_l_admission_configure(lua_State *L, int index, l_admission *a) {
  a->only_allowed = take_list(L, index, "allow", &a->allow, a->only_allowed);
  take_list(L, index, "deny", &a->deny, false);
}

void sd_l_admission_free(l_admission *a) {
  free(a->allow.rows);
  free(a->deny.rows);
  *a = (l_admission){ 0 };
}

/* ---- the verdict ---- */

/* Who comes over a unix socket has passed its file's permissions instead. */
static bool is_listed_out(const l_admission *a, const struct sockaddr *peer) {
  if (!a->only_allowed && a->deny.count == 0) return false;
  sd_network n = sd_network_around(peer, 32, 128);
  if (n.size == 0) return false;
  return sd_networks_contain(&a->deny, &n) || (a->only_allowed && !sd_networks_contain(&a->allow, &n));
}

bool sd_l_admission_allows(const l_admission *a, const struct sockaddr *peer, sd_reject *why) {
  *why = SD_REJECT_DENIED;
  return !is_listed_out(a, peer);
}
