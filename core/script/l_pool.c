/* A listening pool inside a worker: generations of its handler, and the
 * connections they serve. Who gets in is l_accept.c's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "heap.h"
#include "l_pool.h"
#include "l_scoreboard.h"
#include "l_socket.h"
#include "preempt.h"

enum { BEAT = 500 };

static l_pool *pools;
static l_pool *retired; /* kept for the next: a connection that is over may be asked for its pool */
static sd_source bell;
static sd_timer beat;
static uint64_t beat_due;

/* ---- generations ---- */

static l_generation *find_generation(const l_pool *pool, uint64_t number) {
  l_generation *g = pool->generations;
  while (g != NULL && g->number != number) g = g->next;
  return g;
}

l_generation *sd_l_pool_current(l_pool *pool) {
  if (pool->revision != sd_scoreboard_revision(sd_the_vm.scoreboard, pool->index)) return NULL;
  sd_split_look look = sd_scoreboard_look(sd_the_vm.scoreboard, pool->index);
  if (look.canary != 0 && find_generation(pool, look.canary) == NULL) return NULL;
  if (pool->current != NULL && pool->current->number == look.current) return pool->current;
  pool->current = find_generation(pool, look.current);
  if (pool->current != NULL) sd_task_new_epoch();
  return pool->current;
}

static sd_trial *trial_of(const l_pool *pool) {
  return sd_scoreboard_trial(sd_the_vm.scoreboard, pool->index);
}

/* `g`, or the canary if it is that one's turn. */
static l_generation *choose(const l_pool *pool, l_generation *g, const struct sockaddr *peer) {
  sd_split_look look = sd_scoreboard_look(sd_the_vm.scoreboard, pool->index);
  if (look.canary == 0) return g;
  sd_network from = sd_l_split_from(&look), who = sd_network_around(peer, 32, 128);
  uint64_t number = sd_split_choose(&look, trial_of(pool), sd_network_contains(&from, &who));
  l_generation *chosen = find_generation(pool, number);
  return chosen != NULL ? chosen : g;
}

static bool has_acceptor(const l_generation *g) {
  return g->turn != LUA_NOREF || g->failed != LUA_NOREF;
}

static void unref_parts(const l_generation *g) {
  const sd_ref refs[] = { g->admit, g->queue, g->turn, g->failed };
  for (size_t i = 0; i < sizeof refs / sizeof *refs; i++) luaL_unref(sd_the_vm.L, LUA_REGISTRYINDEX, refs[i]);
}

static void free_generation(l_pool *pool, l_generation *g) {
  l_generation **link = &pool->generations;
  while (*link != g) link = &(*link)->next;
  *link = g->next;
  if (pool->current == g) pool->current = NULL;
  luaL_unref(sd_the_vm.L, LUA_REGISTRYINDEX, g->fn);
  luaL_unref(sd_the_vm.L, LUA_REGISTRYINDEX, g->args);
  luaL_unref(sd_the_vm.L, LUA_REGISTRYINDEX, g->finish);
  unref_parts(g);
  pool->acceptors -= has_acceptor(g);
  free(g);
}

void sd_l_pool_tell(sd_ref fn, const char *word, double number) {
  if (fn == LUA_NOREF) return;
  lua_State *co = sd_task_calling(fn);
  lua_pushstring(co, word);
  lua_pushnumber(co, number);
  sd_task_spawn(co, 2, NULL);
}

static void tell_drained(l_pool *pool, const l_generation *g) {
  if (pool->on_drained == LUA_NOREF) return;
  lua_State *co = sd_task_calling(pool->on_drained);
  lua_pushnumber(co, (lua_Number)g->number);
  sd_task_spawn(co, 1, NULL);
}

/* ---- connections ---- */

static void link_connection(l_pool *pool, l_conn *c) {
  c->next = pool->connections;
  c->link = &pool->connections;
  if (c->next != NULL) c->next->link = &c->next;
  pool->connections = c;
  pool->count++;
}

