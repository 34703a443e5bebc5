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
} l_admission;

/* Takes allow and deny from the table at `index`: absent is unchanged, false is off.
 * They were checked before: an entry that is no network is left out. */
void sd_l_admission_configure(lua_State *L, int index, l_admission *a);

void sd_l_admission_free(l_admission *a);

/* True, or false and why not. */
bool sd_l_admission_allows(const l_admission *a, const struct sockaddr *peer, sd_reject *why);

#endif
