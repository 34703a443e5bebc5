/* The Lua face of addresses, listen sockets and socket options; and, in l_system.c,
 * of the small system calls that the supervisor and the roles need.
 *
 * Failures of the world return nil, "ENAME" and, where there is more to say, a
 * text; mistakes in arguments raise. Descriptors are plain integers: whoever holds
 * one closes it. */
#ifndef SD_SCRIPT_L_SOCKET_H
#define SD_SCRIPT_L_SOCKET_H

#include <lua.h>

#include "net/sockopt.h"

/* Both add their functions to the table on top of the stack. */
void sd_l_socket_register(lua_State *L);
void sd_l_system_register(lua_State *L);

/* Before the program opens anything: puts /dev/null where a standard descriptor is
 * missing, marks those that were inherited close-on-exec, and pushes the set of them. */
void sd_l_system_begin(lua_State *L);

/* conn:setopt and conn:getopt: `setopt` takes the table { name = value } at `index`
 * and pushes true, or nil, "ENAME", text; `getopt` takes the name at `index` and
 * pushes its value, or the same. Both return the number of results. */
int sd_l_setopt(lua_State *L, int fd, int index);
int sd_l_getopt(lua_State *L, int fd, int index);
int sd_l_resetopt(lua_State *L, int fd, int index); /* takes a name: the kernel's value again */

/* The table { name = value } at `index` as a list; `list` has room for
 * SD_L_SETTINGS. 0, or UV_EINVAL and why. */
enum { SD_L_SETTINGS = 64 }; /* more than there are options */
int sd_l_settings(lua_State *L, int index, sd_sockopt_setting *list, size_t *count, sd_net_error *error);

/* Pushes nil, "ENAME" and the text if there is one; returns how many. */
int sd_l_failure(lua_State *L, int err, const char *text);

/* A signal by number or by name ("TERM", "SIGTERM"), raising for anything else. */
int sd_l_check_signal(lua_State *L, int index);

#endif
