/* Cutting messages out of a stream of bytes. Pure: it sees what has arrived so
 * far and says where the first message lies in it, or what is missing. */
#ifndef SD_NET_FRAME_H
#define SD_NET_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
  SD_FRAME_LINE,      /* "l": ends with \n or \r\n, which is no part of it */
  SD_FRAME_LINE_KEPT, /* "L": the ending is part of it */
  SD_FRAME_LENGTH,    /* a fixed-size length field somewhere in a header */
  SD_FRAME_VARINT,    /* LEB128, 7 bits a byte, lowest first */
  SD_FRAME_NETSTRING, /* 5:hello, */
  SD_FRAME_EXACT,     /* n bytes */
  SD_FRAME_NEEDLE,    /* up to some bytes */
} sd_frame_shape;

typedef struct {
  sd_frame_shape shape;
  /* SD_FRAME_LENGTH */
  uint8_t width;        /* bytes of the length field */
  bool little;          /* lowest byte first */
  bool includes_header; /* the length counts the header too */
  bool inclusive;       /* SD_FRAME_NEEDLE: the needle is part of the payload */
  uint16_t at;          /* where the field begins */
  uint16_t header;      /* bytes before the payload */
  union {
    size_t exact;      /* SD_FRAME_EXACT */
    size_t needle_len; /* SD_FRAME_NEEDLE */
  };
  const char *needle; /* lent by the caller, and not empty */
} sd_frame;

typedef enum {
  SD_FRAME_COMPLETE,
  SD_FRAME_MORE,
  SD_FRAME_LIMIT, /* the payload is, or will be, longer than max */
  SD_FRAME_BAD,   /* no such frame can begin like this */
} sd_frame_verdict;

typedef struct {
  size_t payload; /* COMPLETE: where it begins */
  size_t len;     /* COMPLETE: how long it is */
  size_t total;   /* COMPLETE: bytes to consume. LIMIT: bytes of the partial,
                   * which does not depend on how the stream was sliced: `max`
                   * bytes of a line, otherwise the header */
  size_t need;    /* MORE: fewer bytes than this, counted from the start of the
                   * frame, cannot complete it; 0 when that is not known */
} sd_frame_piece;

/* "l", "L", "u8", "u16be", "u16le", "u24be", "u32be", "u32le", "varint" or
 * "netstring". 0, or -EINVAL for any other name. */
int sd_frame_named(sd_frame *out, const char *name);

/* A length field of the named kind ("u8" … "u32le") at byte `at` of a header of
 * `header` bytes. -EINVAL for another kind or where the field does not fit. */
int sd_frame_custom(sd_frame *out, const char *length, size_t at, size_t header, bool includes_header);

sd_frame sd_frame_exact(size_t n);
sd_frame sd_frame_until(const char *needle, size_t len, bool inclusive);

/* Looks for the first frame. `max` bounds the payload, line endings and needles
 * not counted. `scanned` says how far former calls have looked for this frame:
 * 0 for a new one, and 0 again after any verdict but MORE. The bytes before it
 * must not have changed since. */
sd_frame_verdict sd_frame_cut(
  const sd_frame *f, const char *bytes, size_t len, size_t max, size_t *scanned, sd_frame_piece *out);

#define SD_FRAME_HEADER_MAX 32

/* What goes before a payload of this length. Returns the number of bytes, or
 * -EMSGSIZE when the length does not fit the field, or -ENOTSUP for a shape that
 * nobody can write: with a needle, or with more header than the length field. */
int sd_frame_header(const sd_frame *f, size_t payload, char out[SD_FRAME_HEADER_MAX]);

/* What goes behind it: "\n", "," or nothing. */
const char *sd_frame_trailer(const sd_frame *f, size_t *len);

#endif
