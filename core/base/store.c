/* Keys and values that all processes of an instance share. */
#include "base/store.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/errors.h"

#define MAGIC UINT64_C(0x7364736861726531) /* changes with the layout */
#define NARROW ((size_t)256 << 10)         /* a store is cut where its parts get no smaller than that */
#define LINE ((size_t)64)

enum { MOST_SEGMENTS = 32, RECLAIM = 4, RECLAIM_ALL = 64, WALK = 128 };

struct sd_store_header {
  uint64_t magic, size;
  sd_hash_key seed;
  uint32_t full, nsegments;
};

/* ---- the whole ---- */

static uint32_t segments_of(size_t size) {
  uint32_t n = 1;
  while (n < MOST_SEGMENTS && size / (2 * n) >= NARROW) n *= 2;
  return n;
}

static size_t header_size(void) {
  return (sizeof(sd_store_header) + LINE - 1) / LINE * LINE;
}

static sd_segment segment(const sd_store *s, uint32_t n) {
  return sd_segment_at(s->segments + n * s->layout.size, &s->layout);
}

static void view(sd_store *out, void *memory, size_t size) {
  sd_store_header *h = memory;
  *out = (sd_store){ .header = h, .segments = (char *)memory + header_size(), .nsegments = h->nsegments };
  out->layout = sd_segment_plan((size - header_size()) / h->nsegments / LINE * LINE);
  out->seed = h->seed;
  out->full = (sd_store_full)h->full;
}

int sd_store_format(void *memory, size_t size, sd_store_full full) {
  sd_store_header *h = memory;
  sd_store s;
  *h = (sd_store_header){ .size = size, .full = full, .nsegments = segments_of(size) };
  if (getrandom(&h->seed, sizeof h->seed, GRND_NONBLOCK) < 0) h->seed.words[0] = (uint64_t)time(NULL);
  view(&s, memory, size);
  int err = 0;
  for (uint32_t i = 0; !err && i < s.nsegments; i++) {
    sd_segment part = segment(&s, i);
    err = sd_segment_init(&part);
  }
  if (!err) h->magic = MAGIC;
  return err;
}

int sd_store_open(sd_store *out, void *memory, size_t size) {
  const sd_store_header *h = memory;
  if (size < sizeof *h || h->magic != MAGIC || h->size != size) return -EINVAL;
  view(out, memory, size);
  return 0;
}

static uint32_t most_chunks(const sd_store *s) {
  return s->layout.nchunks / 2;
}

size_t sd_store_longest(const sd_store *s) {
  return SD_ENTRY_ROOM + (size_t)(most_chunks(s) - 1) * SD_CHUNK_REST;
}

/* ---- one call ---- */

/* What it is about, while it has the lock. */
typedef struct {
  const sd_store *store;
  sd_segment segment;
  sd_entry_key key;
  uint64_t now;
  uint32_t entry; /* 0: there is none */
} call;

static uint64_t clock_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool is_live(const sd_segment *s, uint32_t n, uint64_t now) {
  uint64_t expires = sd_entry_at(s, n)->expires;
  return expires == 0 || expires > now;
}

static bool reclaim_one(const sd_segment *s, uint64_t now) {
  if (s->head->ndeadlines == 0) return false;
  uint32_t first = s->deadlines[0];
  if (is_live(s, first, now)) return false;
  sd_entries_remove(s, first);
  return true;
}

static bool reclaim(const sd_segment *s, uint64_t now, int most) {
  while (most > 0 && reclaim_one(s, now)) most--;
  return most == 0;
}

