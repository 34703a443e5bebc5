/* Stores by name: who asks first makes one, all others find it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/shelf.h"

#define MEGABYTE ((uint64_t)1 << 20)

static const sd_shelf_place *place;

static sd_shelf *create(void) {
  sd_shelf *shelf = malloc(sizeof *shelf);
  assert_int_equal(sd_shelf_create(shelf, false), 0);
  return shelf;
}

static void discard(sd_shelf *shelf) {
  sd_shelf_close(shelf);
  sd_shelf_close(shelf);
  free(shelf);
}

static int open_as(sd_shelf *shelf, const char *name, uint64_t size, int full, const sd_store **out) {
  sd_shelf_wish wish = { .name = name, .size = size, .otherwise = MEGABYTE, .full = full };
  return sd_shelf_get(shelf, &wish, out, &place);
}

static void put(const sd_store *s, const char *key, double n) {
  sd_store_item item = { .value = { .type = SD_VALUE_NUMBER, .number = n } };
  assert_int_equal(sd_store_set(s, (sd_text){ key, strlen(key) }, &item), 0);
}

static double look(const sd_store *s, const char *key) {
  sd_value v;
  sd_room room = { 0 };
  assert_int_equal(sd_store_get(s, (sd_text){ key, strlen(key) }, &v, &room), 0);
  return v.number;
}

static void finds_what_others_have_made(void **state) {
  (void)state;
  sd_shelf *one = create(), *other = malloc(sizeof *other);
  const sd_store *s;
  assert_int_equal(sd_shelf_attach(other, one->fd), 0);
  assert_int_equal(open_as(one, "a", MEGABYTE, SD_STORE_EVICT, &s), 0);
  put(s, "k", 1);
  assert_int_equal(open_as(other, "b", 0, -1, &s), 0);
  put(s, "k", 2);
  assert_int_equal(open_as(other, "a", 0, -1, &s), 0);
  assert_true(look(s, "k") == 1);
  assert_int_equal(s->full, SD_STORE_EVICT);
  assert_int_equal(open_as(one, "b", 0, -1, &s), 0);
  assert_true(look(s, "k") == 2);
  assert_int_equal(sd_shelf_count(one), 2);
  assert_string_equal(sd_shelf_place_of(other, 1)->name, "b");
  discard(other);
  discard(one);
}

static void kinds_have_names_of_their_own(void **state) {
  (void)state;
  sd_shelf *shelf = create();
  const sd_store *s, *limiter;
  sd_shelf_wish wish = { .name = "a", .kind = SD_SHELF_LIMITER, .otherwise = MEGABYTE, .full = SD_STORE_EVICT };
  assert_int_equal(open_as(shelf, "a", 0, -1, &s), 0);
  assert_int_equal(sd_shelf_get(shelf, &wish, &limiter, &place), 0);
  assert_true(s != limiter);
  discard(shelf);
}

static void tells_what_differs(void **state) {
  (void)state;
  sd_shelf *shelf = create();
  const sd_store *s;
  assert_int_equal(open_as(shelf, "a", 2 * MEGABYTE, SD_STORE_ERROR, &s), 0);
  assert_int_equal(open_as(shelf, "a", MEGABYTE, -1, &s), -EEXIST);
  assert_int_equal(place->size, 2 * MEGABYTE);
  assert_int_equal(open_as(shelf, "a", 2 * MEGABYTE, SD_STORE_EVICT, &s), -EEXIST);
  assert_int_equal(open_as(shelf, "a", 2 * MEGABYTE, SD_STORE_ERROR, &s), 0);
  discard(shelf);
}

static void has_so_many_and_no_more(void **state) {
  (void)state;
  sd_shelf *shelf = create();
  const sd_store *s;
  char name[16];
  for (int i = 0; i < SD_SHELF_MOST; i++) {
    snprintf(name, sizeof name, "s%d", i);
    assert_int_equal(open_as(shelf, name, SD_STORE_LEAST, -1, &s), 0);
  }
  assert_int_equal(open_as(shelf, "one more", SD_STORE_LEAST, -1, &s), -ENOSPC);
  assert_int_equal(open_as(shelf, "s0", SD_STORE_LEAST, -1, &s), 0);
  discard(shelf);
}

static void a_rehearsal_takes_little(void **state) {
  (void)state;
  sd_shelf *shelf = malloc(sizeof *shelf);
  const sd_store *s;
  assert_int_equal(sd_shelf_create(shelf, true), 0);
  assert_int_equal(open_as(shelf, "a", SD_STORE_MOST, -1, &s), 0);
  assert_int_equal(place->size, SD_STORE_MOST);
  assert_in_range(place->memory, 1, 16 * MEGABYTE);
  put(s, "k", 1);
  discard(shelf);
}

static void refuses_what_is_no_shelf(void **state) {
  (void)state;
  sd_shelf *shelf = malloc(sizeof *shelf);
  int fd = open("/dev/zero", O_RDONLY);
  assert_int_equal(sd_shelf_attach(shelf, fd), -EINVAL);
  assert_int_equal(sd_shelf_attach(shelf, -1), -EBADF);
  close(fd);
  fd = memfd_create("no shelf", MFD_CLOEXEC);
  assert_int_equal(ftruncate(fd, MEGABYTE), 0);
  assert_int_equal(sd_shelf_attach(shelf, fd), -EINVAL);
  close(fd);
  free(shelf);
}

/* Processes that are killed while they make stores, all at once. */
static void survives_kills_of_makers(void **state) {
  (void)state;
  sd_shelf *shelf = create();
  const sd_store *s;
  for (int i = 0; i < 120; i++) {
    char name[16];
    snprintf(name, sizeof name, "s%d", i);
    pid_t pid = fork();
    if (pid == 0) {
      sd_shelf *mine = malloc(sizeof *mine);
      if (sd_shelf_attach(mine, shelf->fd) == 0 && open_as(mine, name, SD_STORE_LEAST, -1, &s) == 0) put(s, "k", i);
      for (;;) pause();
    }
    struct timespec t = { .tv_nsec = i * 5000L };
    nanosleep(&t, NULL);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(open_as(shelf, name, SD_STORE_LEAST, -1, &s), 0);
    put(s, "k", 2 * i);
    assert_true(look(s, "k") == 2 * i);
    assert_true(sd_store_is_sound(s));
  }
  discard(shelf);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(finds_what_others_have_made),
    cmocka_unit_test(kinds_have_names_of_their_own),
    cmocka_unit_test(tells_what_differs),
    cmocka_unit_test(has_so_many_and_no_more),
    cmocka_unit_test(a_rehearsal_takes_little),
    cmocka_unit_test(refuses_what_is_no_shelf),
    cmocka_unit_test(survives_kills_of_makers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
