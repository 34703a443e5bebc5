/* The scoreboard as Lua sees it: plain tables of numbers, seconds as doubles,
 * indexes from 0. */
#include "script/l_scoreboard.h"

#include <lauxlib.h>
#include <math.h>
#include <string.h>

#include "base/errors.h"
#include "base/log_writer.h"

#define METATABLE "sockdrawer.scoreboard"

static sd_scoreboard *own; /* the one that a slot of this process belongs to */

sd_scoreboard *sd_l_own_scoreboard(void) {
  return own;
}

static void count_dropped_line(void) {
  sd_scoreboard_dropped_log(own);
}

/* The registry keeps it, so that whoever counts may hold a bare pointer. */
static void make_own(lua_State *L, int index, sd_scoreboard *sb) {
  lua_pushvalue(L, index);
  lua_setfield(L, LUA_REGISTRYINDEX, METATABLE ".own");
  own = sb;
  sd_log_line_on_drop(count_dropped_line);
}

static void forget_own(void) {
  sd_log_line_on_drop(NULL);
  own = NULL;
}

/* ---- arguments ---- */

sd_scoreboard *sd_l_check_scoreboard(lua_State *L, int index) {
  sd_scoreboard *sb = luaL_checkudata(L, index, METATABLE);
  if (sb->mapping == NULL) luaL_argerror(L, index, "a closed scoreboard");
  return sb;
}

static uint32_t check_index(lua_State *L, int arg, uint32_t count) {
  lua_Number n = luaL_checknumber(L, arg);
  luaL_argcheck(L, n >= 0 && n < count && n == floor(n), arg, "no such index in the scoreboard");
  return (uint32_t)n;
}

static uint32_t check_slot(lua_State *L, int arg, const sd_scoreboard *sb) {
  return check_index(L, arg, sb->nslots);
}

static uint32_t check_pool(lua_State *L, int arg, const sd_scoreboard *sb) {
  return check_index(L, arg, sb->npools);
}

static void check_has_slot(lua_State *L, const sd_scoreboard *sb) {
  luaL_argcheck(L, sb->slot != SD_SCOREBOARD_NO_SLOT, 1, "this process has no slot");
}

/* The whole number in field `name` of the table at `arg`. */
static bool number_field(lua_State *L, int arg, const char *name, double min, double max, lua_Number *out) {
  lua_getfield(L, arg, name);
  bool given = !lua_isnil(L, -1);
  if (given) {
    if (lua_type(L, -1) != LUA_TNUMBER) luaL_error(L, "%s must be a number", name);
    *out = lua_tonumber(L, -1);
    if (!(*out >= min && *out <= max) || *out != floor(*out)) luaL_error(L, "%s is out of range", name);
  }
  lua_pop(L, 1);
  return given;
}

static lua_Number needed_field(lua_State *L, int arg, const char *name, double min, double max) {
  lua_Number n = 0;
  if (!number_field(L, arg, name, min, max, &n)) luaL_error(L, "%s is missing", name);
  return n;
}

static bool state_field(lua_State *L, int arg, int *out) {
  lua_getfield(L, arg, "state");
  bool given = !lua_isnil(L, -1);
  if (given) {
    const char *name = lua_tostring(L, -1);
    *out = name != NULL ? sd_slot_state_named(name) : -1;
    if (*out < 0) luaL_error(L, "no such state of a slot");
  }
  lua_pop(L, 1);
  return given;
}

/* ---- results ---- */

static void set_number(lua_State *L, const char *name, double n) {
  lua_pushnumber(L, n);
  lua_setfield(L, -2, name);
}

static void set_boolean(lua_State *L, const char *name, bool b) {
  lua_pushboolean(L, b);
  lua_setfield(L, -2, name);
}

static void set_string(lua_State *L, const char *name, const char *s) {
  lua_pushstring(L, s);
  lua_setfield(L, -2, name);
}

static double seconds(uint64_t ns) {
  return (double)ns / 1e9;
}

/* Another process may have stamped after we read the clock. */
static double seconds_since(uint64_t stamp) {
  uint64_t now = sd_scoreboard_clock();
  return now > stamp ? seconds(now - stamp) : 0;
}

static int push_failure(lua_State *L, int err) {
  lua_pushnil(L);
  lua_pushstring(L, sd_error_word(err));
  return 2;
}

static int push_true(lua_State *L) {
  lua_pushboolean(L, 1);
  return 1;
}

/* ---- slots ---- */

static int l_slot_set(lua_State *L) {
  sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  sd_scoreboard_slot *s = &sb->slots[check_slot(L, 2, sb)];
  luaL_checktype(L, 3, LUA_TTABLE);
  int state;
  lua_Number pid, loop;
  bool has_pid = number_field(L, 3, "pid", 0, INT32_MAX, &pid);
  bool has_loop = number_field(L, 3, "loop", 0, INT32_MAX, &loop);
  bool has_state = state_field(L, 3, &state);
  if (has_pid) s->pid = (int32_t)pid;
  if (has_loop) s->loop = (int32_t)loop;
  if (has_state) s->state = (uint32_t)state;
  return 0;
}

