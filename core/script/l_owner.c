/* Tasks and connections that own entries of shared stores. In the stores an owner is a
 * digest of its id, so an id may look like anything. */
#include "l_shared.h"

static sd_owner_key key_of(lua_State *L, int index) {
  static const sd_hash_key seeds[2] = { { { 1, 2 } }, { { 3, 4 } } };
  size_t length;
  const char *id = lua_tolstring(L, index, &length);
  return (sd_owner_key){ { sd_hash(&seeds[0], id, length), sd_hash(&seeds[1], id, length) } };
}

static sd_task *own_task(lua_State *L, int index) {
  sd_task *task = sd_the_vm.current;
  if (task == NULL) return NULL;
  sd_vm_push_id(L, task->serial);
  bool same = lua_rawequal(L, index, -1);
  lua_pop(L, 1);
  return same ? task : NULL;
}

int sd_l_owner_take(lua_State *L, int index, sd_owner_key *out) {
  l_conn *c = sd_l_directory_find(lua_tostring(L, index));
  sd_task *task = c == NULL ? own_task(L, index) : c->handler_over ? NULL : &c->task;
  if (task == NULL) return SD_EGONE;
  task->owns = true;
  *out = key_of(L, index);
  return 0;
}

static void release(const sd_owner_key *owner) {
  sd_shelf *shelf = sd_l_own_shelf();
  for (uint32_t n = 0; shelf != NULL && n < sd_shelf_count(shelf); n++) {
    const sd_store *store = sd_shelf_store(shelf, n);
    if (store != NULL) sd_store_release(store, owner);
  }
}

void sd_shared_owner_ended(lua_State *L, int id) {
  sd_owner_key owner = key_of(L, id);
  release(&owner);
}

void sd_shared_task_ended(const sd_task *task) {
  lua_State *L = sd_the_vm.L;
  sd_vm_push_id(L, task->serial);
  sd_shared_owner_ended(L, -1);
  lua_pop(L, 1);
}

void sd_shared_conn_ended(const l_conn *c) {
  lua_State *L = sd_the_vm.L;
  sd_l_conn_push_id(L, c);
  sd_shared_owner_ended(L, -1);
  lua_pop(L, 1);
}

void sd_shared_conn_moves(const l_conn *c, int32_t pid) {
  lua_State *L = sd_the_vm.L;
  sd_l_conn_push_id(L, c);
  sd_owner_key owner = key_of(L, -1);
  lua_pop(L, 1);
  sd_shelf *shelf = sd_l_own_shelf();
  for (uint32_t n = 0; shelf != NULL && n < sd_shelf_count(shelf); n++) {
    const sd_store *store = sd_shelf_store(shelf, n);
    if (store != NULL) sd_store_rehome(store, &owner, pid);
  }
}
