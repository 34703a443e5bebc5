/* What has happened to a connection, for whoever reads of its failure: a few rare things,
 * the last of them, in so many bytes. Nothing that every read or write does, and never
 * what was read or written. */
#ifndef SD_L_HISTORY_H
#define SD_L_HISTORY_H

#include <stdint.h>

enum { SD_L_HISTORY = 6 };

typedef enum {
  L_WAITED,    /* for a place: milliseconds */
  L_HANDSHAKE, /* of its transport: done */
  L_ARRIVED,   /* from a loop: its number */
  L_CHANGED,   /* to a generation: its number */
  L_READ,      /* a read has failed: the error */
  L_IDLE,      /* a read has failed: the idle timeout */
  L_DRAINING,
  L_SHUT,  /* by the handler: which way, as in SD's shutdown */
  L_ENDED, /* an sd_end */
  L_KINDS
} l_happening;

typedef struct {
  uint32_t at; /* milliseconds after the connection was opened, the last time */
  uint32_t about;
  uint16_t times; /* in a row */
  uint8_t kind;
} l_event;

/* Zero: nothing has happened. To most only one thing does: that they end. */
typedef struct {
  l_event last;
  uint8_t next, count; /* of the older ones */
  l_event *older;      /* a ring, made with the first of them */
} l_history;

/* Notes it; the same again in a row takes no more room. */
void sd_l_history_note(l_history *history, uint64_t at, l_happening kind, uint32_t about);

/* Notes what another history had. */
void sd_l_history_add(l_history *history, const l_event *event);

void sd_l_history_free(l_history *history);

/* The i-th from the oldest that is known, or NULL. */
const l_event *sd_l_history_at(const l_history *history, unsigned i);

/* "read: timeout" */
const char *sd_l_history_text(const l_event *event, char *room, unsigned size);

#endif
