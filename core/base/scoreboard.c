/* What all processes of an instance know without asking each other. */
#include "base/scoreboard.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fcntl.h>

#define MAGIC UINT64_C(0x7364626f61726437) /* changes with the layout */

typedef struct {
  uint64_t magic;
  uint64_t size;
  uint32_t slots;
  uint32_t pools;
  uint64_t seed;
} header;

/* Where things lie in the mapping, each on lines of its own. */
typedef struct {
  size_t pools, slots, counters, held, tickets, headcounts, size;
  size_t stride, headcount;
} layout;

#define PAGE 4096

static size_t whole_lines(size_t bytes) {
  return (bytes + SD_SCOREBOARD_LINE - 1) / SD_SCOREBOARD_LINE * SD_SCOREBOARD_LINE;
}

static size_t whole_pages(size_t bytes) {
  return (bytes + PAGE - 1) / PAGE * PAGE;
}

static layout plan(uint32_t slots, uint32_t pools) {
  layout l;
  size_t row = whole_lines(pools * sizeof(sd_pool_counters));
  l.stride = row / sizeof(sd_pool_counters);
  l.pools = whole_lines(sizeof(header));
  l.slots = l.pools + pools * sizeof(sd_scoreboard_pool);
  l.counters = l.slots + slots * sizeof(sd_scoreboard_slot);
  l.held = l.counters + slots * row;
  l.tickets = l.held + whole_lines((size_t)slots * pools * sizeof(uint32_t));
  l.headcounts = whole_pages(l.tickets + (size_t)slots * pools * sizeof(uint64_t));
  l.headcount = whole_pages(sd_headcount_size(slots));
  l.size = l.headcounts + pools * l.headcount; /* mostly of pages that nobody touches */
  return l;
}

static int map(sd_scoreboard *sb, int fd, uint32_t slots, uint32_t pools) {
  layout l = plan(slots, pools);
  char *at = mmap(NULL, l.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return -errno;
  sb->mapping = at;
  sb->size = l.size;
  sb->fd = fd;
  sb->nslots = slots;
  sb->npools = pools;
  sb->pools = (sd_scoreboard_pool *)(at + l.pools);
  sb->slots = (sd_scoreboard_slot *)(at + l.slots);
  sb->counters = (sd_pool_counters *)(at + l.counters);
  sb->counters_stride = l.stride;
  sb->held = (_Atomic uint32_t *)(at + l.held);
  sb->tickets = (uint64_t *)(at + l.tickets);
  sb->headcounts = at + l.headcounts;
  sb->headcount_size = l.headcount;
  return 0;
}

static int init_mutexes(sd_scoreboard *sb) {
  pthread_mutexattr_t shared;
  int err = pthread_mutexattr_init(&shared);
  if (err) return -err;
  err = pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
  if (!err) err = pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST);
  for (uint32_t i = 0; !err && i < sb->npools; i++) err = pthread_mutex_init(&sb->pools[i].mutex, &shared);
  pthread_mutexattr_destroy(&shared);
  return -err;
}

/* A memfd that no process can shrink under the feet of the others. */
static int open_memory(size_t size) {
  int fd = memfd_create("scoreboard", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  int seals = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
  if (ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, seals) == 0) return fd;
  int err = -errno;
  close(fd);
  return err;
}

static int fill(sd_scoreboard *sb) {
  assert(sb->mapping != NULL);
  /* Unpredictable where that is to be had: early in a boot it may not be, and nothing else depends on it. */
  if (getrandom(&sb->seed, sizeof sb->seed, GRND_NONBLOCK) < 0) sb->seed = sd_scoreboard_clock();
  *(header *)sb->mapping =
    (header){ .magic = MAGIC, .size = sb->size, .slots = sb->nslots, .pools = sb->npools, .seed = sb->seed };
  for (uint32_t i = 0; i < sb->nslots; i++) sb->slots[i].pool = SD_SCOREBOARD_NO_POOL;
  return init_mutexes(sb);
}

