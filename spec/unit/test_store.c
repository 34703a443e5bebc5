/* Stores: what each call promises, to several processes at once, and after the death of
 * any of them at any instruction. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/store.h"

#define SECOND UINT64_C(1000000000)
#define SMALL ((size_t)64 << 10)

static sd_room room;

typedef struct {
  void *memory;
  size_t size;
  sd_store store;
} fixture;

static fixture *make(size_t size, sd_store_full full) {
  fixture *f = malloc(sizeof *f);
  f->size = size;
  f->memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_true(f->memory != MAP_FAILED);
  assert_int_equal(sd_store_format(f->memory, size, full), 0);
  assert_int_equal(sd_store_open(&f->store, f->memory, size), 0);
  return f;
}

static void discard(fixture *f) {
  assert_true(sd_store_is_sound(&f->store));
  munmap(f->memory, f->size);
  free(f);
}

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static sd_text text(const char *s) {
  return (sd_text){ s, strlen(s) };
}

static sd_value number(double n) {
  return (sd_value){ .type = SD_VALUE_NUMBER, .number = n };
}

static sd_value boolean(bool b) {
  return (sd_value){ .type = SD_VALUE_BOOLEAN, .boolean = b };
}

static sd_value string(const char *bytes, size_t length) {
  return (sd_value){ .type = SD_VALUE_STRING, .bytes = bytes, .length = length };
}

static int set(const sd_store *s, const char *key, sd_value v) {
  return sd_store_set(s, text(key), &(sd_store_item){ .value = v });
}

static int set_until(const sd_store *s, const char *key, sd_value v, uint64_t expires) {
  return sd_store_set(s, text(key), &(sd_store_item){ .value = v, .expires = expires });
}

static sd_value get(const sd_store *s, const char *key) {
  sd_value v;
  int err = sd_store_get(s, text(key), &v, &room);
  assert_true(err == 0 || (err == -ENOENT && v.type == SD_VALUE_NONE));
  return v;
}

static double get_number(const sd_store *s, const char *key) {
  sd_value v = get(s, key);
  assert_int_equal(v.type, SD_VALUE_NUMBER);
  return v.number;
}

static bool is_there(const sd_store *s, const char *key) {
  return get(s, key).type != SD_VALUE_NONE;
}

static void assert_string(const sd_store *s, const char *key, const char *bytes, size_t length) {
  sd_value v = get(s, key);
  assert_int_equal(v.type, SD_VALUE_STRING);
  assert_int_equal(v.length, length);
  if (length > 0) assert_memory_equal(v.bytes, bytes, length);
}

/* ---- values ---- */

static void keeps_every_type(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_ERROR);
  const sd_store *s = &f->store;
  static const double numbers[] = { 0, -0.0, 1.5, -1e308, INFINITY, -INFINITY, 5e-324 };
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
    assert_int_equal(set(s, "n", number(numbers[i])), 0);
    double back = get_number(s, "n");
    assert_memory_equal(&back, &numbers[i], sizeof back);
  }
  set(s, "n", number(NAN));
  assert_true(isnan(get_number(s, "n")));
  set(s, "b", boolean(false));
  assert_int_equal(get(s, "b").type, SD_VALUE_BOOLEAN);
  assert_false(get(s, "b").boolean);
  set(s, "b", boolean(true));
  assert_true(get(s, "b").boolean);
  assert_false(is_there(s, "none"));
  assert_int_equal(sd_store_count(s), 2);
  discard(f);
}

static void keeps_strings_of_every_length(void **state) {
  (void)state;
  fixture *f = make((size_t)1 << 20, SD_STORE_ERROR);
  size_t most = sd_store_longest(&f->store) - 1;
  char *bytes = malloc(most + 1);
  for (size_t i = 0; i <= most; i++) bytes[i] = (char)(i * 7 + i / 251);
  for (size_t length = 0; length < 400; length++) {
    assert_int_equal(set(&f->store, "s", string(bytes, length)), 0);
    assert_string(&f->store, "s", bytes, length);
  }
  assert_int_equal(set(&f->store, "s", string(bytes, most)), 0);
  assert_string(&f->store, "s", bytes, most);
  assert_int_equal(set(&f->store, "s", string(bytes, most + 1)), SD_ELIMIT);
  assert_string(&f->store, "s", bytes, most);
  assert_int_equal(set(&f->store, "s", number(1)), 0);
  assert_int_equal(sd_store_look(&f->store).used, SD_CHUNK);
  free(bytes);
  discard(f);
}

