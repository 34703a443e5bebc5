/* Whose turn it is in the line for a free place: its process is told, and no other.
 *
 * Who has given a place back says so over the mesh. The bell would wake all processes,
 * and with many loops each place would cost all of them a look. It still rings where
 * the mesh does not reach, and when somebody lets a place lie. */
#include "l_pool.h"

enum { LOOK_AGAIN = SD_SCOREBOARD_PATIENCE / 1000000 + 1 };

static sd_ref on_turn = LUA_NOREF;
static sd_timer reminder;

static void run_own_turn(sd_deferred *deferred) {
  (void)deferred;
  sd_l_pool_each(sd_l_accept_try);
}

static sd_deferred own_turn = { .run = run_own_turn };

static void tell_other(uint32_t slot) {
  lua_State *co = sd_task_calling(on_turn);
  lua_pushinteger(co, (lua_Integer)slot);
  sd_task_spawn(co, 1, NULL);
}

static void expect(void) {
  sd_loop *loop = &sd_the_vm.loop;
  if (!sd_timer_armed(&reminder)) sd_loop_arm(loop, &reminder, sd_loop_now(loop) + LOOK_AGAIN);
}

static void tell(uint32_t slot) {
  sd_loop *loop = &sd_the_vm.loop;
  if (slot == sd_the_vm.scoreboard->slot)
    sd_loop_defer(loop, &own_turn);
  else if (on_turn != LUA_NOREF)
    tell_other(slot);
  else
    sd_scoreboard_ring(sd_the_vm.scoreboard);
  expect();
}

static void remind(l_pool *pool) {
  sd_scoreboard *sb = sd_the_vm.scoreboard;
  sd_turn turn = sd_scoreboard_turn(sb, pool->index, sd_scoreboard_clock());
  if (turn == SD_TURN_FORSAKEN) sd_scoreboard_ring(sb);
  if (turn == SD_TURN_TOLD) expect();
}

static void on_reminder(sd_timer *timer) {
  (void)timer;
  sd_l_pool_each(remind);
}

void sd_l_turn_begin(void) {
  reminder.fire = on_reminder;
  sd_the_vm.scoreboard->tell = tell;
}

/* on_turn(fn): fn(slot) has to tell the process there that it is its turn. */
static int l_on_turn(lua_State *L) {
  on_turn = sd_vm_keep(L, 1, on_turn);
  return 0;
}

/* turn(): it is ours. */
static int l_turn(lua_State *L) {
  (void)L;
  sd_loop_defer(&sd_the_vm.loop, &own_turn);
  return 0;
}

/* ring(): all are to look whether it is theirs. */
static int l_ring(lua_State *L) {
  (void)L;
  if (sd_the_vm.scoreboard != NULL) sd_scoreboard_ring(sd_the_vm.scoreboard);
  return 0;
}

void sd_l_turn_register(lua_State *L);

void sd_l_turn_register(lua_State *L) {
  static const luaL_Reg functions[] = { { "on_turn", l_on_turn }, { "turn", l_turn }, { "ring", l_ring },
    { NULL, NULL } };
  luaL_register(L, NULL, functions);
}
