/* What the files of a pool share: l_pool.c has its generations and connections,
 * l_accept.c its listen sockets and who gets in, l_offer.c those who come without one. */
#ifndef SD_L_POOL_H
#define SD_L_POOL_H

#include "base/binding.h"
#include "l_admission.h"
#include "l_alarm.h"
#include "l_connection.h"
#include "l_full.h"
#include "net/sockopt.h"

#define SD_POOL "sockdrawer.pool"

struct l_generation {
  l_generation *next;
  uint64_t number;
  uint64_t connections;
  sd_ref fn, args, finish;
  sd_ref admit, queue, turn, failed; /* its parts */
  bool always, forgotten;
  bool carried; /* a transport of the user's carries the bytes of its connections */
};

typedef struct l_offer l_offer;

typedef struct l_listener l_listener;
struct l_listener {
  sd_source source; /* first member; without a socket: what comes is offered */
  sd_deferred again;
  sd_timer rest; /* armed: its accepts fail for now, or its acceptor wants it */
  l_pool *pool;
  l_listener *next;
  int id;
  uint64_t ticket;   /* its place in the line for a free place; 0: it is not in it */
  int error;         /* what the accept that ended this turn has failed with; 0: it has not */
  uint32_t failures; /* in a row */
  l_offer *offer;    /* who has come where there is no socket */
  bool ordered;      /* the rest is the acceptor's wish */
  bool ready;        /* its queue may hold something */
  bool last_call;    /* nothing new arrives here any more: its acceptor is not asked */
  bool leaving;      /* empties its queue, then closes */
  ino_t inode;       /* of the socket */
  bool hung_up;      /* it does not listen any more */
  bool more;         /* but not yet: more will be offered */
  sd_task *leaver;   /* waits for that */
};

typedef struct {
  sd_sockopt_setting list[8];
  size_t count;
} l_pool_sockopts;

struct l_pool {
  l_pool *next;
  uint32_t index;
  int loop;
  uint64_t revision; /* of the options */
  bool paused;
  bool runs;                         /* tasks, in place of connections */
  l_pool_sockopts own_tcp, own_unix; /* what connections do not inherit from listen sockets */
  char name[SD_SCOREBOARD_NAME_MAX];
  const sd_conn_limits *limits; /* of new connections */
  l_admission admission;
  l_full full;
  l_alarms alarms;
  sd_timer retry;     /* armed: the next accept is due then */
  uint64_t announced; /* the oldest ticket, as the scoreboard knows it */
  sd_binding binding;
  l_generation *generations, *current;
  uint32_t acceptors; /* generations that have one */
  l_listener *listeners;
  l_offer *offers;
  l_conn *connections;
  uint64_t count;
  uint64_t said; /* when the last accept error was told */
  sd_ref on_drained, on_event, on_ended;
};

static inline l_pool *sd_l_pool_check(lua_State *L) {
  return *(l_pool **)luaL_checkudata(L, 1, SD_POOL);
}

/* The generation that the scoreboard calls current, or NULL while that, a canary
 * beside it, or the options that are current, are not prepared here. */
l_generation *sd_l_pool_current(l_pool *pool);

/* Starts the handler of `g`, or of a canary beside it, on an accepted descriptor
 * whose place is reserved, and who is counted in `headcount`; or turns it away, as the
 * generation's manager says. 0 or -errno: then all three are still the caller's. */
int sd_l_pool_serve(
  l_pool *pool, l_generation *g, int fd, const struct sockaddr *peer, uint32_t headcount, uint64_t waited);

/* Makes it one of the pool's connections, served by this generation. */
void sd_l_pool_join(l_pool *pool, l_generation *g, l_conn *c);

/* Calls fn for every pool here. */
void sd_l_pool_each(void (*fn)(l_pool *pool));

/* One connection of the generation less; the last one of an old one ends it. */
void sd_l_pool_leave(l_pool *pool, l_generation *g);

/* Calls a Lua function of the pool's, in a task of its own. */
void sd_l_pool_tell(sd_ref fn, const char *word, double number);

/* Sets what an accepted socket does not inherit from its listen socket. */
void sd_l_pool_set_sockopts(const l_pool *pool, int fd, const struct sockaddr *peer);

/* ---- l_binding.c: who serves what was accepted here ---- */

/* Whether another process may serve it: then descriptor and place are taken over. */
bool sd_l_binding_hand(l_pool *pool, l_generation *g, int fd, uint32_t headcount);
int sd_l_binding_assign(lua_State *L); /* methods of pools */
int sd_l_binding_claim(lua_State *L);
int sd_l_binding_handed(lua_State *L);
int sd_l_binding_refuge(lua_State *L);
void sd_l_binding_configure(lua_State *L, int index, sd_binding *binding);

/* ---- l_turn.c: whose turn it is in the line for a place ---- */

/* Has turns told to those whose they are, from now on. */
void sd_l_turn_begin(void);

/* ---- l_accept.c ---- */

/* Looks at every socket again whose queue may hold something. */
void sd_l_accept_try(l_pool *pool);

