/* Which process serves a connection that one of them has just accepted. */
#include "base/binding.h"

#include <string.h>

/* Fewer are not worth the way, and neither is less than a quarter more. */
enum { WORTH_IT = 16, PART = 4 };

static const char *const names[] = {
  [SD_BINDING_KERNEL] = "kernel",
  [SD_BINDING_AUTO] = "auto",
  [SD_BINDING_LEAST_CONNECTIONS] = "least_connections",
  [SD_BINDING_ROUND_ROBIN] = "round_robin",
  [SD_BINDING_CPU] = "cpu",
};

int sd_binding_named(const char *name) {
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(names[i], name) == 0) return (int)i;
  return -1;
}

void sd_reach_set(sd_reach *reach, sd_scoreboard_party party) {
  uint32_t i = 0;
  while (i < reach->count && reach->others[i].slot != party.slot) i++;
  if (party.pid != 0 && i < SD_REACH) {
    reach->others[i] = party;
    if (i == reach->count) reach->count++;
  } else if (party.pid == 0 && i < reach->count) {
    reach->others[i] = reach->others[--reach->count];
  }
}

/* ---- choosing ---- */

typedef struct {
  const sd_scoreboard *sb;
  uint32_t pool;
  const sd_binding *binding;
  const sd_reach *reach;
  int cpu;
} question;

static sd_scoreboard_party ourselves(const question *q) {
  return (sd_scoreboard_party){ q->sb->slot, q->sb->slots[q->sb->slot].pid };
}

/* The candidates: we, then the others that serve. */
static bool candidate(const question *q, uint32_t i, sd_scoreboard_party *out) {
  *out = i == 0 ? ourselves(q) : q->reach->others[i - 1];
  const sd_scoreboard_slot *slot = &q->sb->slots[out->slot];
  return i == 0 || (slot->state == SD_SLOT_RUNNING && slot->pid == out->pid);
}

static uint64_t connections(const question *q, sd_scoreboard_party party) {
  return sd_scoreboard_counters_of(q->sb, party.slot, q->pool)->connections;
}

static bool accepts(const question *q, sd_scoreboard_party party) {
  return sd_scoreboard_counters_of(q->sb, party.slot, q->pool)->accepting > 0;
}

static int32_t loop_of(const question *q, sd_scoreboard_party party) {
  return q->sb->slots[party.slot].loop;
}

static sd_scoreboard_party fewest(const question *q, bool acceptors_only) {
  sd_scoreboard_party best = ourselves(q), party;
  for (uint32_t i = 1; i <= q->reach->count; i++) {
    if (!candidate(q, i, &party) || (acceptors_only && !accepts(q, party))) continue;
    if (connections(q, party) < connections(q, best)) best = party;
  }
  return best;
}

static sd_scoreboard_party fewest_if_worth_it(const question *q) {
  sd_scoreboard_party best = fewest(q, true);
  uint64_t ours = connections(q, ourselves(q)), least = connections(q, best);
  return ours >= least + WORTH_IT && ours > least + least / PART ? best : ourselves(q);
}

/* The next higher loop number after the last one, and the lowest after the highest. */
static sd_scoreboard_party next_in_turn(const question *q, uint32_t *turn) {
  sd_scoreboard_party party, next = ourselves(q), first = next;
  bool found = false;
  for (uint32_t i = 0; i <= q->reach->count; i++) {
    if (!candidate(q, i, &party)) continue;
    int32_t loop = loop_of(q, party);
    if (loop < loop_of(q, first)) first = party;
    if (loop <= (int32_t)*turn || (found && loop > loop_of(q, next))) continue;
    next = party;
    found = true;
  }
  if (!found) next = first;
  *turn = (uint32_t)loop_of(q, next);
  return next;
}

static sd_scoreboard_party of_loop(const question *q, int32_t loop) {
  sd_scoreboard_party party;
  for (uint32_t i = 0; i <= q->reach->count; i++)
    if (candidate(q, i, &party) && loop_of(q, party) == loop) return party;
  return ourselves(q);
}

static uint32_t lower_loops(const question *q, int32_t loop, uint32_t *all) {
  sd_scoreboard_party party;
  uint32_t lower = 0;
  *all = 0;
  for (uint32_t i = 0; i <= q->reach->count; i++) {
    if (!candidate(q, i, &party)) continue;
    ++*all;
    if (loop_of(q, party) < loop) lower++;
  }
  return lower;
}

/* Processors go round the loops, in the order of their numbers. */
static sd_scoreboard_party of_cpu(const question *q) {
  sd_scoreboard_party party;
  uint32_t all;
  for (uint32_t i = 0; q->cpu >= 0 && i <= q->reach->count; i++)
    if (candidate(q, i, &party) && lower_loops(q, loop_of(q, party), &all) == (uint32_t)q->cpu % all) return party;
  return ourselves(q);
}

static sd_scoreboard_party choose(uint32_t *turn, const void *arg) {
  const question *q = arg;
  switch (q->binding->kind) {
    case SD_BINDING_AUTO:
      return fewest_if_worth_it(q);
    case SD_BINDING_LEAST_CONNECTIONS:
      return fewest(q, false);
    case SD_BINDING_ROUND_ROBIN:
      return next_in_turn(q, turn);
    case SD_BINDING_CPU:
      return of_cpu(q);
    case SD_BINDING_LOOP:
      return of_loop(q, q->binding->loop);
    case SD_BINDING_KERNEL:
      break;
  }
  return ourselves(q);
}

bool sd_binding_matters(const sd_scoreboard *sb, uint32_t pool, const sd_binding *binding, const sd_reach *reach) {
  question q = { sb, pool, binding, reach, -1 };
  if (binding->kind == SD_BINDING_KERNEL || reach->count == 0) return false;
  return binding->kind != SD_BINDING_AUTO || fewest_if_worth_it(&q).slot != sb->slot;
}

sd_scoreboard_party sd_binding_assign(
  sd_scoreboard *sb, uint32_t pool, const sd_binding *binding, const sd_reach *reach, int cpu) {
  question q = { sb, pool, binding, reach, cpu };
  return sd_scoreboard_assign(sb, pool, choose, &q);
}

bool sd_binding_refuge(const sd_scoreboard *sb, uint32_t pool, const sd_reach *reach, sd_scoreboard_party *to) {
  question q = { sb, pool, NULL, reach, -1 };
  sd_scoreboard_party party;
  bool found = false;
  for (uint32_t i = 1; i <= reach->count; i++) {
    if (!candidate(&q, i, &party) || (found && connections(&q, party) >= connections(&q, *to))) continue;
    *to = party;
    found = true;
  }
  return found;
}
