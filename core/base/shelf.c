/* The stores of an instance, by name. */
#include "base/shelf.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x736473686c663031) /* changes with the layout, that of stores included */
#define PAGE ((uint64_t)4096)
#define REHEARSAL ((uint64_t)16 << 20)

typedef struct sd_shelf_header {
  uint64_t magic;
  pthread_mutex_t mutex;
  _Atomic uint32_t count; /* places behind it are not there yet */
  uint64_t end;           /* of the last store in the file */
  sd_shelf_place places[SD_SHELF_MOST];
} header;

static uint64_t whole_pages(uint64_t bytes) {
  return (bytes + PAGE - 1) / PAGE * PAGE;
}

static int init_mutex(pthread_mutex_t *mutex) {
  pthread_mutexattr_t shared;
  int err = pthread_mutexattr_init(&shared);
  if (err) return -err;
  err = pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
  if (!err) err = pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST);
  if (!err) err = pthread_mutex_init(mutex, &shared);
  pthread_mutexattr_destroy(&shared);
  return -err;
}

/* NULL: there is no room for it among our addresses. */
static header *map_header(int fd) {
  void *at = mmap(NULL, whole_pages(sizeof(header)), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return at != MAP_FAILED ? at : NULL;
}

/* No process can shrink it under the feet of the others. */
static int open_memory(void) {
  int fd = memfd_create("stores", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  int seals = F_SEAL_SHRINK | F_SEAL_SEAL;
  if (ftruncate(fd, (off_t)whole_pages(sizeof(header))) == 0 && fcntl(fd, F_ADD_SEALS, seals) == 0) return fd;
  int err = -errno;
  close(fd);
  return err;
}

int sd_shelf_create(sd_shelf *out, bool rehearsal) {
  int fd = open_memory();
  if (fd < 0) return fd;
  *out = (sd_shelf){ .header = map_header(fd), .fd = fd, .owns = true, .rehearsal = rehearsal };
  if (out->header == NULL) {
    close(fd);
    return -ENOMEM;
  }
  out->header->end = whole_pages(sizeof(header));
  out->header->magic = MAGIC;
  int err = init_mutex(&out->header->mutex);
  if (err) sd_shelf_close(out);
  return err;
}

int sd_shelf_attach(sd_shelf *out, int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0) return -errno;
  if ((uint64_t)st.st_size < whole_pages(sizeof(header))) return -EINVAL;
  *out = (sd_shelf){ .header = map_header(fd), .fd = fd };
  if (out->header == NULL) return -ENOMEM;
  if (out->header->magic == MAGIC) return 0;
  sd_shelf_close(out);
  return -EINVAL;
}

void sd_shelf_close(sd_shelf *shelf) {
  if (shelf->header == NULL) return;
  for (uint32_t n = 0; n < SD_SHELF_MOST; n++)
    if (shelf->stores[n].header != NULL) munmap(shelf->stores[n].header, shelf->header->places[n].memory);
  munmap(shelf->header, whole_pages(sizeof(header)));
  if (shelf->owns) close(shelf->fd);
  *shelf = (sd_shelf){ .fd = -1 };
}

/* ---- stores ---- */

uint32_t sd_shelf_count(const sd_shelf *shelf) {
  return atomic_load_explicit(&shelf->header->count, memory_order_acquire);
}

const sd_shelf_place *sd_shelf_place_of(const sd_shelf *shelf, uint32_t n) {
  assert(n < sd_shelf_count(shelf));
  return &shelf->header->places[n];
}

static void *map_place(const sd_shelf *shelf, const sd_shelf_place *p) {
  return mmap(NULL, p->memory, PROT_READ | PROT_WRITE, MAP_SHARED, shelf->fd, (off_t)p->offset);
}

static int open_store(sd_shelf *shelf, uint32_t n) {
  if (shelf->stores[n].header != NULL) return 0;
  const sd_shelf_place *p = sd_shelf_place_of(shelf, n);
  void *at = map_place(shelf, p);
  if (at == MAP_FAILED) return -errno;
  int err = sd_store_open(&shelf->stores[n], at, p->memory);
  if (err) munmap(at, p->memory);
  return err;
}

const sd_store *sd_shelf_store(sd_shelf *shelf, uint32_t n) {
  return open_store(shelf, n) == 0 ? &shelf->stores[n] : NULL;
}

/* A process that was killed here has left nothing but bytes behind the end, if that:
 * the next one makes the same anew. */
static void lock(const sd_shelf *shelf) {
  int err = pthread_mutex_lock(&shelf->header->mutex);
  if (err == EOWNERDEAD) err = pthread_mutex_consistent(&shelf->header->mutex);
  assert(err == 0);
  (void)err;
}

static int find(const sd_shelf *shelf, const sd_shelf_wish *wish) {
  for (uint32_t n = 0; n < sd_shelf_count(shelf); n++) {
    const sd_shelf_place *p = sd_shelf_place_of(shelf, n);
    if (p->kind == wish->kind && strcmp(p->name, wish->name) == 0) return (int)n;
  }
  return -1;
}

static int fill(const sd_shelf *shelf, const sd_shelf_place *p) {
  uint64_t end = p->offset + p->memory;
  struct stat st;
  if (fstat(shelf->fd, &st) != 0) return -errno;
  if ((uint64_t)st.st_size < end && ftruncate(shelf->fd, (off_t)end) != 0) return -errno;
  int flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  if (fallocate(shelf->fd, flags, (off_t)p->offset, (off_t)p->memory) != 0) return -errno;
  void *at = map_place(shelf, p);
  if (at == MAP_FAILED) return -errno;
  int err = sd_store_format(at, p->memory, (sd_store_full)p->full);
  munmap(at, p->memory);
  return err;
}

static int make(sd_shelf *shelf, const sd_shelf_wish *wish) {
  header *h = shelf->header;
  uint32_t n = h->count;
  if (n == SD_SHELF_MOST) return -ENOSPC;
  sd_shelf_place *p = &h->places[n];
  *p = (sd_shelf_place){ .kind = wish->kind, .full = wish->full > 0, .offset = h->end };
  memcpy(p->name, wish->name, strlen(wish->name) + 1);
  p->size = wish->size != 0 ? wish->size : wish->otherwise;
  p->memory = whole_pages(shelf->rehearsal && p->size > REHEARSAL ? REHEARSAL : p->size);
  int err = fill(shelf, p);
  if (err) return err;
  h->end = p->offset + p->memory;
  atomic_store_explicit(&h->count, n + 1, memory_order_release);
  return (int)n;
}

static bool is_as_wished(const sd_shelf_place *p, const sd_shelf_wish *wish) {
  return (wish->size == 0 || wish->size == p->size) && (wish->full < 0 || (uint32_t)wish->full == p->full);
}

int sd_shelf_get(sd_shelf *shelf, const sd_shelf_wish *wish, const sd_store **out, const sd_shelf_place **place) {
  assert(strlen(wish->name) < SD_SHELF_NAME_MAX);
  int n = find(shelf, wish);
  if (n < 0) {
    lock(shelf);
    n = find(shelf, wish);
    if (n < 0) n = make(shelf, wish);
    pthread_mutex_unlock(&shelf->header->mutex);
  }
  if (n < 0) return n;
  *place = sd_shelf_place_of(shelf, (uint32_t)n);
  if (!is_as_wished(*place, wish)) return -EEXIST;
  int err = open_store(shelf, (uint32_t)n);
  if (!err) *out = &shelf->stores[n];
  return err;
}