static void unlink_connection(l_conn *c) {
  if (c->link == NULL) return;
  *c->link = c->next;
  if (c->next != NULL) c->next->link = c->link;
  c->link = NULL;
  c->pool->count--;
}

l_generation *sd_l_pool_generation(const l_pool *pool, uint64_t number) {
  return find_generation(pool, number);
}

uint32_t sd_l_pool_index(const l_conn *c) {
  return c->pool->index;
}

bool sd_l_pool_runs_tasks(const l_pool *pool) {
  return pool != NULL && pool->runs;
}

uint64_t sd_l_pool_newer(const l_conn *c) {
  const l_generation *live = sd_l_pool_current(c->pool);
  return live != NULL && live->number > c->task.generation ? live->number : 0;
}

void sd_l_pool_conn_closed(l_conn *c) {
  sd_scoreboard_count_closed(sd_the_vm.scoreboard, c->pool->index);
  sd_scoreboard_leave(sd_the_vm.scoreboard, c->pool->index, c->headcount);
  if (!c->uncounted) sd_scoreboard_release(sd_the_vm.scoreboard, c->pool->index);
}

/* finish(conn, reason, error | nil), in a task of its own. */
void sd_l_pool_conn_over(l_conn *c, sd_task_end how, const char *error) {
  const l_generation *g = c->generation;
  if (c->conn.end == SD_END_ERROR) sd_trial_failed(trial_of(c->pool), g->number);
  if (g->finish == LUA_NOREF || (how == SD_TASK_ENDED && !g->always)) return;
  lua_State *co = sd_task_calling(g->finish);
  sd_vm_push_anchored(co, c);
  lua_pushstring(co, sd_end_name((sd_end)c->conn.end));
  if (error != NULL) lua_pushstring(co, error);
  sd_task *task = sd_task_spawn(co, error != NULL ? 3 : 2, NULL);
  task->pool = c->pool->index;
  task->generation = g->number;
  task->conn = c;
}

/* on_ended(row): for the log of ended connections. */
static void push_row(lua_State *L, l_conn *c);

static void tell_ended(l_conn *c) {
  if (c->pool->on_ended == LUA_NOREF) return;
  lua_State *co = sd_task_calling(c->pool->on_ended);
  push_row(co, c);
  sd_task_spawn(co, 1, NULL);
}

void sd_l_pool_leave(l_pool *pool, l_generation *g) {
  if (--g->connections > 0) return;
  if (!sd_split_is_live(&sd_the_vm.scoreboard->pools[pool->index].split, g->number)) tell_drained(pool, g);
  if (g->forgotten) free_generation(pool, g);
}

void sd_l_pool_conn_gone(l_conn *c) {
  l_generation *g = c->generation;
  if (!c->departed) {
    tell_ended(c);
    sd_l_move_gone(c);
  }
  unlink_connection(c);
  c->generation = NULL;
  sd_l_pool_leave(c->pool, g);
}

void sd_l_pool_conn_change(l_conn *c, l_generation *to) {
  l_generation *from = c->generation;
  if (to != from) sd_l_conn_happened(c, L_CHANGED, (uint32_t)to->number);
  if (to != from) sd_trial_served(trial_of(c->pool), to->number); /* what it ends with counts there too */
  to->connections++;
  c->generation = to;
  c->task.generation = to->number;
  sd_l_pool_leave(c->pool, from);
}

void sd_l_pool_push_field(lua_State *L, const l_conn *c, char which) {
  if (c->pool == NULL)
    lua_pushnil(L);
  else if (which == 'p')
    lua_pushstring(L, c->pool->name);
  else if (which == 'l')
    lua_pushinteger(L, c->pool->loop);
  else
    lua_pushnumber(L, (lua_Number)c->task.generation);
}

/* An option that the kernel refuses here was refused when it was set, or is one
 * that only the supervisor may set; the connection is served all the same. */
void sd_l_pool_set_sockopts(const l_pool *pool, int fd, const struct sockaddr *peer) {
  const l_pool_sockopts *own = peer->sa_family == AF_UNIX ? &pool->own_unix : &pool->own_tcp;
  sd_net_error error;
  if (own->count > 0) sd_sockopt_apply(fd, own->list, own->count, SD_SOCKOPT_CONNECTION, &error);
}

