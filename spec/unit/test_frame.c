/* Frames are cut the same way however the stream was sliced, and no bytes of a
 * peer can make the arithmetic overflow. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/frame.h"

#define BYTES(text) (text), sizeof(text) - 1

static sd_frame named(const char *name) {
  sd_frame f;
  assert_int_equal(sd_frame_named(&f, name), 0);
  return f;
}

static sd_frame custom(const char *length, size_t at, size_t header, bool all) {
  sd_frame f;
  assert_int_equal(sd_frame_custom(&f, length, at, header, all), 0);
  return f;
}

/* The bytes stand alone on the heap, so that a sanitizer sees any read beyond. */
static sd_frame_verdict cut(
  const sd_frame *f, const char *bytes, size_t len, size_t max, size_t *scanned, sd_frame_piece *out) {
  char *copy = malloc(len ? len : 1);
  assert_non_null(copy);
  memcpy(copy, bytes, len);
  sd_frame_verdict verdict = sd_frame_cut(f, copy, len, max, scanned, out);
  free(copy);
  return verdict;
}

static sd_frame_verdict at_once(const sd_frame *f, const char *bytes, size_t len, size_t max, sd_frame_piece *out) {
  size_t scanned = 0;
  sd_frame_verdict verdict = cut(f, bytes, len, max, &scanned, out);
  if (verdict != SD_FRAME_MORE) assert_int_equal(scanned, 0);
  return verdict;
}

/* What comes first when the bytes arrive one by one. No verdict may come before
 * the bytes that `need` asked for. */
static sd_frame_verdict one_by_one(const sd_frame *f, const char *bytes, size_t len, size_t max, sd_frame_piece *out) {
  size_t scanned = 0, need = 0;
  sd_frame_verdict verdict = SD_FRAME_MORE;
  for (size_t n = 0; n <= len && verdict == SD_FRAME_MORE; n++) {
    verdict = cut(f, bytes, n, max, &scanned, out);
    if (verdict == SD_FRAME_COMPLETE) assert_true(n >= need);
    if (verdict == SD_FRAME_MORE && out->need > need) need = out->need;
  }
  return verdict;
}

static void gives(
  sd_frame f, const char *bytes, size_t len, size_t max, const char *payload, size_t payload_len, size_t total) {
  sd_frame_piece slow, fast;
  assert_int_equal(at_once(&f, bytes, len, max, &fast), SD_FRAME_COMPLETE);
  assert_int_equal(one_by_one(&f, bytes, len, max, &slow), SD_FRAME_COMPLETE);
  assert_memory_equal(&slow, &fast, sizeof slow);
  assert_int_equal(fast.total, total);
  assert_int_equal(fast.len, payload_len);
  assert_memory_equal(bytes + fast.payload, payload, payload_len);
}

static void wants(sd_frame f, const char *bytes, size_t len, size_t need) {
  sd_frame_piece slow, fast;
  assert_int_equal(at_once(&f, bytes, len, 1000, &fast), SD_FRAME_MORE);
  assert_int_equal(one_by_one(&f, bytes, len, 1000, &slow), SD_FRAME_MORE);
  assert_int_equal(fast.need, need);
  assert_int_equal(slow.need, need);
}

static void refuses(sd_frame f, const char *bytes, size_t len, size_t max, sd_frame_verdict verdict, size_t partial) {
  sd_frame_piece slow, fast;
  assert_int_equal(at_once(&f, bytes, len, max, &fast), verdict);
  assert_int_equal(one_by_one(&f, bytes, len, max, &slow), verdict);
  if (verdict != SD_FRAME_LIMIT) return;
  assert_int_equal(fast.total, partial);
  assert_int_equal(slow.total, partial);
}

