/* Is a peer too slow? Judged at the end of each period of `rates.min`, from what the
 * connection looked like at both ends of it.
 *
 * Silence is the idle timeout's. Too slow is who keeps somebody busy all the while: a
 * reader with the rest of a message that has begun, a writer with bytes that are not
 * taken. A reader of whatever comes knows no messages: there it is who sends too
 * little, but not nothing, in two periods running. */
#ifndef SD_NET_PACE_H
#define SD_NET_PACE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum { SD_AWAITS_NOTHING, SD_AWAITS_BYTES, SD_AWAITS_MESSAGE } sd_awaits;

typedef struct {
  uint64_t bytes_in, bytes_out;
  uint32_t messages; /* read so far */
  sd_awaits awaits;
  bool begun;   /* some of the next message is there */
  bool sending; /* there is output that has not been taken */
} sd_pace_look;

typedef struct {
  sd_pace_look before;
  bool dribbled; /* in the period before this one */
} sd_pace;

/* True when it moved less than `least` bytes though it should have. The next period
 * begins with this look. */
bool sd_pace_too_slow(sd_pace *pace, const sd_pace_look *now, uint64_t least);

#endif