static void set_busy(lua_State *L, const sd_slot_view *slot) {
  if (slot->entered_ns == 0) return;
  set_number(L, "busy", seconds_since(slot->entered_ns));
  if (slot->pool == SD_SCOREBOARD_NO_POOL) return;
  set_number(L, "busy_pool", slot->pool);
  set_number(L, "busy_generation", (double)slot->generation);
  set_number(L, "busy_connection", (double)slot->connection);
}

static int l_slot(lua_State *L) {
  sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  sd_slot_view slot;
  sd_scoreboard_slot_read(sb, check_slot(L, 2, sb), &slot);
  lua_createtable(L, 0, 14);
  set_string(L, "state", sd_slot_state_name(slot.state));
  set_number(L, "pid", slot.pid);
  set_number(L, "loop", slot.loop);
  set_number(L, "connections", (double)slot.connections);
  set_number(L, "lag", seconds(slot.lag_ns));
  set_number(L, "dropped_logs", (double)slot.dropped_logs);
  set_number(L, "dropped_messages", (double)slot.dropped_messages);
  set_boolean(L, "loading", slot.loading);
  set_boolean(L, "starved", slot.starved);
  if (slot.beat_ns != 0) set_number(L, "beat", seconds_since(slot.beat_ns));
  set_number(L, "beat_ns", (double)slot.beat_ns);
  set_number(L, "entered_ns", (double)slot.entered_ns);
  set_busy(L, &slot);
  return 1;
}

static int l_slot_reap(lua_State *L) {
  sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  uint64_t lost = sd_scoreboard_slot_reap(sb, check_slot(L, 2, sb));
  lua_pushnumber(L, (lua_Number)lost);
  return 1;
}

/* order(slot, entered_ns, stop) → whether it is in that stretch of Lua still. */
static int l_order(lua_State *L) {
  sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  uint32_t slot = check_slot(L, 2, sb);
  lua_Number stretch = luaL_checknumber(L, 3);
  luaL_argcheck(L, stretch >= 0 && stretch < 1e19, 3, "no stamp");
  lua_pushboolean(L, sd_scoreboard_order(sb, slot, (uint64_t)stretch, lua_toboolean(L, 4)));
  return 1;
}

/* order_collect(slot): the worker is to collect its garbage. */
static int l_order_collect(lua_State *L) {
  const sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  sd_order_collect(&sb->slots[check_slot(L, 2, sb)].order);
  return 0;
}

/* collected(slot) → bytes that it has resident after that | nil: its loop has not come to it yet. */
static int l_collected(lua_State *L) {
  const sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  uint64_t kept = atomic_load(&sb->slots[check_slot(L, 2, sb)].order.kept);
  if (kept == 0) return 0;
  lua_pushnumber(L, (lua_Number)kept);
  return 1;
}

/* answer(slot) → { traceback=, at= (an address) }: what has come of the last order. */
static int l_answer(lua_State *L) {
  const sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  const sd_order *order = &sb->slots[check_slot(L, 2, sb)].order;
  char text[SD_ORDER_TEXT];
  lua_createtable(L, 0, 2);
  if (sd_order_told(order, text) >= 0) set_string(L, "traceback", text);
  uint64_t at = sd_order_place(order);
  if (at != 0) set_number(L, "at", (double)at);
  return 1;
}

/* ---- pools ---- */

static int l_pool_open(lua_State *L) {
  sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  uint32_t pool = check_pool(L, 2, sb);
  const char *name = luaL_checkstring(L, 3);
  int err = sd_scoreboard_pool_open(sb, pool, name);
  return err ? push_failure(L, err) : push_true(L);
}

static int l_pool_close(lua_State *L) {
  sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  sd_scoreboard_pool_close(sb, check_pool(L, 2, sb));
  return 0;
}

#define MAX_WHOLE 9007199254740992.0 /* 2^53: doubles count no further */

static uint64_t to_max(lua_Number n) {
  return n > MAX_WHOLE ? SD_SCOREBOARD_UNLIMITED : (uint64_t)n;
}

static int l_pool_set(lua_State *L) {
  sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  uint32_t pool = check_pool(L, 2, sb);
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_Number generation, max, revision;
  bool has_generation = number_field(L, 3, "generation", 0, MAX_WHOLE, &generation);
  bool has_max = number_field(L, 3, "max_connections", 0, HUGE_VAL, &max);
  bool has_revision = number_field(L, 3, "revision", 0, MAX_WHOLE, &revision);
  if (has_revision) sd_scoreboard_set_revision(sb, pool, (uint64_t)revision);
  if (has_max) sd_scoreboard_set_max(sb, pool, to_max(max));
  if (has_generation) sd_scoreboard_set_generation(sb, pool, (uint64_t)generation);
  return 0;
}