static void lines_end_with_either_newline(void **state) {
  (void)state;
  gives(named("l"), BYTES("one\ntwo\n"), 100, BYTES("one"), 4);
  gives(named("l"), BYTES("one\r\ntwo"), 100, BYTES("one"), 5);
  gives(named("l"), BYTES("\n"), 100, BYTES(""), 1);
  gives(named("l"), BYTES("\r\n"), 100, BYTES(""), 2);
  gives(named("l"), BYTES("a\rb\r\r\n"), 100, BYTES("a\rb\r"), 6);
  gives(named("l"), BYTES("a\0b\n"), 100, BYTES("a\0b"), 4);
  gives(named("L"), BYTES("one\r\ntwo"), 100, BYTES("one\r\n"), 5);
  gives(named("L"), BYTES("\n"), 100, BYTES("\n"), 1);
  wants(named("l"), BYTES("no end"), 0);
  wants(named("l"), BYTES(""), 0);
}

static void lines_are_bounded_without_their_ending(void **state) {
  (void)state;
  gives(named("l"), BYTES("four\n"), 4, BYTES("four"), 5);
  gives(named("l"), BYTES("four\r\n"), 4, BYTES("four"), 6);
  gives(named("L"), BYTES("four\r\n"), 4, BYTES("four\r\n"), 6);
  refuses(named("l"), BYTES("fives\n"), 4, SD_FRAME_LIMIT, 4);
  refuses(named("l"), BYTES("fives"), 4, SD_FRAME_LIMIT, 4);
  refuses(named("l"), BYTES("four\rx\n"), 4, SD_FRAME_LIMIT, 4);
  refuses(named("L"), BYTES("fives\n"), 4, SD_FRAME_LIMIT, 4);
}

/* A hidden newline before `scanned` would be found by a second look. */
static void a_line_is_not_scanned_twice(void **state) {
  (void)state;
  sd_frame f = named("l");
  sd_frame_piece piece;
  size_t scanned = 0;
  char bytes[] = "abcdef\n";
  assert_int_equal(sd_frame_cut(&f, bytes, 4, 100, &scanned, &piece), SD_FRAME_MORE);
  assert_int_equal(scanned, 4);
  bytes[1] = '\n';
  assert_int_equal(sd_frame_cut(&f, bytes, 7, 100, &scanned, &piece), SD_FRAME_COMPLETE);
  assert_int_equal(piece.len, 6);
  assert_int_equal(scanned, 0);
}

static void lengths_have_every_width_and_order(void **state) {
  (void)state;
  gives(named("u8"), BYTES("\3abcd"), 10, BYTES("abc"), 4);
  gives(named("u8"), BYTES("\0x"), 10, BYTES(""), 1);
  gives(named("u16be"), BYTES("\0\3abcd"), 10, BYTES("abc"), 5);
  gives(named("u16le"), BYTES("\3\0abcd"), 10, BYTES("abc"), 5);
  gives(named("u24be"), BYTES("\0\0\3abcd"), 10, BYTES("abc"), 6);
  gives(named("u32be"), BYTES("\0\0\0\3abcd"), 10, BYTES("abc"), 7);
  gives(named("u32le"), BYTES("\3\0\0\0abcd"), 10, BYTES("abc"), 7);
  wants(named("u16be"), BYTES("\0"), 2);
  wants(named("u16be"), BYTES("\0\5ab"), 7);
}

static void a_length_over_the_limit_is_known_by_the_header(void **state) {
  (void)state;
  gives(named("u8"), BYTES("\3abc"), 3, BYTES("abc"), 4);
  refuses(named("u8"), BYTES("\4"), 3, SD_FRAME_LIMIT, 1);
  refuses(named("u32be"), BYTES("\xff\xff\xff\xff"), 1000, SD_FRAME_LIMIT, 4);
  refuses(named("u32le"), BYTES("\0\0\0\x80"), 1000, SD_FRAME_LIMIT, 4);
}

static void a_custom_header_lies_around_its_length(void **state) {
  (void)state;
  sd_frame f = custom("u16be", 2, 6, false);
  gives(f, BYTES("HH\0\3TTabcd"), 10, BYTES("abc"), 9);
  wants(f, BYTES("HH\0"), 6);
  wants(f, BYTES("HH\0\3"), 6);
  wants(f, BYTES("HH\0\3TT"), 9);
  f = custom("u16be", 2, 6, true);
  gives(f, BYTES("HH\0\11TTabcd"), 10, BYTES("abc"), 9);
  gives(f, BYTES("HH\0\6TTabcd"), 10, BYTES(""), 6);
  refuses(f, BYTES("HH\0\5TT"), 10, SD_FRAME_BAD, 0);
}

