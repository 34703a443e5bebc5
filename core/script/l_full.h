/* What becomes of those who come while a pool is full: the option `when_full`. */
#ifndef SD_L_FULL_H
#define SD_L_FULL_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/line.h"
#include "net/timers.h"

typedef enum { FULL_BACKLOG, FULL_CLOSE, FULL_RESET, FULL_REPLY, FULL_WAIT, FULL_ASK } l_full_mode;

typedef struct l_held l_held;
typedef struct l_asked l_asked;

typedef struct {
  l_full_mode mode;
  char *reply;
  size_t reply_length;
  uint64_t wait; /* milliseconds */
  uint32_t most; /* who may wait in this process */
  sd_line line;
  uint64_t keeper;   /* the generation whose queue knows who waits; 0: none does */
  sd_timer patience; /* armed: somebody's wait is over then */
  l_asked *asked;    /* about them a function of the user's is thinking */
  uint32_t nasked, serial;
  int on_full; /* a Lua function: fn(serial, ip, port); answers with turn_away */
} l_full;

#endif
