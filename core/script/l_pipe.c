/* conn:pipe(other) → bytes out, bytes in, reason. */
#include <errno.h>
#include <stdlib.h>

#include "l_connection.h"
#include "net/pipe.h"

typedef struct {
  sd_pipe pipe; /* first member */
  sd_task *task;
} joined;

/* What its handler saw last of it, for the reason of its end. */
static void note_stop(const sd_pipe *p) {
  for (int i = 0; i < 2; i++) {
    l_conn *c = (l_conn *)p->side[i].conn;
    c->stopped = p->err ? p->err : SD_ECLOSED;
    uint64_t owner = sd_conn_terms_of(&c->conn)->owner;
    c->idle_out = owner == 0 || owner > sd_loop_now(c->conn.loop);
  }
}

static int push_result(lua_State *to, const sd_pipe *p) {
  note_stop(p);
  lua_pushnumber(to, (lua_Number)p->side[0].sent);
  lua_pushnumber(to, (lua_Number)p->side[1].sent);
  sd_vm_push_text(to, sd_error_word(p->err ? p->err : SD_ECLOSED));
  return 3;
}

static void on_over(sd_pipe *p) {
  joined *j = (joined *)p;
  if (j->task == NULL) return; /* not waiting yet: l_pipe answers */
  sd_task *task = j->task;
  int n = push_result(task->co, p);
  free(j);
  sd_task_wake(task, n);
}

static void unwait(sd_task *task) {
  joined *j = task->waiting_for;
  sd_pipe_part(&j->pipe);
  free(j);
}

static bool is_free(const l_conn *c) {
  return c->reader == NULL && c->conn.pipe == NULL && c->writers == NULL;
}

static int l_pipe(lua_State *L) {
  l_conn *a = sd_l_conn_check(L, 1), *b = sd_l_conn_check(L, 2);
  luaL_argcheck(L, a != b, 2, "a connection cannot be piped to itself");
  sd_task *task = sd_task_here(L, "conn:pipe");
  if (!is_free(a) || !is_free(b)) return sd_push_failure(L, SD_EBUSY);
  if (a->conn.state != SD_CONN_OPEN || b->conn.state != SD_CONN_OPEN) return sd_push_failure(L, SD_ECLOSED);
  joined *j = calloc(1, sizeof *j);
  if (j == NULL) return sd_push_failure(L, -ENOMEM);
  sd_pipe_join(&j->pipe, &a->conn, &b->conn, on_over);
  if (j->pipe.over) {
    int n = push_result(L, &j->pipe);
    free(j);
    return n;
  }
  j->task = task;
  return sd_task_wait(L, task, j, unwait);
}

void sd_l_pipe_register(lua_State *L) {
  lua_pushcfunction(L, l_pipe);
  lua_setfield(L, -2, "pipe");
}
