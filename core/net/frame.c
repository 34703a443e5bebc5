/* Cutting messages out of a stream of bytes. */
#include "net/frame.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define VARINT_MAX 10    /* bytes that 64 bits can take, 7 at a time */
#define NETSTRING_MAX 20 /* digits of the largest 64-bit length */

#define FIELD(bytes, low_first)                                                                                        \
  { .shape = SD_FRAME_LENGTH, .width = (bytes), .header = (bytes), .little = (low_first) }

static const struct {
  const char *name;
  sd_frame frame;
} kinds[] = {
  { "l", { .shape = SD_FRAME_LINE } },
  { "L", { .shape = SD_FRAME_LINE_KEPT } },
  { "u8", FIELD(1, false) },
  { "u16be", FIELD(2, false) },
  { "u16le", FIELD(2, true) },
  { "u24be", FIELD(3, false) },
  { "u32be", FIELD(4, false) },
  { "u32le", FIELD(4, true) },
  { "varint", { .shape = SD_FRAME_VARINT } },
  { "netstring", { .shape = SD_FRAME_NETSTRING } },
};

int sd_frame_named(sd_frame *out, const char *name) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (strcmp(kinds[i].name, name) != 0) continue;
    *out = kinds[i].frame;
    return 0;
  }
  return -EINVAL;
}

int sd_frame_custom(sd_frame *out, const char *length, size_t at, size_t header, bool includes_header) {
  sd_frame f;
  if (sd_frame_named(&f, length) != 0) return -EINVAL;
  if (f.shape != SD_FRAME_LENGTH) return -EINVAL;
  if (header > UINT16_MAX || header < f.width || at > header - f.width) return -EINVAL;
  f.at = (uint16_t)at;
  f.header = (uint16_t)header;
  f.includes_header = includes_header;
  *out = f;
  return 0;
}

sd_frame sd_frame_exact(size_t n) {
  return (sd_frame){ .shape = SD_FRAME_EXACT, .exact = n };
}

sd_frame sd_frame_until(const char *needle, size_t len, bool inclusive) {
  assert(len > 0);
  return (sd_frame){ .shape = SD_FRAME_NEEDLE, .needle = needle, .needle_len = len, .inclusive = inclusive };
}

static sd_frame_verdict more(sd_frame_piece *out, size_t need) {
  out->need = need;
  return SD_FRAME_MORE;
}

static sd_frame_verdict over_limit(sd_frame_piece *out, size_t partial) {
  out->total = partial;
  return SD_FRAME_LIMIT;
}

static sd_frame_verdict complete(sd_frame_piece *out, size_t payload, size_t len, size_t trailer) {
  out->payload = payload;
  out->len = len;
  out->total = payload + len + trailer;
  return SD_FRAME_COMPLETE;
}

/* The length is known to be `n`: the rest is waiting for it. */
static sd_frame_verdict sized(size_t header, uint64_t n, size_t trailer, size_t len, size_t max, sd_frame_piece *out) {
  if (n > max || n > SIZE_MAX - header - trailer) return over_limit(out, header);
  size_t total = header + (size_t)n + trailer;
  if (len < total) return more(out, total);
  return complete(out, header, (size_t)n, trailer);
}

/* A \r at the end may be half of an ending, so it does not count yet. */
static sd_frame_verdict unfinished_line(const char *bytes, size_t len, size_t max, sd_frame_piece *out) {
  size_t content = len > 0 && bytes[len - 1] == '\r' ? len - 1 : len;
  return content > max ? over_limit(out, max) : more(out, 0);
}

static sd_frame_verdict cut_line(
  const sd_frame *f, const char *bytes, size_t len, size_t max, size_t *scanned, sd_frame_piece *out) {
  size_t from = *scanned;
  const char *newline = from < len ? memchr(bytes + from, '\n', len - from) : NULL;
  *scanned = len;
  if (newline == NULL) return unfinished_line(bytes, len, max, out);
  size_t content = (size_t)(newline - bytes);
  size_t ending = 1;
  if (content > 0 && bytes[content - 1] == '\r') {
    content--;
    ending++;
  }
  if (content > max) return over_limit(out, max);
  if (f->shape == SD_FRAME_LINE) return complete(out, 0, content, ending);
  return complete(out, 0, content + ending, 0);
}

static sd_frame_verdict cut_needle(
  const sd_frame *f, const char *bytes, size_t len, size_t max, size_t *scanned, sd_frame_piece *out) {
  size_t from = *scanned;
  const char *hit = NULL;
  if (len >= f->needle_len && from < len) hit = memmem(bytes + from, len - from, f->needle, f->needle_len);
  size_t content;
  if (hit != NULL)
    content = (size_t)(hit - bytes);
  else /* the tail may be the beginning of a needle */
    content = len >= f->needle_len ? len - f->needle_len + 1 : 0;
  *scanned = content;
  if (content > max) return over_limit(out, max);
  if (hit == NULL) return more(out, 0);
  if (f->inclusive) return complete(out, 0, content + f->needle_len, 0);
  return complete(out, 0, content, f->needle_len);
}

static uint64_t field_value(const sd_frame *f, const char *bytes) {
  uint64_t n = 0;
  for (size_t i = 0; i < f->width; i++) {
    size_t at = f->little ? f->width - 1u - i : i;
    n = n << 8 | (unsigned char)bytes[f->at + at];
  }
  return n;
}

