/* Waiting in line. */
#include "base/line.h"

#include <stddef.h>

const char *const sd_line_kinds[] = { "fifo", "lifo", "codel", "fair", NULL };

void sd_line_set(sd_line *line, sd_line_kind kind, uint64_t target, uint64_t interval) {
  line->kind = kind;
  line->target = target;
  line->interval = interval;
}

static uint32_t flow_of(uint64_t key) {
  return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32) % SD_LINE_FLOWS;
}

void sd_line_join(sd_line *line, sd_waiter *w, uint64_t key, uint64_t now) {
  *w = (sd_waiter){ .since = now, .flow = flow_of(key), .older = line->youngest };
  if (w->older != NULL)
    w->older->younger = w;
  else
    line->oldest = w;
  line->youngest = w;
  w->earlier = line->flows[w->flow].last;
  if (w->earlier != NULL)
    w->earlier->later = w;
  else
    line->flows[w->flow].first = w;
  line->flows[w->flow].last = w;
  if (line->count++ == 0) line->busy_since = now;
}

static sd_waiter *next_in_turn(const sd_line *line) {
  for (uint32_t i = 0; i < SD_LINE_FLOWS; i++) {
    sd_waiter *w = line->flows[(line->turn + i) % SD_LINE_FLOWS].first;
    if (w != NULL) return w;
  }
  return NULL;
}

sd_waiter *sd_line_next(const sd_line *line) {
  if (line->kind == SD_LINE_LIFO) return line->youngest;
  return line->kind == SD_LINE_FAIR ? next_in_turn(line) : line->oldest;
}

static void unlink_flow(sd_line *line, sd_waiter *w) {
  if (w->earlier != NULL)
    w->earlier->later = w->later;
  else
    line->flows[w->flow].first = w->later;
  if (w->later != NULL)
    w->later->earlier = w->earlier;
  else
    line->flows[w->flow].last = w->earlier;
}

void sd_line_leave(sd_line *line, sd_waiter *w) {
  if (line->kind == SD_LINE_FAIR && w == next_in_turn(line)) line->turn = (w->flow + 1) % SD_LINE_FLOWS;
  unlink_flow(line, w);
  if (w->older != NULL)
    w->older->younger = w->younger;
  else
    line->oldest = w->younger;
  if (w->younger != NULL)
    w->younger->older = w->older;
  else
    line->youngest = w->older;
  line->count--;
}

/* A spike empties again within an interval; a line that has not is one that only
 * grows, and then nobody is served by making everybody wait. This is the controlled
 * delay of "Fail at Scale" (Maurer, 2015): the law that CoDel uses for packets waits
 * for senders to slow down, which clients who come and ask do not do. */
bool sd_line_overdue(const sd_line *line, uint64_t now) {
  if (line->kind != SD_LINE_CODEL || line->oldest == NULL) return false;
  return now - line->busy_since >= line->interval && now - line->oldest->since > line->target;
}
