/* How many connections each network has, over all processes, and how fast they come.
 *
 * One table per pool, in shared memory. Whoever calls holds the pool's lock. A
 * process can be killed anywhere: what each slot holds is changed by one store, and
 * everything else can be made anew from that (`_mend`).
 *
 * The table is bounded. When all its entries have connections, the connections of
 * further networks go uncounted: the limits are there against few who take much. */
#ifndef SD_BASE_HEADCOUNT_H
#define SD_BASE_HEADCOUNT_H

#include <stddef.h>
#include <stdint.h>

#include "base/token_bucket.h"

enum { SD_HEADCOUNT_NETWORKS = 16384 };

#define SD_HEADCOUNT_MOST UINT16_MAX /* connections of a network in one process */

typedef struct {
  uint64_t words[3];
} sd_headcount_key;

typedef struct sd_headcount sd_headcount;

/* Bytes of a table. All zero it is an empty one, and it uses only pages it has touched. */
size_t sd_headcount_size(uint32_t slots);

typedef struct {
  uint32_t connections; /* at a time; 0: no limit */
  sd_rate rate;
} sd_headcount_limits;

/* One more of this network in `slot`. 0 and its ticket for `_leave` (0: uncounted),
 * -EUSERS: it has as many as it may, -EAGAIN: they come too fast. `seed` keeps who
 * would choose networks that meet in one list from doing so. */
int sd_headcount_enter(sd_headcount *h, uint32_t slots, uint32_t slot, const sd_headcount_key *key, uint64_t seed,
  const sd_headcount_limits *limits, uint64_t now, uint32_t *ticket);

void sd_headcount_leave(sd_headcount *h, uint32_t slots, uint32_t slot, uint32_t ticket);

/* The connection has come to `slot` from another, which gives it up after that. */
void sd_headcount_adopt(sd_headcount *h, uint32_t slots, uint32_t slot, uint32_t ticket);

/* All that a dead process held. */
void sd_headcount_reap(sd_headcount *h, uint32_t slots, uint32_t slot);

/* After a process died with the lock: sums and lists are made anew. */
void sd_headcount_mend(sd_headcount *h, uint32_t slots, uint64_t seed);

/* Forgets everything. */
void sd_headcount_clear(sd_headcount *h, uint32_t slots);

#endif
