/* Log lines that never make the caller wait.
 *
 * The supervisor has a writer: a bounded ring and one thread, which alone waits
 * for the descriptor. What finds no room is dropped and counted, and a line
 * says how many were, at the place where they are missing. A worker has only
 * sd_log_line: one attempt on its own pipe. */
#ifndef SD_BASE_LOG_WRITER_H
#define SD_BASE_LOG_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sd_log_writer sd_log_writer; /* body stays in log_writer.c */

/* Starts the thread, which writes to a duplicate of `fd`; its flags are not
 * touched. `ring` is in bytes, at least a page is taken. */
int sd_log_writer_new(sd_log_writer **out, int fd, size_t ring);

/* Takes the whole line or drops it; adds the newline if there is none. */
void sd_log_writer_write(sd_log_writer *w, const char *line, size_t len);

/* Whether the line that tells how many are missing is JSON or text, as the others are. */
void sd_log_writer_use_json(sd_log_writer *w, bool json);

/* All lines that were ever dropped, for want of room or by a failed write. */
uint64_t sd_log_writer_dropped(sd_log_writer *w);

/* Waits up to `timeout` seconds for what is queued. 0, or -ETIMEDOUT when the
 * descriptor is stuck: then the thread is left behind with what it needs, and
 * the process can end without it. `w` is gone either way. */
int sd_log_writer_close(sd_log_writer *w, double timeout);

/* Writes one line to stderr in one attempt, from the loop's thread only. It does
 * not wait where stderr is non-blocking, as a worker's is. */
void sd_log_line(const char *line, size_t len);

/* Called for each line that sd_log_line had to drop or cut. */
void sd_log_line_on_drop(void (*fn)(void));

#endif
