/* Which entries of a segment expire, and which is next: a binary heap of their
 * numbers. Each entry knows its place, counted from 1. */
#include "base/segment.h"

static uint64_t due(const sd_segment *s, uint32_t place) {
  return sd_entry_at(s, s->deadlines[place - 1])->expires;
}

static void put(const sd_segment *s, uint32_t place, uint32_t entry) {
  s->deadlines[place - 1] = entry;
  sd_entry_at(s, entry)->place = place;
}

static void swap(const sd_segment *s, uint32_t a, uint32_t b) {
  uint32_t one = s->deadlines[a - 1], other = s->deadlines[b - 1];
  put(s, a, other);
  put(s, b, one);
}

static void rise(const sd_segment *s, uint32_t place) {
  for (; place > 1 && due(s, place) < due(s, place / 2); place /= 2) swap(s, place, place / 2);
}

static void sink(const sd_segment *s, uint32_t place) {
  uint32_t n = s->head->ndeadlines;
  for (;;) {
    uint32_t first = place;
    for (uint32_t child = 2 * place; child <= 2 * place + 1 && child <= n; child++)
      if (due(s, child) < due(s, first)) first = child;
    if (first == place) return;
    swap(s, place, first);
    place = first;
  }
}

void sd_deadlines_add(const sd_segment *s, uint32_t entry) {
  put(s, ++s->head->ndeadlines, entry);
  rise(s, s->head->ndeadlines);
}

void sd_deadlines_remove(const sd_segment *s, uint32_t entry) {
  uint32_t place = sd_entry_at(s, entry)->place, last = s->head->ndeadlines;
  if (place == 0) return;
  sd_entry_at(s, entry)->place = 0;
  s->head->ndeadlines--;
  if (place == last) return;
  put(s, place, s->deadlines[last - 1]);
  rise(s, place);
  sink(s, place);
}

void sd_deadlines_move(const sd_segment *s, uint32_t entry) {
  sd_entry *e = sd_entry_at(s, entry);
  if (e->expires == 0 || e->place == 0) {
    sd_deadlines_remove(s, entry);
    if (e->expires != 0) sd_deadlines_add(s, entry);
    return;
  }
  rise(s, e->place);
  sink(s, e->place);
}
