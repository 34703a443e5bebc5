/* What all processes of an instance know without asking each other: one shared
 * mapping with a slot per worker and an entry per pool.
 *
 * A slot says who the worker is (written by the supervisor) and what it does
 * right now (written by the worker, in place, without a lock). A pool says
 * which generation is current, how many connections it may have, and how many
 * each worker holds. The supervisor can thus answer for a worker that is stuck,
 * and settle the accounts of one that has died.
 *
 * Indexes count from 0. One that is out of range is our own mistake. */
#ifndef SD_BASE_SCOREBOARD_H
#define SD_BASE_SCOREBOARD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/alarm.h"
#include "base/headcount.h"
#include "base/order.h"
#include "base/split.h"
#include "base/token_bucket.h"

#define SD_SCOREBOARD_UNLIMITED UINT64_MAX
#define SD_SCOREBOARD_NO_POOL UINT32_MAX
#define SD_SCOREBOARD_NO_SLOT UINT32_MAX
#define SD_SCOREBOARD_ALARMS 16    /* of a pool */
#define SD_SCOREBOARD_NAME_MAX 128 /* bytes of a pool's name, NUL included */
#define SD_SCOREBOARD_LINE 64      /* what two CPUs must not share in a hurry */
#define SD_SCOREBOARD_STAMP 256    /* ns between two stamps of an entry, at least */

typedef enum {
  SD_SLOT_FREE,
  SD_SLOT_STARTING,
  SD_SLOT_RUNNING,
  SD_SLOT_STUCK,
  SD_SLOT_DRAINING,
} sd_slot_state;

/* Why somebody who had come was not let in. */
typedef enum {
  SD_REJECT_FULL,    /* max_connections */
  SD_REJECT_DENIED,  /* allow, deny */
  SD_REJECT_PER_IP,  /* rates.per_ip.connections */
  SD_REJECT_RATE,    /* rates.per_ip.rate */
  SD_REJECT_WAIT,    /* waited in vain */
  SD_REJECT_REFUSED, /* by code of the user's */
  SD_REJECT_REASONS
} sd_reject;

/* One per slot and pool, read by all; written only by the slot's process, but for
 * `connections`, which a connection that moves takes along. */
typedef struct {
  _Alignas(SD_SCOREBOARD_LINE) _Atomic uint64_t accepted;
  _Atomic uint64_t closed;
  _Atomic uint64_t connections; /* live now */
  _Atomic uint64_t accepting;   /* listen sockets that it polls */
  _Atomic uint64_t preempted;   /* handlers that were made to let their loop go */
  _Atomic uint64_t rejected[SD_REJECT_REASONS];
  _Atomic uint64_t part_errors; /* calls of code in place of the pool's own that failed */
} sd_pool_counters;

/* What is written at every entry lies in one line: the padding is meant.
 * NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding) */
typedef struct {
  /* Written by the worker, entered_ns and what follows at every entry. */
  _Alignas(SD_SCOREBOARD_LINE) _Atomic uint64_t entered_ns; /* 0: not in Lua */
  _Atomic uint64_t generation;
  _Atomic uint64_t connection;
  _Atomic uint32_t pool;
  _Atomic uint16_t loading;
  _Atomic uint16_t starved; /* even after a full collection its Lua heap is above its limit */
  uint64_t stamp;           /* the last entered_ns; the worker's own */
  _Atomic uint64_t beat_ns; /* CLOCK_MONOTONIC of the last beat */
  _Atomic uint64_t lag_ns;  /* how late that beat came */
  _Atomic uint64_t dropped_logs;
  _Atomic uint64_t dropped_messages; /* for whom there was no room */
  /* Written by the supervisor. */
  _Alignas(SD_SCOREBOARD_LINE) _Atomic uint32_t state;
  _Atomic int32_t pid;
  _Atomic int32_t loop;
  sd_order order;
} sd_scoreboard_slot;

/* Each line for those who write it: the padding is meant.
 * NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding) */
