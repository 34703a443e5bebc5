/* So many a second, with bursts: a bucket in one number.
 *
 * The number is when the bucket will be full again, in nanoseconds. Taking moves it
 * on by what one costs; as long as it is less than a burst ahead, there is one left.
 * 0 is a full bucket, so shared memory needs no preparing. */
#ifndef SD_BASE_TOKEN_BUCKET_H
#define SD_BASE_TOKEN_BUCKET_H

#include <stdint.h>

typedef struct {
  uint64_t interval; /* what one costs, in ns; 0: no limit */
  uint64_t slack;    /* how far ahead the bucket may be for one more */
} sd_rate;

static inline sd_rate sd_rate_of(double per_second, double burst) {
  double interval = per_second > 0 ? 1e9 / per_second : 0;
  if (interval > 1e18) interval = 1e18;
  double slack = burst > 1 ? (burst - 1) * interval : 0;
  return (sd_rate){ .interval = (uint64_t)(interval + 0.5), .slack = slack < 1e18 ? (uint64_t)slack : (uint64_t)1e18 };
}

/* 0: there is one. Otherwise so long until there is. */
static inline uint64_t sd_bucket_wait(uint64_t bucket, const sd_rate *rate, uint64_t now) {
  if (rate->interval == 0 || bucket <= now + rate->slack) return 0;
  return bucket - now - rate->slack;
}

static inline uint64_t sd_bucket_take(uint64_t bucket, const sd_rate *rate, uint64_t now) {
  return (bucket > now ? bucket : now) + rate->interval;
}

/* Gives back what was taken for nothing. */
static inline uint64_t sd_bucket_return(uint64_t bucket, const sd_rate *rate) {
  return bucket > rate->interval ? bucket - rate->interval : 0;
}

#endif
