/* A limit for the Lua heap. Above it there is first a full collection, and then an
 * error, "not enough memory", in the handler that allocates.
 *
 * Only code that serves a pool gets the error. Our own always gets what it asks for,
 * and so does C that works on another stack than its caller's, where nobody would
 * catch it: that is sheltered. */
#ifndef SD_SCRIPT_HEAP_H
#define SD_SCRIPT_HEAP_H

#include <lua.h>
#include <stdbool.h>

/* Somebody was refused memory since sd_heap_relieve was called last. */
extern bool sd_heap_refused;

/* Collects everything, outside of Lua code. If that does not help, the scoreboard
 * says so: this worker has to be replaced. */
void sd_heap_relieve(void);

/* Collects everything if the supervisor has asked for it. From Lua code's hooks too. */
void sd_heap_obey(lua_State *L);

/* The same from the loop, which is the place to tell what that has left. */
void sd_heap_weigh(void);

/* In here nobody is refused anything. They nest. */
void sd_heap_shelter(void);
void sd_heap_expose(void);

/* A task is at its wait or its end: what has jumped out of a shelter has left it. */
void sd_heap_leave_shelters(void);

void sd_heap_register(lua_State *L); /* heap_limit */

#endif