static void keys_are_bytes(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_ERROR);
  sd_value v;
  char key[SD_STORE_KEY_MOST];
  memset(key, 'k', sizeof key);
  for (size_t length = 0; length <= sizeof key; length += 31) {
    sd_store_item item = { .value = number((double)length) };
    assert_int_equal(sd_store_set(&f->store, (sd_text){ key, length }, &item), 0);
  }
  for (size_t length = 0; length <= sizeof key; length += 31) {
    assert_int_equal(sd_store_get(&f->store, (sd_text){ key, length }, &v, &room), 0);
    assert_true(v.number == (double)length);
  }
  assert_int_equal(sd_store_get(&f->store, (sd_text){ "k\0", 2 }, &v, &room), -ENOENT);
  discard(f);
}

static void adds_only_what_is_not_there(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_ERROR);
  sd_store_item item = { .value = number(1), .fresh = true };
  assert_int_equal(sd_store_set(&f->store, text("k"), &item), 0);
  assert_int_equal(sd_store_set(&f->store, text("k"), &item), SD_EEXISTS);
  discard(f);
}

static void counts(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_ERROR);
  double n;
  assert_int_equal(sd_store_incr(&f->store, text("k"), 2, 40, 0, &n), 0);
  assert_true(n == 42);
  assert_int_equal(sd_store_incr(&f->store, text("k"), -0.5, 40, 0, &n), 0);
  assert_true(n == 41.5);
  set(&f->store, "s", string("1", 1));
  assert_int_equal(sd_store_incr(&f->store, text("s"), 1, 0, 0, &n), SD_ETYPE);
  discard(f);
}

static int cas(const sd_store *s, const char *key, sd_value old, sd_value new, sd_value *current) {
  return sd_store_cas(s, text(key), &old, &new, current, &room);
}

static void changes_what_is_as_expected(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_ERROR);
  const sd_store *s = &f->store;
  sd_value none = { .type = SD_VALUE_NONE }, current;
  assert_int_equal(cas(s, "k", none, string("one", 3), &current), 0);
  assert_int_equal(cas(s, "k", none, number(2), &current), SD_ECHANGED);
  assert_int_equal(current.length, 3);
  assert_memory_equal(current.bytes, "one", 3);
  assert_int_equal(cas(s, "k", string("on", 2), number(2), &current), SD_ECHANGED);
  assert_int_equal(cas(s, "k", string("one", 3), number(NAN), &current), 0);
  assert_int_equal(cas(s, "k", number(NAN), number(-0.0), &current), 0);
  assert_int_equal(cas(s, "k", number(0), boolean(false), &current), 0);
  assert_int_equal(cas(s, "k", number(0), none, &current), SD_ECHANGED);
  assert_int_equal(cas(s, "k", boolean(false), none, &current), 0);
  assert_false(is_there(s, "k"));
  assert_int_equal(cas(s, "k", boolean(false), none, &current), SD_ECHANGED);
  assert_int_equal(current.type, SD_VALUE_NONE);
  discard(f);
}

static void gives_back_what_it_deletes(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_ERROR);
  sd_value old;
  set(&f->store, "k", string("old", 3));
  assert_int_equal(sd_store_delete(&f->store, text("k"), &old, &room), 0);
  assert_memory_equal(old.bytes, "old", 3);
  assert_int_equal(sd_store_delete(&f->store, text("k"), &old, &room), -ENOENT);
  assert_int_equal(sd_store_look(&f->store).used, 0);
  discard(f);
}

/* ---- all of them ---- */

