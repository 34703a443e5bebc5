/* Alarms on a number: when is one to go off? Knows no clock; times are of one unit,
 * and 0 is never.
 *
 * Only the time of the last firing is kept, so a cooldown that is changed meanwhile
 * counts from there: what has passed of it has passed. */
#ifndef SD_BASE_ALARM_H
#define SD_BASE_ALARM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
  uint64_t name; /* a hash of it; 0: a free place */
  uint64_t fired;
} sd_alarm;

typedef struct {
  uint64_t name, threshold, cooldown;
} sd_alarm_order;

/* True: it goes off now. `*again` is when to look again, if nobody comes before;
 * 0: not before somebody comes. */
static inline bool sd_alarm_judge(
  sd_alarm *alarm, const sd_alarm_order *order, uint64_t count, uint64_t now, uint64_t *again) {
  *again = 0;
  if (count < order->threshold) return false;
  bool due = alarm->fired == 0 || now >= alarm->fired + order->cooldown;
  if (due) alarm->fired = now;
  *again = alarm->fired + order->cooldown;
  return due;
}

#endif
