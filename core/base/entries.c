/* The entries of a segment: what is true of them, and what is derived. */
#include "base/segment.h"

/* The one store by which something happens: nothing that belongs before it may come
 * after it, and the other way round. A process that is killed has done all of its
 * stores up to an instruction, so this binds the compiler only. */
static void publish(uint32_t *link, uint32_t entry) {
  atomic_signal_fence(memory_order_seq_cst);
  *(volatile uint32_t *)link = entry;
  atomic_signal_fence(memory_order_seq_cst);
}

static void count(_Atomic uint32_t *what, int by) {
  atomic_store_explicit(what, atomic_load_explicit(what, memory_order_relaxed) + (uint32_t)by, memory_order_relaxed);
}

static uint32_t *bucket_of(const sd_segment *s, uint32_t hash) {
  return &s->buckets[hash & (s->nbuckets - 1)];
}

/* What leads to an entry in its chain. */
static uint32_t *link_to(const sd_segment *s, uint32_t entry) {
  uint32_t *link = bucket_of(s, sd_entry_at(s, entry)->hash);
  while (*link != entry) link = &sd_entry_at(s, *link)->chain;
  return link;
}

/* ---- finding ---- */

static bool has_key(const sd_segment *s, uint32_t entry, const sd_entry_key *key) {
  const sd_entry *e = sd_entry_at(s, entry);
  if (e->hash != key->hash || e->key != key->length) return false;
  sd_bytes_cursor at = sd_bytes_of(s, entry);
  if (e->owned) sd_bytes_read(&at, NULL, sizeof(sd_owner_key));
  return sd_bytes_equal(&at, key->bytes, key->length);
}

uint32_t sd_entries_find(const sd_segment *s, const sd_entry_key *key) {
  uint32_t n = *bucket_of(s, key->hash);
  while (n != 0 && !has_key(s, n, key)) n = sd_entry_at(s, n)->chain;
  return n;
}

sd_owner_key sd_entries_owner(const sd_segment *s, uint32_t entry) {
  sd_owner_key owner;
  sd_bytes_cursor at = sd_bytes_of(s, entry);
  sd_bytes_read(&at, &owner, sizeof owner);
  return owner;
}

/* ---- the order of use ---- */

static void use_unlink(const sd_segment *s, uint32_t entry) {
  const sd_entry *e = sd_entry_at(s, entry);
  *(e->newer != 0 ? &sd_entry_at(s, e->newer)->older : &s->head->newest) = e->older;
  *(e->older != 0 ? &sd_entry_at(s, e->older)->newer : &s->head->oldest) = e->newer;
}

static void use_link(const sd_segment *s, uint32_t entry) {
  sd_entry *e = sd_entry_at(s, entry);
  sd_segment_head *h = s->head;
  e->newer = 0;
  e->older = h->newest;
  *(h->newest != 0 ? &sd_entry_at(s, h->newest)->newer : &h->oldest) = entry;
  h->newest = entry;
}

void sd_entries_touch(const sd_segment *s, uint32_t entry) {
  if (s->head->newest == entry) return;
  use_unlink(s, entry);
  use_link(s, entry);
}

/* ---- owners ---- */

static void owner_link(const sd_segment *s, uint32_t entry) {
  sd_owner_key owner = sd_entries_owner(s, entry);
  uint32_t *bucket = sd_entries_owner_bucket(s, &owner);
  sd_entry_at(s, entry)->co_owned = *bucket;
  *bucket = entry;
  count(&s->head->owned, 1);
}

static void owner_unlink(const sd_segment *s, uint32_t entry) {
  sd_owner_key owner = sd_entries_owner(s, entry);
  uint32_t *link = sd_entries_owner_bucket(s, &owner);
  while (*link != entry) link = &sd_entry_at(s, *link)->co_owned;
  *link = sd_entry_at(s, entry)->co_owned;
  count(&s->head->owned, -1);
}

/* ---- in and out ---- */

void sd_entries_index(const sd_segment *s, uint32_t entry) {
  sd_entry *e = sd_entry_at(s, entry);
  e->place = 0;
  if (e->expires != 0) sd_deadlines_add(s, entry);
  if (e->owned) owner_link(s, entry);
  count(&s->head->count, 1);
}

/* It is in no chain any more. */
static void forget(const sd_segment *s, uint32_t entry) {
  use_unlink(s, entry);
  sd_deadlines_remove(s, entry);
  if (sd_entry_at(s, entry)->owned) owner_unlink(s, entry);
  count(&s->head->count, -1);
  sd_chunks_give_back(s, entry);
}

uint32_t sd_entries_make(
  const sd_segment *s, const sd_entry_key *key, const sd_owner_key *owner, size_t length, sd_bytes_cursor *value) {
  size_t owned = owner != NULL ? sizeof *owner : 0;
  uint32_t n = sd_chunks_take(s, sd_chunks_needed(owned + key->length + length));
  sd_entry *e = sd_entry_at(s, n);
  *e = (sd_entry){
    .next = e->next, .hash = key->hash, .length = (uint32_t)length, .key = (uint16_t)key->length, .owned = owned > 0
  };
  *value = sd_bytes_of(s, n);
  if (owner != NULL) sd_bytes_write(value, owner, sizeof *owner);
  sd_bytes_write(value, key->bytes, key->length);
  return n;
}

void sd_entries_enter(const sd_segment *s, uint32_t entry, uint32_t old) {
  sd_entry *e = sd_entry_at(s, entry);
  uint32_t *link = old != 0 ? link_to(s, old) : bucket_of(s, e->hash);
  e->chain = old != 0 ? sd_entry_at(s, old)->chain : *link;
  publish(link, entry);
  use_link(s, entry);
  sd_entries_index(s, entry);
  if (old != 0) forget(s, old);
}

void sd_entries_remove(const sd_segment *s, uint32_t entry) {
  publish(link_to(s, entry), sd_entry_at(s, entry)->chain);
  forget(s, entry);
}

/* What follows is the journal carried out; a repair does it again. */
static void carry_out(const sd_segment *s) {
  const sd_journal *j = &s->head->journal;
  sd_entry *e = sd_entry_at(s, j->entry);
  e->type = (uint8_t)j->type;
  e->value = j->value;
  e->expires = j->expires;
}

void sd_entries_set(const sd_segment *s, uint32_t entry, uint8_t type, uint64_t value, uint64_t expires) {
  sd_entry *e = sd_entry_at(s, entry);
  bool other_time = e->expires != expires;
  if (e->type == type && !other_time) {
    *(volatile uint64_t *)&e->value = value;
  } else if (e->type == type && e->value == value) {
    *(volatile uint64_t *)&e->expires = expires;
  } else {
    s->head->journal.type = type;
    s->head->journal.value = value;
    s->head->journal.expires = expires;
    publish(&s->head->journal.entry, entry);
    carry_out(s);
    publish(&s->head->journal.entry, 0);
  }
  if (other_time) sd_deadlines_move(s, entry);
}

/* Before anything else of a repair: what the journal says belongs to what is true. */
void sd_entries_finish_journal(const sd_segment *s) {
  sd_journal *j = &s->head->journal;
  if (j->entry == 0) return;
  if (j->entry <= s->head->top) carry_out(s);
  publish(&j->entry, 0);
}