static int count_keys(const sd_store *s, const char *prefix) {
  sd_store_walk walk = { 0 };
  size_t length;
  int count = 0;
  while (sd_store_keys(s, &walk, text(prefix), &room, &length) == 1) {
    for (size_t at = 0; at < length; count++) {
      uint16_t n;
      memcpy(&n, room.bytes + at, sizeof n);
      assert_memory_equal(room.bytes + at + sizeof n, prefix, strlen(prefix));
      at += sizeof n + n;
    }
  }
  return count;
}

static void walks_through_its_keys(void **state) {
  (void)state;
  fixture *f = make((size_t)4 << 20, SD_STORE_ERROR);
  char key[32];
  for (int i = 0; i < 5000; i++) {
    snprintf(key, sizeof key, "%s:%d", i % 5 == 0 ? "user" : "a-longer-prefix", i);
    assert_int_equal(set(&f->store, key, number(i)), 0);
  }
  assert_int_equal(count_keys(&f->store, ""), 5000);
  assert_int_equal(count_keys(&f->store, "user:"), 1000);
  assert_int_equal(count_keys(&f->store, "nobody"), 0);
  assert_int_equal(sd_store_clear(&f->store, text("user:")), 1000);
  assert_int_equal(sd_store_count(&f->store), 4000);
  assert_int_equal(sd_store_clear(&f->store, text("")), 4000);
  assert_int_equal(sd_store_look(&f->store).used, 0);
  discard(f);
}

/* ---- full ---- */

static int fill(const sd_store *s) {
  char key[32];
  int n = 0;
  do snprintf(key, sizeof key, "key number %d", n++);
  while (n < 100000 && set(s, key, number(n)) == 0);
  return n - 1;
}

static void says_when_it_is_full(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_ERROR);
  int n = fill(&f->store);
  assert_in_range(n, 300, SMALL / SD_CHUNK);
  assert_int_equal(set(&f->store, "one more", number(1)), SD_EFULL);
  assert_int_equal(set(&f->store, "key number 0", boolean(true)), 0); /* in its own place */
  assert_int_equal(sd_store_count(&f->store), n);
  sd_value old;
  sd_store_delete(&f->store, text("key number 1"), &old, &room);
  assert_int_equal(set(&f->store, "one more 1", number(1)), 0);
  discard(f);
}

static void evicts_what_was_used_longest_ago(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_EVICT);
  char key[32];
  for (int i = 0; i < 2000; i++) {
    snprintf(key, sizeof key, "key number %d", i);
    assert_int_equal(set(&f->store, key, number(i)), 0);
    assert_true(is_there(&f->store, "key number 0"));
  }
  assert_false(is_there(&f->store, "key number 1"));
  sd_store_stats stats = sd_store_look(&f->store);
  assert_int_equal(stats.count + stats.evicted, 2000);
  assert_in_range(stats.used, stats.capacity - 2 * SD_CHUNK, stats.capacity);
  discard(f);
}

/* ---- time ---- */

static void forgets_what_is_over(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_ERROR);
  const sd_store *s = &f->store;
  set_until(s, "past", number(1), now() - 1);
  set_until(s, "future", number(1), now() + 1000 * SECOND);
  assert_false(is_there(s, "past"));
  assert_true(is_there(s, "future"));
  set_until(s, "future", number(2), now() - 1); /* in place */
  assert_false(is_there(s, "future"));
  set_until(s, "again", number(2), now() - 1);
  set(s, "again", number(3));
  assert_true(is_there(s, "again"));
  assert_int_equal(sd_store_count(s), 1);
  discard(f);
}

static void what_is_over_makes_nobody_full(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_ERROR);
  char key[32];
  for (int i = 0; i < 20000; i++) {
    snprintf(key, sizeof key, "key %d", i);
    assert_int_equal(set_until(&f->store, key, number(i), now() + (uint64_t)(i % 7)), 0);
  }
  char big[20000] = { 0 };
  assert_int_equal(set(&f->store, "big", string(big, sizeof big)), 0);
  assert_int_equal(sd_store_count(&f->store), 1);
  discard(f);
}

