/* Log lines that never make the caller wait. */
#include "base/log_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define RING_MIN 4096 /* a notice must always fit into an empty ring */
#define CHUNK 32768   /* room comes back in steps of this, not all at once */

struct sd_log_writer {
  pthread_t thread;
  pthread_mutex_t mutex; /* over all that follows */
  pthread_cond_t filled;
  pthread_cond_t finished;
  int fd; /* a duplicate: the caller's may be closed under us */
  size_t size;
  size_t head; /* where the oldest byte is */
  size_t used;
  uint64_t dropped; /* lines, ever */
  uint64_t unsaid;  /* of these, not yet told in the log */
  bool json;        /* how a notice is written: like all other lines */
  bool broken;      /* the last write failed: no use to tell it anything */
  bool closing;
  bool done;      /* the thread needs nothing more of this */
  bool abandoned; /* nobody else does: the thread frees it */
  char ring[];
};

static void put(sd_log_writer *w, const char *bytes, size_t len) {
  size_t tail = (w->head + w->used) % w->size;
  size_t first = len < w->size - tail ? len : w->size - tail;
  memcpy(w->ring + tail, bytes, first);
  memcpy(w->ring, bytes + first, len - first);
  w->used += len;
}

static size_t room(const sd_log_writer *w) {
  return w->size - w->used;
}

/* "2026-01-31T12:00:00.123Z", as in all other lines. */
static void stamp(char *out, size_t size) {
  struct timespec now;
  struct tm utc;
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &utc);
  size_t len = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &utc);
  snprintf(out + len, size - len, ".%03ldZ", now.tv_nsec / 1000000);
}

static int print_notice(const sd_log_writer *w, char *out, size_t size) {
  char ts[32];
  stamp(ts, sizeof ts);
  if (w->json)
    return snprintf(
      out, size, "{\"ts\":\"%s\",\"level\":\"warn\",\"event\":\"log_dropped\",\"lines\":%" PRIu64 "}\n", ts, w->unsaid);
  return snprintf(out, size, "ts=%s level=warn event=log_dropped lines=%" PRIu64 "\n", ts, w->unsaid);
}

/* Says what is missing, if that leaves room for what comes next. */
static bool say_dropped(sd_log_writer *w, size_t next) {
  char notice[128];
  int len = print_notice(w, notice, sizeof notice);
  if (room(w) < next || room(w) - next < (size_t)len) return false;
  put(w, notice, (size_t)len);
  w->unsaid = 0;
  return true;
}

static void drop(sd_log_writer *w, uint64_t lines) {
  w->dropped += lines;
  w->unsaid += lines;
}

/* ---- the thread ---- */

static void discard(sd_log_writer *w) {
  uint64_t lines = 0;
  for (size_t i = 0; i < w->used; i++)
    if (w->ring[(w->head + i) % w->size] == '\n') lines++;
  drop(w, lines);
  w->used = 0;
  w->broken = true;
}

static void advance(sd_log_writer *w, size_t n) {
  w->head = (w->head + n) % w->size;
  w->used -= n;
  w->broken = false;
}

/* One write, blocking if need be. 0 asks for another attempt: somebody may have
 * made the file behind the descriptor non-blocking, which all its users share. */
static ssize_t write_or_wait(int fd, const char *bytes, size_t len) {
  ssize_t n = write(fd, bytes, len);
  if (n >= 0) return n;
  if (errno == EINTR) return 0;
  if (errno != EAGAIN) return -errno;
  struct pollfd writable = { .fd = fd, .events = POLLOUT };
  poll(&writable, 1, -1);
  return 0;
}

static void write_some(sd_log_writer *w) {
  size_t len = w->size - w->head;
  if (len > w->used) len = w->used;
  if (len > CHUNK) len = CHUNK;
  const char *bytes = w->ring + w->head;
  pthread_mutex_unlock(&w->mutex); /* callers only add behind these bytes */
  ssize_t n = write_or_wait(w->fd, bytes, len);
  pthread_mutex_lock(&w->mutex);
  if (n < 0)
    discard(w);
  else if (n > 0)
    advance(w, (size_t)n);
}

static bool wait_for_bytes(sd_log_writer *w) {
  while (!w->abandoned) {
    if (w->used == 0 && w->unsaid > 0 && !w->broken) say_dropped(w, 0);
    if (w->used > 0) return true;
    if (w->closing) return false;
    pthread_cond_wait(&w->filled, &w->mutex);
  }
  return false;
}

static void destroy(sd_log_writer *w) {
  pthread_cond_destroy(&w->finished);
  pthread_cond_destroy(&w->filled);
  pthread_mutex_destroy(&w->mutex);
  close(w->fd);
  free(w);
}