static call begin_at(const sd_store *s, sd_text key, uint64_t now) {
  uint64_t hash = sd_hash(&s->seed, key.bytes, key.length);
  call c = { .store = s, .segment = segment(s, (uint32_t)(hash >> 32) % s->nsegments), .now = now };
  c.key = (sd_entry_key){ key.bytes, key.length, (uint32_t)hash };
  sd_segment_lock(&c.segment);
  reclaim(&c.segment, c.now, RECLAIM);
  c.entry = sd_entries_find(&c.segment, &c.key);
  if (c.entry == 0) return c;
  if (!is_live(&c.segment, c.entry, c.now)) {
    sd_entries_remove(&c.segment, c.entry);
    c.entry = 0;
  } else if (s->full == SD_STORE_EVICT) {
    sd_entries_touch(&c.segment, c.entry);
  }
  return c;
}

static call begin(const sd_store *s, sd_text key) {
  return begin_at(s, key, clock_now());
}

static int done(const call *c, int err) {
  sd_segment_unlock(&c->segment);
  return err;
}

static sd_entry *entry(const call *c) {
  return sd_entry_at(&c->segment, c->entry);
}

/* ---- values ---- */

static bool in_room(sd_room *room, size_t length) {
  if (length <= room->size) return true;
  char *bytes = realloc(room->bytes, length);
  if (bytes == NULL) return false;
  *room = (sd_room){ bytes, length };
  return true;
}

static uint64_t bits_of(const sd_value *v) {
  uint64_t bits = v->boolean;
  if (v->type == SD_VALUE_NUMBER) memcpy(&bits, &v->number, sizeof bits);
  return bits;
}

static double number_of(const sd_entry *e) {
  double number;
  memcpy(&number, &e->value, sizeof number);
  return number;
}

static sd_bytes_cursor bytes_of(const call *c) {
  sd_bytes_cursor at = sd_bytes_of(&c->segment, c->entry);
  sd_bytes_read(&at, NULL, (entry(c)->owned ? sizeof(sd_owner_key) : 0) + entry(c)->key);
  return at;
}

static int read_value(const call *c, sd_value *out, sd_room *room) {
  *out = (sd_value){ .type = SD_VALUE_NONE };
  if (c->entry == 0) return 0;
  const sd_entry *e = entry(c);
  if (e->type == SD_VALUE_STRING) {
    if (!in_room(room, e->length)) return -ENOMEM;
    sd_bytes_cursor at = bytes_of(c);
    sd_bytes_read(&at, room->bytes, e->length);
  }
  *out = (sd_value){ .type = (sd_value_type)e->type, .bytes = room->bytes, .length = e->length };
  if (e->type == SD_VALUE_NUMBER) out->number = number_of(e);
  if (e->type == SD_VALUE_BOOLEAN) out->boolean = e->value != 0;
  return 0;
}

static bool same_number(double a, double b) {
  return a == b || (isnan(a) && isnan(b));
}

static bool is_value(const call *c, const sd_value *v) {
  if (c->entry == 0) return v->type == SD_VALUE_NONE;
  const sd_entry *e = entry(c);
  if (e->type != v->type) return false;
  if (v->type == SD_VALUE_NUMBER) return same_number(number_of(e), v->number);
  if (v->type == SD_VALUE_BOOLEAN) return (e->value != 0) == v->boolean;
  if (e->length != v->length) return false;
  sd_bytes_cursor at = bytes_of(c);
  return sd_bytes_equal(&at, v->bytes, v->length);
}

/* ---- putting ---- */

static bool evict_one(const call *c) {
  const sd_segment *s = &c->segment;
  uint32_t oldest = s->head->oldest;
  if (c->store->full != SD_STORE_EVICT || oldest == 0 || oldest == c->entry) return false;
  sd_entries_remove(s, oldest);
  uint64_t evicted = atomic_load_explicit(&s->head->evicted, memory_order_relaxed);
  atomic_store_explicit(&s->head->evicted, evicted + 1, memory_order_relaxed);
  return true;
}

/* What has expired goes first, whatever it costs: nobody is told "full" because of it. */
static int make_room(const call *c, uint32_t chunks) {
  if (chunks > most_chunks(c->store)) return SD_ELIMIT;
  while (sd_chunks_free(&c->segment) < chunks)
    if (!reclaim_one(&c->segment, c->now) && !evict_one(c)) return SD_EFULL;
  return 0;
}