typedef struct {
  _Alignas(SD_SCOREBOARD_LINE) sd_split split; /* which generation is current, and which a canary */
  _Atomic uint64_t revision;                   /* of the options */
  _Alignas(SD_SCOREBOARD_LINE) sd_trial trial;
  /* Guarded by the mutex; `held` per slot is the truth, `total` its sum. */
  _Alignas(SD_SCOREBOARD_LINE) pthread_mutex_t mutex;
  _Atomic uint64_t max;
  _Atomic uint64_t total;
  uint64_t room_since; /* ns: since then it has not been full */
  uint64_t bucket;     /* of accepts */
  sd_alarm alarms[SD_SCOREBOARD_ALARMS];
  uint64_t last_ticket;
  uint64_t told;          /* the ticket whose turn it is, if its slot knows; 0: nobody does */
  uint64_t told_at;       /* ns */
  _Atomic uint64_t asked; /* connections that a manager was asked about */
  uint32_t queues;        /* slots in which somebody waits */
  uint32_t top;           /* in none from here on has anybody ever waited */
  uint32_t waiting;       /* somebody without a ticket was refused since the last ring */
  uint32_t turn;          /* of who got the last one in turn */
  _Atomic uint32_t open;
  /* Written by the supervisor only. */
  _Alignas(SD_SCOREBOARD_LINE) sd_pool_counters base; /* of slots now reaped */
  char name[SD_SCOREBOARD_NAME_MAX];
} sd_scoreboard_pool;

/* Tells the process in `slot` that it is its turn. */
typedef void (*sd_scoreboard_teller)(uint32_t slot);

/* This process's view. The pointers lead into the mapping. */
typedef struct {
  void *mapping;
  size_t size;
  int fd;        /* the memfd */
  int bell;      /* the eventfd that release rings */
  bool owns;     /* close the descriptors at the end */
  uint32_t slot; /* ours, or SD_SCOREBOARD_NO_SLOT */
  uint32_t nslots;
  uint32_t npools;
  sd_scoreboard_slot *slots;
  sd_scoreboard_pool *pools;
  sd_pool_counters *counters; /* a row of pools for each slot */
  size_t counters_stride;     /* counters in a row, padded to whole lines */
  _Atomic uint32_t *held;     /* a row of slots for each pool */
  uint64_t *tickets;          /* likewise: who waits longest in each slot; 0: nobody */
  char *headcounts;           /* a table for each pool */
  size_t headcount_size;
  uint64_t seed;
  sd_scoreboard_teller tell; /* NULL: the bell rings for all */
} sd_scoreboard;

/* Makes mapping and bell; both descriptors are close-on-exec and belong to the
 * handle. Negative errno on failure, then nothing is left behind. */
int sd_scoreboard_create(sd_scoreboard *out, uint32_t slots, uint32_t pools);

/* Maps the scoreboard behind `fd`, as the process of `slot` (or of none). The
 * descriptors stay the caller's: `bell` must outlive the handle. */
int sd_scoreboard_attach(sd_scoreboard *out, int fd, int bell, uint32_t slot);

/* Unmaps. Closing twice is harmless. */
void sd_scoreboard_close(sd_scoreboard *sb);

/* Wakes everybody who polls the bell. It is polled edge-triggered and never
 * read: each ring is an event for each of them. */
void sd_scoreboard_ring(const sd_scoreboard *sb);

/* ---- admission: exact over all processes ---- */

/* Takes one place of the pool in our slot's name. 0, or -EAGAIN when it is
 * full: then the bell will ring once there is room again, unless others have tickets. */
int sd_scoreboard_reserve(sd_scoreboard *sb, uint32_t pool);

/* Places go to who waits longest, over all processes: waiters draw tickets, and each
 * slot shows the oldest of its own. Once there is room the slot with the oldest of all
 * is told, and no other: a ring would wake every process for each place. A slot that
 * lets a free place lie for so long is passed over: its process may be stuck. */
#define SD_SCOREBOARD_PATIENCE UINT64_C(20000000) /* ns */

typedef struct {
  uint64_t now;    /* ns */
  uint64_t ticket; /* of who asks; 0: has just come */
  sd_rate rate;    /* of the pool's accepts */
} sd_claim;

/* The same for somebody with a ticket or without, and -EINPROGRESS when it is an
 * older ticket's turn, -EBUSY when accepts come too fast: then `*wait` says how many
 * ns too early it is. */
int sd_scoreboard_claim(sd_scoreboard *sb, uint32_t pool, const sd_claim *claim, uint64_t *wait);

/* Gives back what was claimed for nothing. */
void sd_scoreboard_unclaim(sd_scoreboard *sb, uint32_t pool, const sd_claim *claim);

/* A new ticket, younger than all. */
uint64_t sd_scoreboard_draw(sd_scoreboard *sb, uint32_t pool);

/* The oldest ticket that waits in our slot; 0: nobody does any more. */
void sd_scoreboard_wait(sd_scoreboard *sb, uint32_t pool, uint64_t oldest);

