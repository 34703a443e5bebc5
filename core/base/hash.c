/* SipHash with one round a word and three at the end. */
#include "base/hash.h"

#include <string.h>

static uint64_t turn(uint64_t x, int by) {
  return x << by | x >> (64 - by);
}

static void mix(uint64_t v[4]) {
  v[0] += v[1];
  v[2] += v[3];
  v[1] = turn(v[1], 13) ^ v[0];
  v[3] = turn(v[3], 16) ^ v[2];
  v[0] = turn(v[0], 32);
  v[2] += v[1];
  v[0] += v[3];
  v[1] = turn(v[1], 17) ^ v[2];
  v[3] = turn(v[3], 21) ^ v[0];
  v[2] = turn(v[2], 32);
}

static void take(uint64_t v[4], uint64_t word) {
  v[3] ^= word;
  mix(v);
  v[0] ^= word;
}

uint64_t sd_hash(const sd_hash_key *key, const void *bytes, size_t length) {
  uint64_t v[4] = {
    key->words[0] ^ UINT64_C(0x736f6d6570736575),
    key->words[1] ^ UINT64_C(0x646f72616e646f6d),
    key->words[0] ^ UINT64_C(0x6c7967656e657261),
    key->words[1] ^ UINT64_C(0x7465646279746573),
  };
  const char *at = bytes;
  uint64_t word;
  size_t left = length;
  for (; left >= sizeof word; left -= sizeof word, at += sizeof word) {
    memcpy(&word, at, sizeof word);
    take(v, word);
  }
  word = 0;
  if (left > 0) memcpy(&word, at, left);
  take(v, word | (uint64_t)length << 56);
  v[2] ^= 0xff;
  for (int i = 0; i < 3; i++) mix(v);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}
