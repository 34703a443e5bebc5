/* A buffer holds the bytes it was given, in order, whatever was done to it, and an empty one holds no memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"

enum { MOST = 5000 };

/* What the buffer should hold. */
typedef struct {
  char bytes[1 << 20];
  size_t length;
} model;

static void fill(char *bytes, size_t length) {
  for (size_t i = 0; i < length; i++) bytes[i] = (char)rand();
}

static void check(const sd_buffer *b, const model *m) {
  assert_int_equal(sd_buffer_length(b), m->length);
  if (m->length > 0)
    assert_memory_equal(sd_buffer_bytes(b), m->bytes, m->length);
  else
    assert_null(b->block);
}

static void append(sd_buffer *b, model *m) {
  size_t n = (size_t)rand() % MOST;
  fill(m->bytes + m->length, n);
  assert_int_equal(sd_buffer_append(b, m->bytes + m->length, n), 0);
  m->length += n;
}

static void append_in_place(sd_buffer *b, model *m) {
  size_t n = 1 + (size_t)rand() % MOST;
  char *room = sd_buffer_reserve(b, n + 100);
  assert_non_null(room);
  fill(room, n);
  memcpy(m->bytes + m->length, room, n);
  sd_buffer_commit(b, n);
  m->length += n;
}

static void prepend(sd_buffer *b, model *m) {
  char bytes[MOST];
  size_t n = (size_t)rand() % MOST;
  fill(bytes, n);
  assert_int_equal(sd_buffer_prepend(b, bytes, n), 0);
  memmove(m->bytes + n, m->bytes, m->length);
  memcpy(m->bytes, bytes, n);
  m->length += n;
}

static void consume(sd_buffer *b, model *m) {
  size_t n = (size_t)rand() % (2 * MOST);
  if (n > m->length) n = m->length;
  if (n == 0) return;
  sd_buffer_consume(b, n);
  m->length -= n;
  memmove(m->bytes, m->bytes + n, m->length);
}

static void keeps_bytes_in_order(void **state) {
  static void (*const steps[])(sd_buffer *, model *) = { append, append_in_place, prepend, consume, consume, consume };
  static model m;
  sd_buffer b = { 0 };
  (void)state;
  srand(1);
  for (int i = 0; i < 20000; i++) {
    steps[m.length > sizeof m.bytes / 2 ? 3 : (size_t)rand() % 6](&b, &m);
    check(&b, &m);
  }
  sd_buffer_free(&b);
}

static void gives_memory_back_with_the_last_byte(void **state) {
  sd_buffer b = { 0 };
  (void)state;
  sd_buffer_append(&b, "abc", 3);
  sd_buffer_consume(&b, 2);
  assert_non_null(b.block);
  sd_buffer_consume(&b, 1);
  assert_null(b.block);
  assert_int_equal(sd_buffer_capacity(&b), 0);
}

static void slides_instead_of_growing(void **state) {
  sd_buffer b = { 0 };
  char bytes[1000] = { 0 };
  (void)state;
  sd_buffer_append(&b, bytes, sizeof bytes);
  size_t capacity = sd_buffer_capacity(&b);
  for (int i = 0; i < 100; i++) {
    sd_buffer_consume(&b, 600);
    sd_buffer_append(&b, bytes, 600);
  }
  assert_true(sd_buffer_capacity(&b) <= 2 * capacity + sizeof(sd_block));
  sd_buffer_free(&b);
}

static void refuses_sizes_that_overflow(void **state) {
  sd_buffer b = { 0 };
  (void)state;
  sd_buffer_append(&b, "abc", 3);
  assert_null(sd_buffer_reserve(&b, SIZE_MAX));
  assert_null(sd_buffer_reserve(&b, SIZE_MAX - 2));
  assert_int_equal(sd_buffer_length(&b), 3);
  assert_memory_equal(sd_buffer_bytes(&b), "abc", 3);
  sd_buffer_free(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(keeps_bytes_in_order),
    cmocka_unit_test(gives_memory_back_with_the_last_byte),
    cmocka_unit_test(slides_instead_of_growing),
    cmocka_unit_test(refuses_sizes_that_overflow),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
