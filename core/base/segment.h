/* A part of a store with a lock of its own: a table of entries in shared memory that
 * survives the death of whoever works on it, at any instruction.
 *
 * Memory is cut into chunks of one size, so nothing fragments: an entry is a first
 * chunk and as many others as its bytes need. What is true is only this: the buckets,
 * the chains of entries behind them, and the chunks of each. An entry is made whole
 * aside and enters its chain by one store; it leaves by one store, and is replaced by
 * one. A change of a number is one store, and what needs several is written into a
 * journal first. Everything else (free chunks, the order of use, deadlines, owners,
 * sums) is made anew from that when somebody has died with the lock.
 *
 * Chunks and entries are named by their number, counted from 1: 0 is none. Whoever
 * calls holds the lock, but for the sums. */
#ifndef SD_BASE_SEGMENT_H
#define SD_BASE_SEGMENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SD_CHUNK = 64, SD_CHUNK_REST = SD_CHUNK - sizeof(uint32_t), SD_ENTRY_ROOM = 8 };

/* The first chunk of an entry. Owner, key and value's bytes follow each other from
 * `bytes` on, through all its chunks. */
typedef struct {
  uint32_t next;         /* its second chunk */
  uint32_t chain;        /* the next entry of its bucket */
  uint32_t newer, older; /* in the order of use */
  uint32_t place;        /* among the deadlines */
  uint32_t co_owned;     /* the next entry of its bucket of owners */
  uint32_t hash;
  uint32_t length; /* of the value's bytes */
  uint16_t key;    /* length of the key */
  uint8_t type;
  bool owned;       /* an sd_owner_key comes before the key */
  int32_t home;     /* pid of the process in which the owner lives */
  uint64_t expires; /* ns; 0: never */
  uint64_t value;   /* of what is no string, bit by bit */
  char bytes[SD_ENTRY_ROOM];
} sd_entry;

typedef struct {
  uint32_t next;
  char bytes[SD_CHUNK_REST];
} sd_rest;

typedef union {
  sd_entry entry;
  sd_rest rest;
} sd_chunk;

/* Who a task or connection is: a digest of its id. */
typedef struct {
  uint64_t words[2];
} sd_owner_key;

/* What is to become of an entry's first chunk, while it happens. */
typedef struct {
  uint64_t value, expires;
  uint32_t entry; /* 0: nothing is under way */
  uint32_t type;
} sd_journal;

typedef struct {
  pthread_mutex_t mutex;
  uint32_t free;           /* the first of the free chunks that have been used before */
  uint32_t nfree;          /* how many */
  uint32_t top;            /* chunks up to this one were ever used; the rest is untouched memory */
  uint32_t newest, oldest; /* by use */
  uint32_t ndeadlines;
  sd_journal journal;
  _Atomic uint32_t count, used, owned; /* entries, chunks, entries with an owner */
  _Atomic uint64_t evicted;
  _Atomic uint32_t repairing; /* the sums mean nothing */
} sd_segment_head;

/* Where things lie: the same in all segments of a store. */
typedef struct {
  size_t buckets, owners, deadlines, marks, firsts, chunks, size;
  uint32_t nchunks, nbuckets, nowners; /* the last two: powers of two */
} sd_segment_layout;

/* This process's view of one. */
typedef struct {
  sd_segment_head *head;
  uint32_t *buckets, *owners, *deadlines;
  uint64_t *marks, *firsts; /* bits for each chunk, for the repair */
  sd_chunk *chunks;
  uint32_t nchunks, nbuckets, nowners;
} sd_segment;

/* As many chunks as fit into `size` bytes. */
sd_segment_layout sd_segment_plan(size_t size);

sd_segment sd_segment_at(void *memory, const sd_segment_layout *layout);

/* The memory is all zero. 0 or -errno. */
int sd_segment_init(const sd_segment *s);

/* Repairs what a dead process has left half done. */
void sd_segment_lock(const sd_segment *s);
void sd_segment_unlock(const sd_segment *s);

/* False: somebody else has it. */
bool sd_segment_try_lock(const sd_segment *s);

/* Whether all that is derived agrees with what is true: for tests. */
bool sd_segment_is_sound(const sd_segment *s);

static inline sd_entry *sd_entry_at(const sd_segment *s, uint32_t n) {
  return &s->chunks[n - 1].entry;
}

/* ---- chunks.c: memory, and bytes in it ---- */

/* A place in the bytes of an entry. */
typedef struct {
  const sd_segment *segment;
  char *at;
  size_t left; /* in this chunk */
  uint32_t next;
} sd_bytes_cursor;

uint32_t sd_chunks_needed(size_t bytes);
uint32_t sd_chunks_free(const sd_segment *s);

/* A row of chunks; there must be so many. */
uint32_t sd_chunks_take(const sd_segment *s, uint32_t count);
void sd_chunks_give_back(const sd_segment *s, uint32_t first);

sd_bytes_cursor sd_bytes_of(const sd_segment *s, uint32_t entry);
void sd_bytes_write(sd_bytes_cursor *c, const void *from, size_t length);
void sd_bytes_read(sd_bytes_cursor *c, void *to, size_t length); /* `to` NULL: passes over them */
bool sd_bytes_equal(sd_bytes_cursor *c, const void *with, size_t length);

/* ---- deadlines.c: a heap of the entries that expire, the first on top ---- */

void sd_deadlines_add(const sd_segment *s, uint32_t entry);
void sd_deadlines_remove(const sd_segment *s, uint32_t entry); /* harmless for one without */
void sd_deadlines_move(const sd_segment *s, uint32_t entry);   /* its deadline has changed */

/* ---- entries.c ---- */

typedef struct {
  const char *bytes;
  size_t length;
  uint32_t hash;
} sd_entry_key;

/* The one of this key; 0: none. */
uint32_t sd_entries_find(const sd_segment *s, const sd_entry_key *key);

/* A new one, with its key and owner (NULL: none), and room for `length` bytes of a
 * value, which `*value` leads to. It belongs to nothing yet. There must be room. */
uint32_t sd_entries_make(
  const sd_segment *s, const sd_entry_key *key, const sd_owner_key *owner, size_t length, sd_bytes_cursor *value);

/* Puts it into service, in the place of `old` if that is not 0. */
void sd_entries_enter(const sd_segment *s, uint32_t entry, uint32_t old);
void sd_entries_remove(const sd_segment *s, uint32_t entry);

/* It is the one used last. */
void sd_entries_touch(const sd_segment *s, uint32_t entry);

/* Other contents of the first chunk, all at once. */
void sd_entries_set(const sd_segment *s, uint32_t entry, uint8_t type, uint64_t value, uint64_t expires);

sd_owner_key sd_entries_owner(const sd_segment *s, uint32_t entry);

static inline uint32_t *sd_entries_owner_bucket(const sd_segment *s, const sd_owner_key *owner) {
  return &s->owners[owner->words[0] & (s->nowners - 1)];
}

/* ---- for the repair ---- */

/* Makes what is derived of an entry in a chain, but for the order of use. */
void sd_entries_index(const sd_segment *s, uint32_t entry);

/* Ends what the journal says, which is true already. */
void sd_entries_finish_journal(const sd_segment *s);

/* Makes everything derived anew. */
void sd_segment_repair(const sd_segment *s); /* repair.c */

#endif
