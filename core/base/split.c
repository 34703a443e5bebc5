/* Who gets which generation. */
#include "base/split.h"

void sd_split_clear(sd_split *s) {
  atomic_store(&s->canary, 0);
  atomic_store(&s->current, 0);
}

void sd_split_begin(sd_split *s, sd_trial *t, uint64_t canary, uint32_t share, const sd_split_network *from) {
  atomic_store(&s->canary, 0);
  for (int i = 0; i < 2; i++) atomic_store(&s->words[i], from->words[i]);
  atomic_store(&s->form, from->form);
  atomic_store(&s->share, share);
  atomic_store(&t->turn, 0);
  atomic_store(&s->canary, canary);
}

void sd_split_end(sd_split *s) {
  atomic_store(&s->canary, 0);
}

void sd_trial_watch(sd_trial *t, uint64_t generation) {
  atomic_store(&t->watched, 0);
  atomic_store(&t->served, 0);
  atomic_store(&t->failed, 0);
  atomic_store(&t->watched, generation);
}

/* The n-th peer goes to the canary if the share's line passes a whole number on
 * its way from n to n + 1: of any n peers n times the share have gone, less than
 * one off. All workers count the same turns. */
static bool is_its_turn(uint32_t share, sd_trial *t) {
  uint64_t n = atomic_fetch_add(&t->turn, 1) % SD_SPLIT_WHOLE;
  return (n + 1) * share / SD_SPLIT_WHOLE > n * share / SD_SPLIT_WHOLE;
}

uint64_t sd_split_choose(const sd_split_look *look, sd_trial *t, bool is_from_network) {
  if (look->canary == 0) return look->current;
  if (is_from_network) return look->canary;
  return look->share > 0 && is_its_turn(look->share, t) ? look->canary : look->current;
}
