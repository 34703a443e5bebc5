/* Waiting in line: who is next, and who has waited too long. Knows no sockets and no
 * clock: times are numbers of one unit, which the caller chooses.
 *
 *   fifo   who came first
 *   lifo   who came last: those whom it still helps
 *   codel  who came first; while the line has not been empty for an `interval`, those
 *          who have waited longer than `target` are to be given up
 *   fair   the keys take turns, and who came first of each: many waiters of one key
 *          hold up nobody but each other. Keys that meet in one of SD_LINE_FLOWS
 *          share a turn */
#ifndef SD_BASE_LINE_H
#define SD_BASE_LINE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum { SD_LINE_FIFO, SD_LINE_LIFO, SD_LINE_CODEL, SD_LINE_FAIR } sd_line_kind;

enum { SD_LINE_FLOWS = 64 };

/* A member of who waits. */
typedef struct sd_waiter sd_waiter;
struct sd_waiter {
  sd_waiter *older, *younger; /* of all */
  sd_waiter *earlier, *later; /* of its flow */
  uint64_t since;
  uint32_t flow;
};

typedef struct {
  sd_line_kind kind;
  uint64_t target, interval; /* of codel */
  uint32_t count;
  sd_waiter *oldest, *youngest;
  struct {
    sd_waiter *first, *last;
  } flows[SD_LINE_FLOWS];
  uint32_t turn;       /* the flow whose turn it is */
  uint64_t busy_since; /* it has not been empty since */
} sd_line;

/* The index in this list is the sd_line_kind; NULL at the end. */
extern const char *const sd_line_kinds[];

/* How waiters are chosen from now on; those in line stay. All zero is an empty fifo. */
void sd_line_set(sd_line *line, sd_line_kind kind, uint64_t target, uint64_t interval);

void sd_line_join(sd_line *line, sd_waiter *w, uint64_t key, uint64_t now);

/* Who would be served next; NULL: nobody waits. */
sd_waiter *sd_line_next(const sd_line *line);

/* Takes it out, be it served or not. If it was next, it has had its turn. */
void sd_line_leave(sd_line *line, sd_waiter *w);

/* Now that the next one could be served: should it rather be given up? Ask again
 * about the one after it. */
bool sd_line_overdue(const sd_line *line, uint64_t now);

#endif
