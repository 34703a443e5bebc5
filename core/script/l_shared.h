/* Shared stores and limiters as Lua sees them (l_store.c, l_limiter.c), the shelf on which
 * they stand (l_shelf.c), and the tasks and connections that own entries (l_owner.c). */
#ifndef SD_SCRIPT_L_SHARED_H
#define SD_SCRIPT_L_SHARED_H

#include "base/shelf.h"
#include "l_connection.h"

/* Adds `shelf`, `own_shelf`, `limiter` and `store_methods` to the table on top. */
void sd_l_shared_register(lua_State *L);

/* The one of this process, made or joined last; NULL before. It stays as long as the Lua
 * state does. */
sd_shelf *sd_l_own_shelf(void);

/* ---- l_store.c ---- */
void sd_l_store_register(lua_State *L);

/* A handle of a store, which is on our own shelf. */
void sd_l_store_push(lua_State *L, const sd_store *store);
const sd_store *sd_l_store_check(lua_State *L, int index);

/* The key at `index`; raises for anything that is none. */
sd_text sd_l_store_key(lua_State *L, int index);

/* ---- l_limiter.c ---- */
void sd_l_limiter_register(lua_State *L);

/* ---- l_owner.c ---- */

/* Whoever has the id at `index` becomes an owner: the running task, or a connection of this
 * process. SD_EGONE: there is nobody of that id here (any more). */
int sd_l_owner_take(lua_State *L, int index, sd_owner_key *out);

/* An owner has ended: what it owns is gone from all stores. */
void sd_shared_owner_ended(lua_State *L, int id);
void sd_shared_task_ended(const sd_task *task);
void sd_shared_conn_ended(const l_conn *c);

/* It goes on in another process. */
void sd_shared_conn_moves(const l_conn *c, int32_t pid);

#endif
