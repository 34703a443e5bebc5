/* Bytes between a socket and its handler. */
#include "buffer.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SMALLEST = 512 };

static int grow(sd_buffer *b, size_t needed) {
  size_t capacity = b->capacity ? b->capacity : SMALLEST;
  while (capacity < needed) capacity *= 2;
  char *data = realloc(b->data, capacity);
  if (data == NULL) return -ENOMEM;
  b->data = data;
  b->capacity = capacity;
  return 0;
}

static void slide_to_front(sd_buffer *b) {
  memmove(b->data, b->data + b->start, sd_buffer_length(b));
  b->end -= b->start;
  b->start = 0;
}

char *sd_buffer_reserve(sd_buffer *b, size_t room) {
  if (room > SIZE_MAX / 4) return NULL; /* so that no sum overflows */
  size_t length = sd_buffer_length(b);
  if (b->end + room > b->capacity) {
    /* Sliding is worth it only while it frees as much as it moves. */
    if (b->start >= length && b->start > 0) slide_to_front(b);
    if (b->end + room > b->capacity && grow(b, b->end + room) < 0) return NULL;
  }
  return b->data + b->end;
}

int sd_buffer_append(sd_buffer *b, const char *bytes, size_t length) {
  if (length == 0) return 0;
  char *tail = sd_buffer_reserve(b, length);
  if (tail == NULL) return -ENOMEM;
  memcpy(tail, bytes, length);
  sd_buffer_commit(b, length);
  return 0;
}

int sd_buffer_prepend(sd_buffer *b, const char *bytes, size_t length) {
  if (length == 0) return 0;
  if (b->start < length) {
    size_t held = sd_buffer_length(b);
    if (sd_buffer_reserve(b, length) == NULL) return -ENOMEM;
    memmove(b->data + b->start + length, b->data + b->start, held);
    b->start += length;
    b->end += length;
  }
  b->start -= length;
  memcpy(b->data + b->start, bytes, length);
  return 0;
}

void sd_buffer_consume(sd_buffer *b, size_t length) {
  b->start += length;
  if (b->start == b->end) sd_buffer_free(b);
}

void sd_buffer_free(sd_buffer *b) {
  free(b->data);
  *b = (sd_buffer){ 0 };
}
