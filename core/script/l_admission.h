/* What a pool's options say about who gets in, and the verdict on one peer. */
#ifndef SD_L_ADMISSION_H
#define SD_L_ADMISSION_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/scoreboard.h"
#include "net/network.h"

typedef struct {
  sd_networks allow, deny;
  bool only_allowed; /* allow is given, be it empty */
  sd_rate accept;    /* over all loops */
  sd_headcount_limits per_ip;
  unsigned v4, v6; /* so many bits of its address make an "ip" */
} l_admission;

/* Takes allow, deny and rates from the table at `index`: absent is unchanged, false is
 * off. They were checked before: an entry that is no network is left out. */
void sd_l_admission_configure(lua_State *L, int index, l_admission *a);

void sd_l_admission_free(l_admission *a);

/* The lists only: true, or false and why not. */
bool sd_l_admission_allows(const l_admission *a, const struct sockaddr *peer, sd_reject *why);

/* The lists, then the limits of its network, where it is counted in `*headcount` from
 * now on: give that back to sd_scoreboard_leave. */
bool sd_l_admission_enter(
  const l_admission *a, uint32_t pool, const struct sockaddr *peer, uint32_t *headcount, sd_reject *why);

#endif
