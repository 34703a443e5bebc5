/* The connection as a handler sees it: a userdata with the C struct inside.
 * l_connection.c has its life and its small methods, l_read.c and l_write.c the
 * two directions, l_pipe.c and l_connect.c what their names say. */
#ifndef SD_L_CONNECTION_H
#define SD_L_CONNECTION_H

#include "base/errors.h"
#include "net/connection.h"
#include "net/frame.h"
#include "task.h"

typedef struct l_conn l_conn;
typedef struct l_pool l_pool;
typedef struct l_generation l_generation;

typedef enum { READ_SOME, READ_ALL, READ_FRAME, READ_PEEK, READ_LENT } read_kind;

/* A read under way, or the standing order of an iterator. */
typedef struct {
  sd_frame frame;
  size_t max;      /* of what is returned, in bytes */
  size_t scanned;  /* sd_frame_cut looked so far already */
  int64_t timeout; /* milliseconds; 0 off; -1: the connection's idle timeout */
  struct l_lent *lent;
  uint8_t kind;
  bool interrupt; /* draining may end it while nothing has arrived */
  bool iterator;  /* partial input stays in the buffer, failure is one nil */
} read_op;

typedef struct write_waiter write_waiter;

struct l_conn {
  sd_conn conn; /* first member */
  sd_task task; /* the handler; over from the start on outbound connections */
  sd_task *reader;
  read_op op;
  write_waiter *writers;
  l_pool *pool; /* NULL: not accepted by a pool */
  l_generation *generation;
  l_conn *next, **link; /* in the pool's list */
  sd_owned owned;       /* outbound: ends with the task that opened it */
  uint64_t serial;
  int32_t stopped;     /* what ended the last read, 0: nothing did */
  bool idle_out;       /* it was the idle timeout */
  bool draining, told; /* the handler is to be told, was told */
  bool handler_over, gone, has_extra, has_on_close;
};

/* Makes the userdata on top of L, anchored until its descriptor is closed. Takes
 * over `fd`. NULL and *err on failure: then nothing is pushed. */
l_conn *sd_l_conn_new(lua_State *L, int fd, const sd_conn_limits *limits, const struct sockaddr *peer, int *err);

/* The connection at `index`; raises for anything else. */
l_conn *sd_l_conn_check(lua_State *L, int index);

/* Starts its handler: function and `nargs` arguments are on co. */
void sd_l_conn_serve(l_conn *c, lua_State *co, int nargs);

/* Says "shutdown" once, now or at the next place where it may be said. */
void sd_l_conn_drain(l_conn *c);

/* Closes at once, for this reason; the handler gets one more turn, then ends. */
void sd_l_conn_cut(l_conn *c, sd_end why, bool reset);

void sd_l_conn_push_id(lua_State *L, const l_conn *c);

/* Pushes the peer in text: "ip:port", a unix path or "". */
void sd_l_conn_push_peer(lua_State *L, const l_conn *c);
void sd_l_conn_push_local(lua_State *L, const l_conn *c);

/* ---- l_read.c ---- */
void sd_l_read_register(lua_State *L); /* adds methods to the table on top */
void sd_l_read_on_readable(sd_conn *conn);
void sd_l_read_on_deadline(sd_conn *conn);
void sd_l_read_fail(l_conn *c, int err);
bool sd_l_read_interrupt(l_conn *c);
void sd_l_read_retime(l_conn *c); /* timeouts or the deadline have changed */

/* ---- l_write.c ---- */
void sd_l_write_register(lua_State *L);
void sd_l_write_on_drained(sd_conn *conn);
void sd_l_write_fail_all(l_conn *c, int err);
void sd_l_write_retime(l_conn *c);

/* ---- l_lent.c: bytes lent to a handler for one step ---- */
typedef struct l_lent {
  char *block; /* NULL: not lent now */
  size_t length;
} l_lent;
void sd_l_lent_register(lua_State *L);
l_lent *sd_l_lent_new(lua_State *L);
l_lent *sd_l_lent_test(lua_State *L, int index); /* NULL for anything else */
bool sd_l_lent_take_block(l_lent *lent);         /* false: out of memory */
void sd_l_lent_give_back(l_lent *lent);

void sd_l_pipe_register(lua_State *L);    /* method pipe */
void sd_l_connect_register(lua_State *L); /* core.connect, core.accept_loop */
void sd_l_connection_register(lua_State *L);

/* ---- l_pool.c ---- */
void sd_l_pool_register(lua_State *L);
void sd_l_pool_conn_closed(l_conn *c);                                   /* its descriptor is gone */
void sd_l_pool_conn_over(l_conn *c, sd_task_end how, const char *error); /* its handler is */
void sd_l_pool_conn_gone(l_conn *c);                                     /* both */
void sd_l_pool_push_field(lua_State *L, const l_conn *c, char which);    /* pool, generation, loop */
const sd_conn_limits *sd_l_pool_limits(const l_pool *pool);

#endif