int sd_scoreboard_create(sd_scoreboard *out, uint32_t slots, uint32_t pools) {
  assert(slots > 0 && pools > 0);
  sd_scoreboard sb = { .owns = true, .slot = SD_SCOREBOARD_NO_SLOT };
  int fd = open_memory(plan(slots, pools).size);
  if (fd < 0) return fd;
  int err;
  sb.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (sb.bell < 0) {
    err = -errno;
    goto fail_memory;
  }
  err = map(&sb, fd, slots, pools);
  if (err) goto fail_bell;
  err = fill(&sb);
  if (err) goto fail_map;
  *out = sb;
  return 0;

fail_map:
  munmap(sb.mapping, sb.size);
fail_bell:
  close(sb.bell);
fail_memory:
  close(fd);
  return err;
}

/* Whatever descriptor we were handed must be such a scoreboard, whole. */
static int read_header(int fd, header *out) {
  struct stat st;
  ssize_t n = pread(fd, out, sizeof *out, 0);
  if (n < 0 || fstat(fd, &st) != 0) return -errno;
  if (n != sizeof *out || out->magic != MAGIC) return -EINVAL;
  if (plan(out->slots, out->pools).size != out->size) return -EINVAL;
  if ((uint64_t)st.st_size != out->size) return -EINVAL;
  return 0;
}

int sd_scoreboard_attach(sd_scoreboard *out, int fd, int bell, uint32_t slot) {
  header h;
  int err = read_header(fd, &h);
  if (err) return err;
  if (slot != SD_SCOREBOARD_NO_SLOT && slot >= h.slots) return -EINVAL;
  sd_scoreboard sb = { .bell = bell, .slot = slot, .seed = h.seed };
  err = map(&sb, fd, h.slots, h.pools);
  if (err) return err;
  *out = sb;
  return 0;
}

void sd_scoreboard_close(sd_scoreboard *sb) {
  if (sb->mapping == NULL) return;
  munmap(sb->mapping, sb->size);
  if (sb->owns) {
    close(sb->fd);
    close(sb->bell);
  }
  *sb = (sd_scoreboard){ .fd = -1, .bell = -1, .slot = SD_SCOREBOARD_NO_SLOT };
}

void sd_scoreboard_ring(const sd_scoreboard *sb) {
  uint64_t one = 1;
  /* It can fail only when nobody could count any further, in 2^64 rings. */
  if (write(sb->bell, &one, sizeof one) < 0) return;
}

static _Atomic uint32_t *held(const sd_scoreboard *sb, uint32_t pool, uint32_t slot) {
  return &sb->held[(size_t)pool * sb->nslots + slot];
}

static uint64_t sum_held(const sd_scoreboard *sb, uint32_t pool) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < sb->nslots; i++) sum += *held(sb, pool, i);
  return sum;
}

static uint64_t *ticket_of(const sd_scoreboard *sb, uint32_t pool, uint32_t slot) {
  return &sb->tickets[(size_t)pool * sb->nslots + slot];
}

static uint32_t count_queues(const sd_scoreboard *sb, uint32_t pool) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < sb->nslots; i++) n += *ticket_of(sb, pool, i) != 0;
  return n;
}

static sd_headcount *headcount(const sd_scoreboard *sb, uint32_t pool) {
  return (sd_headcount *)(sb->headcounts + pool * sb->headcount_size);
}

/* A process can be killed anywhere, so `held` is changed by one store and the
 * sum is made anew when its holder has died. */
static sd_scoreboard_pool *lock(const sd_scoreboard *sb, uint32_t pool) {
  assert(pool < sb->npools);
  sd_scoreboard_pool *p = &sb->pools[pool];
  int err = pthread_mutex_lock(&p->mutex);
  if (err == EOWNERDEAD) {
    p->total = sum_held(sb, pool);
    p->queues = count_queues(sb, pool);
    p->told = 0;
    sd_headcount_mend(headcount(sb, pool), sb->nslots, sb->seed);
    err = pthread_mutex_consistent(&p->mutex);
  }
  assert(err == 0);
  (void)err;
  return p;
}

static void unlock(sd_scoreboard_pool *p) {
  pthread_mutex_unlock(&p->mutex);
}

