/* A growable run of bytes, consumed from the front and filled at the back.
 * All zero is the empty buffer, and an empty one owns no memory: a connection
 * that waits for its peer costs nothing here. */
#ifndef SD_BUFFER_H
#define SD_BUFFER_H

#include <stddef.h>

typedef struct {
  char *data;
  size_t start, end, capacity;
} sd_buffer;

static inline size_t sd_buffer_length(const sd_buffer *b) {
  return b->end - b->start;
}

static inline const char *sd_buffer_bytes(const sd_buffer *b) {
  return b->data + b->start;
}

/* Makes room for `room` more bytes at the back and returns where they go, or
 * NULL when memory is out (the buffer is then as it was). */
char *sd_buffer_reserve(sd_buffer *b, size_t room);

/* Says that `length` of the reserved bytes are filled now. */
static inline void sd_buffer_commit(sd_buffer *b, size_t length) {
  b->end += length;
}

/* Copies bytes to the back. 0, or -ENOMEM. */
int sd_buffer_append(sd_buffer *b, const char *bytes, size_t length);

/* Puts bytes back in front of what is there. 0, or -ENOMEM. */
int sd_buffer_prepend(sd_buffer *b, const char *bytes, size_t length);

/* Drops bytes from the front; the last one gives the memory back. */
void sd_buffer_consume(sd_buffer *b, size_t length);

void sd_buffer_free(sd_buffer *b);

#endif
