/* The alarms of a pool: functions that are called when it has many connections. */
#ifndef SD_L_ALARM_H
#define SD_L_ALARM_H

#include <lua.h>

#include "base/scoreboard.h"
#include "net/timers.h"

typedef struct {
  sd_timer timer; /* armed: it may go off again then */
  sd_alarm_order order;
  struct l_pool *pool;
  char name[64];
} l_alarm;

typedef struct {
  l_alarm list[SD_SCOREBOARD_ALARMS];
  uint32_t count;
  int on_alarm; /* a Lua function: fn(name, connections) */
} l_alarms;

#endif