static void a_custom_header_has_room_for_its_length(void **state) {
  (void)state;
  sd_frame f;
  assert_int_equal(sd_frame_custom(&f, "u32be", 4, 8, false), 0);
  assert_int_equal(sd_frame_custom(&f, "u32be", 5, 8, false), -EINVAL);
  assert_int_equal(sd_frame_custom(&f, "u32be", 0, 3, false), -EINVAL);
  assert_int_equal(sd_frame_custom(&f, "u8", SIZE_MAX, 8, false), -EINVAL);
  assert_int_equal(sd_frame_custom(&f, "u8", 0, SIZE_MAX, false), -EINVAL);
  assert_int_equal(sd_frame_custom(&f, "varint", 0, 8, false), -EINVAL);
  assert_int_equal(sd_frame_custom(&f, "u64", 0, 8, false), -EINVAL);
  assert_int_equal(sd_frame_named(&f, "U8"), -EINVAL);
  assert_int_equal(sd_frame_named(&f, ""), -EINVAL);
}

static void varints_grow_by_seven_bits(void **state) {
  (void)state;
  char long_one[302] = "\xac\x02"; /* 300 */
  gives(named("varint"), BYTES("\3abcd"), 10, BYTES("abc"), 4);
  gives(named("varint"), BYTES("\0"), 10, BYTES(""), 1);
  gives(named("varint"), BYTES("\x83\0abcd"), 10, BYTES("abc"), 5);
  gives(named("varint"), long_one, sizeof long_one, 300, long_one + 2, 300, 302);
  wants(named("varint"), BYTES("\x80"), 2);
  refuses(named("varint"), BYTES("\xac\x02"), 299, SD_FRAME_LIMIT, 2);
}

