/* Where the parts of a segment lie, and its lock. */
#include "base/segment.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define LINE 64

static size_t whole_lines(size_t bytes) {
  return (bytes + LINE - 1) / LINE * LINE;
}

static uint32_t power_up_to(uint32_t n) {
  uint32_t power = 1;
  while (power <= n / 2) power *= 2;
  return power;
}

static sd_segment_layout lay_out(uint32_t nchunks) {
  sd_segment_layout l = { .nchunks = nchunks };
  l.nbuckets = power_up_to(nchunks / 2);
  l.nowners = power_up_to(nchunks / 8);
  size_t bits = whole_lines(nchunks / 64 * sizeof(uint64_t) + sizeof(uint64_t));
  l.buckets = whole_lines(sizeof(sd_segment_head));
  l.owners = l.buckets + whole_lines(l.nbuckets * sizeof(uint32_t));
  l.deadlines = l.owners + whole_lines(l.nowners * sizeof(uint32_t));
  l.marks = l.deadlines + whole_lines(nchunks * sizeof(uint32_t));
  l.firsts = l.marks + bits;
  l.chunks = l.firsts + bits;
  l.size = l.chunks + (size_t)nchunks * SD_CHUNK;
  return l;
}

sd_segment_layout sd_segment_plan(size_t size) {
  uint32_t low = 1, high = (uint32_t)(size / SD_CHUNK);
  while (low < high) {
    uint32_t middle = low + (high - low + 1) / 2;
    if (lay_out(middle).size <= size)
      low = middle;
    else
      high = middle - 1;
  }
  return lay_out(low);
}

sd_segment sd_segment_at(void *memory, const sd_segment_layout *l) {
  char *at = memory;
  return (sd_segment){
    .head = memory,
    .buckets = (uint32_t *)(at + l->buckets),
    .owners = (uint32_t *)(at + l->owners),
    .deadlines = (uint32_t *)(at + l->deadlines),
    .marks = (uint64_t *)(at + l->marks),
    .firsts = (uint64_t *)(at + l->firsts),
    .chunks = (sd_chunk *)(at + l->chunks),
    .nchunks = l->nchunks,
    .nbuckets = l->nbuckets,
    .nowners = l->nowners,
  };
}

int sd_segment_init(const sd_segment *s) {
  pthread_mutexattr_t shared;
  int err = pthread_mutexattr_init(&shared);
  if (err) return -err;
  err = pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
  if (!err) err = pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST);
  if (!err) err = pthread_mutex_init(&s->head->mutex, &shared);
  pthread_mutexattr_destroy(&shared);
  return -err;
}

static void take_over(const sd_segment *s, int err) {
  if (err == EOWNERDEAD) {
    sd_segment_repair(s);
    err = pthread_mutex_consistent(&s->head->mutex);
  }
  assert(err == 0);
  (void)err;
}

void sd_segment_lock(const sd_segment *s) {
  take_over(s, pthread_mutex_lock(&s->head->mutex));
}

bool sd_segment_try_lock(const sd_segment *s) {
  int err = pthread_mutex_trylock(&s->head->mutex);
  if (err != EBUSY) take_over(s, err);
  return err != EBUSY;
}

void sd_segment_unlock(const sd_segment *s) {
  pthread_mutex_unlock(&s->head->mutex);
}