static bool fits_in_place(const call *c, const sd_store_item *item) {
  return c->entry != 0 && item->owner == NULL && !entry(c)->owned && item->value.type != SD_VALUE_STRING &&
         entry(c)->type != SD_VALUE_STRING;
}

static int put(call *c, const sd_store_item *item) {
  const sd_value *v = &item->value;
  if (fits_in_place(c, item)) {
    sd_entries_set(&c->segment, c->entry, (uint8_t)v->type, bits_of(v), item->expires);
    return 0;
  }
  size_t length = v->type == SD_VALUE_STRING ? v->length : 0;
  size_t whole = (item->owner != NULL ? sizeof *item->owner : 0) + c->key.length + length;
  if (whole > sd_store_longest(c->store)) return SD_ELIMIT;
  int err = make_room(c, sd_chunks_needed(whole));
  if (err) return err;
  sd_bytes_cursor at;
  uint32_t made = sd_entries_make(&c->segment, &c->key, item->owner, length, &at);
  sd_entry *e = sd_entry_at(&c->segment, made);
  sd_bytes_write(&at, v->bytes, length);
  e->type = (uint8_t)v->type;
  e->value = bits_of(v);
  e->expires = item->expires;
  e->home = item->home;
  sd_entries_enter(&c->segment, made, c->entry);
  c->entry = made;
  return 0;
}

/* Another value; deadline and owner stay. */
static int change(call *c, const sd_value *value) {
  sd_store_item item = { .value = *value };
  sd_owner_key owner;
  if (c->entry != 0) {
    item.expires = entry(c)->expires;
    item.home = entry(c)->home;
    if (entry(c)->owned) {
      owner = sd_entries_owner(&c->segment, c->entry);
      item.owner = &owner;
    }
  }
  return put(c, &item);
}

/* ---- one key ---- */

int sd_store_get(const sd_store *s, sd_text key, sd_value *out, sd_room *room) {
  call c = begin(s, key);
  int err = read_value(&c, out, room);
  return done(&c, err ? err : c.entry == 0 ? -ENOENT : 0);
}

int sd_store_set(const sd_store *s, sd_text key, const sd_store_item *item) {
  call c = begin(s, key);
  int err = item->fresh && c.entry != 0 ? SD_EEXISTS : put(&c, item);
  return done(&c, err);
}

int sd_store_incr(const sd_store *s, sd_text key, double by, double init, uint64_t expires, double *out) {
  call c = begin(s, key);
  if (c.entry != 0 && entry(&c)->type != SD_VALUE_NUMBER) return done(&c, SD_ETYPE);
  *out = (c.entry != 0 ? number_of(entry(&c)) : init) + by;
  sd_value sum = { .type = SD_VALUE_NUMBER, .number = *out };
  int err = 0;
  if (c.entry != 0)
    sd_entries_set(&c.segment, c.entry, SD_VALUE_NUMBER, bits_of(&sum), entry(&c)->expires);
  else
    err = put(&c, &(sd_store_item){ .value = sum, .expires = expires });
  return done(&c, err);
}

int sd_store_cas(
  const sd_store *s, sd_text key, const sd_value *old, const sd_value *value, sd_value *current, sd_room *room) {
  call c = begin(s, key);
  int err = 0;
  if (!is_value(&c, old)) {
    err = read_value(&c, current, room);
    if (!err) err = SD_ECHANGED;
  } else if (value->type != SD_VALUE_NONE) {
    err = change(&c, value);
  } else if (c.entry != 0) {
    sd_entries_remove(&c.segment, c.entry);
  }
  return done(&c, err);
}

int sd_store_delete(const sd_store *s, sd_text key, sd_value *old, sd_room *room) {
  call c = begin(s, key);
  int err = read_value(&c, old, room);
  if (!err && c.entry == 0) err = -ENOENT;
  if (!err) sd_entries_remove(&c.segment, c.entry);
  return done(&c, err);
}