static void varints_end_at_64_bits(void **state) {
  (void)state;
  refuses(named("varint"), BYTES("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), SIZE_MAX, SD_FRAME_LIMIT, 10);
  refuses(named("varint"), BYTES("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), SIZE_MAX, SD_FRAME_BAD, 0);
  refuses(named("varint"), BYTES("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"), SIZE_MAX, SD_FRAME_BAD, 0);
}

static void netstrings_are_digits_colon_bytes_comma(void **state) {
  (void)state;
  gives(named("netstring"), BYTES("5:hello,x"), 10, BYTES("hello"), 8);
  gives(named("netstring"), BYTES("0:,"), 10, BYTES(""), 3);
  gives(named("netstring"), BYTES("10:0123456789,"), 10, BYTES("0123456789"), 14);
  wants(named("netstring"), BYTES("5"), 3);
  wants(named("netstring"), BYTES("5:hel"), 8);
  wants(named("netstring"), BYTES("5:hello"), 8);
  refuses(named("netstring"), BYTES("5:hello;"), 10, SD_FRAME_BAD, 0);
  refuses(named("netstring"), BYTES("05:hello,"), 10, SD_FRAME_BAD, 0);
  refuses(named("netstring"), BYTES(":,"), 10, SD_FRAME_BAD, 0);
  refuses(named("netstring"), BYTES("-1:,"), 10, SD_FRAME_BAD, 0);
  refuses(named("netstring"), BYTES("5 :hello,"), 10, SD_FRAME_BAD, 0);
}

static void netstrings_over_the_limit_need_no_colon(void **state) {
  (void)state;
  refuses(named("netstring"), BYTES("11"), 10, SD_FRAME_LIMIT, 2);
  refuses(named("netstring"), BYTES("9"), 8, SD_FRAME_LIMIT, 1);
  refuses(named("netstring"), BYTES("18446744073709551615:"), SIZE_MAX, SD_FRAME_LIMIT, 21);
  refuses(named("netstring"), BYTES("18446744073709551616:"), SIZE_MAX, SD_FRAME_LIMIT, 20);
}

static void exact_counts_are_cut(void **state) {
  (void)state;
  gives(sd_frame_exact(3), BYTES("abcd"), 10, BYTES("abc"), 3);
  gives(sd_frame_exact(0), BYTES(""), 10, BYTES(""), 0);
  wants(sd_frame_exact(3), BYTES("ab"), 3);
  refuses(sd_frame_exact(11), BYTES("ab"), 10, SD_FRAME_LIMIT, 0);
}

static void a_needle_ends_the_piece(void **state) {
  (void)state;
  sd_frame out = sd_frame_until("\r\n\r\n", 4, false);
  sd_frame in = sd_frame_until("\r\n\r\n", 4, true);
  gives(out, BYTES("head\r\n\r\nbody"), 10, BYTES("head"), 8);
  gives(in, BYTES("head\r\n\r\nbody"), 10, BYTES("head\r\n\r\n"), 8);
  gives(out, BYTES("\r\r\n\r\n\r\n"), 10, BYTES("\r"), 5);
  gives(out, BYTES("\r\n\r\n"), 0, BYTES(""), 4);
  wants(out, BYTES("head\r\n\r"), 0);
  wants(out, BYTES(""), 0);
}

static void a_needle_is_searched_within_the_limit(void **state) {
  (void)state;
  sd_frame f = sd_frame_until("--", 2, false);
  gives(f, BYTES("four--"), 4, BYTES("four"), 6);
  refuses(f, BYTES("fives--"), 4, SD_FRAME_LIMIT, 4);
  refuses(f, BYTES("fivesxx"), 4, SD_FRAME_LIMIT, 4);
}

static void a_needle_is_found_across_slices_without_a_second_look(void **state) {
  (void)state;
  sd_frame f = sd_frame_until("END", 3, false);
  sd_frame_piece piece;
  size_t scanned = 0;
  char bytes[] = "abcdEND";
  assert_int_equal(sd_frame_cut(&f, bytes, 6, 100, &scanned, &piece), SD_FRAME_MORE);
  assert_int_equal(scanned, 4);
  memcpy(bytes, "END", 3);
  assert_int_equal(sd_frame_cut(&f, bytes, 7, 100, &scanned, &piece), SD_FRAME_COMPLETE);
  assert_int_equal(piece.len, 4);
}

static void header_is(sd_frame f, size_t payload, const char *bytes, size_t len, const char *trailer) {
  char out[SD_FRAME_HEADER_MAX];
  size_t trailer_len;
  assert_int_equal(sd_frame_header(&f, payload, out), (int)len);
  assert_memory_equal(out, bytes, len);
  assert_string_equal(sd_frame_trailer(&f, &trailer_len), trailer);
  assert_int_equal(trailer_len, strlen(trailer));
}

static void what_is_written_can_be_read(void **state) {
  (void)state;
  header_is(named("l"), 5, BYTES(""), "\n");
  header_is(named("L"), 5, BYTES(""), "");
  header_is(named("u8"), 255, BYTES("\xff"), "");
  header_is(named("u16be"), 0x102, BYTES("\1\2"), "");
  header_is(named("u16le"), 0x102, BYTES("\2\1"), "");
  header_is(named("u24be"), 0x10203, BYTES("\1\2\3"), "");
  header_is(named("u32be"), 0x1020304, BYTES("\1\2\3\4"), "");
  header_is(named("u32le"), 0x1020304, BYTES("\4\3\2\1"), "");
  header_is(named("varint"), 300, BYTES("\xac\x02"), "");
  header_is(named("varint"), 0, BYTES("\0"), "");
  header_is(named("netstring"), 1203, BYTES("1203:"), ",");
  header_is(named("netstring"), 0, BYTES("0:"), ",");
  header_is(custom("u16be", 0, 2, true), 5, BYTES("\0\7"), "");
  header_is(named("varint"), SIZE_MAX, BYTES("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "");
  header_is(named("netstring"), SIZE_MAX, BYTES("18446744073709551615:"), ",");
}

static void header_fails(sd_frame f, size_t payload, int err) {
  char out[SD_FRAME_HEADER_MAX];
  assert_int_equal(sd_frame_header(&f, payload, out), err);
}

static void what_does_not_fit_is_not_written(void **state) {
  (void)state;
  header_fails(named("u8"), 256, -EMSGSIZE);
  header_fails(named("u16le"), 65536, -EMSGSIZE);
  header_fails(named("u24be"), 1 << 24, -EMSGSIZE);
  header_fails(named("u32be"), (size_t)1 << 32, -EMSGSIZE);
  header_fails(custom("u8", 0, 1, true), 255, -EMSGSIZE);
  header_fails(custom("u8", 0, 1, true), SIZE_MAX, -EMSGSIZE);
  header_fails(custom("u8", 0, 2, false), 1, -ENOTSUP);
  header_fails(sd_frame_exact(3), 4, -EMSGSIZE);
  header_fails(sd_frame_until("x", 1, false), 4, -ENOTSUP);
}

static sd_frame any_frame(void) {
  static const char *const names[] = { "l", "L", "u8", "u16be", "u16le", "u24be", "u32le", "varint", "varint",
    "netstring", "netstring" };
  switch (rand() % 4) {
    case 0:
      return sd_frame_until("ab", 2, rand() % 2);
    case 1:
      return custom("u8", 1, 3, rand() % 2);
    default:
      return named(names[(size_t)rand() % (sizeof names / sizeof *names)]);
  }
}

/* Few different bytes, so that frames happen. */
static void random_bytes_are_cut_alike_in_any_slices(void **state) {
  (void)state;
  static const char alphabet[] = { '0', '1', '2', ':', ',', '\n', '\r', 'a', 'b', 0, 1, 2, (char)0x80, (char)0xff };
  srand(1);
  for (int round = 0; round < 200000; round++) {
    char bytes[24];
    size_t len = (size_t)rand() % sizeof bytes, max = (size_t)rand() % 16;
    for (size_t i = 0; i < len; i++) bytes[i] = alphabet[(size_t)rand() % sizeof alphabet];
    sd_frame f = any_frame();
    sd_frame_piece slow, fast;
    sd_frame_verdict verdict = at_once(&f, bytes, len, max, &fast);
    assert_int_equal(one_by_one(&f, bytes, len, max, &slow), verdict);
    if (verdict == SD_FRAME_MORE) continue;
    assert_memory_equal(&slow, &fast, sizeof slow);
    assert_true(fast.total <= len);
    if (verdict == SD_FRAME_COMPLETE) assert_true(fast.payload + fast.len <= fast.total);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(lines_end_with_either_newline),
    cmocka_unit_test(lines_are_bounded_without_their_ending),
    cmocka_unit_test(a_line_is_not_scanned_twice),
    cmocka_unit_test(lengths_have_every_width_and_order),
    cmocka_unit_test(a_length_over_the_limit_is_known_by_the_header),
    cmocka_unit_test(a_custom_header_lies_around_its_length),
    cmocka_unit_test(a_custom_header_has_room_for_its_length),
    cmocka_unit_test(varints_grow_by_seven_bits),
    cmocka_unit_test(varints_end_at_64_bits),
    cmocka_unit_test(netstrings_are_digits_colon_bytes_comma),
    cmocka_unit_test(netstrings_over_the_limit_need_no_colon),
    cmocka_unit_test(exact_counts_are_cut),
    cmocka_unit_test(a_needle_ends_the_piece),
    cmocka_unit_test(a_needle_is_searched_within_the_limit),
    cmocka_unit_test(a_needle_is_found_across_slices_without_a_second_look),
    cmocka_unit_test(what_is_written_can_be_read),
    cmocka_unit_test(what_does_not_fit_is_not_written),
    cmocka_unit_test(random_bytes_are_cut_alike_in_any_slices),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
