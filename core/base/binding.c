/* Which process serves a connection that one of them has just accepted. */
#include "base/binding.h"

#include <string.h>

/* Fewer are not worth the way, and neither is less than a quarter more. */
enum { WORTH_IT = 16, PART = 4 };

enum { LOOKS = 8 }; /* at others, for an accept that probably stays */

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

static void forget(sd_reach *reach, uint32_t i) {
  uint32_t after = --reach->count - i;
  memmove(&reach->others[i], &reach->others[i + 1], after * sizeof *reach->others);
  memmove(&reach->loops[i], &reach->loops[i + 1], after * sizeof *reach->loops);
}

static void insert(sd_reach *reach, sd_scoreboard_party party, int32_t loop) {
  uint32_t i = reach->count++;
  for (; i > 0 && reach->loops[i - 1] > loop; i--) {
    reach->others[i] = reach->others[i - 1];
    reach->loops[i] = reach->loops[i - 1];
  }
  reach->others[i] = party;
  reach->loops[i] = loop;
}

void sd_reach_set(sd_reach *reach, sd_scoreboard_party party, int32_t loop) {
  uint32_t i = 0;
  while (i < reach->count && reach->others[i].slot != party.slot) i++;
  if (i < reach->count) forget(reach, i);
  if (party.pid != 0 && reach->count < SD_REACH) insert(reach, party, loop);
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

static bool is_worth_it(const question *q, sd_scoreboard_party party) {
  uint64_t ours = connections(q, ourselves(q)), theirs = connections(q, party);
  return ours >= theirs + WORTH_IT && ours > theirs + theirs / PART;
}

static sd_scoreboard_party fewest_if_worth_it(const question *q) {
  sd_scoreboard_party best = fewest(q, true);
  return is_worth_it(q, best) ? best : ourselves(q);
}

/* Each accept looks at the next few of them. */
static bool some_are_worth_it(const question *q) {
  uint32_t count = q->reach->count;
  uint64_t first = sd_scoreboard_accepted(q->sb, q->pool) * LOOKS;
  sd_scoreboard_party party;
  if (connections(q, ourselves(q)) < WORTH_IT) return false;
  for (uint32_t i = 0; i < count && i < LOOKS; i++)
    if (candidate(q, 1 + (uint32_t)((first + i) % count), &party) && accepts(q, party) && is_worth_it(q, party))
      return true;
  return false;
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

/* The candidate among the others that has so many others before it. */
static sd_scoreboard_party other_at(const question *q, uint32_t place) {
  sd_scoreboard_party party;
  for (uint32_t i = 1; i <= q->reach->count; i++)
    if (candidate(q, i, &party) && place-- == 0) return party;
  return ourselves(q);
}

/* Processors go round the loops, in the order of their numbers. */
static sd_scoreboard_party of_cpu(const question *q) {
  sd_scoreboard_party party;
  uint32_t all = 1, lower = 0;
  if (q->cpu < 0) return ourselves(q);
  for (uint32_t i = 1; i <= q->reach->count; i++) {
    if (!candidate(q, i, &party)) continue;
    all++;
    if (q->reach->loops[i - 1] < loop_of(q, ourselves(q))) lower++;
  }
  uint32_t place = (uint32_t)q->cpu % all;
  if (place == lower) return ourselves(q);
  return other_at(q, place < lower ? place : place - 1);
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
  return binding->kind != SD_BINDING_AUTO || some_are_worth_it(&q);
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