static void *run(void *arg) {
  sd_log_writer *w = arg;
  pthread_mutex_lock(&w->mutex);
  while (wait_for_bytes(w)) write_some(w);
  w->done = true;
  pthread_cond_signal(&w->finished);
  bool last = w->abandoned;
  pthread_mutex_unlock(&w->mutex);
  if (last) destroy(w);
  return NULL;
}

/* Signals are the loop's business; a SIGPIPE stays pending here, unseen. */
static int start_thread(sd_log_writer *w) {
  sigset_t all, before;
  sigfillset(&all);
  int err = pthread_sigmask(SIG_SETMASK, &all, &before);
  if (err) return -err;
  err = pthread_create(&w->thread, NULL, run, w);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!err) pthread_setname_np(w->thread, "log");
  return -err;
}

/* ---- the caller ---- */

static void init_sync(sd_log_writer *w) {
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_mutex_init(&w->mutex, NULL);
  pthread_cond_init(&w->filled, NULL);
  pthread_cond_init(&w->finished, &monotonic);
  pthread_condattr_destroy(&monotonic);
}

int sd_log_writer_new(sd_log_writer **out, int fd, size_t ring) {
  if (ring < RING_MIN) ring = RING_MIN;
  sd_log_writer *w = calloc(1, sizeof *w + ring);
  if (w == NULL) return -ENOMEM;
  w->size = ring;
  w->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (w->fd < 0) {
    int err = -errno;
    free(w);
    return err;
  }
  init_sync(w);
  int err = start_thread(w);
  if (err) {
    destroy(w);
    return err;
  }
  *out = w;
  return 0;
}

static bool ends_line(const char *line, size_t len) {
  return len > 0 && line[len - 1] == '\n';
}

void sd_log_writer_write(sd_log_writer *w, const char *line, size_t len) {
  size_t whole = ends_line(line, len) ? len : len + 1;
  pthread_mutex_lock(&w->mutex);
  bool fits = room(w) >= whole;
  /* What was lost before this line is told before this line. */
  if (fits && w->unsaid > 0 && !w->broken) fits = say_dropped(w, whole);
  if (fits) {
    put(w, line, len);
    if (whole > len) put(w, "\n", 1);
  } else {
    drop(w, 1);
  }
  pthread_cond_signal(&w->filled);
  pthread_mutex_unlock(&w->mutex);
}

void sd_log_writer_use_json(sd_log_writer *w, bool json) {
  pthread_mutex_lock(&w->mutex);
  w->json = json;
  pthread_mutex_unlock(&w->mutex);
}

uint64_t sd_log_writer_dropped(sd_log_writer *w) {
  pthread_mutex_lock(&w->mutex);
  uint64_t dropped = w->dropped;
  pthread_mutex_unlock(&w->mutex);
  return dropped;
}

#define FOREVER 1e6 /* seconds; keeps the sum below inside time_t */

static struct timespec deadline_after(double seconds) {
  if (!(seconds > 0)) seconds = 0;
  if (seconds > FOREVER) seconds = FOREVER;
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  t.tv_sec += (time_t)seconds;
  t.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
  if (t.tv_nsec >= 1000000000L) {
    t.tv_nsec -= 1000000000L;
    t.tv_sec++;
  }
  return t;
}

int sd_log_writer_close(sd_log_writer *w, double timeout) {
  struct timespec deadline = deadline_after(timeout);
  pthread_t thread = w->thread; /* once abandoned, w may go at any moment */
  int err = 0;
  pthread_mutex_lock(&w->mutex);
  w->closing = true;
  pthread_cond_signal(&w->filled);
  while (!w->done && err == 0) err = pthread_cond_timedwait(&w->finished, &w->mutex, &deadline);
  bool done = w->done;
  w->abandoned = !done;
  pthread_mutex_unlock(&w->mutex);
  if (!done) {
    pthread_detach(thread);
    return -ETIMEDOUT;
  }
  pthread_join(thread, NULL);
  destroy(w);
  return 0;
}

/* ---- one line, one attempt ---- */

static void (*on_drop)(void);
static bool torn; /* the last line came out only in part */

void sd_log_line_on_drop(void (*fn)(void)) {
  on_drop = fn;
}

void sd_log_line(const char *line, size_t len) {
  size_t newline = ends_line(line, len) ? 0 : 1;
  struct iovec parts[] = {
    { .iov_base = "\n", .iov_len = torn }, /* ends the torn one first */
    { .iov_base = (char *)line, .iov_len = len },
    { .iov_base = "\n", .iov_len = newline },
  };
  size_t whole = torn + len + newline;
  ssize_t n;
  do n = writev(STDERR_FILENO, parts, 3);
  while (n < 0 && errno == EINTR);
  if (n > 0) torn = (size_t)n < whole;
  if ((n < 0 || (size_t)n < whole) && on_drop != NULL) on_drop();
}
