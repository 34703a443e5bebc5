/* Bytes between a socket and its handler. */
#include "buffer.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* With its head and the allocator's word a block fills what is allocated. */
enum { SMALLEST = 512 };

static int grow(sd_buffer *b, size_t needed) {
  size_t size = SMALLEST;
  while (size - sizeof *b->block < needed) size *= 2;
  sd_block *block = realloc(b->block, size);
  if (block == NULL) return -ENOMEM;
  if (b->block == NULL) block->start = block->end = 0;
  block->capacity = size - sizeof *block;
  b->block = block;
  return 0;
}

static void slide_to_front(sd_block *k) {
  memmove(k->bytes, k->bytes + k->start, k->end - k->start);
  k->end -= k->start;
  k->start = 0;
}

/* Sliding is worth it only while it frees as much as it moves. */
static bool slides(const sd_block *k) {
  return k->start > 0 && k->start >= k->end - k->start;
}

char *sd_buffer_reserve(sd_buffer *b, size_t room) {
  if (room > SIZE_MAX / 4) return NULL; /* so that no sum overflows */
  if (b->block != NULL && b->block->capacity - b->block->end < room && slides(b->block)) slide_to_front(b->block);
  size_t end = b->block == NULL ? 0 : b->block->end;
  if (sd_buffer_capacity(b) - end < room && grow(b, end + room) < 0) return NULL;
  return b->block->bytes + end;
}

int sd_buffer_append(sd_buffer *b, const char *bytes, size_t length) {
  if (length == 0) return 0;
  char *tail = sd_buffer_reserve(b, length);
  if (tail == NULL) return -ENOMEM;
  memcpy(tail, bytes, length);
  sd_buffer_commit(b, length);
  return 0;
}

/* Moves what is held back by `room`. */
static int make_room_in_front(sd_buffer *b, size_t room) {
  size_t held = sd_buffer_length(b);
  if (sd_buffer_reserve(b, room) == NULL) return -ENOMEM;
  sd_block *k = b->block;
  memmove(k->bytes + k->start + room, k->bytes + k->start, held);
  k->start += room;
  k->end += room;
  return 0;
}

int sd_buffer_prepend(sd_buffer *b, const char *bytes, size_t length) {
  if (length == 0) return 0;
  bool fits = b->block != NULL && b->block->start >= length;
  if (!fits && make_room_in_front(b, length) < 0) return -ENOMEM;
  b->block->start -= length;
  memcpy(b->block->bytes + b->block->start, bytes, length);
  return 0;
}

void sd_buffer_consume(sd_buffer *b, size_t length) {
  if (b->block == NULL) return;
  b->block->start += length;
  if (b->block->start == b->block->end) sd_buffer_free(b);
}

void sd_buffer_free(sd_buffer *b) {
  free(b->block);
  b->block = NULL;
}