void sd_l_pool_join(l_pool *pool, l_generation *g, l_conn *c) {
  c->pool = pool;
  c->generation = g;
  c->task.pool = pool->index;
  c->task.generation = g->number;
  c->task.limits = pool->limits;
  c->task.conn = c;
  g->connections++;
  link_connection(pool, c);
  sd_conn_watch_pace(&c->conn);
}

/* Closed last: who sees that finds the place free, and itself counted. */
static int turn_away(const l_pool *pool, int fd, uint32_t headcount) {
  sd_scoreboard_leave(sd_the_vm.scoreboard, pool->index, headcount);
  sd_scoreboard_release(sd_the_vm.scoreboard, pool->index);
  sd_scoreboard_count_rejected(sd_the_vm.scoreboard, pool->index, SD_REJECT_REFUSED);
  close(fd);
  return 0;
}

/* Pushes it. */
static l_conn *make_connection(
  const l_pool *pool, const l_generation *g, int fd, const struct sockaddr *peer, l_offer *offer, int *err) {
  lua_State *L = sd_the_vm.L;
  if (offer != NULL) return sd_l_transport_offered(L, pool, fd, offer, err);
  if (g->carried) return sd_l_transport_new(L, pool, fd, peer, err);
  return sd_l_conn_new(L, fd, pool->limits, peer, err);
}

int sd_l_pool_serve(
  l_pool *pool, l_generation *g, int fd, const struct sockaddr *peer, uint32_t headcount, uint64_t waited) {
  lua_State *L = sd_the_vm.L;
  int err;
  g = choose(pool, g, peer);
  l_offer *offer = sd_l_offer_find(pool, peer); /* which is this loop's alone */
  if (offer != NULL && !g->carried) return turn_away(pool, fd, headcount);
  if (!sd_l_manager_admits(pool, g, peer)) return turn_away(pool, fd, headcount);
  if (offer == NULL && sd_l_binding_hand(pool, g, fd, headcount)) {
    sd_trial_served(trial_of(pool), g->number);
    sd_l_alarm_look(pool);
    return 0;
  }
  l_conn *c = make_connection(pool, g, fd, peer, offer, &err);
  if (c == NULL) return err;
  c->headcount = headcount;
  if (waited > 0) sd_l_conn_happened(c, L_WAITED, (uint32_t)waited);
  sd_l_pool_set_sockopts(pool, fd, peer);
  sd_l_pool_join(pool, g, c);
  sd_trial_served(trial_of(pool), g->number);
  sd_scoreboard_count_accepted(sd_the_vm.scoreboard, pool->index);
  sd_l_alarm_look(pool);
  lua_State *co = sd_task_calling(g->fn);
  lua_xmove(L, co, 1);
  lua_rawgeti(co, LUA_REGISTRYINDEX, g->args);
  sd_l_conn_serve(c, co, 2 + sd_l_transport_push_ends(co, c));
  return 0;
}

void sd_l_pool_each(void (*fn)(l_pool *pool)) {
  for (l_pool *pool = pools, *next; pool != NULL; pool = next) {
    next = pool->next;
    fn(pool);
  }
}

static void on_bell(sd_source *source, uint32_t events) {
  (void)source;
  (void)events;
  sd_l_pool_each(sd_l_accept_try);
}

/* ---- the process' part: once ---- */

/* Whoever was to tell us that it is our turn may be stuck. */
static void look_again(l_pool *pool) {
  sd_l_alarm_look_again(pool);
  if (pool->announced != 0) sd_l_accept_try(pool);
}

static void on_beat(sd_timer *timer) {
  (void)timer;
  uint64_t now = uv_hrtime();
  sd_scoreboard_beat(sd_the_vm.scoreboard, now > beat_due ? now - beat_due : 0);
  beat_due = now + (uint64_t)BEAT * 1000000;
  sd_loop_arm(&sd_the_vm.loop, &beat, sd_loop_now(&sd_the_vm.loop) + BEAT);
  sd_l_pool_each(look_again);
  sd_heap_weigh();
}