/* The slot with the oldest ticket; there is one. */
static uint32_t first_in_line(const sd_scoreboard *sb, uint32_t pool, uint64_t *oldest) {
  uint32_t slot = SD_SCOREBOARD_NO_SLOT;
  for (uint32_t i = 0; i < sb->pools[pool].top; i++) {
    uint64_t ticket = *ticket_of(sb, pool, i);
    if (ticket == 0 || (slot != SD_SCOREBOARD_NO_SLOT && ticket > *oldest)) continue;
    *oldest = ticket;
    slot = i;
  }
  return slot;
}

/* Whose turn it has become, if nobody has told it yet. */
static uint32_t note_turn(const sd_scoreboard *sb, uint32_t pool) {
  sd_scoreboard_pool *p = &sb->pools[pool];
  uint64_t oldest = 0;
  uint32_t slot = first_in_line(sb, pool, &oldest);
  if (oldest == p->told) return SD_SCOREBOARD_NO_SLOT;
  p->told = oldest;
  p->told_at = sd_scoreboard_clock();
  return slot;
}

/* Tells after the lock is given back, since those who wake want it. A process
 * that is killed in between tells nobody; reaping its slot does. */
static void unlock_and_tell(const sd_scoreboard *sb, sd_scoreboard_pool *p) {
  uint32_t slot = SD_SCOREBOARD_NO_SLOT;
  bool ring = false;
  if (p->total < p->max && p->queues > 0) {
    slot = note_turn(sb, (uint32_t)(p - sb->pools));
  } else if (p->total < p->max) {
    ring = p->waiting;
    p->waiting = 0;
  }
  unlock(p);
  if (slot != SD_SCOREBOARD_NO_SLOT && sb->tell != NULL)
    sb->tell(slot);
  else if (ring || slot != SD_SCOREBOARD_NO_SLOT)
    sd_scoreboard_ring(sb);
}

/* Somebody else has waited longer, and may be coming. */
static bool is_anothers_turn(const sd_scoreboard *sb, uint32_t pool, const sd_claim *claim) {
  const sd_scoreboard_pool *p = &sb->pools[pool];
  if (p->queues == 0 || claim->now > p->room_since + SD_SCOREBOARD_PATIENCE) return false;
  for (uint32_t i = 0; i < p->top; i++) {
    uint64_t other = *ticket_of(sb, pool, i);
    if (other != 0 && (claim->ticket == 0 || other < claim->ticket)) return true;
  }
  return false;
}

static int judge(const sd_scoreboard *sb, uint32_t pool, const sd_claim *claim, uint64_t *wait) {
  const sd_scoreboard_pool *p = &sb->pools[pool];
  if (p->total >= p->max) return -EAGAIN;
  if (is_anothers_turn(sb, pool, claim)) return -EINPROGRESS;
  *wait = sd_bucket_wait(p->bucket, &claim->rate, claim->now);
  return *wait > 0 ? -EBUSY : 0;
}

int sd_scoreboard_claim(sd_scoreboard *sb, uint32_t pool, const sd_claim *claim, uint64_t *wait) {
  sd_scoreboard_pool *p = lock(sb, pool);
  int err = judge(sb, pool, claim, wait);
  if (err == 0) {
    ++*held(sb, pool, sb->slot);
    if (++p->total >= p->max) p->told = 0; /* the next place is another turn */
    if (claim->rate.interval != 0) p->bucket = sd_bucket_take(p->bucket, &claim->rate, claim->now);
  } else {
    p->waiting |= err != -EBUSY;
  }
  unlock(p);
  return err;
}

int sd_scoreboard_reserve(sd_scoreboard *sb, uint32_t pool) {
  const sd_claim any = { .now = UINT64_MAX };
  uint64_t wait;
  return sd_scoreboard_claim(sb, pool, &any, &wait);
}

/* After `total` fell or `max` rose: those who wait have their turn from now on. */
static void note_room(sd_scoreboard_pool *p, bool was_full) {
  if (was_full && p->total < p->max) p->room_since = sd_scoreboard_clock();
}

static void give_place_back(sd_scoreboard *sb, uint32_t pool) {
  sd_scoreboard_pool *p = &sb->pools[pool];
  bool was_full = p->total >= p->max;
  assert(*held(sb, pool, sb->slot) > 0);
  --*held(sb, pool, sb->slot);
  --p->total;
  note_room(p, was_full);
}

