/* A growable run of bytes, consumed from the front and filled at the back.
 * All zero is the empty buffer, and an empty one owns no memory: a connection
 * that waits for its peer costs a pointer here. */
#ifndef SD_BUFFER_H
#define SD_BUFFER_H

#include <stddef.h>

typedef struct {
  size_t start, end, capacity;
  char bytes[];
} sd_block;

typedef struct {
  sd_block *block; /* NULL: nothing is held */
} sd_buffer;

static inline size_t sd_buffer_length(const sd_buffer *b) {
  return b->block == NULL ? 0 : b->block->end - b->block->start;
}

static inline const char *sd_buffer_bytes(const sd_buffer *b) {
  return b->block == NULL ? NULL : b->block->bytes + b->block->start;
}

static inline size_t sd_buffer_capacity(const sd_buffer *b) {
  return b->block == NULL ? 0 : b->block->capacity;
}

/* Makes room for `room` more bytes at the back and returns where they go, or
 * NULL when memory is out (the buffer is then as it was). */
char *sd_buffer_reserve(sd_buffer *b, size_t room);

/* Says that `length` of the reserved bytes are filled now. */
static inline void sd_buffer_commit(const sd_buffer *b, size_t length) {
  b->block->end += length;
}

/* Copies bytes to the back. 0, or -ENOMEM. */
int sd_buffer_append(sd_buffer *b, const char *bytes, size_t length);

/* Puts bytes back in front of what is there. 0, or -ENOMEM. */
int sd_buffer_prepend(sd_buffer *b, const char *bytes, size_t length);

/* Drops bytes from the front; the last one gives the memory back. */
void sd_buffer_consume(sd_buffer *b, size_t length);

void sd_buffer_free(sd_buffer *b);

/* Moves an empty buffer's memory to another that has none: it is used again. */
static inline void sd_buffer_hand_on(sd_buffer *from, sd_buffer *to) {
  if (from->block == NULL || to->block != NULL) return;
  *to = *from;
  to->block->start = to->block->end = 0;
  from->block = NULL;
}

#endif
