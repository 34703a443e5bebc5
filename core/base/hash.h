/* A hash of bytes under a secret: who chooses the bytes cannot choose where they land. */
#ifndef SD_BASE_HASH_H
#define SD_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  uint64_t words[2];
} sd_hash_key;

/* SipHash-1-3. */
uint64_t sd_hash(const sd_hash_key *key, const void *bytes, size_t length);

#endif
