/* Keys and values that all processes of an instance share: a table in a mapping of
 * fixed size, cut into segments with a lock each.
 *
 * Every call is atomic over all processes, and none of them leaves anything half done
 * when its process is killed: a key has its old value then, or its new one (segment.h).
 * Nothing in here waits but for a lock, which nobody holds longer than one call takes.
 *
 * Keys are bytes, up to SD_STORE_KEY_MOST of them. A value is a string of bytes, a
 * number or a boolean. Numbers are doubles, kept bit by bit; to compare them, all NaN
 * are one, and 0 is -0. Times are CLOCK_MONOTONIC's nanoseconds; an entry whose time is
 * over is gone, and its memory is reclaimed by the calls that follow, a few each. */
#ifndef SD_BASE_STORE_H
#define SD_BASE_STORE_H

#include "base/hash.h"
#include "base/segment.h"

#define SD_STORE_KEY_MOST 1024
#define SD_STORE_LEAST ((uint64_t)64 << 10) /* bytes of a store */
#define SD_STORE_MOST ((uint64_t)64 << 30)

typedef enum { SD_STORE_ERROR, SD_STORE_EVICT } sd_store_full;

typedef enum { SD_VALUE_NONE, SD_VALUE_NUMBER, SD_VALUE_BOOLEAN, SD_VALUE_STRING, SD_VALUE_BUCKET } sd_value_type;

typedef struct {
  sd_value_type type;
  double number;
  bool boolean;
  const char *bytes; /* of a string */
  size_t length;
} sd_value;

/* Where a call puts the string it answers. It grows as it must, and is used again. */
typedef struct {
  char *bytes;
  size_t size;
} sd_room;

typedef struct {
  const char *bytes;
  size_t length;
} sd_text;

typedef struct sd_store_header sd_store_header;

/* This process's view. */
typedef struct {
  sd_store_header *header;
  char *segments;
  sd_segment_layout layout;
  uint32_t nsegments;
  sd_hash_key seed;
  sd_store_full full;
} sd_store;

/* Makes a store of `size` bytes of memory that is all zero. 0 or -errno. */
int sd_store_format(void *memory, size_t size, sd_store_full full);

/* -EINVAL if there is none. */
int sd_store_open(sd_store *out, void *memory, size_t size);

/* How many bytes of key and value an entry can have at most: half a segment. */
size_t sd_store_longest(const sd_store *s);

/* ---- one key ----
 * -ENOENT: there is none, SD_EEXISTS: there is one, SD_EFULL: the store is full, SD_ELIMIT:
 * that would never fit, -ENOMEM: no room here for what is answered. */

/* `out->bytes` lies in `room`. */
int sd_store_get(const sd_store *s, sd_text key, sd_value *out, sd_room *room);

typedef struct {
  sd_value value;
  uint64_t expires;          /* 0: never */
  const sd_owner_key *owner; /* NULL: none */
  int32_t home;              /* pid of the process where the owner lives */
  bool fresh;                /* only where there is none */
} sd_store_item;

int sd_store_set(const sd_store *s, sd_text key, const sd_store_item *item);

/* Adds to a number, or to `init` where there is none, which then expires. SD_ETYPE: it is no number. */
int sd_store_incr(const sd_store *s, sd_text key, double by, double init, uint64_t expires, double *out);

/* Replaces `old` by `value`; of either, SD_VALUE_NONE is that there is none. Deadline and
 * owner stay. SD_ECHANGED: it was something else, which is now in `current`. */
int sd_store_cas(
  const sd_store *s, sd_text key, const sd_value *old, const sd_value *value, sd_value *current, sd_room *room);

int sd_store_delete(const sd_store *s, sd_text key, sd_value *old, sd_room *room);

/* Takes what `cost` stands for out of a bucket that is full again `capacity` after it was
 * empty, all in ns. 0: taken; -EAGAIN: in `*wait` there will be enough. */
int sd_store_take(const sd_store *s, sd_text key, uint64_t cost, uint64_t capacity, uint64_t now, uint64_t *wait);

/* ---- all of them ---- */

/* Where a walk through all keys stands; all zero at its beginning. */
typedef struct {
  uint32_t segment, bucket;
} sd_store_walk;

/* The next few keys with this beginning, each as a uint16_t and its bytes. 1: there may be
 * more; 0: that was all. An entry that is there from beginning to end is met once. */
int sd_store_keys(const sd_store *s, sd_store_walk *walk, sd_text prefix, sd_room *room, size_t *length);

/* How many were removed. */
uint64_t sd_store_clear(const sd_store *s, sd_text prefix);

/* Reclaims what has expired first. */
uint64_t sd_store_count(const sd_store *s);

/* ---- owners ---- */

/* It has ended: what it owns is gone. */
void sd_store_release(const sd_store *s, const sd_owner_key *owner);

/* It lives in another process from now on. */
void sd_store_rehome(const sd_store *s, const sd_owner_key *owner, int32_t home);

/* A process has ended, and with it all owners in it. Never waits: whoever has a lock may be
 * stopped, and for our help. False: somebody had one, so call again. */
bool sd_store_reap(const sd_store *s, int32_t home);

/* ---- a look ---- */

typedef struct {
  uint64_t count; /* what has expired is in it until it is reclaimed */
  uint64_t used, capacity, evicted;
} sd_store_stats;

/* Without a lock, so that nobody who holds one can delay it. */
sd_store_stats sd_store_look(const sd_store *s);

/* Whether everything in it agrees: for tests. */
bool sd_store_is_sound(const sd_store *s);

#endif
