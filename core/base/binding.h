/* Which process serves a connection that one of them has just accepted.
 *
 * The kernel spreads connections over the listen sockets without a look at who has
 * how many. Where that is not wanted, the process that has accepted hands the socket
 * over to the one that a policy chooses. */
#ifndef SD_BASE_BINDING_H
#define SD_BASE_BINDING_H

#include "scoreboard.h"

typedef enum {
  SD_BINDING_KERNEL,            /* whoever has accepted it */
  SD_BINDING_AUTO,              /* the same, unless one has far more than another */
  SD_BINDING_LEAST_CONNECTIONS, /* who has the fewest of the pool's */
  SD_BINDING_ROUND_ROBIN,       /* in turn, over all processes */
  SD_BINDING_CPU,               /* by the processor that its packets came to */
  SD_BINDING_LOOP,              /* one loop, by number */
} sd_binding_kind;

typedef struct {
  sd_binding_kind kind;
  int32_t loop; /* of SD_BINDING_LOOP */
} sd_binding;

/* The kind of that name, or -1. */
int sd_binding_named(const char *name);

enum { SD_REACH = 1024 };

/* The other processes that this one can hand sockets to, by their loops' numbers. */
typedef struct {
  uint32_t count;
  sd_scoreboard_party others[SD_REACH];
  int32_t loops[SD_REACH];
} sd_reach;

/* From now on the process in `slot`, which is this loop, is reached under this pid; 0:
 * not any more. */
void sd_reach_set(sd_reach *reach, sd_scoreboard_party party, int32_t loop);

/* Whether the policy may choose somebody else. Takes no lock. Of very many others the
 * default policy looks at some each time, so that an accept costs no more for them. */
bool sd_binding_matters(const sd_scoreboard *sb, uint32_t pool, const sd_binding *binding, const sd_reach *reach);

/* Chooses who serves what we hold a place for, and passes that on (see
 * sd_scoreboard_assign). `cpu` matters to one policy only; -1: unknown. */
sd_scoreboard_party sd_binding_assign(
  sd_scoreboard *sb, uint32_t pool, const sd_binding *binding, const sd_reach *reach, int cpu);

/* Of the others that serve, who has the fewest of the pool's connections: where one
 * goes that has to leave here. False when there is nobody. */
bool sd_binding_refuge(const sd_scoreboard *sb, uint32_t pool, const sd_reach *reach, sd_scoreboard_party *to);

#endif