static int join_scoreboard(void) {
  if (sd_the_vm.scoreboard != NULL) return 0;
  sd_scoreboard *sb = sd_l_own_scoreboard();
  if (sb == NULL) return -EINVAL;
  bell = (sd_source){ .fd = sb->bell, .on_events = on_bell };
  int err = sd_loop_watch(&sd_the_vm.loop, &bell, EPOLLIN);
  if (err) return err;
  err = sd_preempt_begin();
  if (err) return err;
  sd_the_vm.scoreboard = sb;
  sd_l_turn_begin();
  beat.fire = on_beat;
  beat_due = uv_hrtime();
  on_beat(&beat);
  return 0;
}

/* ---- configuration ---- */

static size_t limit(lua_State *L, const char *key, size_t now) {
  lua_getfield(L, -1, key);
  if (lua_isnumber(L, -1))
    now = (size_t)lua_tonumber(L, -1);
  else if (lua_isboolean(L, -1))
    now = (size_t)1 << 31; /* off */
  lua_pop(L, 1);
  return now;
}

static uint32_t timeout(lua_State *L, int index, const char *key, uint32_t now) {
  int64_t ms = sd_opt_ms(L, index, key);
  return ms < 0 ? now : (uint32_t)ms;
}

static double number_of(lua_State *L, const char *key) {
  lua_getfield(L, -1, key);
  double n = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return n;
}

