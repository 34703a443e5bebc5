/* The connection as a handler sees it: a userdata with the C struct inside.
 * l_connection.c has its life, l_closing.c the ways in which it ends, l_read_op.c and
 * l_write.c the two directions, l_move.c its ways from one code or loop to another,
 * l_peer.c, l_settings.c, l_stats.c, l_pipe.c and l_connect.c what their names say;
 * l_transport.c lets code of the user's carry the bytes of one. */
#ifndef SD_L_CONNECTION_H
#define SD_L_CONNECTION_H

#include "base/errors.h"
#include "l_history.h"
#include "net/connection.h"
#include "net/frame.h"
#include "task.h"

typedef struct l_conn l_conn;
typedef struct l_pool l_pool;
typedef struct l_generation l_generation;
typedef struct l_carriage l_carriage;

/* What caps a read: a number of its own, or one of the connection's limits, which
 * may change while it waits. */
typedef enum { CAP_OWN, CAP_LINE, CAP_FRAME, CAP_BUFFER } read_cap;

typedef enum { READ_SOME, READ_ALL, READ_FRAME, READ_PEEK, READ_LENT } read_kind;

/* A read under way, or the standing order of an iterator. */
typedef struct {
  uint8_t kind;
  uint8_t cap;     /* where max comes from */
  bool interrupt;  /* draining may end it while nothing has arrived */
  bool follow;     /* newer code may end it there, and who wants to move it */
  bool driven;     /* the driver of callbacks waits: whatever is buffered goes along */
  bool mail;       /* a message ends it */
  bool resumes;    /* what a message interrupted: its time runs on */
  bool iterator;   /* partial input stays in the buffer, failure is one nil */
  bool aside;      /* one of several waits, and others may be chosen: it takes nothing, news neither */
  size_t max;      /* of what is returned, in bytes */
  int64_t timeout; /* milliseconds; 0 off; -1: the connection's idle timeout */
  uint64_t due;    /* when that is over, whatever the connection's deadline is; 0: never */
  struct l_lent *lent;
  size_t scanned; /* sd_frame_cut looked so far already */
  sd_frame frame;
} read_op;

typedef struct write_waiter write_waiter;

/* What each message looks at comes first, as in sd_conn. */
struct l_conn {
  sd_conn conn; /* first member */
  sd_task *reader;
  write_waiter *writers;
  uint32_t time_left;          /* milliseconds that a read had when a message interrupted it; 0: all */
  int32_t stopped;             /* what ended the last read, 0: nothing did */
  bool idle_out;               /* it was the idle timeout */
  bool draining, told;         /* the handler is to be told, was told */
  bool wanted, asked;          /* somebody waits for it to come between two messages; it was said */
  bool follows;                /* it has read with `follow` */
  bool departed;               /* it lives on in another process */
  bool uncounted;              /* it takes no place of its pool's */
  bool raw;                    /* somebody else reads and writes: conn:raw */
  bool packed;                 /* just now, for another process */
  bool has_mail, message_next; /* its mailbox is not empty; the last event was not from there */
  bool in_directory, handler_over, gone, has_extra, has_on_close;
  bool presents; /* its transport knows better who the peer is, and where it came to */
  read_op op;
  sd_task task; /* the handler; over from the start on outbound connections */
  l_pool *pool; /* NULL: not accepted by a pool */
  l_generation *generation;
  l_carriage *carriage; /* NULL: its descriptor is the peer's */
  l_conn *next, **link; /* in the pool's list */
  l_conn *next_of_id;   /* in the directory */
  sd_owned owned;       /* outbound: ends with the task that opened it */
  uint64_t serial;
  uint32_t headcount; /* where its network is counted; 0: nowhere */
  uint64_t told_of;   /* the newest generation that a read said "outdated" for */
  lua_State *heir;    /* what the handler's task goes on as when it has ended */
  l_generation *heir_generation;
  int32_t born_loop, born_life; /* 0: here; else it has moved, and its id is from there */
  l_history history;
};

/* Makes the userdata on top of L, anchored until its descriptor is closed. Takes
 * over `fd`. NULL and *err on failure: then nothing is pushed. */