static void reclaims_in_the_order_of_time(void **state) {
  (void)state;
  fixture *f = make((size_t)1 << 20, SD_STORE_ERROR);
  char key[32];
  uint64_t t = now();
  srand(5);
  for (int i = 0; i < 3000; i++) {
    snprintf(key, sizeof key, "key %d", rand() % 1000);
    uint64_t expires = rand() % 3 == 0 ? 0 : t + SECOND * (uint64_t)(rand() % 2 * 1000);
    assert_int_equal(set_until(&f->store, key, number(i), expires), 0);
    assert_true(i % 100 != 0 || sd_store_is_sound(&f->store));
  }
  sd_store_count(&f->store);
  discard(f);
}

/* ---- owners ---- */

static int set_owned(const sd_store *s, const char *key, uint64_t owner, int32_t home) {
  sd_owner_key id = { { owner, 1 } };
  return sd_store_set(s, text(key), &(sd_store_item){ .value = number(1), .owner = &id, .home = home });
}

static void owned_entries_go_with_their_owner(void **state) {
  (void)state;
  fixture *f = make((size_t)1 << 20, SD_STORE_ERROR);
  const sd_store *s = &f->store;
  char key[32];
  sd_value current;
  for (int i = 0; i < 900; i++) {
    snprintf(key, sizeof key, "key %d", i);
    assert_int_equal(set_owned(s, key, (uint64_t)(i % 3), i % 3), 0);
  }
  set(s, "key 0", number(1)); /* nobody's now */
  assert_int_equal(cas(s, "key 3", number(1), string("it stays its owner's", 20), &current), 0);
  sd_owner_key first = { { 0, 1 } }, second = { { 1, 1 } };
  sd_store_release(s, &first);
  assert_int_equal(sd_store_count(s), 601);
  assert_true(is_there(s, "key 0"));
  assert_false(is_there(s, "key 3"));
  sd_store_rehome(s, &second, 2);
  assert_true(sd_store_reap(s, 1));
  assert_int_equal(sd_store_count(s), 601);
  assert_true(sd_store_reap(s, 2));
  assert_int_equal(sd_store_count(s), 1);
  discard(f);
}

/* ---- buckets ---- */

static int take(const sd_store *s, const char *key, int n, uint64_t t, uint64_t *wait) {
  return sd_store_take(s, text(key), (uint64_t)n * SECOND / 10, SECOND, t, wait);
}

static void limits_a_rate(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_EVICT);
  uint64_t t = now(), wait;
  for (int i = 0; i < 10; i++) assert_int_equal(take(&f->store, "ip", 1, t, &wait), 0);
  assert_int_equal(take(&f->store, "ip", 1, t, &wait), -EAGAIN);
  assert_int_equal(wait, SECOND / 10);
  assert_int_equal(take(&f->store, "other", 10, t, &wait), 0);
  assert_int_equal(take(&f->store, "ip", 5, t, &wait), -EAGAIN);
  assert_int_equal(wait, SECOND / 2);
  assert_int_equal(take(&f->store, "ip", 5, t + wait, &wait), 0);
  assert_int_equal(take(&f->store, "more", 11, t, &wait), -EAGAIN);
  assert_int_equal(take(&f->store, "third", 1, t + 3 * SECOND, &wait), 0);
  assert_int_equal(sd_store_look(&f->store).count, 1); /* full buckets are none */
  discard(f);
}

/* ---- several processes ---- */

static pid_t start(void (*run)(const sd_store *s, unsigned seed), const sd_store *s, unsigned seed) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid > 0) return pid;
  run(s, seed);
  _exit(0);
}

