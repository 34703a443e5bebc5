/* Reaching Lua code that does not let its loop go: for a traceback, or with an error.
 *
 * The supervisor writes an order into the scoreboard (base/order.h) and sends a
 * signal; its handler sets a hook, and the hook does the rest. Code that LuaJIT has
 * compiled runs no hooks, and C code has none. */
#ifndef SD_SCRIPT_PREEMPT_H
#define SD_SCRIPT_PREEMPT_H

#include <signal.h>

/* Ignored where nobody handles it, not queued, and nobody else's: the kernel sends it
 * only to those who have asked for a socket's urgent bytes. */
#define SD_PREEMPT_SIGNAL SIGURG

/* From now on this process takes orders. 0 or a negative errno. */
int sd_preempt_begin(void);

#endif
