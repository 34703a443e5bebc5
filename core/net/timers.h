/* Deadlines in a binary heap: the loop wakes for the first.
 * A timer is a member of its owner. Moving one later is free while it is armed
 * earlier: owners keep their true deadline, and re-arm when the early one fires. */
#ifndef SD_TIMERS_H
#define SD_TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sd_timer sd_timer;
struct sd_timer {
  uint64_t when;                 /* milliseconds on the loop's clock */
  void (*fire)(sd_timer *timer); /* disarmed before it is called */
  uint32_t place;                /* 1-based index in the heap; 0: not armed */
  uint32_t round;                /* which sd_timers_run came before it was armed */
};

typedef struct {
  sd_timer **heap;
  uint32_t count, capacity;
  uint32_t round;
  uint64_t now; /* of that round: nothing is armed for earlier */
} sd_timers;

static inline bool sd_timer_armed(const sd_timer *timer) {
  return timer->place != 0;
}

/* Arms, or moves an armed timer. 0, or -ENOMEM (only when it was not armed). */
int sd_timers_arm(sd_timers *timers, sd_timer *timer, uint64_t when);

/* Harmless on a timer that is not armed. */
void sd_timers_disarm(sd_timers *timers, sd_timer *timer);

/* When the first one is due; UINT64_MAX without any. */
uint64_t sd_timers_next(const sd_timers *timers);

/* Fires what is due at `now`. Those armed meanwhile for `now` or earlier wait
 * for the next call, so that a timer re-arming itself cannot keep the loop. */
void sd_timers_run(sd_timers *timers, uint64_t now);

void sd_timers_free(sd_timers *timers);

#endif