/* Only the reasons that there were. */
static void set_rejected_by(lua_State *L, const sd_pool_view *pool) {
  lua_newtable(L);
  for (int i = 0; i < SD_REJECT_REASONS; i++)
    if (pool->rejected_by[i] > 0) set_number(L, sd_reject_name((sd_reject)i), (double)pool->rejected_by[i]);
  lua_setfield(L, -2, "rejected_by");
}

/* The network in field `name`, packed as sd_l_split_from unpacks it. */
static sd_split_network network_field(lua_State *L, int arg, const char *name) {
  sd_split_network packed = { .form = 0 };
  sd_network network;
  sd_net_error error;
  size_t length;
  lua_getfield(L, arg, name);
  const char *text = luaL_optlstring(L, -1, NULL, &length);
  if (text != NULL && sd_network_parse(&network, text, length, &error) != 0) luaL_error(L, "%s: %s", name, error.text);
  if (text != NULL) {
    memcpy(packed.words, network.bytes, sizeof packed.words);
    packed.form = (uint32_t)network.size << 8 | network.bits;
  }
  lua_pop(L, 1);
  return packed;
}

sd_network sd_l_split_from(const sd_split_look *look) {
  sd_network network = { .bits = (uint8_t)look->from.form, .size = (uint8_t)(look->from.form >> 8) };
  memcpy(network.bytes, look->from.words, sizeof network.bytes);
  return network;
}

static double share_field(lua_State *L, int arg) {
  lua_getfield(L, arg, "share");
  double share = luaL_optnumber(L, -1, 0);
  if (!(share >= 0 && share <= 1)) luaL_error(L, "share is out of range");
  lua_pop(L, 1);
  return share;
}

/* pool_canary(pool, { generation=, share=, from= }): a canary begins;
 * pool_canary(pool): it is taken back. */
static int l_pool_canary(lua_State *L) {
  const sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  sd_scoreboard_pool *pool = &sb->pools[check_pool(L, 2, sb)];
  if (lua_isnoneornil(L, 3)) {
    sd_split_end(&pool->split);
    return 0;
  }
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_Number generation = needed_field(L, 3, "generation", 1, MAX_WHOLE);
  double share = share_field(L, 3);
  sd_split_network from = network_field(L, 3, "from");
  sd_split_begin(&pool->split, &pool->trial, (uint64_t)generation, (uint32_t)(share * SD_SPLIT_WHOLE + 0.5), &from);
  return 0;
}

/* pool_watch(pool, generation): counts anew, for this one; 0: for none. */
static int l_pool_watch(lua_State *L) {
  const sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  uint32_t pool = check_pool(L, 2, sb);
  lua_Number generation = luaL_checknumber(L, 3);
  luaL_argcheck(L, generation >= 0 && generation <= MAX_WHOLE, 3, "no generation");
  sd_trial_watch(sd_scoreboard_trial(sb, pool), (uint64_t)generation);
  return 0;
}

/* pool_trial(pool) → { generation=, served=, failed= } */
static int l_pool_trial(lua_State *L) {
  const sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  const sd_trial *trial = sd_scoreboard_trial(sb, check_pool(L, 2, sb));
  lua_createtable(L, 0, 3);
  set_number(L, "generation", (double)atomic_load(&trial->watched));
  set_number(L, "served", (double)atomic_load(&trial->served));
  set_number(L, "failed", (double)atomic_load(&trial->failed));
  return 1;
}

static int push_pool(lua_State *L, const sd_pool_view *pool) {
  bool unlimited = pool->max == SD_SCOREBOARD_UNLIMITED;
  lua_createtable(L, 0, 12);
  set_string(L, "name", pool->name);
  set_boolean(L, "open", pool->open);
  set_number(L, "generation", (double)pool->generation);
  set_number(L, "max_connections", unlimited ? HUGE_VAL : (double)pool->max);
  set_number(L, "reserved", (double)pool->reserved);
  set_number(L, "connections", (double)pool->connections);
  set_number(L, "accepted", (double)pool->accepted);
  set_number(L, "closed", (double)pool->closed);
  set_number(L, "preempted", (double)pool->preempted);
  set_number(L, "rejected", (double)pool->rejected);
  set_number(L, "part_errors", (double)pool->part_errors);
  set_rejected_by(L, pool);
  return 1;
}

static int l_pool(lua_State *L) {
  sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  sd_pool_view pool;
  sd_scoreboard_pool_read(sb, check_pool(L, 2, sb), &pool);
  return push_pool(L, &pool);
}

