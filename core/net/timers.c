/* The heap of deadlines. */
#include "timers.h"

#include <errno.h>
#include <stdlib.h>

/* Among those for the same moment, the ones armed first. */
static bool before(const sd_timer *a, const sd_timer *b) {
  if (a->when != b->when) return a->when < b->when;
  return (int32_t)(a->round - b->round) < 0;
}

static void put(sd_timers *t, uint32_t place, sd_timer *timer) {
  t->heap[place] = timer;
  timer->place = place;
}

static void rise(sd_timers *t, uint32_t place, sd_timer *timer) {
  while (place > 1 && before(timer, t->heap[place / 2])) {
    put(t, place, t->heap[place / 2]);
    place /= 2;
  }
  put(t, place, timer);
}

static void sink(sd_timers *t, uint32_t place, sd_timer *timer) {
  for (;;) {
    uint32_t child = place * 2;
    if (child > t->count) break;
    if (child < t->count && before(t->heap[child + 1], t->heap[child])) child++;
    if (!before(t->heap[child], timer)) break;
    put(t, place, t->heap[child]);
    place = child;
  }
  put(t, place, timer);
}

static int make_room(sd_timers *t) {
  if (t->count + 1 < t->capacity) return 0; /* place 0 stays unused */
  uint32_t capacity = t->capacity ? t->capacity * 2 : 64;
  sd_timer **heap = realloc(t->heap, capacity * sizeof *heap);
  if (heap == NULL) return -ENOMEM;
  t->heap = heap;
  t->capacity = capacity;
  return 0;
}

static void move(sd_timers *t, sd_timer *timer, uint64_t when) {
  sd_timer was = *timer;
  timer->when = when;
  timer->round = t->round;
  if (before(timer, &was))
    rise(t, timer->place, timer);
  else
    sink(t, timer->place, timer);
}

int sd_timers_arm(sd_timers *t, sd_timer *timer, uint64_t when) {
  if (when < t->now) when = t->now;
  if (timer->place != 0) {
    move(t, timer, when);
    return 0;
  }
  int err = make_room(t);
  if (err) return err;
  timer->when = when;
  timer->round = t->round;
  rise(t, ++t->count, timer);
  return 0;
}

void sd_timers_disarm(sd_timers *t, sd_timer *timer) {
  uint32_t place = timer->place;
  if (place == 0) return;
  timer->place = 0;
  sd_timer *last = t->heap[t->count--];
  if (last == timer) return;
  if (place > 1 && before(last, t->heap[place / 2]))
    rise(t, place, last);
  else
    sink(t, place, last);
}

uint64_t sd_timers_next(const sd_timers *t) {
  return t->count ? t->heap[1]->when : UINT64_MAX;
}

void sd_timers_run(sd_timers *t, uint64_t now) {
  uint32_t round = ++t->round;
  t->now = now;
  while (t->count > 0 && t->heap[1]->when <= now) {
    sd_timer *timer = t->heap[1];
    if (timer->round == round) break; /* armed meanwhile, and so are all behind it that are due */
    sd_timers_disarm(t, timer);
    timer->fire(timer);
  }
}

void sd_timers_free(sd_timers *t) {
  free(t->heap);
  *t = (sd_timers){ 0 };
}
