/* Chunks of a segment, and the bytes that lie in several of them. */
#include <assert.h>
#include <string.h>

#include "base/segment.h"

_Static_assert(sizeof(sd_entry) == SD_CHUNK, "an entry begins with one chunk");
_Static_assert(sizeof(sd_rest) == SD_CHUNK, "and goes on with others");

uint32_t sd_chunks_needed(size_t bytes) {
  if (bytes <= SD_ENTRY_ROOM) return 1;
  return 1 + (uint32_t)((bytes - SD_ENTRY_ROOM + SD_CHUNK_REST - 1) / SD_CHUNK_REST);
}

uint32_t sd_chunks_free(const sd_segment *s) {
  return s->head->nfree + (s->nchunks - s->head->top);
}

static uint32_t take_one(const sd_segment *s) {
  sd_segment_head *h = s->head;
  if (h->free == 0) return ++h->top;
  uint32_t n = h->free;
  h->free = s->chunks[n - 1].rest.next;
  h->nfree--;
  return n;
}

static void count_used(const sd_segment *s, uint32_t by) {
  uint32_t used = atomic_load_explicit(&s->head->used, memory_order_relaxed);
  atomic_store_explicit(&s->head->used, used + by, memory_order_relaxed);
}

uint32_t sd_chunks_take(const sd_segment *s, uint32_t count) {
  assert(count <= sd_chunks_free(s));
  uint32_t first = 0;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t n = take_one(s);
    s->chunks[n - 1].rest.next = first;
    first = n;
  }
  count_used(s, count);
  return first;
}

void sd_chunks_give_back(const sd_segment *s, uint32_t first) {
  sd_segment_head *h = s->head;
  uint32_t last = first, count = 1;
  for (; s->chunks[last - 1].rest.next != 0; count++) last = s->chunks[last - 1].rest.next;
  s->chunks[last - 1].rest.next = h->free;
  h->free = first;
  h->nfree += count;
  count_used(s, 0u - count);
}

sd_bytes_cursor sd_bytes_of(const sd_segment *s, uint32_t entry) {
  sd_entry *e = sd_entry_at(s, entry);
  return (sd_bytes_cursor){ .segment = s, .at = e->bytes, .left = sizeof e->bytes, .next = e->next };
}

/* Where the next bytes are, and how many of `length` lie there together. */
static size_t piece(sd_bytes_cursor *c, size_t length) {
  if (c->left == 0) {
    sd_rest *rest = &c->segment->chunks[c->next - 1].rest;
    c->at = rest->bytes;
    c->left = sizeof rest->bytes;
    c->next = rest->next;
  }
  return length < c->left ? length : c->left;
}

static void advance(sd_bytes_cursor *c, size_t by) {
  c->at += by;
  c->left -= by;
}

void sd_bytes_write(sd_bytes_cursor *c, const void *from, size_t length) {
  for (const char *at = from; length > 0;) {
    size_t n = piece(c, length);
    memcpy(c->at, at, n);
    advance(c, n);
    at += n;
    length -= n;
  }
}

void sd_bytes_read(sd_bytes_cursor *c, void *to, size_t length) {
  for (char *at = to; length > 0;) {
    size_t n = piece(c, length);
    if (at != NULL) {
      memcpy(at, c->at, n);
      at += n;
    }
    advance(c, n);
    length -= n;
  }
}

bool sd_bytes_equal(sd_bytes_cursor *c, const void *with, size_t length) {
  for (const char *at = with; length > 0;) {
    size_t n = piece(c, length);
    if (memcmp(c->at, at, n) != 0) return false;
    advance(c, n);
    at += n;
    length -= n;
  }
  return true;
}