/* Claims a place for this ticket (0: for who has just come); `in_a_hurry`: whatever
 * the rate of accepts. If it was not granted, tries again by itself. */
int sd_l_accept_claim(l_pool *pool, uint64_t ticket, bool in_a_hurry, sd_claim *claim);

/* Tells the other loops how long the first in this one's line has waited. */
void sd_l_accept_announce(l_pool *pool);

/* Leaves the line: it will accept nothing for now. */
void sd_l_accept_stand_back(l_pool *pool);

/* Code or options are others: an acceptor's rests are over, and it is asked anew. */
void sd_l_accept_renew(l_pool *pool);

void sd_l_accept_init(l_pool *pool);

/* Closes its listen sockets. */
void sd_l_accept_close(l_pool *pool);

/* ---- l_alarm.c ---- */
void sd_l_alarm_configure(lua_State *L, int index, l_pool *pool);
void sd_l_alarm_look(l_pool *pool); /* somebody has come */
void sd_l_alarm_look_again(l_pool *pool);
int sd_l_alarm_on_alarm(lua_State *L); /* method on_alarm */
void sd_l_alarm_free(lua_State *L, l_pool *pool);

/* ---- l_part.c ---- */

/* Calls a function of a part, which lies on the stack of the loop's own state under its
 * arguments, and leaves so many results there. False: it has failed, its first result is
 * nil, and that is counted. */
bool sd_l_part_call(const l_pool *pool, const l_generation *g, int nargs, int nresults);

/* "ip:port", and the ip alone; of a unix socket what is known of it. */
void sd_l_part_push_peer(lua_State *L, const struct sockaddr *peer);
void sd_l_part_push_ip(lua_State *L, const struct sockaddr *peer);

/* ---- l_queue.c: the queue of the generation that is `full.keeper` ---- */

/* Whether there is one, which says who is next. */
bool sd_l_queue_decides(const l_pool *pool);

/* Somebody waits since then (milliseconds), or does not any more. */
void sd_l_queue_join(const l_pool *pool, uint64_t number, const struct sockaddr *peer, uint64_t since);
void sd_l_queue_leave(const l_pool *pool, uint64_t number, const char *why);

/* "next" or "drop": whom it names; 0: nobody. */
uint64_t sd_l_queue_ask(const l_pool *pool, const char *what);

/* Another will have all who wait. */
void sd_l_queue_forget(const l_pool *pool);

/* ---- l_acceptor.c ---- */

/* How many may be accepted on this socket now, `most` of them at most, and after how many
 * milliseconds it looks again (0: at once). */
uint32_t sd_l_acceptor_turn(const l_listener *l, const l_generation *g, uint32_t most, uint64_t *rest);

/* After how many milliseconds a failed accept is tried again; 0: as usual. */
uint64_t sd_l_acceptor_failed(const l_listener *l, const l_generation *g, int err);

/* ---- l_manager.c ---- */

/* Whether the generation's manager lets it in, whose place is reserved already. */
bool sd_l_manager_admits(l_pool *pool, const l_generation *g, const struct sockaddr *peer);

/* ---- l_full.c ---- */

/* Takes when_full from the table at `index`. */
void sd_l_full_configure(lua_State *L, int index, l_full *full);
void sd_l_full_free(lua_State *L, l_pool *pool);

/* Turns an accepted one away, as when_full says, and counts it. Takes over `fd`. */
void sd_l_full_reject(l_pool *pool, int fd, const struct sockaddr *peer);

int sd_l_full_turn_away(lua_State *L); /* method turn_away */
int sd_l_full_on_full(lua_State *L);   /* method on_full */

/* ---- l_hold.c ---- */
void sd_l_hold_init(l_pool *pool);
void sd_l_hold_retime(l_pool *pool);

/* Lets an accepted one wait. 0 or -errno: then all is still the caller's. */
int sd_l_hold_join(l_pool *pool, int fd, const struct sockaddr_storage *peer, uint32_t headcount);

/* The ticket of who is next; 0: nobody waits. */
uint64_t sd_l_hold_ticket(const l_pool *pool);

/* Serves who waits, as far as there are places. */
void sd_l_hold_try(l_pool *pool);

/* Turns away all who wait. */
void sd_l_hold_dismiss(l_pool *pool);

int sd_l_accept(lua_State *L);    /* method accept */
int sd_l_unaccept(lua_State *L);  /* method unaccept */
int sd_l_last_call(lua_State *L); /* method last_call */

/* ---- l_offer.c ---- */
int sd_l_offer(lua_State *L); /* method offer */

/* Like accept4: the descriptor, and in place of the peer's address what it is found by. */
int sd_l_offer_take(l_listener *l, struct sockaddr_storage *peer);
l_offer *sd_l_offer_find(const l_pool *pool, const struct sockaddr *peer); /* or NULL */

int sd_l_offer_far_end(l_offer *offer); /* it is the caller's now */

/* The last of an offer: it is served (pushes what was offered), or it is not; `err`: since
 * nobody could take it. */
void sd_l_offer_served(l_offer *offer, lua_State *to);
void sd_l_offer_lost(l_offer *offer, int err);

#endif
