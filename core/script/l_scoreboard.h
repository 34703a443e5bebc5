/* The scoreboard as Lua sees it. */
#ifndef SD_SCRIPT_L_SCOREBOARD_H
#define SD_SCRIPT_L_SCOREBOARD_H

#include <lua.h>

#include "base/scoreboard.h"
#include "net/network.h"

/* Adds `scoreboard` to the table on top of the stack. */
void sd_l_scoreboard_register(lua_State *L);

/* The scoreboard at this stack index; raises for anything else, and for one
 * that was closed. Good as long as that value is referenced. */
sd_scoreboard *sd_l_check_scoreboard(lua_State *L, int index);

/* The one that was attached last in the name of a slot; NULL before. It stays
 * as long as the Lua state does. */
sd_scoreboard *sd_l_own_scoreboard(void);

/* The network whose peers the canary gets; in an empty one there is nobody. */
sd_network sd_l_split_from(const sd_split_look *look);

#endif