/* The bucket is full when its entry expires: then it is as if there were none. */
int sd_store_take(const sd_store *s, sd_text key, uint64_t cost, uint64_t capacity, uint64_t now, uint64_t *wait) {
  call c = begin_at(s, key, now);
  uint64_t full = (c.entry != 0 ? entry(&c)->expires : c.now) + cost;
  *wait = full > c.now + capacity ? full - c.now - capacity : 0;
  if (*wait > 0) return done(&c, -EAGAIN);
  sd_store_item item = { .value = { .type = SD_VALUE_BUCKET }, .expires = full };
  return done(&c, full > c.now ? put(&c, &item) : 0);
}

/* ---- all of them ---- */

static bool has_prefix(const sd_segment *s, uint32_t n, sd_text prefix) {
  const sd_entry *e = sd_entry_at(s, n);
  if (e->key < prefix.length) return false;
  sd_bytes_cursor at = sd_bytes_of(s, n);
  if (e->owned) sd_bytes_read(&at, NULL, sizeof(sd_owner_key));
  return sd_bytes_equal(&at, prefix.bytes, prefix.length);
}

static bool add_key(const sd_segment *s, uint32_t n, sd_room *room, size_t *length) {
  const sd_entry *e = sd_entry_at(s, n);
  size_t needed = *length + sizeof e->key + e->key;
  if (needed > room->size && !in_room(room, 2 * needed)) return false;
  memcpy(room->bytes + *length, &e->key, sizeof e->key);
  sd_bytes_cursor at = sd_bytes_of(s, n);
  if (e->owned) sd_bytes_read(&at, NULL, sizeof(sd_owner_key));
  sd_bytes_read(&at, room->bytes + *length + sizeof e->key, e->key);
  *length = needed;
  return true;
}

static bool add_bucket(
  const sd_segment *s, uint32_t bucket, uint64_t now, sd_text prefix, sd_room *room, size_t *length) {
  for (uint32_t n = s->buckets[bucket]; n != 0; n = sd_entry_at(s, n)->chain) {
    bool wanted = is_live(s, n, now) && has_prefix(s, n, prefix);
    if (wanted && !add_key(s, n, room, length)) return false;
  }
  return true;
}

int sd_store_keys(const sd_store *s, sd_store_walk *walk, sd_text prefix, sd_room *room, size_t *length) {
  *length = 0;
  if (walk->segment >= s->nsegments) return 0;
  sd_segment part = segment(s, walk->segment);
  uint64_t now = clock_now();
  bool ok = true;
  sd_segment_lock(&part);
  for (int i = 0; ok && i < WALK && walk->bucket < part.nbuckets; i++)
    ok = add_bucket(&part, walk->bucket++, now, prefix, room, length);
  sd_segment_unlock(&part);
  if (!ok) return -ENOMEM;
  if (walk->bucket >= part.nbuckets) *walk = (sd_store_walk){ .segment = walk->segment + 1 };
  return 1;
}

static uint64_t clear_bucket(const sd_segment *s, uint32_t bucket, uint64_t now, sd_text prefix) {
  uint64_t count = 0;
  for (uint32_t n = s->buckets[bucket], next; n != 0; n = next) {
    next = sd_entry_at(s, n)->chain;
    if (!has_prefix(s, n, prefix)) continue;
    count += is_live(s, n, now);
    sd_entries_remove(s, n);
  }
  return count;
}

uint64_t sd_store_clear(const sd_store *s, sd_text prefix) {
  uint64_t count = 0, now = clock_now();
  for (uint32_t i = 0; i < s->nsegments; i++) {
    sd_segment part = segment(s, i);
    for (uint32_t bucket = 0; bucket < part.nbuckets;) {
      sd_segment_lock(&part);
      for (int j = 0; j < WALK && bucket < part.nbuckets; j++) count += clear_bucket(&part, bucket++, now, prefix);
      sd_segment_unlock(&part);
    }
  }
  return count;
}