typedef enum {
  SD_TURN_NONE,     /* there is no place, or nobody was told of it, or all were */
  SD_TURN_TOLD,     /* a slot was told, and may be coming */
  SD_TURN_FORSAKEN, /* it lets the place lie: the bell should ring. Said once for each turn */
} sd_turn;

sd_turn sd_scoreboard_turn(sd_scoreboard *sb, uint32_t pool, uint64_t now);

/* Counts a connection of this network in our slot: see headcount.h. */
int sd_scoreboard_enter(sd_scoreboard *sb, uint32_t pool, const sd_headcount_key *key,
  const sd_headcount_limits *limits, uint64_t now, uint32_t *ticket);
/* Whether an alarm goes off now, by the pool's live connections (`*count`): for one of
 * all who ask. `*again`: see sd_alarm_judge. */
bool sd_scoreboard_alarm(
  sd_scoreboard *sb, uint32_t pool, const sd_alarm_order *order, uint64_t now, uint64_t *count, uint64_t *again);

/* Whether it has gone off before. */
bool sd_scoreboard_alarm_fired(const sd_scoreboard *sb, uint32_t pool, uint64_t name);

void sd_scoreboard_adopt(sd_scoreboard *sb, uint32_t pool, uint32_t ticket);
void sd_scoreboard_leave(sd_scoreboard *sb, uint32_t pool, uint32_t ticket);

/* Gives one place back. */
void sd_scoreboard_release(sd_scoreboard *sb, uint32_t pool);

/* A slot and the process in it: once that has ended, nothing can be its any more. */
typedef struct {
  uint32_t slot;
  int32_t pid;
} sd_scoreboard_party;

/* A connection moves from one process to another, and its place with it, unless it has
 * none: at no moment is it counted twice or not at all. -ESRCH when one of them has ended (then
 * nothing has happened, and what a dead one held was or will be reaped). */
int sd_scoreboard_pass(
  sd_scoreboard *sb, uint32_t pool, sd_scoreboard_party from, sd_scoreboard_party to, bool has_place);

/* Chooses under the pool's lock who serves what we have a place for. Whoever it is
 * gets the place, and is counted as having one connection more, accepted by us; we
 * ourselves when it has ended. `turn` is the pool's, for the chooser. */
typedef sd_scoreboard_party (*sd_scoreboard_chooser)(uint32_t *turn, const void *arg);
sd_scoreboard_party sd_scoreboard_assign(
  sd_scoreboard *sb, uint32_t pool, sd_scoreboard_chooser choose, const void *arg);

/* Lowering it cuts nobody; raising it rings for those that were refused. */
void sd_scoreboard_set_max(sd_scoreboard *sb, uint32_t pool, uint64_t max);

/* ---- pools: the supervisor's verbs ---- */

/* -EINVAL for a name that is too long, -EBUSY while the index is in use, be it
 * only by connections of a pool that was closed. Starts without a limit. */
int sd_scoreboard_pool_open(sd_scoreboard *sb, uint32_t pool, const char *name);

/* Admits nobody any more. The numbers stay readable until the next open. */
void sd_scoreboard_pool_close(sd_scoreboard *sb, uint32_t pool);

typedef struct {
  char name[SD_SCOREBOARD_NAME_MAX];
  bool open;
  uint64_t generation;
  uint64_t max;
  uint64_t reserved; /* places taken: connections, and accepts under way */
  uint64_t accepted;
  uint64_t closed;
  uint64_t preempted;
  uint64_t rejected;                       /* in all */
  uint64_t rejected_by[SD_REJECT_REASONS]; /* and why */
  uint64_t part_errors;
  uint64_t connections;
} sd_pool_view;

const char *sd_reject_name(sd_reject why);

/* Reads without the lock, so that nobody who holds it can delay an answer. */
void sd_scoreboard_pool_read(const sd_scoreboard *sb, uint32_t pool, sd_pool_view *out);
void sd_scoreboard_pool_slot_read(const sd_scoreboard *sb, uint32_t pool, uint32_t slot, sd_pool_view *out);

/* ---- slots: the supervisor's verbs ---- */

typedef struct {
  sd_slot_state state;
  int32_t pid;
  int32_t loop;
  uint64_t connections; /* over all pools */
  uint64_t lag_ns;
  uint64_t beat_ns;
  uint64_t dropped_logs;
  uint64_t dropped_messages;
  bool loading;
  bool starved;
  uint64_t entered_ns; /* 0: idle, and the next three mean nothing */
  uint32_t pool;       /* SD_SCOREBOARD_NO_POOL: not for a connection */
  uint64_t generation;
  uint64_t connection;
} sd_slot_view;