l_conn *sd_l_conn_new(lua_State *L, int fd, const sd_conn_limits *limits, const struct sockaddr *peer, int *err);

/* The connection at `index`; raises for anything else. */
l_conn *sd_l_conn_check(lua_State *L, int index);

/* Starts its handler: function and `nargs` arguments are on co. */
void sd_l_conn_serve(l_conn *c, lua_State *co, int nargs);

/* Notes something rare for its history; what is gone has no more of it. */
static inline void sd_l_conn_happened(l_conn *c, l_happening kind, uint32_t about) {
  if (c->gone) return;
  sd_l_history_note(&c->history, sd_loop_now(c->conn.loop) - c->conn.opened, kind, about);
}

void sd_l_conn_push_id(lua_State *L, const l_conn *c);

/* Pushes the table that goes with it, for what methods keep there: it is the argument at 1. */
void sd_l_conn_push_extra(lua_State *L, l_conn *c);

/* ---- l_closing.c ---- */
void sd_l_closing_register(lua_State *L); /* adds methods to the table on top */

/* Says "shutdown" once, now or at the next place where it may be said: in a read, or
 * in the task's waits where the pool runs tasks. */
void sd_l_conn_drain(l_conn *c);

/* Closes at once, for this reason; the handler gets one more turn, then ends. */
void sd_l_conn_cut(l_conn *c, sd_end why, bool reset);

/* How it ended, from what the handler saw last. */
sd_end sd_l_conn_judge(const l_conn *c);

/* Who reads is told "closed", and who writes `write_err`. */
void sd_l_conn_fail_waiters(l_conn *c, int write_err);

/* Runs what on_close was given, each function in a task of its own. */
void sd_l_conn_run_on_close(l_conn *c, sd_end why);

/* Both, for the reason that is noted. */
void sd_l_conn_tell_end(l_conn *c, int write_err);

/* ---- l_settings.c ---- */
void sd_l_settings_register(lua_State *L); /* adds methods to the table on top */

/* Other limits for an open connection; but what its handler has chosen for itself
 * stays. Waits under way go by them. */
void sd_l_conn_take_limits(l_conn *c, const sd_conn_limits *limits);

/* ---- l_peer.c ---- */
void sd_l_peer_register(lua_State *L); /* adds methods to the table on top */

/* Pushes the peer in text: "ip:port", a unix path or "". */
void sd_l_conn_push_peer(lua_State *L, const l_conn *c);
void sd_l_conn_push_local(lua_State *L, const l_conn *c);

void sd_l_stats_register(lua_State *L);          /* l_stats.c: adds methods to the table on top */
void sd_l_read_register(lua_State *L);           /* l_read.c: adds methods to the table on top */
void sd_l_iterators_register(lua_State *L);      /* l_iterators.c: adds methods to the table on top */
void sd_l_iterators_register_core(lua_State *L); /* core.read_iterators */

/* ---- l_read_op.c: what ends the wait of a read, or changes it ---- */
void sd_l_read_on_readable(sd_conn *conn);
void sd_l_read_on_deadline(sd_conn *conn);
void sd_l_read_fail(l_conn *c, int err);
bool sd_l_read_interrupt(l_conn *c);
void sd_l_read_retime(l_conn *c);  /* timeouts, limits or the deadline have changed */
bool sd_l_read_outdate(l_conn *c); /* newer code is live, or it is wanted: ends a wait that follows */
void sd_l_read_mail(l_conn *c);    /* a message has come */

/* ---- l_write.c ---- */
void sd_l_write_register(lua_State *L);
void sd_l_write_on_drained(sd_conn *conn);
void sd_l_write_fail_all(l_conn *c, int err);
void sd_l_write_retime(l_conn *c);

/* ---- l_lent.c: bytes lent to a handler for one step ---- */
typedef struct l_lent {
  char *block; /* NULL: not lent now */
  size_t length;
  bool copied; /* just now: it cannot be given back */
} l_lent;
void sd_l_lent_register(lua_State *L);
l_lent *sd_l_lent_new(lua_State *L);
l_lent *sd_l_lent_test(lua_State *L, int index); /* NULL for anything else */
bool sd_l_lent_take_block(l_lent *lent);         /* false: out of memory */
void sd_l_lent_give_back(l_lent *lent);
/* Pushes `length` of its bytes, from the one at `from`, as a string. */
void sd_l_lent_push(lua_State *L, l_lent *lent, size_t from, size_t length);