void sd_scoreboard_release(sd_scoreboard *sb, uint32_t pool) {
  sd_scoreboard_pool *p = lock(sb, pool);
  give_place_back(sb, pool);
  unlock_and_tell(sb, p);
}

void sd_scoreboard_unclaim(sd_scoreboard *sb, uint32_t pool, const sd_claim *claim) {
  sd_scoreboard_pool *p = lock(sb, pool);
  give_place_back(sb, pool);
  if (claim->rate.interval != 0) p->bucket = sd_bucket_return(p->bucket, &claim->rate);
  unlock_and_tell(sb, p);
}

static bool is_there(const sd_scoreboard *sb, sd_scoreboard_party party) {
  return party.slot < sb->nslots && party.pid != 0 && sb->slots[party.slot].pid == party.pid;
}

sd_scoreboard_party sd_scoreboard_assign(
  sd_scoreboard *sb, uint32_t pool, sd_scoreboard_chooser choose, const void *arg) {
  sd_scoreboard_pool *p = lock(sb, pool);
  sd_scoreboard_party to = choose(&p->turn, arg);
  if (!is_there(sb, to)) to = (sd_scoreboard_party){ sb->slot, sb->slots[sb->slot].pid };
  if (to.slot != sb->slot) {
    ++*held(sb, pool, to.slot);
    --*held(sb, pool, sb->slot);
  }
  sd_counter_add(&sd_scoreboard_counters(sb, pool)->accepted, 1);
  ++sd_scoreboard_counters_of(sb, to.slot, pool)->connections;
  unlock(p);
  return to;
}

/* Reaping takes the pid away before it takes the lock: who is there under the lock
 * will have what it gets here counted when it is reaped. */
int sd_scoreboard_pass(
  sd_scoreboard *sb, uint32_t pool, sd_scoreboard_party from, sd_scoreboard_party to, bool has_place) {
  sd_scoreboard_pool *p = lock(sb, pool);
  uint32_t places = has_place ? 1 : 0;
  bool possible = is_there(sb, from) && is_there(sb, to) && *held(sb, pool, from.slot) >= places;
  if (possible) {
    *held(sb, pool, to.slot) += places;
    *held(sb, pool, from.slot) -= places;
    ++sd_scoreboard_counters_of(sb, to.slot, pool)->connections;
    --sd_scoreboard_counters_of(sb, from.slot, pool)->connections;
  }
  unlock(p);
  return possible ? 0 : -ESRCH;
}

void sd_scoreboard_set_max(sd_scoreboard *sb, uint32_t pool, uint64_t max) {
  sd_scoreboard_pool *p = lock(sb, pool);
  bool was_full = p->total >= p->max;
  p->max = max;
  if (p->total >= max) p->told = 0;
  note_room(p, was_full);
  unlock_and_tell(sb, p);
}

uint64_t sd_scoreboard_draw(sd_scoreboard *sb, uint32_t pool) {
  sd_scoreboard_pool *p = lock(sb, pool);
  uint64_t ticket = ++p->last_ticket;
  unlock(p);
  return ticket;
}

/* Tells too when there is room: it may be the next one's turn now. */
void sd_scoreboard_wait(sd_scoreboard *sb, uint32_t pool, uint64_t oldest) {
  sd_scoreboard_pool *p = lock(sb, pool);
  uint64_t *mine = ticket_of(sb, pool, sb->slot);
  if (sb->slot >= p->top) p->top = sb->slot + 1;
  p->queues += (oldest != 0) - (*mine != 0);
  *mine = oldest;
  unlock_and_tell(sb, p);
}

static const uint64_t all_told = UINT64_MAX - SD_SCOREBOARD_PATIENCE;

sd_turn sd_scoreboard_turn(sd_scoreboard *sb, uint32_t pool, uint64_t now) {
  sd_scoreboard_pool *p = lock(sb, pool);
  sd_turn turn = SD_TURN_TOLD;
  if (p->total >= p->max || p->queues == 0 || p->told == 0 || p->told_at == all_told)
    turn = SD_TURN_NONE;
  else if (now > p->told_at + SD_SCOREBOARD_PATIENCE)
    turn = SD_TURN_FORSAKEN;
  if (turn == SD_TURN_FORSAKEN) p->told_at = all_told;
  unlock(p);
  return turn;
}

