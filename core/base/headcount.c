/* How many connections each network has, over all processes. */
#include "base/headcount.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum { LISTS = SD_HEADCOUNT_NETWORKS, LOOKS = 64 /* for an entry to reuse */ };

/* Entries are named by their number, counted from 1: 0 is none. */
typedef struct {
  sd_headcount_key key;
  uint64_t bucket;
  uint32_t total;
  uint32_t next; /* in its list */
} entry;

struct sd_headcount {
  uint32_t top;  /* so many entries were ever used */
  uint32_t hand; /* where the search for one to reuse goes on */
  uint32_t lists[LISTS];
  entry entries[SD_HEADCOUNT_NETWORKS];
  uint16_t held[]; /* a row of slots for each entry: the truth */
};

size_t sd_headcount_size(uint32_t slots) {
  return sizeof(sd_headcount) + (size_t)SD_HEADCOUNT_NETWORKS * slots * sizeof(uint16_t);
}

static entry *entry_of(sd_headcount *h, uint32_t n) {
  return &h->entries[n - 1];
}

static uint16_t *held(sd_headcount *h, uint32_t slots, uint32_t n, uint32_t slot) {
  return &h->held[(size_t)(n - 1) * slots + slot];
}

static uint32_t *list_of(sd_headcount *h, const sd_headcount_key *key, uint64_t seed) {
  uint64_t x = seed;
  for (int i = 0; i < 3; i++) {
    x = (x ^ key->words[i]) * UINT64_C(0x9e3779b97f4a7c15);
    x ^= x >> 29;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 32;
  }
  return &h->lists[x % LISTS];
}

static bool is_key(const entry *e, const sd_headcount_key *key) {
  return memcmp(&e->key, key, sizeof *key) == 0;
}

static uint32_t find(sd_headcount *h, const sd_headcount_key *key, uint64_t seed) {
  uint32_t n = *list_of(h, key, seed);
  while (n != 0 && !is_key(entry_of(h, n), key)) n = entry_of(h, n)->next;
  return n;
}

static void link_entry(sd_headcount *h, uint32_t n, uint64_t seed) {
  uint32_t *list = list_of(h, &entry_of(h, n)->key, seed);
  entry_of(h, n)->next = *list;
  *list = n;
}

static void unlink_entry(sd_headcount *h, uint32_t n, uint64_t seed) {
  uint32_t *link = list_of(h, &entry_of(h, n)->key, seed);
  while (*link != 0 && *link != n) link = &entry_of(h, *link)->next;
  if (*link == n) *link = entry_of(h, n)->next;
}

/* One that nobody holds: rather one whose bucket is full again, since nothing is
 * forgotten with it; of those in a hurry the one that will be first. */
static uint32_t find_spare(sd_headcount *h, uint64_t now) {
  uint32_t best = 0;
  for (int look = 0; look < LOOKS; look++) {
    h->hand = h->hand % SD_HEADCOUNT_NETWORKS + 1;
    entry *e = entry_of(h, h->hand);
    if (e->total > 0) continue;
    if (e->bucket <= now) return h->hand;
    if (best == 0 || e->bucket < entry_of(h, best)->bucket) best = h->hand;
  }
  return best;
}

static uint32_t add(sd_headcount *h, const sd_headcount_key *key, uint64_t seed, uint64_t now) {
  uint32_t n = 0;
  if (h->top < SD_HEADCOUNT_NETWORKS)
    n = ++h->top;
  else if ((n = find_spare(h, now)) != 0)
    unlink_entry(h, n, seed);
  if (n == 0) return 0;
  entry *e = entry_of(h, n);
  e->key = *key;
  e->bucket = 0;
  e->total = 0;
  link_entry(h, n, seed);
  return n;
}

int sd_headcount_enter(sd_headcount *h, uint32_t slots, uint32_t slot, const sd_headcount_key *key, uint64_t seed,
  const sd_headcount_limits *limits, uint64_t now, uint32_t *ticket) {
  *ticket = 0;
  uint32_t n = find(h, key, seed);
  if (n == 0) n = add(h, key, seed, now);
  if (n == 0) return 0;
  entry *e = entry_of(h, n);
  uint16_t *mine = held(h, slots, n, slot);
  if (limits->connections != 0 && e->total >= limits->connections) return -EUSERS;
  if (*mine == SD_HEADCOUNT_MOST) return -EUSERS;
  if (sd_bucket_wait(e->bucket, &limits->rate, now) > 0) return -EAGAIN;
  if (limits->rate.interval != 0) e->bucket = sd_bucket_take(e->bucket, &limits->rate, now);
  ++*mine;
  ++e->total;
  *ticket = n;
  return 0;
}

void sd_headcount_leave(sd_headcount *h, uint32_t slots, uint32_t slot, uint32_t ticket) {
  if (ticket == 0) return;
  --*held(h, slots, ticket, slot);
  --entry_of(h, ticket)->total;
}

void sd_headcount_adopt(sd_headcount *h, uint32_t slots, uint32_t slot, uint32_t ticket) {
  if (ticket == 0) return;
  ++*held(h, slots, ticket, slot);
  ++entry_of(h, ticket)->total;
}

void sd_headcount_reap(sd_headcount *h, uint32_t slots, uint32_t slot) {
  for (uint32_t n = 1; n <= h->top; n++) {
    uint16_t *mine = held(h, slots, n, slot);
    entry_of(h, n)->total -= *mine;
    *mine = 0;
  }
}

static uint32_t sum_held(sd_headcount *h, uint32_t slots, uint32_t n) {
  uint32_t sum = 0;
  for (uint32_t slot = 0; slot < slots; slot++) sum += *held(h, slots, n, slot);
  return sum;
}

void sd_headcount_mend(sd_headcount *h, uint32_t slots, uint64_t seed) {
  if (h->top == 0) return;
  memset(h->lists, 0, sizeof h->lists);
  for (uint32_t n = 1; n <= h->top; n++) {
    entry_of(h, n)->total = sum_held(h, slots, n);
    link_entry(h, n, seed);
  }
}

void sd_headcount_clear(sd_headcount *h, uint32_t slots) {
  if (h->top == 0) return;
  memset(h->lists, 0, sizeof h->lists);
  memset(h->held, 0, (size_t)h->top * slots * sizeof h->held[0]);
  h->top = h->hand = 0;
}