/* rates.min: bytes a second, judged every `after` seconds. Without it there is none. */
static void take_pace(lua_State *L, int index, sd_conn_limits *l) {
  lua_getfield(L, index, "rates");
  if (lua_istable(L, -1)) {
    lua_getfield(L, -1, "min");
    double bytes = lua_istable(L, -1) ? number_of(L, "bytes") : 0;
    double after = bytes > 0 ? (double)sd_opt_ms(L, lua_gettop(L), "after") : 0;
    l->min_bytes = after > 0 ? (size_t)(bytes * after / 1000 + 0.5) : 0;
    l->min_after = (uint32_t)after;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static void take_limits(lua_State *L, int index, sd_conn_limits *l) {
  lua_getfield(L, index, "limits");
  if (lua_istable(L, -1)) {
    l->line = limit(L, "line", l->line);
    l->frame = limit(L, "frame", l->frame);
    l->read_buffer = limit(L, "read_buffer", l->read_buffer);
    l->write_high = limit(L, "write_high", l->write_high);
    l->write_low = limit(L, "write_low", l->write_low);
    l->write_max = limit(L, "write_max", l->write_max);
  }
  lua_getfield(L, index, "timeouts");
  if (lua_istable(L, -1)) {
    int t = lua_gettop(L);
    l->idle = timeout(L, t, "idle", l->idle);
    l->write = timeout(L, t, "write", l->write);
    l->lifetime = timeout(L, t, "lifetime", l->lifetime);
    l->header = timeout(L, t, "header", l->header);
  }
  lua_pop(L, 2);
  take_pace(L, index, l);
}

static void keep_sockopt(l_pool_sockopts *own, const sd_sockopt_setting *setting) {
  if (own->count < sizeof own->list / sizeof *own->list) own->list[own->count++] = *setting;
}

/* Of TCP all but quickack is inherited; of a unix socket nothing is. */
static void take_socket(lua_State *L, int index, l_pool *pool) {
  sd_sockopt_setting list[SD_L_SETTINGS];
  sd_net_error error;
  size_t count = 0;
  pool->own_tcp.count = pool->own_unix.count = 0;
  lua_getfield(L, index, "socket");
  if (lua_istable(L, -1)) sd_l_settings(L, lua_gettop(L), list, &count, &error);
  lua_pop(L, 1);
  for (size_t i = 0; i < count; i++) {
    if (list[i].option->where == SD_SOCKOPT_CONNECTION) keep_sockopt(&pool->own_tcp, &list[i]);
    if (!list[i].option->only_ip) keep_sockopt(&pool->own_unix, &list[i]);
  }
}

/* `from` with what the table says. Out of memory it is as it was. */
static const sd_conn_limits *changed_limits(lua_State *L, int index, const sd_conn_limits *from) {
  sd_conn_limits wanted = *from;
  take_limits(L, index, &wanted);
  const sd_conn_limits *kept = sd_conn_limits_keep(&wanted);
  return kept != NULL ? kept : from;
}

static void take_config(lua_State *L, int index, l_pool *pool) {
  take_socket(L, index, pool);
  pool->limits = changed_limits(L, index, pool->limits);
  sd_l_admission_configure(L, index, &pool->admission);
  sd_l_binding_configure(L, index, &pool->binding);
  lua_getfield(L, index, "revision");
  if (lua_isnumber(L, -1)) pool->revision = (uint64_t)lua_tonumber(L, -1);
  lua_pop(L, 1);
  sd_l_full_configure(L, index, &pool->full);
  sd_l_alarm_configure(L, index, pool);
  sd_l_hold_retime(pool);
}

static const sd_conn_limits usual_limits = { .line = 8192,
  .frame = 1 << 20,
  .read_buffer = 65536,
  .write_high = 65536,
  .write_low = 16384,
  .write_max = 1 << 20,
  .idle = 60000,
  .write = 30000 };

static l_pool *new_pool(void) {
  l_pool *pool = retired;
  if (pool == NULL) return calloc(1, sizeof *pool);
  retired = pool->next;
  memset(pool, 0, sizeof *pool);
  return pool;
}

static int l_pool_new(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_getfield(L, 1, "name");
  lua_getfield(L, 1, "index");
  lua_getfield(L, 1, "loop");
  const char *name = luaL_checkstring(L, 2);
  uint32_t index = (uint32_t)luaL_checkinteger(L, 3);
  int loop = (int)luaL_optinteger(L, 4, 0);
  int err = join_scoreboard();
  if (err) return luaL_error(L, "core.pool: attach the scoreboard first (%s)", sd_error_word(err));
  l_pool *pool = new_pool();
  if (pool == NULL) return luaL_error(L, "not enough memory");
  snprintf(pool->name, sizeof pool->name, "%s", name);
  pool->index = index;
  pool->loop = loop;
  lua_getfield(L, 1, "runs");
  pool->runs = lua_toboolean(L, -1);
  pool->on_drained = pool->on_event = pool->on_ended = LUA_NOREF;
  pool->limits = &usual_limits;
  sd_l_accept_init(pool);
  sd_l_hold_init(pool);
  pool->alarms.on_alarm = LUA_NOREF;
  take_config(L, 1, pool);
  pool->next = pools;
  pools = pool;
  *(l_pool **)lua_newuserdata(L, sizeof pool) = pool;
  luaL_getmetatable(L, SD_POOL);
  lua_setmetatable(L, -2);
  return 1;
}

static int l_configure(lua_State *L) {
  luaL_checktype(L, 2, LUA_TTABLE);
  take_config(L, 2, sd_l_pool_check(L));
  return 0;
}

/* live{ limits=, timeouts= }: for the connections that are open. */
static int l_live(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  for (l_conn *c = pool->connections; c != NULL; c = c->next)
    sd_l_conn_take_limits(c, changed_limits(L, 2, c->conn.limits));
  return 0;
}

/* Keeps the function (or nil: LUA_NOREF) in this field of the table at `index`. */
static sd_ref field_ref(lua_State *L, int index, const char *key) {
  lua_getfield(L, index, key);
  if (!lua_isnil(L, -1)) return luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pop(L, 1);
  return LUA_NOREF;
}

/* generation(number, { fn=, args=, always=, finish=, admit=, queue=, turn=, failed=, carried= }) */
static int l_generation_add(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  uint64_t number = (uint64_t)luaL_checknumber(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  luaL_argcheck(L, find_generation(pool, number) == NULL, 2, "this generation is here already");
  lua_getfield(L, 3, "fn");
  luaL_checktype(L, -1, LUA_TFUNCTION);
  l_generation *g = calloc(1, sizeof *g);
  if (g == NULL) return luaL_error(L, "not enough memory");
  g->number = number;
  g->fn = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_getfield(L, 3, "args");
  g->args = luaL_ref(L, LUA_REGISTRYINDEX);
  g->finish = field_ref(L, 3, "finish");
  g->admit = field_ref(L, 3, "admit");
  g->queue = field_ref(L, 3, "queue");
  g->turn = field_ref(L, 3, "turn");
  g->failed = field_ref(L, 3, "failed");
  pool->acceptors += has_acceptor(g);
  lua_getfield(L, 3, "always");
  g->always = lua_toboolean(L, -1);
  lua_getfield(L, 3, "carried");
  g->carried = lua_toboolean(L, -1);
  g->next = pool->generations;
  pool->generations = g;
  return 0;
}

/* failed(number): its code has failed before a handler could; a canary is judged by that. */
static int l_failed(lua_State *L) {
  sd_trial_failed(trial_of(sd_l_pool_check(L)), (uint64_t)luaL_checknumber(L, 2));
  return 0;
}

/* renew(number, args): what its next handlers get. */
static int l_renew(lua_State *L) {
  l_generation *g = find_generation(sd_l_pool_check(L), (uint64_t)luaL_checknumber(L, 2));
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  if (g != NULL) lua_rawseti(L, LUA_REGISTRYINDEX, g->args);
  return 0;
}

static int l_forget(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  l_generation *g = find_generation(pool, (uint64_t)luaL_checknumber(L, 2));
  if (g == NULL) return 0;
  if (g->connections == 0)
    free_generation(pool, g);
  else
    g->forgotten = true;
  return 0;
}

/* try(): a generation has arrived, or the limit has changed. */
static int l_try(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  sd_l_accept_renew(pool);
  sd_l_accept_try(pool);
  return 0;
}

/* outdate(): newer code is live; ends the waits of those that follow it. */
static int l_outdate(lua_State *L) {
  for (l_conn *c = sd_l_pool_check(L)->connections; c != NULL; c = c->next) sd_l_read_outdate(c);
  return 0;
}

static int l_pause(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  pool->paused = lua_toboolean(L, 2);
  if (pool->paused)
    sd_l_accept_stand_back(pool);
  else
    sd_l_accept_try(pool);
  return 0;
}

/* ---- seen from outside ---- */

static void string_field(lua_State *L, const char *key, const char *value) {
  lua_pushstring(L, value);
  lua_setfield(L, -2, key);
}

static void number_field(lua_State *L, const char *key, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, key);
}

static void push_row(lua_State *L, l_conn *c) {
  uint64_t now = sd_loop_now(&sd_the_vm.loop);
  lua_createtable(L, 0, 13);
  sd_l_conn_push_id(L, c);
  lua_setfield(L, -2, "id");
  sd_l_conn_push_peer(L, c);
  lua_setfield(L, -2, "peer");
  sd_l_conn_push_local(L, c);
  lua_setfield(L, -2, "local");
  string_field(L, "pool", c->pool->name);
  string_field(L, "state", c->conn.state == SD_CONN_OPEN ? "open" : "closing");
  if (c->conn.end != SD_END_NONE) string_field(L, "reason", sd_end_name((sd_end)c->conn.end));
  number_field(L, "generation", (double)c->task.generation);
  number_field(L, "loop", c->pool->loop);
  number_field(L, "age", (double)(now - c->conn.opened) / 1000);
  number_field(L, "idle", (double)(now - c->conn.active) / 1000);
  number_field(L, "bytes_in", (double)c->conn.bytes_in);
  number_field(L, "bytes_out", (double)c->conn.bytes_out);
  sd_vm_push_anchored(L, c);
  lua_setfield(L, -2, "conn");
}

static int l_connections(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  lua_createtable(L, (int)pool->count, 0);
  int n = 0;
  for (l_conn *c = pool->connections; c != NULL; c = c->next) {
    push_row(L, c);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

static int l_counts(lua_State *L) {
  lua_newtable(L);
  for (l_generation *g = sd_l_pool_check(L)->generations; g != NULL; g = g->next) {
    lua_pushnumber(L, (lua_Number)g->connections);
    lua_rawseti(L, -2, (int)g->number);
  }
  return 1;
}

/* Those who wait for a place too: they will be connections, or told. */
static int l_count(lua_State *L) {
  const l_pool *pool = sd_l_pool_check(L);
  lua_pushnumber(L, (lua_Number)(pool->count + pool->full.line.count));
  return 1;
}

/* dismiss(): who waits for a place will get none. */
static int l_dismiss(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  sd_l_hold_dismiss(pool);
  sd_l_accept_announce(pool);
  return 0;
}

static int l_on_drained(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  pool->on_drained = sd_vm_keep(L, 2, pool->on_drained);
  return 0;
}

/* on_event(fn): fn(errname, seconds of rest), at most once a second. */
static int l_on_event(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  pool->on_event = sd_vm_keep(L, 2, pool->on_event);
  return 0;
}

/* on_ended(fn | nil): fn(row) for each connection that has ended. */
static int l_on_ended(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  pool->on_ended = sd_vm_keep(L, 2, pool->on_ended);
  return 0;
}

/* close(): a removed pool without listeners and connections gives its memory back. */
static int l_pool_close(lua_State *L) {
  l_pool *pool = sd_l_pool_check(L);
  sd_l_accept_close(pool);
  if (pool->connections != NULL) return sd_push_failure(L, SD_EBUSY);
  while (pool->offers != NULL) sd_l_offer_lost(pool->offers, SD_ECLOSED);
  while (pool->generations != NULL) free_generation(pool, pool->generations);
  sd_l_full_free(L, pool);
  sd_l_alarm_free(L, pool);
  sd_l_admission_free(&pool->admission);
  luaL_unref(L, LUA_REGISTRYINDEX, pool->on_drained);
  luaL_unref(L, LUA_REGISTRYINDEX, pool->on_event);
  luaL_unref(L, LUA_REGISTRYINDEX, pool->on_ended);
  l_pool **link = &pools;
  while (*link != pool) link = &(*link)->next;
  *link = pool->next;
  *(l_pool **)lua_touserdata(L, 1) = NULL;
  pool->next = retired;
  retired = pool;
  lua_pushnil(L);
  lua_setmetatable(L, 1);
  lua_pushboolean(L, 1);
  return 1;
}

void sd_l_pool_register(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "generation", l_generation_add },
    { "forget", l_forget },
    { "failed", l_failed },
    { "try", l_try },
    { "pause", l_pause },
    { "accept", sd_l_accept },
    { "offer", sd_l_offer },
    { "unaccept", sd_l_unaccept },
    { "last_call", sd_l_last_call },
    { "connections", l_connections },
    { "counts", l_counts },
    { "count", l_count },
    { "configure", l_configure },
    { "turn_away", sd_l_full_turn_away },
    { "on_full", sd_l_full_on_full },
    { "on_alarm", sd_l_alarm_on_alarm },
    { "dismiss", l_dismiss },
    { "live", l_live },
    { "renew", l_renew },
    { "on_drained", l_on_drained },
    { "on_event", l_on_event },
    { "on_ended", l_on_ended },
    { "close", l_pool_close },
    { "outdate", l_outdate },
    { "hold", sd_l_move_hold },
    { "unhold", sd_l_move_unhold },
    { "pass", sd_l_move_pass },
    { "admit", sd_l_move_admit },
    { "assign", sd_l_binding_assign },
    { "claim", sd_l_binding_claim },
    { "handed", sd_l_binding_handed },
    { "refuge", sd_l_binding_refuge },
    { NULL, NULL },
  };
  sd_class(L, SD_POOL, methods, NULL);
  lua_pushcfunction(L, l_pool_new);
  lua_setfield(L, -2, "pool");
}