int sd_scoreboard_enter(sd_scoreboard *sb, uint32_t pool, const sd_headcount_key *key,
  const sd_headcount_limits *limits, uint64_t now, uint32_t *ticket) {
  sd_scoreboard_pool *p = lock(sb, pool);
  int err = sd_headcount_enter(headcount(sb, pool), sb->nslots, sb->slot, key, sb->seed, limits, now, ticket);
  unlock(p);
  return err;
}

static sd_alarm *find_alarm(sd_scoreboard_pool *p, uint64_t name) {
  for (int i = 0; i < SD_SCOREBOARD_ALARMS; i++)
    if (p->alarms[i].name == name) return &p->alarms[i];
  return NULL;
}

/* In place of the one that has been silent for longest, if there must be. */
static sd_alarm *get_alarm(sd_scoreboard_pool *p, uint64_t name) {
  sd_alarm *found = find_alarm(p, name);
  if (found != NULL) return found;
  found = &p->alarms[0];
  for (int i = 1; i < SD_SCOREBOARD_ALARMS; i++)
    if (p->alarms[i].fired < found->fired) found = &p->alarms[i];
  *found = (sd_alarm){ .name = name };
  return found;
}

static uint64_t count_live(const sd_scoreboard *sb, uint32_t pool) {
  uint64_t live = 0;
  for (uint32_t i = 0; i < sb->nslots; i++)
    live += atomic_load_explicit(&sd_scoreboard_counters_of(sb, i, pool)->connections, memory_order_relaxed);
  return live;
}

bool sd_scoreboard_alarm(
  sd_scoreboard *sb, uint32_t pool, const sd_alarm_order *order, uint64_t now, uint64_t *count, uint64_t *again) {
  sd_scoreboard_pool *p = lock(sb, pool);
  bool due = false;
  *again = 0;
  if (p->total >= order->threshold) {
    *count = count_live(sb, pool);
    due = sd_alarm_judge(get_alarm(p, order->name), order, *count, now, again);
  }
  unlock(p);
  return due;
}

bool sd_scoreboard_alarm_fired(const sd_scoreboard *sb, uint32_t pool, uint64_t name) {
  sd_scoreboard_pool *p = lock(sb, pool);
  const sd_alarm *alarm = find_alarm(p, name);
  bool fired = alarm != NULL && alarm->fired != 0;
  unlock(p);
  return fired;
}

void sd_scoreboard_adopt(sd_scoreboard *sb, uint32_t pool, uint32_t ticket) {
  if (ticket == 0) return;
  sd_scoreboard_pool *p = lock(sb, pool);
  sd_headcount_adopt(headcount(sb, pool), sb->nslots, sb->slot, ticket);
  unlock(p);
}

void sd_scoreboard_leave(sd_scoreboard *sb, uint32_t pool, uint32_t ticket) {
  if (ticket == 0) return;
  sd_scoreboard_pool *p = lock(sb, pool);
  sd_headcount_leave(headcount(sb, pool), sb->nslots, sb->slot, ticket);
  unlock(p);
}

static bool has_connections(const sd_scoreboard *sb, uint32_t pool) {
  for (uint32_t i = 0; i < sb->nslots; i++)
    if (sd_scoreboard_counters_of(sb, i, pool)->connections > 0) return true;
  return false;
}

static void zero_counters(sd_pool_counters *c) {
  c->accepted = c->closed = c->connections = c->accepting = c->preempted = 0;
  for (int i = 0; i < SD_REJECT_REASONS; i++) c->rejected[i] = 0;
  c->part_errors = 0;
}

static void start_over(sd_scoreboard *sb, uint32_t pool) {
  sd_scoreboard_pool *p = &sb->pools[pool];
  for (uint32_t i = 0; i < sb->nslots; i++) zero_counters(sd_scoreboard_counters_of(sb, i, pool));
  zero_counters(&p->base);
  p->revision = 0;
  sd_split_clear(&p->split);
  sd_trial_watch(&p->trial, 0);
  p->bucket = 0;
  p->asked = 0;
  p->told = 0;
  memset(p->alarms, 0, sizeof p->alarms);
  sd_headcount_clear(headcount(sb, pool), sb->nslots);
}