static sd_frame_verdict cut_length(const sd_frame *f, const char *bytes, size_t len, size_t max, sd_frame_piece *out) {
  if (len < f->header) return more(out, f->header);
  uint64_t n = field_value(f, bytes);
  if (f->includes_header) {
    if (n < f->header) return SD_FRAME_BAD;
    n -= f->header;
  }
  return sized(f->header, n, 0, len, max, out);
}

static sd_frame_verdict cut_varint(const char *bytes, size_t len, size_t max, sd_frame_piece *out) {
  uint64_t n = 0;
  for (size_t i = 0; i < VARINT_MAX; i++) {
    if (i == len) return more(out, len + 1);
    unsigned char byte = (unsigned char)bytes[i];
    if (i == VARINT_MAX - 1 && byte > 1) return SD_FRAME_BAD; /* bit 65 */
    n |= (uint64_t)(byte & 0x7f) << (7 * i);
    if (byte < 0x80) return sized(i + 1, n, 0, len, max, out);
  }
  return SD_FRAME_BAD;
}

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static sd_frame_verdict cut_netstring(const char *bytes, size_t len, size_t max, sd_frame_piece *out) {
  uint64_t n = 0;
  size_t i = 0;
  for (; i < len && is_digit(bytes[i]); i++) {
    if (i == 1 && bytes[0] == '0') return SD_FRAME_BAD; /* 0 stands alone */
    uint64_t digit = (uint64_t)(bytes[i] - '0');
    if (digit > max || n > (max - digit) / 10) return over_limit(out, i + 1);
    n = n * 10 + digit;
  }
  if (i == len) return more(out, len + 2); /* at least ":" and "," */
  if (i == 0 || bytes[i] != ':') return SD_FRAME_BAD;
  sd_frame_verdict verdict = sized(i + 1, n, 1, len, max, out);
  if (verdict == SD_FRAME_COMPLETE && bytes[out->total - 1] != ',') return SD_FRAME_BAD;
  return verdict;
}

static sd_frame_verdict cut(
  const sd_frame *f, const char *bytes, size_t len, size_t max, size_t *scanned, sd_frame_piece *out) {
  switch (f->shape) {
    case SD_FRAME_LINE:
    case SD_FRAME_LINE_KEPT:
      return cut_line(f, bytes, len, max, scanned, out);
    case SD_FRAME_LENGTH:
      return cut_length(f, bytes, len, max, out);
    case SD_FRAME_VARINT:
      return cut_varint(bytes, len, max, out);
    case SD_FRAME_NETSTRING:
      return cut_netstring(bytes, len, max, out);
    case SD_FRAME_EXACT:
      return sized(0, f->exact, 0, len, max, out);
    case SD_FRAME_NEEDLE:
      return cut_needle(f, bytes, len, max, scanned, out);
  }
  assert(false && "a shape out of range");
  return SD_FRAME_BAD;
}

sd_frame_verdict sd_frame_cut(
  const sd_frame *f, const char *bytes, size_t len, size_t max, size_t *scanned, sd_frame_piece *out) {
  *out = (sd_frame_piece){ 0 };
  sd_frame_verdict verdict = cut(f, bytes, len, max, scanned, out);
  if (verdict != SD_FRAME_MORE) *scanned = 0;
  return verdict;
}

static int put_length(const sd_frame *f, size_t payload, char *out) {
  if (f->header != f->width) return -ENOTSUP;
  uint64_t n = payload;
  if (f->includes_header && n > UINT64_MAX - f->header) return -EMSGSIZE;
  if (f->includes_header) n += f->header;
  if (n >> (8 * f->width) != 0) return -EMSGSIZE;
  for (size_t i = 0; i < f->width; i++) {
    size_t at = f->little ? i : f->width - 1u - i;
    out[at] = (char)(n >> (8 * i) & 0xff);
  }
  return f->width;
}

static int put_varint(uint64_t n, char *out) {
  int i = 0;
  for (; n >= 0x80; n >>= 7) out[i++] = (char)((n & 0x7f) | 0x80);
  out[i++] = (char)n;
  return i;
}

static int put_netstring(uint64_t n, char *out) {
  char digits[NETSTRING_MAX];
  int count = 0;
  do {
    digits[count++] = (char)('0' + n % 10);
    n /= 10;
  } while (n > 0);
  for (int i = 0; i < count; i++) out[i] = digits[count - 1 - i];
  out[count] = ':';
  return count + 1;
}

int sd_frame_header(const sd_frame *f, size_t payload, char out[SD_FRAME_HEADER_MAX]) {
  switch (f->shape) {
    case SD_FRAME_LINE:
    case SD_FRAME_LINE_KEPT:
      return 0;
    case SD_FRAME_LENGTH:
      return put_length(f, payload, out);
    case SD_FRAME_VARINT:
      return put_varint(payload, out);
    case SD_FRAME_NETSTRING:
      return put_netstring(payload, out);
    case SD_FRAME_EXACT:
      return payload == f->exact ? 0 : -EMSGSIZE;
    case SD_FRAME_NEEDLE:
      return -ENOTSUP;
  }
  assert(false && "a shape out of range");
  return -ENOTSUP;
}

const char *sd_frame_trailer(const sd_frame *f, size_t *len) {
  const char *trailer = "";
  if (f->shape == SD_FRAME_LINE) trailer = "\n";
  if (f->shape == SD_FRAME_NETSTRING) trailer = ",";
  *len = strlen(trailer);
  return trailer;
}
