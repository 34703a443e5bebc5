/* The event loop of a process: an edge-triggered epoll of our own, in which a
 * descriptor is registered once in its life. libuv is a guest: it keeps signals,
 * DNS, child processes, threads, and what users of luv want of it. Its epoll is
 * one more descriptor in ours, so a message is paid with one wait and not two. */
#ifndef SD_LOOP_H
#define SD_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <uv.h>

#include "base/buffer.h"
#include "timers.h"

enum {
  SD_LOOP_BATCH = 512,
  SD_LOOP_GROUP = 32, /* events that are taken in before anything runs that they have woken */
  SD_LOOP_SCRATCH = 65536,
  SD_LOOP_FETCH = 9 /* lines of a connection */
};

/* Something with a descriptor in the epoll. A member of its owner. */
typedef struct sd_source sd_source;
struct sd_source {
  void (*on_events)(sd_source *source, uint32_t events);
  int fd;
  bool groups; /* what it wakes may run a little later, with what others have woken */
};

/* Work put off to the next turn of the loop: what ran long enough this turn. */
typedef struct sd_deferred sd_deferred;
struct sd_deferred {
  void (*run)(sd_deferred *deferred);
  sd_deferred *next;
  uint64_t turn; /* when it was put off */
  bool waiting;
};

typedef struct sd_loop sd_loop;
struct sd_loop {
  uv_loop_t uv;
  uv_prepare_t presence; /* does nothing: without a handle libuv takes itself for over */
  sd_source libuv;       /* its epoll, in ours */
  bool libuv_due, libuv_always; /* it is to have its turn: in this one; in each */
  bool stopped;
  int epoll;
  int batch_at, batch_count; /* the batch under way, for sd_loop_unwatch */
  sd_timers timers;
  sd_deferred *deferred, **deferred_tail;
  struct sd_conn *dirty;         /* have gathered writes (connection.h) */
  sd_buffer spare;               /* an empty one, for the next who gathers */
  bool (*on_turn)(void *owner);  /* before each poll; true: there is more to do */
  void (*on_group)(void *owner); /* after each group of events */
  void *owner;
  uint64_t turn; /* counts turns; a budget per turn compares it */
  struct epoll_event batch[SD_LOOP_BATCH];
  char scratch[SD_LOOP_SCRATCH]; /* where reads land when nobody holds bytes */
  char waste[SD_LOOP_SCRATCH];   /* where bytes land that nobody wants: a connection may
                                  * be closed while another's lie in `scratch` */
};

/* Prepares the loop. 0 or a negative UV_E…; on failure nothing is left. */
int sd_loop_init(sd_loop *loop);

/* Takes turns until sd_loop_stop, which may have come before. */
void sd_loop_run(sd_loop *loop);
void sd_loop_stop(sd_loop *loop);

/* One turn, which may wait for something to happen if `wait`. */
void sd_loop_turn(sd_loop *loop, bool wait);

/* Registers a descriptor for its life (edge-triggered). 0 or -errno. */
int sd_loop_watch(sd_loop *loop, sd_source *source, uint32_t events);

/* Takes it off again, out of the batch under way too. */
void sd_loop_unwatch(sd_loop *loop, sd_source *source);

/* Only out of the batch under way: for who closes the descriptor next and holds
 * no duplicate, since the epoll then drops it by itself. */
void sd_loop_forget(sd_loop *loop, sd_source *source);

/* Milliseconds, monotonic, as of this turn. */
static inline uint64_t sd_loop_now(const sd_loop *loop) {
  return uv_now(&loop->uv);
}

/* Arms a timer of this loop, which wakes for it. */
int sd_loop_arm(sd_loop *loop, sd_timer *timer, uint64_t when);

/* Runs it on the next turn, once. */
void sd_loop_defer(sd_loop *loop, sd_deferred *deferred);
void sd_loop_undefer(sd_loop *loop, sd_deferred *deferred);

/* Closes its handles and the loop. Sources must be gone. */
void sd_loop_close(sd_loop *loop);

#endif