int sd_scoreboard_pool_open(sd_scoreboard *sb, uint32_t pool, const char *name) {
  size_t len = strlen(name);
  if (len >= SD_SCOREBOARD_NAME_MAX) return -EINVAL;
  sd_scoreboard_pool *p = lock(sb, pool);
  bool busy = p->open || p->total > 0 || has_connections(sb, pool);
  if (!busy) {
    start_over(sb, pool);
    memcpy(p->name, name, len + 1);
    p->max = SD_SCOREBOARD_UNLIMITED;
    p->open = 1;
  }
  unlock(p);
  return busy ? -EBUSY : 0;
}

void sd_scoreboard_pool_close(sd_scoreboard *sb, uint32_t pool) {
  sd_scoreboard_pool *p = lock(sb, pool);
  p->max = 0;
  p->waiting = 0;
  p->open = 0;
  unlock(p);
}

static uint64_t peek(const _Atomic uint64_t *n) {
  return atomic_load_explicit(n, memory_order_relaxed);
}

static void add_counters(sd_pool_view *out, const sd_pool_counters *c) {
  out->accepted += peek(&c->accepted);
  out->closed += peek(&c->closed);
  out->connections += peek(&c->connections);
  out->preempted += peek(&c->preempted);
  for (int i = 0; i < SD_REJECT_REASONS; i++) {
    uint64_t n = peek(&c->rejected[i]);
    out->rejected_by[i] += n;
    out->rejected += n;
  }
  out->part_errors += peek(&c->part_errors);
}

static void read_settings(const sd_scoreboard *sb, uint32_t pool, sd_pool_view *out) {
  assert(pool < sb->npools);
  const sd_scoreboard_pool *p = &sb->pools[pool];
  *out = (sd_pool_view){ .open = p->open, .max = peek(&p->max) };
  out->generation = sd_scoreboard_generation(sb, pool);
  memcpy(out->name, p->name, sizeof out->name);
}

void sd_scoreboard_pool_read(const sd_scoreboard *sb, uint32_t pool, sd_pool_view *out) {
  read_settings(sb, pool, out);
  out->reserved = peek(&sb->pools[pool].total);
  add_counters(out, &sb->pools[pool].base);
  for (uint32_t i = 0; i < sb->nslots; i++) add_counters(out, sd_scoreboard_counters_of(sb, i, pool));
}

void sd_scoreboard_pool_slot_read(const sd_scoreboard *sb, uint32_t pool, uint32_t slot, sd_pool_view *out) {
  assert(slot < sb->nslots);
  read_settings(sb, pool, out);
  out->reserved = *held(sb, pool, slot);
  add_counters(out, sd_scoreboard_counters_of(sb, slot, pool));
}

/* The worker writes on meanwhile: what we read belongs together only if the
 * stamp was the same before and after. One that enters and leaves that fast is
 * not stuck, so a few attempts will do. */
static void read_heartbeat(const sd_scoreboard_slot *s, sd_slot_view *out) {
  for (int attempt = 0; attempt < 8; attempt++) {
    out->entered_ns = atomic_load_explicit(&s->entered_ns, memory_order_acquire);
    out->pool = atomic_load_explicit(&s->pool, memory_order_relaxed);
    out->generation = peek(&s->generation);
    out->connection = peek(&s->connection);
    atomic_thread_fence(memory_order_acquire);
    if (peek(&s->entered_ns) == out->entered_ns) return;
  }
  out->entered_ns = 0;
}

static uint64_t live_connections(const sd_scoreboard *sb, uint32_t slot) {
  uint64_t live = 0;
  for (uint32_t i = 0; i < sb->npools; i++) live += peek(&sd_scoreboard_counters_of(sb, slot, i)->connections);
  return live;
}

