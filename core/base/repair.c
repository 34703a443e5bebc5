/* A segment after a process has died with its lock: everything that is derived is made
 * anew from the buckets and the chains behind them. Who dies of a kill in the middle of
 * this leaves the same truth behind, and the next one begins again. */
#include <string.h>

#include "base/segment.h"

static bool has_bit(const uint64_t *bits, uint32_t chunk) {
  return bits[(chunk - 1) / 64] >> (chunk - 1) % 64 & 1;
}

static void set_bit(uint64_t *bits, uint32_t chunk) {
  bits[(chunk - 1) / 64] |= UINT64_C(1) << (chunk - 1) % 64;
}

static void clear_bit(uint64_t *bits, uint32_t chunk) {
  bits[(chunk - 1) / 64] &= ~(UINT64_C(1) << (chunk - 1) % 64);
}

static void clear_bits(const sd_segment *s, uint64_t *bits) {
  memset(bits, 0, (s->head->top / 64 + 1) * sizeof *bits);
}

/* ---- what is there ---- */

/* Marks the chunks of an entry. */
static uint32_t mark(const sd_segment *s, uint32_t entry) {
  uint32_t count = 0;
  for (uint32_t n = entry; n != 0; n = s->chunks[n - 1].rest.next, count++) set_bit(s->marks, n);
  set_bit(s->firsts, entry);
  return count;
}

static uint32_t mark_all(const sd_segment *s) {
  uint32_t used = 0;
  clear_bits(s, s->marks);
  clear_bits(s, s->firsts);
  for (uint32_t b = 0; b < s->nbuckets; b++)
    for (uint32_t n = s->buckets[b]; n != 0; n = sd_entry_at(s, n)->chain) used += mark(s, n);
  return used;
}

/* ---- what follows from it ---- */

static void free_the_rest(const sd_segment *s) {
  sd_segment_head *h = s->head;
  h->free = h->nfree = 0;
  for (uint32_t n = h->top; n > 0; n--) {
    if (has_bit(s->marks, n)) continue;
    s->chunks[n - 1].rest.next = h->free;
    h->free = n;
    h->nfree++;
  }
}

static uint32_t append(const sd_segment *s, uint32_t last, uint32_t entry) {
  sd_entry *e = sd_entry_at(s, entry);
  e->newer = last;
  e->older = 0;
  *(last != 0 ? &sd_entry_at(s, last)->older : &s->head->newest) = entry;
  clear_bit(s->firsts, entry);
  return entry;
}

/* The old order as far as it goes; it may break off where somebody was changing it. */
static void order_again(const sd_segment *s) {
  uint32_t next = s->head->newest, last = 0;
  s->head->newest = 0;
  while (next != 0 && next <= s->head->top && has_bit(s->firsts, next)) {
    uint32_t entry = next;
    next = sd_entry_at(s, entry)->older;
    last = append(s, last, entry);
  }
  for (uint32_t n = 1; n <= s->head->top; n++)
    if (has_bit(s->firsts, n)) last = append(s, last, n);
  s->head->oldest = last;
}

static void index_again(const sd_segment *s) {
  s->head->ndeadlines = 0;
  s->head->count = s->head->owned = 0;
  memset(s->owners, 0, s->nowners * sizeof *s->owners);
  for (uint32_t n = s->head->newest; n != 0; n = sd_entry_at(s, n)->older) sd_entries_index(s, n);
}

void sd_segment_repair(const sd_segment *s) {
  s->head->repairing = 1;
  sd_entries_finish_journal(s);
  s->head->used = mark_all(s);
  free_the_rest(s);
  order_again(s);
  index_again(s);
  s->head->repairing = 0;
}

/* ---- a look at the result ---- */

static bool use_is_sound(const sd_segment *s) {
  uint32_t count = 0, last = 0;
  for (uint32_t n = s->head->newest; n != 0; last = n, n = sd_entry_at(s, n)->older) {
    if (!has_bit(s->firsts, n) || sd_entry_at(s, n)->newer != last || ++count > s->head->count) return false;
  }
  return count == s->head->count && s->head->oldest == last;
}

static bool deadlines_are_sound(const sd_segment *s) {
  uint32_t with = 0;
  for (uint32_t n = s->head->newest; n != 0; n = sd_entry_at(s, n)->older) with += sd_entry_at(s, n)->expires != 0;
  if (with != s->head->ndeadlines) return false;
  for (uint32_t place = 1; place <= with; place++) {
    const sd_entry *e = sd_entry_at(s, s->deadlines[place - 1]);
    if (e->place != place || e->expires == 0) return false;
    if (place > 1 && sd_entry_at(s, s->deadlines[place / 2 - 1])->expires > e->expires) return false;
  }
  return true;
}

static bool owners_are_sound(const sd_segment *s) {
  uint32_t owned = 0;
  for (uint32_t b = 0; b < s->nowners; b++)
    for (uint32_t n = s->owners[b]; n != 0; n = sd_entry_at(s, n)->co_owned)
      if (!sd_entry_at(s, n)->owned || ++owned > s->head->owned) return false;
  return owned == s->head->owned;
}

static bool free_is_sound(const sd_segment *s) {
  uint32_t count = 0;
  for (uint32_t n = s->head->free; n != 0; n = s->chunks[n - 1].rest.next)
    if (has_bit(s->marks, n) || ++count > s->head->nfree) return false;
  return count == s->head->nfree && s->head->used + count == s->head->top;
}

bool sd_segment_is_sound(const sd_segment *s) {
  return mark_all(s) == s->head->used && use_is_sound(s) && deadlines_are_sound(s) && owners_are_sound(s) &&
         free_is_sound(s);
}
