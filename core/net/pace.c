/* Is a peer too slow? */
#include "pace.h"

static bool is_in_message(const sd_pace_look *look) {
  return look->awaits == SD_AWAITS_MESSAGE && look->begun;
}

static bool drags_a_message(const sd_pace_look *before, const sd_pace_look *now, uint64_t least) {
  return is_in_message(before) && is_in_message(now) && before->messages == now->messages &&
         now->bytes_in - before->bytes_in < least;
}

static bool takes_too_little(const sd_pace_look *before, const sd_pace_look *now, uint64_t least) {
  return before->sending && now->sending && now->bytes_out - before->bytes_out < least;
}

static bool dribbles(const sd_pace_look *before, const sd_pace_look *now, uint64_t least) {
  uint64_t came = now->bytes_in - before->bytes_in;
  return now->awaits == SD_AWAITS_BYTES && came > 0 && came < least;
}

bool sd_pace_too_slow(sd_pace *pace, const sd_pace_look *now, uint64_t least) {
  const sd_pace_look *before = &pace->before;
  bool dribbling = dribbles(before, now, least);
  bool slow =
    drags_a_message(before, now, least) || takes_too_little(before, now, least) || (dribbling && pace->dribbled);
  pace->dribbled = dribbling;
  pace->before = *now;
  return slow;
}