/* ---- l_give.c ---- */
void sd_l_give_register(lua_State *L); /* adds methods to the table on top */
void sd_l_give_end_raw(l_conn *c);     /* whoever has the descriptor learns of the end */

/* A pipe, somebody outside or another process has its bytes: nobody else may read or write. */
static inline bool sd_l_conn_taken(const l_conn *c) {
  return c->conn.pipe != NULL || c->raw || c->packed;
}

/* ---- l_directory.c: connections by their ids ---- */
void sd_l_directory_add(l_conn *c);
l_conn *sd_l_directory_find(const char *id); /* NULL: nobody of that id is here */
void sd_l_directory_remove(l_conn *c);       /* harmless for one that is not in it */
void sd_l_directory_register(lua_State *L);

void sd_l_pipe_register(lua_State *L);    /* method pipe */
void sd_l_connect_register(lua_State *L); /* core.connect, core.accept_loop */
void sd_l_connection_register(lua_State *L);

/* ---- l_transport.c ---- */
void sd_l_transport_register(lua_State *L); /* adds methods to the table on top */

/* A connection whose bytes the accepted socket gets through a transport. Pushes it. NULL
 * and *err on failure: then nothing is pushed, and `fd` is the caller's. */
l_conn *sd_l_transport_new(lua_State *L, const l_pool *pool, int fd, const struct sockaddr *peer, int *err);

/* The same for one that was offered: near is `fd`, and what was offered stands for the socket. */
struct l_offer;
l_conn *sd_l_transport_offered(lua_State *L, const l_pool *pool, int fd, struct l_offer *offer, int *err);

int sd_l_transport_pair(int fds[2]); /* 0 or -errno */

/* Pushes what its handler gets beside the usual, if it has a transport: raw, far, and
 * whether raw is a socket that was accepted. Returns how many. */
int sd_l_transport_push_ends(lua_State *co, const l_conn *c);

bool sd_l_transport_has(const l_conn *c);
int sd_l_transport_socket(const l_conn *c);       /* the descriptor of the peer's socket, -1: there is none */
void sd_l_transport_closed(l_conn *c);            /* the descriptor of one of them is */
bool sd_l_transport_carries(const sd_conn *conn); /* events: see connection.h */
bool sd_l_transport_gets_on(sd_conn *conn);

/* ---- l_move.c: on with other code ---- */
void sd_l_move_register(lua_State *L);      /* adds methods to the table on top */
void sd_l_move_register_core(lua_State *L); /* core.on_gone */
bool sd_l_move_go_on(l_conn *c);            /* its handler has ended: false when there is no heir */
void sd_l_move_gone(l_conn *c);             /* one that was born elsewhere has ended */
int sd_l_move_hold(lua_State *L);           /* methods of pools */
int sd_l_move_unhold(lua_State *L);
int sd_l_move_pass(lua_State *L);
int sd_l_move_admit(lua_State *L);

/* ---- l_pool.c ---- */
void sd_l_pool_register(lua_State *L);
void sd_l_pool_conn_closed(l_conn *c);                                   /* its descriptor is gone */
void sd_l_pool_conn_over(l_conn *c, sd_task_end how, const char *error); /* its handler is */
void sd_l_pool_conn_gone(l_conn *c);                                     /* both */
void sd_l_pool_push_field(lua_State *L, const l_conn *c, char which);    /* pool, generation, loop */
l_generation *sd_l_pool_generation(const l_pool *pool, uint64_t number); /* or NULL */
void sd_l_pool_conn_change(l_conn *c, l_generation *to);
uint32_t sd_l_pool_index(const l_conn *c);     /* of the pool that it was accepted by */
bool sd_l_pool_runs_tasks(const l_pool *pool); /* NULL: no */
uint64_t sd_l_pool_newer(const l_conn *c);     /* the live generation if it is newer, else 0 */

#endif
