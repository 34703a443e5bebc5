/* What the supervisor wants of a worker whose code holds its loop, and what it learns
 * of it: in shared memory, since such a worker reads nothing else. A signal makes it
 * look. An order is about one stretch of Lua, named by the moment it was entered;
 * whatever runs when the signal comes and is not that stretch is left alone. */
#ifndef SD_BASE_ORDER_H
#define SD_BASE_ORDER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SD_ORDER_TEXT 2048

typedef struct {
  /* Written by the supervisor. */
  _Alignas(64) _Atomic uint64_t stretch; /* 0: none yet */
  _Atomic uint32_t stop;                 /* an error is to be raised in it */
  _Atomic uint32_t collect;              /* garbage is to be collected, whatever runs; the worker takes it back */
  _Atomic uint32_t weigh;                /* what is left after that is to be told; the worker takes it back */
  /* Written by the worker. */
  _Atomic uint64_t found; /* the stretch in which the signal came */
  _Atomic uint64_t at;    /* where: an address of the program's */
  _Atomic uint64_t told;  /* the stretch whose traceback `text` is */
  _Atomic uint64_t kept;  /* bytes that it has resident after a collection; 0: not told yet */
  char text[SD_ORDER_TEXT];
} sd_order;

static inline void sd_order_give(sd_order *o, uint64_t stretch, bool stop) {
  atomic_store(&o->stop, stop);
  atomic_store(&o->stretch, stretch);
}

static inline void sd_order_collect(sd_order *o) {
  atomic_store(&o->kept, 0);
  atomic_store(&o->collect, 1);
  atomic_store(&o->weigh, 1);
}

/* The signal came while the program was at this address. */
static inline void sd_order_note_place(sd_order *o, uint64_t stretch, uint64_t at) {
  atomic_store(&o->at, at);
  atomic_store(&o->found, stretch);
}

/* Kept as far as there is room. */
static inline void sd_order_tell(sd_order *o, uint64_t stretch, const char *text) {
  size_t len = strnlen(text, SD_ORDER_TEXT - 1);
  atomic_store(&o->told, 0);
  memcpy(o->text, text, len);
  o->text[len] = '\0';
  atomic_store(&o->told, stretch);
}

/* The answer to the last order, as far as there is one: the text's length, or -1.
 * Who writes it may be anybody's code: it is copied, and ended here. */
static inline int sd_order_told(const sd_order *o, char out[SD_ORDER_TEXT]) {
  uint64_t stretch = atomic_load(&o->stretch);
  if (stretch == 0 || atomic_load(&o->told) != stretch) return -1;
  memcpy(out, o->text, SD_ORDER_TEXT);
  out[SD_ORDER_TEXT - 1] = '\0';
  return (int)strlen(out);
}

/* Where the last order's signal found it; 0: not yet. */
static inline uint64_t sd_order_place(const sd_order *o) {
  uint64_t stretch = atomic_load(&o->stretch);
  return stretch != 0 && atomic_load(&o->found) == stretch ? atomic_load(&o->at) : 0;
}

static inline void sd_order_clear(sd_order *o) {
  atomic_store(&o->stretch, 0);
  atomic_store(&o->stop, 0);
  atomic_store(&o->collect, 0);
  atomic_store(&o->found, 0);
  atomic_store(&o->told, 0);
  atomic_store(&o->weigh, 0);
  atomic_store(&o->kept, 0);
}

#endif
