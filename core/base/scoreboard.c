/* What all processes of an instance know without asking each other. */
#include "base/scoreboard.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fcntl.h>

#define MAGIC UINT64_C(0x7364626f61726432) /* changes with the layout */

typedef struct {
  uint64_t magic;
  uint64_t size;
  uint32_t slots;
  uint32_t pools;
} header;

/* Where things lie in the mapping, each on lines of its own. */
typedef struct {
  size_t pools, slots, counters, held, size;
  size_t stride;
} layout;

static size_t whole_lines(size_t bytes) {
  return (bytes + SD_SCOREBOARD_LINE - 1) / SD_SCOREBOARD_LINE * SD_SCOREBOARD_LINE;
}

static layout plan(uint32_t slots, uint32_t pools) {
  layout l;
  size_t row = whole_lines(pools * sizeof(sd_pool_counters));
  l.stride = row / sizeof(sd_pool_counters);
  l.pools = whole_lines(sizeof(header));
  l.slots = l.pools + pools * sizeof(sd_scoreboard_pool);
  l.counters = l.slots + slots * sizeof(sd_scoreboard_slot);
  l.held = l.counters + slots * row;
  l.size = l.held + whole_lines((size_t)slots * pools * sizeof(uint32_t));
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
  *(header *)sb->mapping = (header){ .magic = MAGIC, .size = sb->size, .slots = sb->nslots, .pools = sb->npools };
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
  sd_scoreboard sb = { .bell = bell, .slot = slot };
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

/* A process can be killed anywhere, so `held` is changed by one store and the
 * sum is made anew when its holder has died. */
static sd_scoreboard_pool *lock(const sd_scoreboard *sb, uint32_t pool) {
  assert(pool < sb->npools);
  sd_scoreboard_pool *p = &sb->pools[pool];
  int err = pthread_mutex_lock(&p->mutex);
  if (err == EOWNERDEAD) {
    p->total = sum_held(sb, pool);
    err = pthread_mutex_consistent(&p->mutex);
  }
  assert(err == 0);
  (void)err;
  return p;
}

static void unlock(sd_scoreboard_pool *p) {
  pthread_mutex_unlock(&p->mutex);
}

/* Rings after the lock is given back, since those who wake want it. A process
 * that is killed in between rings nobody; reaping its slot does. */
static void unlock_and_tell(const sd_scoreboard *sb, sd_scoreboard_pool *p) {
  bool tell = p->waiting && p->total < p->max;
  if (tell) p->waiting = 0;
  unlock(p);
  if (tell) sd_scoreboard_ring(sb);
}

int sd_scoreboard_reserve(sd_scoreboard *sb, uint32_t pool) {
  sd_scoreboard_pool *p = lock(sb, pool);
  bool room = p->total < p->max;
  if (room) {
    ++*held(sb, pool, sb->slot);
    ++p->total;
  } else {
    p->waiting = 1;
  }
  unlock(p);
  return room ? 0 : -EAGAIN;
}

void sd_scoreboard_release(sd_scoreboard *sb, uint32_t pool) {
  sd_scoreboard_pool *p = lock(sb, pool);
  assert(*held(sb, pool, sb->slot) > 0);
  --*held(sb, pool, sb->slot);
  --p->total;
  unlock_and_tell(sb, p);
}

static bool is_there(const sd_scoreboard *sb, sd_scoreboard_party party) {
  return party.slot < sb->nslots && party.pid != 0 && sb->slots[party.slot].pid == party.pid;
}

/* Reaping takes the pid away before it takes the lock: who is there under the lock
 * will have what it gets here counted when it is reaped. */
int sd_scoreboard_pass(sd_scoreboard *sb, uint32_t pool, sd_scoreboard_party from, sd_scoreboard_party to) {
  sd_scoreboard_pool *p = lock(sb, pool);
  bool possible = is_there(sb, from) && is_there(sb, to) && *held(sb, pool, from.slot) > 0;
  if (possible) {
    ++*held(sb, pool, to.slot);
    --*held(sb, pool, from.slot);
    ++sd_scoreboard_counters_of(sb, to.slot, pool)->connections;
    --sd_scoreboard_counters_of(sb, from.slot, pool)->connections;
  }
  unlock(p);
  return possible ? 0 : -ESRCH;
}

void sd_scoreboard_set_max(sd_scoreboard *sb, uint32_t pool, uint64_t max) {
  sd_scoreboard_pool *p = lock(sb, pool);
  p->max = max;
  unlock_and_tell(sb, p);
}

static bool has_connections(const sd_scoreboard *sb, uint32_t pool) {
  for (uint32_t i = 0; i < sb->nslots; i++)
    if (sd_scoreboard_counters_of(sb, i, pool)->connections > 0) return true;
  return false;
}

static void zero_counters(sd_pool_counters *c) {
  c->accepted = c->closed = c->connections = 0;
  for (int i = 0; i < SD_REJECT_REASONS; i++) c->rejected[i] = 0;
}

static void start_over(sd_scoreboard *sb, uint32_t pool) {
  sd_scoreboard_pool *p = &sb->pools[pool];
  for (uint32_t i = 0; i < sb->nslots; i++) zero_counters(sd_scoreboard_counters_of(sb, i, pool));
  zero_counters(&p->base);
  p->revision = 0;
  sd_split_clear(&p->split);
  sd_trial_watch(&p->trial, 0);
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
  for (int i = 0; i < SD_REJECT_REASONS; i++) {
    uint64_t n = peek(&c->rejected[i]);
    out->rejected_by[i] += n;
    out->rejected += n;
  }
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
    .loading = s->loading,
  };
  read_heartbeat(s, out);
}

static void give_back(sd_scoreboard *sb, uint32_t pool, uint32_t slot) {
  sd_scoreboard_pool *p = lock(sb, pool);
  p->total -= atomic_exchange(held(sb, pool, slot), 0);
  p->waiting = 0; /* the ring that follows is for all */
  unlock(p);
}

static uint64_t fold(sd_scoreboard *sb, uint32_t pool, uint32_t slot) {
  sd_pool_counters *base = &sb->pools[pool].base;
  sd_pool_counters *c = sd_scoreboard_counters_of(sb, slot, pool);
  uint64_t lost = c->connections;
  sd_counter_add(&base->accepted, c->accepted);
  sd_counter_add(&base->closed, c->closed + lost);
  for (int i = 0; i < SD_REJECT_REASONS; i++) sd_counter_add(&base->rejected[i], c->rejected[i]);
  zero_counters(c);
  return lost;
}

static void clear_slot(sd_scoreboard_slot *s) {
  s->entered_ns = s->generation = s->connection = 0;
  s->pool = SD_SCOREBOARD_NO_POOL;
  s->beat_ns = s->lag_ns = s->dropped_logs = 0;
  s->loading = 0;
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
