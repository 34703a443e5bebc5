/* Who gets which generation: all new connections the current one, or some of
 * them a canary, that is, a newer one on trial.
 *
 * Lies in shared memory. The supervisor writes it, acceptors read it, and nobody
 * locks: generation numbers rise and never come twice, so a canary's number that
 * is the same before and after a look vouches for what was read in between, and
 * one that is not above the current generation is over. Thus a promotion is one
 * store (the current generation is now the canary's number), and so is taking a
 * canary back (its number is now 0). */
#ifndef SD_BASE_SPLIT_H
#define SD_BASE_SPLIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define SD_SPLIT_WHOLE 1000000u /* the share of a canary that gets everybody */

/* The network whose peers all go to the canary, as whoever can read it packs it. */
typedef struct {
  uint64_t words[2];
  uint32_t form; /* 0: nobody is in it */
} sd_split_network;

typedef struct {
  _Atomic uint64_t current, canary; /* generations; 0: none */
  _Atomic uint64_t words[2];
  _Atomic uint32_t form;
  _Atomic uint32_t share; /* of the peers outside of that network, in millionths */
} sd_split;

/* What an acceptor has seen. */
typedef struct {
  uint64_t current, canary;
  sd_split_network from;
  uint32_t share;
} sd_split_look;

/* How a generation on trial does. Counted by all workers together, so that no
 * death of one takes its counts along. */
typedef struct {
  _Atomic uint64_t turn;    /* how many peers the share has been asked about */
  _Atomic uint64_t watched; /* the generation in probation; 0: none */
  _Atomic uint64_t served, failed;
} sd_trial;

/* ---- the supervisor ---- */

void sd_split_clear(sd_split *s);

/* Begins a canary, and its turns at 0. The one before must be over. */
void sd_split_begin(sd_split *s, sd_trial *t, uint64_t canary, uint32_t share, const sd_split_network *from);

/* Takes the canary back: new connections go to the current generation. */
void sd_split_end(sd_split *s);

/* Counts for this generation from now on, from 0. */
void sd_trial_watch(sd_trial *t, uint64_t generation);

/* ---- acceptors ---- */

/* Which generation the next peer gets. Call it once for each: it counts. */
uint64_t sd_split_choose(const sd_split_look *look, sd_trial *t, bool is_from_network);

static inline sd_split_look sd_split_look_at(const sd_split *s) {
  sd_split_look look = { 0 };
  do {
    look.canary = atomic_load(&s->canary);
    look.current = atomic_load(&s->current);
    if (look.canary <= look.current) {
      look.canary = 0;
      return look; /* and the rest means nothing */
    }
    for (int i = 0; i < 2; i++) look.from.words[i] = atomic_load(&s->words[i]);
    look.from.form = atomic_load(&s->form);
    look.share = atomic_load(&s->share);
  } while (atomic_load(&s->canary) != look.canary);
  return look;
}

/* Whether new connections may still get this generation. */
static inline bool sd_split_is_live(const sd_split *s, uint64_t generation) {
  sd_split_look look = sd_split_look_at(s);
  return generation == look.current || generation == look.canary;
}

static inline void sd_trial_count(const sd_trial *t, uint64_t generation, _Atomic uint64_t *counter) {
  if (atomic_load_explicit(&t->watched, memory_order_relaxed) != generation) return;
  atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static inline void sd_trial_served(sd_trial *t, uint64_t generation) {
  sd_trial_count(t, generation, &t->served);
}

static inline void sd_trial_failed(sd_trial *t, uint64_t generation) {
  sd_trial_count(t, generation, &t->failed);
}

#endif
