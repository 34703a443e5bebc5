/* Two connections joined in C: what one reads the other writes, both ways, with
 * back-pressure. The end of one direction passes on as a FIN; both ends, an
 * error or silence on both sides end the pipe. Nothing becomes a Lua string. */
#ifndef SD_PIPE_H
#define SD_PIPE_H

#include "connection.h"

typedef struct sd_pipe sd_pipe;

typedef struct {
  sd_conn *conn;
  const sd_conn_events *events; /* the owner's, given back at the end */
  uint64_t sent;                /* bytes passed from here to the other side */
  bool ended;
} sd_pipe_side;

struct sd_pipe {
  sd_pipe_side side[2];
  uint64_t active; /* loop time when bytes last moved */
  int err;         /* 0: both directions came to their end */
  bool over;
  void (*on_over)(sd_pipe *pipe); /* once; the connections are their owners' again */
};

/* Joins them, beginning with what is buffered already. on_over may come before
 * this returns. */
void sd_pipe_join(sd_pipe *pipe, sd_conn *a, sd_conn *b, void (*on_over)(sd_pipe *));

/* Looks again at when it is over: a timeout or deadline of a side has changed. */
void sd_pipe_watch(sd_pipe *pipe);

/* Ends it without a word. Harmless when it is over. */
void sd_pipe_part(sd_pipe *pipe);

#endif