uint64_t sd_store_count(const sd_store *s) {
  uint64_t count = 0, now = clock_now();
  for (uint32_t i = 0; i < s->nsegments; i++) {
    sd_segment part = segment(s, i);
    bool more = true;
    while (more) {
      sd_segment_lock(&part);
      more = reclaim(&part, now, RECLAIM_ALL);
      if (!more) count += part.head->count;
      sd_segment_unlock(&part);
    }
  }
  return count;
}

/* ---- owners ---- */

static bool is_owner(const sd_segment *s, uint32_t n, const sd_owner_key *owner) {
  sd_owner_key other = sd_entries_owner(s, n);
  return memcmp(&other, owner, sizeof other) == 0;
}

/* Those of one bucket of owners that are this owner's, or (NULL) live in this process. */
static void remove_owned(const sd_segment *s, uint32_t first, const sd_owner_key *owner, int32_t home) {
  for (uint32_t n = first, next; n != 0; n = next) {
    next = sd_entry_at(s, n)->co_owned;
    if (owner != NULL ? is_owner(s, n, owner) : sd_entry_at(s, n)->home == home) sd_entries_remove(s, n);
  }
}

static bool has_owned(const sd_segment *s) {
  return s->head->repairing || atomic_load_explicit(&s->head->owned, memory_order_relaxed) > 0;
}

void sd_store_release(const sd_store *s, const sd_owner_key *owner) {
  for (uint32_t i = 0; i < s->nsegments; i++) {
    sd_segment part = segment(s, i);
    if (!has_owned(&part)) continue;
    sd_segment_lock(&part);
    remove_owned(&part, *sd_entries_owner_bucket(&part, owner), owner, 0);
    sd_segment_unlock(&part);
  }
}

void sd_store_rehome(const sd_store *s, const sd_owner_key *owner, int32_t home) {
  for (uint32_t i = 0; i < s->nsegments; i++) {
    sd_segment part = segment(s, i);
    if (!has_owned(&part)) continue;
    sd_segment_lock(&part);
    for (uint32_t n = *sd_entries_owner_bucket(&part, owner); n != 0; n = sd_entry_at(&part, n)->co_owned)
      if (is_owner(&part, n, owner)) sd_entry_at(&part, n)->home = home;
    sd_segment_unlock(&part);
  }
}

/* The dead one may have left the sum of the owned behind its truth: so the lock is asked
 * for once, which repairs. */
bool sd_store_reap(const sd_store *s, int32_t home) {
  bool all = true;
  for (uint32_t i = 0; i < s->nsegments; i++) {
    sd_segment part = segment(s, i);
    if (!sd_segment_try_lock(&part)) {
      all = false;
      continue;
    }
    for (uint32_t bucket = 0; has_owned(&part) && bucket < part.nowners; bucket++)
      remove_owned(&part, part.owners[bucket], NULL, home);
    sd_segment_unlock(&part);
  }
  return all;
}

/* ---- a look ---- */

sd_store_stats sd_store_look(const sd_store *s) {
  sd_store_stats sum = { .capacity = (uint64_t)s->nsegments * s->layout.nchunks * SD_CHUNK };
  for (uint32_t i = 0; i < s->nsegments; i++) {
    const sd_segment_head *h = segment(s, i).head;
    sum.count += atomic_load_explicit(&h->count, memory_order_relaxed);
    sum.used += (uint64_t)atomic_load_explicit(&h->used, memory_order_relaxed) * SD_CHUNK;
    sum.evicted += atomic_load_explicit(&h->evicted, memory_order_relaxed);
  }
  return sum;
}

bool sd_store_is_sound(const sd_store *s) {
  bool sound = true;
  for (uint32_t i = 0; i < s->nsegments; i++) {
    sd_segment part = segment(s, i);
    sd_segment_lock(&part);
    sound = sound && sd_segment_is_sound(&part);
    sd_segment_unlock(&part);
  }
  return sound;
}