void sd_scoreboard_slot_read(const sd_scoreboard *sb, uint32_t slot, sd_slot_view *out);

/* Gives an order to whoever is in Lua there, if that is still the stretch that was seen
 * (sd_slot_view's entered_ns): else false. The signal is the caller's business. */
bool sd_scoreboard_order(sd_scoreboard *sb, uint32_t slot, uint64_t stretch, bool stop);

/* Frees the slot of a process that has ended: its counters join the pools', its
 * live connections count as closed, its places are given back, the bell rings.
 * Returns how many connections were lost. */
uint64_t sd_scoreboard_slot_reap(sd_scoreboard *sb, uint32_t slot);

const char *sd_slot_state_name(sd_slot_state state);

/* The state of that name, or -1. */
int sd_slot_state_named(const char *name);

/* ---- the hot path ---- */

static inline uint64_t sd_scoreboard_clock(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline sd_scoreboard_slot *sd_scoreboard_own(const sd_scoreboard *sb) {
  return &sb->slots[sb->slot];
}

/* We are in Lua from now on, for this connection; `now` (ns, as sd_scoreboard_clock has
 * it) may be a little old, since asking the clock each time would cost more than all the
 * rest. Who watches tells stretches apart by their stamps, so no two have the same; they
 * are exact in a Lua number. The stamp is stored last: whoever sees it sees what it
 * belongs to. */
static inline void sd_scoreboard_slot_enter(
  const sd_scoreboard *sb, uint64_t now, uint32_t pool, uint64_t generation, uint64_t connection) {
  sd_scoreboard_slot *s = sd_scoreboard_own(sb);
  uint64_t stamp = now & ~(uint64_t)(SD_SCOREBOARD_STAMP - 1);
  if (stamp <= s->stamp) stamp = s->stamp + SD_SCOREBOARD_STAMP;
  s->stamp = stamp;
  atomic_thread_fence(memory_order_release); /* after the 0 of the last leave */
  atomic_store_explicit(&s->pool, pool, memory_order_relaxed);
  atomic_store_explicit(&s->generation, generation, memory_order_relaxed);
  atomic_store_explicit(&s->connection, connection, memory_order_relaxed);
  atomic_store_explicit(&s->entered_ns, stamp, memory_order_release);
}

static inline void sd_scoreboard_slot_leave(const sd_scoreboard *sb) {
  atomic_store_explicit(&sd_scoreboard_own(sb)->entered_ns, 0, memory_order_release);
}

/* The loop turns; `lag_ns` is how much later than it wanted. */
static inline void sd_scoreboard_beat(const sd_scoreboard *sb, uint64_t lag_ns) {
  sd_scoreboard_slot *s = sd_scoreboard_own(sb);
  atomic_store_explicit(&s->lag_ns, lag_ns, memory_order_relaxed);
  atomic_store_explicit(&s->beat_ns, sd_scoreboard_clock(), memory_order_relaxed);
}

/* Loading code may take long without being stuck. */
static inline void sd_scoreboard_loading(const sd_scoreboard *sb, bool on) {
  atomic_store_explicit(&sd_scoreboard_own(sb)->loading, on, memory_order_relaxed);
}

/* The stretch of Lua that we are in; 0: none. */
static inline uint64_t sd_scoreboard_stretch(const sd_scoreboard *sb) {
  return atomic_load_explicit(&sd_scoreboard_own(sb)->entered_ns, memory_order_relaxed);
}

/* Whether that is for a pool: code of the user's, and not our own. */
static inline bool sd_scoreboard_in_pool(const sd_scoreboard *sb) {
  const sd_scoreboard_slot *s = sd_scoreboard_own(sb);
  return sd_scoreboard_stretch(sb) != 0 &&
         atomic_load_explicit(&s->pool, memory_order_relaxed) != SD_SCOREBOARD_NO_POOL;
}

static inline void sd_scoreboard_dropped_log(const sd_scoreboard *sb) {
  atomic_fetch_add_explicit(&sd_scoreboard_own(sb)->dropped_logs, 1, memory_order_relaxed);
}

static inline void sd_scoreboard_dropped_message(const sd_scoreboard *sb) {
  atomic_fetch_add_explicit(&sd_scoreboard_own(sb)->dropped_messages, 1, memory_order_relaxed);
}

/* Where only its owner writes a counter, a plain load and store will do. */
static inline void sd_counter_add(_Atomic uint64_t *counter, uint64_t n) {
  uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
  atomic_store_explicit(counter, now + n, memory_order_relaxed);
}

static inline sd_pool_counters *sd_scoreboard_counters_of(const sd_scoreboard *sb, uint32_t slot, uint32_t pool) {
  return &sb->counters[slot * sb->counters_stride + pool];
}

/* Our own counters of this pool. */
static inline sd_pool_counters *sd_scoreboard_counters(const sd_scoreboard *sb, uint32_t pool) {
  return sd_scoreboard_counters_of(sb, sb->slot, pool);
}

static inline void sd_scoreboard_count_accepted(const sd_scoreboard *sb, uint32_t pool) {
  sd_pool_counters *c = sd_scoreboard_counters(sb, pool);
  atomic_fetch_add_explicit(&c->connections, 1, memory_order_relaxed);
  sd_counter_add(&c->accepted, 1);
}

static inline void sd_scoreboard_count_preempted(const sd_scoreboard *sb, uint32_t pool) {
  sd_counter_add(&sd_scoreboard_counters(sb, pool)->preempted, 1);
}

/* We poll so many listen sockets more, or fewer. */
static inline void sd_scoreboard_count_accepting(const sd_scoreboard *sb, uint32_t pool, int n) {
  sd_counter_add(&sd_scoreboard_counters(sb, pool)->accepting, (uint64_t)n);
}

static inline void sd_scoreboard_count_closed(const sd_scoreboard *sb, uint32_t pool) {
  sd_pool_counters *c = sd_scoreboard_counters(sb, pool);
  atomic_fetch_sub_explicit(&c->connections, 1, memory_order_relaxed);
  sd_counter_add(&c->closed, 1);
}

/* The number of the next connection that a manager is asked about, over all processes;
 * `*taken` is how many places are, its own among them. */
static inline uint64_t sd_scoreboard_ask(const sd_scoreboard *sb, uint32_t pool, uint64_t *taken) {
  *taken = atomic_load_explicit(&sb->pools[pool].total, memory_order_relaxed);
  return atomic_fetch_add_explicit(&sb->pools[pool].asked, 1, memory_order_relaxed) + 1;
}

static inline void sd_scoreboard_count_rejected(const sd_scoreboard *sb, uint32_t pool, sd_reject why) {
  sd_counter_add(&sd_scoreboard_counters(sb, pool)->rejected[why], 1);
}

static inline void sd_scoreboard_count_part_error(const sd_scoreboard *sb, uint32_t pool) {
  sd_counter_add(&sd_scoreboard_counters(sb, pool)->part_errors, 1);
}

/* How many we have accepted. */
static inline uint64_t sd_scoreboard_accepted(const sd_scoreboard *sb, uint32_t pool) {
  return atomic_load_explicit(&sd_scoreboard_counters(sb, pool)->accepted, memory_order_relaxed);
}

/* Places that are taken, over all processes. */
static inline uint64_t sd_scoreboard_taken(const sd_scoreboard *sb, uint32_t pool) {
  return atomic_load_explicit(&sb->pools[pool].total, memory_order_relaxed);
}

/* The current generation. Storing it is the moment a change takes effect: every
 * acceptor compares it before it accepts. */
static inline uint64_t sd_scoreboard_generation(const sd_scoreboard *sb, uint32_t pool) {
  return atomic_load(&sb->pools[pool].split.current);
}

static inline void sd_scoreboard_set_generation(sd_scoreboard *sb, uint32_t pool, uint64_t n) {
  atomic_store(&sb->pools[pool].split.current, n);
}

/* What an acceptor needs to know about generations, in one look. */
static inline sd_split_look sd_scoreboard_look(const sd_scoreboard *sb, uint32_t pool) {
  return sd_split_look_at(&sb->pools[pool].split);
}

static inline sd_trial *sd_scoreboard_trial(const sd_scoreboard *sb, uint32_t pool) {
  return &sb->pools[pool].trial;
}

/* The same for the pool's options: who has older ones accepts nobody. */
static inline uint64_t sd_scoreboard_revision(const sd_scoreboard *sb, uint32_t pool) {
  return atomic_load(&sb->pools[pool].revision);
}

static inline void sd_scoreboard_set_revision(sd_scoreboard *sb, uint32_t pool, uint64_t n) {
  atomic_store(&sb->pools[pool].revision, n);
}

#endif