void sd_scoreboard_slot_read(const sd_scoreboard *sb, uint32_t slot, sd_slot_view *out) {
  assert(slot < sb->nslots);
  const sd_scoreboard_slot *s = &sb->slots[slot];
  *out = (sd_slot_view){
    .state = (sd_slot_state)s->state,
    .pid = s->pid,
    .loop = s->loop,
    .connections = live_connections(sb, slot),
    .lag_ns = peek(&s->lag_ns),
    .beat_ns = peek(&s->beat_ns),
    .dropped_logs = peek(&s->dropped_logs),
    .dropped_messages = peek(&s->dropped_messages),
    .loading = s->loading,
    .starved = s->starved,
  };
  read_heartbeat(s, out);
}

bool sd_scoreboard_order(sd_scoreboard *sb, uint32_t slot, uint64_t stretch, bool stop) {
  assert(slot < sb->nslots);
  sd_scoreboard_slot *s = &sb->slots[slot];
  if (stretch == 0 || peek(&s->entered_ns) != stretch) return false;
  sd_order_give(&s->order, stretch, stop);
  return true;
}

static void give_back(sd_scoreboard *sb, uint32_t pool, uint32_t slot) {
  sd_scoreboard_pool *p = lock(sb, pool);
  uint64_t *ticket = ticket_of(sb, pool, slot);
  bool was_full = p->total >= p->max;
  p->total -= atomic_exchange(held(sb, pool, slot), 0);
  p->queues -= *ticket != 0;
  *ticket = 0;
  sd_headcount_reap(headcount(sb, pool), sb->nslots, slot);
  note_room(p, was_full);
  p->waiting = 0; /* the ring that follows is for all */
  p->told = 0;
  unlock(p);
}

static uint64_t fold(sd_scoreboard *sb, uint32_t pool, uint32_t slot) {
  sd_pool_counters *base = &sb->pools[pool].base;
  sd_pool_counters *c = sd_scoreboard_counters_of(sb, slot, pool);
  uint64_t lost = c->connections;
  sd_counter_add(&base->accepted, c->accepted);
  sd_counter_add(&base->closed, c->closed + lost);
  sd_counter_add(&base->preempted, c->preempted);
  for (int i = 0; i < SD_REJECT_REASONS; i++) sd_counter_add(&base->rejected[i], c->rejected[i]);
  sd_counter_add(&base->part_errors, c->part_errors);
  zero_counters(c);
  return lost;
}

static void clear_slot(sd_scoreboard_slot *s) {
  s->entered_ns = s->generation = s->connection = 0;
  s->pool = SD_SCOREBOARD_NO_POOL;
  s->beat_ns = s->lag_ns = s->dropped_logs = s->dropped_messages = 0;
  s->loading = s->starved = 0;
  sd_order_clear(&s->order);
  s->pid = s->loop = 0;
  s->state = SD_SLOT_FREE;
}

uint64_t sd_scoreboard_slot_reap(sd_scoreboard *sb, uint32_t slot) {
  assert(slot < sb->nslots);
  uint64_t lost = 0;
  sb->slots[slot].pid = 0; /* nobody passes it anything from here on */
  for (uint32_t i = 0; i < sb->npools; i++) {
    give_back(sb, i, slot);
    lost += fold(sb, i, slot);
  }
  clear_slot(&sb->slots[slot]);
  sd_scoreboard_ring(sb);
  return lost;
}

const char *sd_reject_name(sd_reject why) {
  static const char *const names[SD_REJECT_REASONS] = {
    [SD_REJECT_FULL] = "full",
    [SD_REJECT_DENIED] = "denied",
    [SD_REJECT_PER_IP] = "per_ip",
    [SD_REJECT_RATE] = "rate",
    [SD_REJECT_WAIT] = "wait",
    [SD_REJECT_REFUSED] = "refused",
  };
  return names[why];
}

static const char *const state_names[] = {
  [SD_SLOT_FREE] = "free",
  [SD_SLOT_STARTING] = "starting",
  [SD_SLOT_RUNNING] = "running",
  [SD_SLOT_STUCK] = "stuck",
  [SD_SLOT_DRAINING] = "draining",
};
#define NSTATES (sizeof state_names / sizeof *state_names)

const char *sd_slot_state_name(sd_slot_state state) {
  return (size_t)state < NSTATES ? state_names[state] : "?";
}

int sd_slot_state_named(const char *name) {
  for (size_t i = 0; i < NSTATES; i++)
    if (strcmp(state_names[i], name) == 0) return (int)i;
  return -1;
}
