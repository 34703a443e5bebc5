/* log_writer (the supervisor's way to stderr) and log_line (a worker's). */
#ifndef SD_SCRIPT_L_LOG_H
#define SD_SCRIPT_L_LOG_H

#include <lua.h>

/* Adds `log_writer` and `log_line` to the table on top of the stack. */
void sd_l_log_register(lua_State *L);

#endif
