/* The name under which ps and top show this process. */
#ifndef SD_BASE_TITLE_H
#define SD_BASE_TITLE_H

/* Cut to the room that argv and the environment had at the start; the
 * environment moves to the heap at the first call. Where the kernel does not
 * say where that room is, only the short name (15 bytes) changes.
 * Not for two threads at once, nor beside one that reads the environment. */
void sd_title_set(const char *title);

#endif
