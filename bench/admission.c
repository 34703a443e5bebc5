/* What the shared counters cost a connection that comes and goes, by the policy that chooses who serves it.
 *
 *   admission LOOPS
 *
 * So many loops are in service, as many connections in each; this process is one of them, and nobody else does
 * anything, so every line is in its caches. A line for each policy: nanoseconds for a place claimed, assigned, counted
 * and given back. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/binding.h"

enum { TIMES = 200000, PIDS = 1000 };

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static sd_scoreboard_party party(uint32_t slot) {
  return (sd_scoreboard_party){ slot, PIDS + (int32_t)slot };
}

static void open_loops(sd_scoreboard *sb, uint32_t loops) {
  sd_scoreboard_create(sb, 4 * loops + 64, 66);
  sd_scoreboard_pool_open(sb, 0, "bench");
  for (uint32_t i = 0; i < loops; i++) {
    sb->slots[i].pid = party(i).pid;
    sb->slots[i].loop = (int32_t)i + 1;
    sb->slots[i].state = SD_SLOT_RUNNING;
    sd_scoreboard_counters_of(sb, i, 0)->accepting = 1;
    sd_scoreboard_counters_of(sb, i, 0)->connections = 100; /* nobody is worth the way */
  }
}

static void join(const sd_scoreboard *sb, sd_scoreboard *mine, sd_reach *reach, uint32_t loops) {
  sd_scoreboard_attach(mine, sb->fd, sb->bell, 0);
  for (uint32_t i = 1; i < loops; i++) sd_reach_set(reach, party(i), sb->slots[i].loop);
}

/* One connection that comes and goes. Whoever it is given to ends it at once. */
static void come_and_go(sd_scoreboard *sb, const sd_binding *binding, const sd_reach *reach, int cpu) {
  sd_scoreboard_party to = { sb->slot, 0 };
  sd_scoreboard_reserve(sb, 0);
  if (sd_binding_matters(sb, 0, binding, reach))
    to = sd_binding_assign(sb, 0, binding, reach, cpu);
  else
    sd_scoreboard_count_accepted(sb, 0);
  uint32_t own = sb->slot;
  sb->slot = to.slot;
  sd_scoreboard_count_closed(sb, 0);
  sd_scoreboard_release(sb, 0);
  sb->slot = own;
}

static double measure(const sd_scoreboard *sb, const char *name, uint32_t loops) {
  static sd_reach reach;
  sd_scoreboard mine;
  sd_binding binding = { (sd_binding_kind)sd_binding_named(name), 0 };
  reach.count = 0;
  join(sb, &mine, &reach, loops);
  for (int i = 0; i < TIMES / 10; i++) come_and_go(&mine, &binding, &reach, i % 64);
  uint64_t begun = now();
  for (int i = 0; i < TIMES; i++) come_and_go(&mine, &binding, &reach, i % 64);
  double each = (double)(now() - begun) / TIMES;
  sd_scoreboard_close(&mine);
  return each;
}

int main(int argc, char **argv) {
  static const char *const names[] = { "kernel", "auto", "least_connections", "round_robin", "cpu" };
  uint32_t loops = argc > 1 ? (uint32_t)atoi(argv[1]) : 1;
  if (loops == 0) return 2;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    sd_scoreboard sb;
    open_loops(&sb, loops);
    printf("%s %.0f\n", names[i], measure(&sb, names[i], loops));
    sd_scoreboard_close(&sb);
  }
  return 0;
}