static void end(pid_t pid) {
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

enum { TURNS = 200000 };

static void add_up(const sd_store *s, unsigned seed) {
  double n;
  (void)seed;
  for (int i = 0; i < TURNS; i++)
    if (sd_store_incr(s, text("sum"), 1, 0, 0, &n) != 0) _exit(1);
}

static void loses_no_increment(void **state) {
  (void)state;
  fixture *f = make(SMALL, SD_STORE_ERROR);
  pid_t one = start(add_up, &f->store, 0), other = start(add_up, &f->store, 0);
  end(one);
  end(other);
  assert_true(get_number(&f->store, "sum") == 2 * TURNS);
  discard(f);
}

/* ---- killed anywhere ---- */

/* Every string in the store is one byte, again and again, as many times as it says. */
static bool is_whole(const sd_value *v) {
  if (v->type != SD_VALUE_STRING) return true;
  for (size_t i = 1; i < v->length; i++)
    if (v->bytes[i] != v->bytes[0]) return false;
  return v->length >= 1 && v->length == (size_t)(unsigned char)v->bytes[0] * 9 % 700 + 1;
}

static sd_value whole(unsigned n, char *buffer) {
  size_t length = (size_t)(n % 256) * 9 % 700 + 1;
  memset(buffer, (int)(n % 256), length);
  return string(buffer, length);
}

static void do_anything(const sd_store *s, unsigned seed) {
  char key[16], buffer[701];
  sd_room mine = { 0 };
  sd_value v;
  double n;
  uint64_t wait;
  sd_owner_key owner = { { seed % 7, 0 } };
  for (unsigned x = seed * 2654435761u;; x = x * 1664525u + 1013904223u) {
    unsigned r = x >> 8;
    snprintf(key, sizeof key, "key %u", r % 97);
    sd_store_item item = { .value = r % 3 == 0 ? number(r) : whole(r / 97, buffer), .home = 3 };
    if (r % 5 == 0) item.expires = now() + r % 100000;
    if (r % 4 == 0) item.owner = &owner;
    switch (r / 7 % 9) {
      case 0:
      case 1:
      case 2:
        sd_store_set(s, text(key), &item);
        break;
      case 3:
        sd_store_delete(s, text(key), &v, &mine);
        break;
      case 4:
        sd_store_incr(s, text(key), 1, 0, item.expires, &n);
        break;
      case 5:
        if (sd_store_get(s, text(key), &v, &mine) == 0 && !is_whole(&v)) _exit(1);
        break;
      case 6:
        sd_store_get(s, text(key), &v, &mine);
        sd_store_cas(s, text(key), &v, &item.value, &v, &mine);
        break;
      case 7:
        sd_store_take(s, text("bucket"), SECOND / 100, SECOND, now(), &wait);
        break;
      default:
        sd_store_release(s, &owner);
    }
  }
}

/* Everything can be read, everything agrees, and it goes on. */
static void look_it_over(const sd_store *s) {
  char key[16];
  assert_true(sd_store_is_sound(s));
  for (int i = 0; i < 97; i++) {
    snprintf(key, sizeof key, "key %d", i);
    sd_value v = get(s, key);
    assert_true(is_whole(&v));
  }
  assert_int_equal(set(s, "alive", number(1)), 0);
}

static void pause_for(long ns) {
  nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
}

enum { VICTIMS = 16 };

static void kill_all(const pid_t *victims) {
  for (int i = 0; i < VICTIMS; i++) kill(victims[i], SIGKILL);
  for (int i = 0; i < VICTIMS; i++) waitpid(victims[i], NULL, 0);
}

/* Processes that are killed again and again, at random, beside one that is not.
 * SOCKDRAWER_KILLS: so many times as many. */
static void survives_kills(sd_store_full full, int rounds) {
  fixture *f = make(SMALL, full);
  const char *times = getenv("SOCKDRAWER_KILLS");
  pid_t steady = start(do_anything, &f->store, 1), victims[VICTIMS];
  if (times != NULL) rounds *= atoi(times);
  for (int round = 0; round < rounds; round++) {
    for (int i = 0; i < VICTIMS; i++) victims[i] = start(do_anything, &f->store, (unsigned)(round * VICTIMS + i + 2));
    pause_for(200000 + rand() % 2000000);
    kill_all(victims);
    assert_true(sd_store_is_sound(&f->store));
    assert_int_equal(waitpid(steady, NULL, WNOHANG), 0);
  }
  kill(steady, SIGKILL);
  waitpid(steady, NULL, 0);
  sd_value old;
  sd_store_delete(&f->store, text("key 1"), &old, &room);
  look_it_over(&f->store);
  assert_true(sd_store_reap(&f->store, 3));
  sd_store_clear(&f->store, text(""));
  assert_int_equal(sd_store_look(&f->store).used, 0);
  discard(f);
}

static void survives_kills_of_writers(void **state) {
  (void)state;
  survives_kills(SD_STORE_EVICT, 40);
}

static void survives_kills_of_writers_when_full(void **state) {
  (void)state;
  survives_kills(SD_STORE_ERROR, 25);
}

/* One call of each kind, which a debugger steps through: after every instruction its
 * memory is what it would leave behind if it were killed there. */

typedef struct {
  const char *what;
  void (*run)(const sd_store *s);
} step;

static char long_bytes[300];
static const sd_owner_key step_owner = { { 77, 1 } };

static void step_set(const sd_store *s) {
  set(s, "string", string(long_bytes, sizeof long_bytes));
}

static void step_set_number(const sd_store *s) {
  set_until(s, "number", boolean(false), UINT64_MAX / 2);
}

static void step_insert(const sd_store *s) {
  sd_store_item item = { .value = string(long_bytes, 100), .owner = &step_owner, .expires = UINT64_MAX / 3 };
  sd_store_set(s, text("new"), &item);
}

static void step_evict(const sd_store *s) {
  static char big[20000];
  set(s, "big", string(big, sizeof big));
}

static void step_delete(const sd_store *s) {
  sd_value old;
  sd_store_delete(s, text("owned"), &old, &room);
}

static void step_incr(const sd_store *s) {
  double n;
  sd_store_incr(s, text("number"), 1, 0, 0, &n);
}

static void step_take(const sd_store *s) {
  uint64_t wait;
  sd_store_take(s, text("bucket"), SECOND, 100 * SECOND, 1, &wait);
}

static void step_release(const sd_store *s) {
  sd_store_release(s, &step_owner);
}

static uint32_t bucket(const sd_store *s, const char *key) {
  return (uint32_t)sd_hash(&s->seed, key, strlen(key)) & (s->layout.nbuckets - 1);
}

static bool is_near(const sd_store *s, const char *key) {
  static const char *const keys[] = { "string", "number", "new", "owned", "bucket" };
  for (int i = 0; i < 5; i++)
    if (bucket(s, key) == bucket(s, keys[i])) return true;
  return false;
}

enum { NEIGHBOURS = 20 };

/* Keys in the same buckets as those that the steps are about. */
static int count_neighbours(const sd_store *s, bool make) {
  char key[32];
  int near = 0, there = 0;
  for (int i = 0; near < NEIGHBOURS; i++) {
    snprintf(key, sizeof key, "neighbour %d", i);
    if (!is_near(s, key)) continue;
    near++;
    if (make) set_until(s, key, number(i), near % 2 == 0 ? 0 : UINT64_MAX / 3);
    there += is_there(s, key);
  }
  return there;
}

static void prepare_for_steps(const sd_store *s) {
  char key[32];
  for (int i = 0; i < 12; i++) {
    snprintf(key, sizeof key, "filler %d", i);
    set_until(s, key, string(long_bytes, 250), i % 2 == 0 ? 0 : UINT64_MAX / 2 + (uint64_t)i);
  }
  set(s, "string", string("short", 5));
  set(s, "number", number(41));
  sd_store_item item = { .value = string(long_bytes, 50), .owner = &step_owner, .expires = UINT64_MAX / 4 };
  sd_store_set(s, text("owned"), &item);
  count_neighbours(s, true);
}

/* Old or new, and nothing between. */
static void check_steps(const sd_store *s) {
  assert_true(sd_store_is_sound(s));
  sd_value v = get(s, "string");
  assert_true(v.type == SD_VALUE_STRING && (v.length == 5 || v.length == sizeof long_bytes));
  assert_memory_equal(v.bytes, v.length == 5 ? "short" : long_bytes, v.length);
  v = get(s, "number");
  assert_true(v.type == SD_VALUE_BOOLEAN ? !v.boolean : v.number == 41 || v.number == 42 || v.number == 43);
  v = get(s, "new");
  assert_true(v.type == SD_VALUE_NONE || (v.length == 100 && memcmp(v.bytes, long_bytes, 100) == 0));
  v = get(s, "owned");
  assert_true(v.type == SD_VALUE_NONE || v.length == 50);
  assert_int_equal(count_neighbours(s, false), NEIGHBOURS);
}

/* What is in `memory`, with nobody alive who could hold its lock. */
static void look_at_remains(fixture *f, const void *memory, const step *step) {
  memcpy(f->memory, memory, f->size);
  sd_segment part = sd_segment_at(f->store.segments, &f->store.layout);
  assert_int_equal(f->store.nsegments, 1);
  assert_int_equal(sd_segment_init(&part), 0);
  sd_segment_repair(&part);
  check_steps(&f->store);
  step->run(&f->store);
  check_steps(&f->store);
}

static pid_t begin_steps(const step *step, const sd_store *s) {
  int status;
  pid_t pid = fork();
  if (pid == 0) {
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(9);
    raise(SIGSTOP);
    step->run(s);
    _exit(0);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFSTOPPED(status) ? pid : 0;
}

static bool do_step(pid_t pid) {
  int status;
  ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFSTOPPED(status);
}

static void stop_at_every_instruction(const step *step) {
  fixture *f = make(SMALL, SD_STORE_EVICT), *remains = make(SMALL, SD_STORE_EVICT);
  void *last = calloc(1, f->size);
  int looks = 0;
  prepare_for_steps(&f->store);
  remains->store.seed = f->store.seed;
  pid_t pid = begin_steps(step, &f->store);
  for (long left = 500000; pid != 0 && left > 0 && do_step(pid); left--) {
    if (memcmp(last, f->memory, f->size) == 0) continue;
    memcpy(last, f->memory, f->size);
    look_at_remains(remains, last, step);
    looks++;
  }
  if (pid == 0)
    print_message("%s: nobody may be traced here\n", step->what);
  else
    assert_in_range(looks, 5, 500000);
  free(last);
  discard(remains);
  discard(f);
}

static void survives_a_death_at_any_instruction(void **state) {
  (void)state;
  static const step steps[] = {
    { "set", step_set },
    { "set_number", step_set_number },
    { "insert", step_insert },
    { "evict", step_evict },
    { "delete", step_delete },
    { "incr", step_incr },
    { "take", step_take },
    { "release", step_release },
  };
  memset(long_bytes, 'x', sizeof long_bytes);
  for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) stop_at_every_instruction(&steps[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(keeps_every_type),
    cmocka_unit_test(keeps_strings_of_every_length),
    cmocka_unit_test(keys_are_bytes),
    cmocka_unit_test(adds_only_what_is_not_there),
    cmocka_unit_test(counts),
    cmocka_unit_test(changes_what_is_as_expected),
    cmocka_unit_test(gives_back_what_it_deletes),
    cmocka_unit_test(walks_through_its_keys),
    cmocka_unit_test(says_when_it_is_full),
    cmocka_unit_test(evicts_what_was_used_longest_ago),
    cmocka_unit_test(forgets_what_is_over),
    cmocka_unit_test(what_is_over_makes_nobody_full),
    cmocka_unit_test(reclaims_in_the_order_of_time),
    cmocka_unit_test(owned_entries_go_with_their_owner),
    cmocka_unit_test(limits_a_rate),
    cmocka_unit_test(loses_no_increment),
    cmocka_unit_test(survives_kills_of_writers),
    cmocka_unit_test(survives_kills_of_writers_when_full),
    cmocka_unit_test(survives_a_death_at_any_instruction),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  free(room.bytes);
  return failed;
}
