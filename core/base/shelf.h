/* The stores of an instance, by name: one file in memory, shared by all its processes.
 *
 * A page in front says which stores there are and where in the file each of them lies.
 * Whoever asks for one first makes it, at the end of the file; all others find it. So
 * nobody asks anybody, and a new process needs one descriptor to have them all. Stores
 * stay as long as the instance. */
#ifndef SD_BASE_SHELF_H
#define SD_BASE_SHELF_H

#include "base/store.h"

enum { SD_SHELF_MOST = 256 }; /* stores */

#define SD_SHELF_NAME_MAX 128 /* bytes of a name, NUL included */

typedef enum { SD_SHELF_SHARED, SD_SHELF_LIMITER } sd_shelf_kind;

typedef struct {
  char name[SD_SHELF_NAME_MAX];
  uint32_t kind;
  uint32_t full;   /* sd_store_full */
  uint64_t size;   /* as it was asked for */
  uint64_t memory; /* as it is: less in a rehearsal */
  uint64_t offset; /* in the file */
} sd_shelf_place;

/* This process's view. */
typedef struct {
  struct sd_shelf_header *header;
  int fd;
  bool owns;      /* close the descriptor at the end */
  bool rehearsal; /* it is thrown away: stores get as little memory as they can */
  sd_store stores[SD_SHELF_MOST];
} sd_shelf;

/* An empty one. The descriptor is close-on-exec. 0 or -errno. */
int sd_shelf_create(sd_shelf *out, bool rehearsal);

/* The one behind `fd`, which stays the caller's and must outlive it. */
int sd_shelf_attach(sd_shelf *out, int fd);

/* Unmaps. Closing twice is harmless. */
void sd_shelf_close(sd_shelf *shelf);

typedef struct {
  const char *name;
  sd_shelf_kind kind;
  uint64_t size; /* 0: as it is, or `otherwise` */
  uint64_t otherwise;
  int full; /* sd_store_full; -1: likewise, or an error */
} sd_shelf_wish;

/* The store of that name, made if there is none. -EEXIST: there is one that is not as
 * wished, -ENOSPC: there are as many as there may be. `*place`: where it is, also when it
 * is not as wished. */
int sd_shelf_get(sd_shelf *shelf, const sd_shelf_wish *wish, const sd_store **out, const sd_shelf_place **place);

/* How many there are; they are numbered from 0. */
uint32_t sd_shelf_count(const sd_shelf *shelf);
const sd_shelf_place *sd_shelf_place_of(const sd_shelf *shelf, uint32_t n);

/* NULL when it cannot be mapped. */
const sd_store *sd_shelf_store(sd_shelf *shelf, uint32_t n);

#endif
