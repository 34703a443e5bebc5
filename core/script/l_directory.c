/* Connections by their ids: whoever knows one can find its connection here, wherever
 * it was born. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l_connection.h"

enum { FIRST_SIZE = 256 };

static l_conn **rows;
static size_t size, count; /* size: a power of two */

static size_t row_of(int32_t loop, int32_t life, uint64_t serial) {
  uint64_t h = (serial ^ ((uint64_t)(uint32_t)loop << 48) ^ ((uint64_t)(uint32_t)life << 32)) * 0x9e3779b97f4a7c15u;
  return (size_t)(h >> 32) & (size - 1);
}

static l_conn **row(const l_conn *c) {
  return &rows[row_of(c->born_loop, c->born_life, c->serial)];
}

static void put(l_conn *c) {
  l_conn **first = row(c);
  c->next_of_id = *first;
  *first = c;
}

/* Without memory it stays as it is, and gets slower. */
static bool grow(void) {
  size_t old_size = size;
  l_conn **old = rows, **bigger = calloc(size > 0 ? 2 * size : FIRST_SIZE, sizeof *bigger);
  if (bigger == NULL) return old != NULL;
  rows = bigger;
  size = old_size > 0 ? 2 * old_size : FIRST_SIZE;
  for (size_t i = 0; i < old_size; i++)
    for (l_conn *c = old[i], *next; c != NULL; c = next) {
      next = c->next_of_id;
      put(c);
    }
  free(old);
  return true;
}

void sd_l_directory_add(l_conn *c) {
  if (c->in_directory || (count >= size && !grow())) return;
  put(c);
  c->in_directory = true;
  count++;
}

void sd_l_directory_remove(l_conn *c) {
  if (!c->in_directory) return;
  l_conn **link = row(c);
  while (*link != c) link = &(*link)->next_of_id;
  *link = c->next_of_id;
  c->in_directory = false;
  count--;
}

l_conn *sd_l_directory_find(const char *id) {
  int loop = 0, life = 0, end = 0;
  uint64_t serial;
  size_t own = strlen(sd_the_vm.id_prefix);
  if (strncmp(id, sd_the_vm.id_prefix, own) == 0) {
    if (sscanf(id + own, "%" SCNu64 "%n", &serial, &end) != 1 || id[own + (size_t)end] != 0) return NULL;
  } else if (sscanf(id, "%d.%d.%" SCNu64 "%n", &loop, &life, &serial, &end) != 3 || id[end] != 0) {
    return NULL;
  }
  if (size == 0) return NULL;
  l_conn *c = rows[row_of(loop, life, serial)];
  while (c != NULL && !(c->serial == serial && c->born_loop == loop && c->born_life == life)) c = c->next_of_id;
  return c;
}

/* find_connection(id) → the connection of that id whose handler runs here, or nil. */
static int l_find(lua_State *L) {
  const l_conn *c = sd_l_directory_find(luaL_checkstring(L, 1));
  if (c == NULL || c->handler_over) return 0;
  sd_vm_push_anchored(L, c);
  return 1;
}

/* self() → the id of the running task: its connection's if it is the handler of one; nil outside. */
static int l_self(lua_State *L) {
  const sd_task *task = sd_the_vm.current;
  if (task == NULL) return 0;
  const l_conn *c = task->conn;
  if (c != NULL && task == &c->task)
    sd_l_conn_push_id(L, c);
  else
    sd_vm_push_id(L, task->serial);
  return 1;
}

void sd_l_directory_register(lua_State *L) {
  lua_pushcfunction(L, l_find);
  lua_setfield(L, -2, "find_connection");
  lua_pushcfunction(L, l_self);
  lua_setfield(L, -2, "self");
}