static int l_pool_slot(lua_State *L) {
  sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  uint32_t index = check_pool(L, 2, sb);
  uint32_t slot = check_slot(L, 3, sb);
  sd_pool_view pool;
  sd_scoreboard_pool_slot_read(sb, index, slot, &pool);
  return push_pool(L, &pool);
}

/* ---- the worker's own slot ---- */

static int l_beat(lua_State *L) {
  sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  lua_Number lag = luaL_optnumber(L, 2, 0);
  luaL_argcheck(L, lag >= 0 && lag < 1e9, 2, "no span of seconds");
  check_has_slot(L, sb);
  sd_scoreboard_beat(sb, (uint64_t)(lag * 1e9));
  return 0;
}

static int l_loading(lua_State *L) {
  sd_scoreboard *sb = sd_l_check_scoreboard(L, 1);
  luaL_checktype(L, 2, LUA_TBOOLEAN);
  check_has_slot(L, sb);
  sd_scoreboard_loading(sb, lua_toboolean(L, 2));
  return 0;
}

/* ---- the whole ---- */

static int l_fd(lua_State *L) {
  lua_pushinteger(L, sd_l_check_scoreboard(L, 1)->fd);
  return 1;
}

static int l_bell(lua_State *L) {
  lua_pushinteger(L, sd_l_check_scoreboard(L, 1)->bell);
  return 1;
}

static int l_ring(lua_State *L) {
  sd_scoreboard_ring(sd_l_check_scoreboard(L, 1));
  return 0;
}

static int l_close(lua_State *L) {
  sd_scoreboard *sb = luaL_checkudata(L, 1, METATABLE);
  if (sb == own) forget_own();
  sd_scoreboard_close(sb);
  return 0;
}

static int l_tostring(lua_State *L) {
  sd_scoreboard *sb = luaL_checkudata(L, 1, METATABLE);
  lua_pushfstring(L, "scoreboard (%d slots, %d pools)", (int)sb->nslots, (int)sb->npools);
  return 1;
}

static int create(lua_State *L, sd_scoreboard *sb) {
  uint32_t slots = (uint32_t)needed_field(L, 1, "slots", 1, 1 << 16);
  uint32_t pools = (uint32_t)needed_field(L, 1, "pools", 1, 1 << 16);
  return sd_scoreboard_create(sb, slots, pools);
}

static int attach(lua_State *L, sd_scoreboard *sb) {
  int fd = (int)needed_field(L, 1, "fd", 0, INT32_MAX);
  int bell = (int)needed_field(L, 1, "bell", 0, INT32_MAX);
  lua_Number slot = SD_SCOREBOARD_NO_SLOT;
  bool named = number_field(L, 1, "slot", 0, 1 << 16, &slot);
  int err = sd_scoreboard_attach(sb, fd, bell, (uint32_t)slot);
  if (err == 0 && named) make_own(L, -1, sb);
  return err;
}

/* scoreboard{ slots=, pools= } makes one; scoreboard{ fd=, bell=, slot= } joins
 * one, and leaves both descriptors to the caller, who keeps them open. */
static int l_scoreboard(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_getfield(L, 1, "fd");
  bool joins = !lua_isnil(L, -1);
  lua_pop(L, 1);
  sd_scoreboard *sb = lua_newuserdata(L, sizeof *sb);
  *sb = (sd_scoreboard){ .fd = -1, .bell = -1, .slot = SD_SCOREBOARD_NO_SLOT };
  luaL_getmetatable(L, METATABLE);
  lua_setmetatable(L, -2);
  int err = joins ? attach(L, sb) : create(L, sb);
  return err ? push_failure(L, err) : 1;
}

static const luaL_Reg methods[] = {
  { "slot_set", l_slot_set },
  { "slot", l_slot },
  { "slot_reap", l_slot_reap },
  { "order", l_order },
  { "order_collect", l_order_collect },
  { "collected", l_collected },
  { "answer", l_answer },
  { "pool_open", l_pool_open },
  { "pool_close", l_pool_close },
  { "pool_set", l_pool_set },
  { "pool_canary", l_pool_canary },
  { "pool_watch", l_pool_watch },
  { "pool_trial", l_pool_trial },
  { "pool", l_pool },
  { "pool_slot", l_pool_slot },
  { "beat", l_beat },
  { "loading", l_loading },
  { "fd", l_fd },
  { "bell", l_bell },
  { "ring", l_ring },
  { "close", l_close },
  { "__gc", l_close },
  { "__tostring", l_tostring },
  { NULL, NULL },
};

void sd_l_scoreboard_register(lua_State *L) {
  luaL_newmetatable(L, METATABLE);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  luaL_register(L, NULL, methods);
  lua_pop(L, 1);
  lua_pushcfunction(L, l_scoreboard);
  lua_setfield(L, -2, "scoreboard");
}
