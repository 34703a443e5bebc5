/* Admission is exact over processes, and a killed one leaves nothing behind. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/scoreboard.h"

#define SLOTS 6
#define POOLS 3

static int setup(void **state) {
  sd_scoreboard *sb = calloc(1, sizeof *sb);
  if (sb == NULL || sd_scoreboard_create(sb, SLOTS, POOLS) != 0) return -1;
  *state = sb;
  return sd_scoreboard_pool_open(sb, 0, "web");
}

static int teardown(void **state) {
  sd_scoreboard_close(*state);
  free(*state);
  return 0;
}

static sd_scoreboard join(const sd_scoreboard *sb, uint32_t slot) {
  sd_scoreboard mine;
  assert_int_equal(sd_scoreboard_attach(&mine, sb->fd, sb->bell, slot), 0);
  return mine;
}

static sd_pool_view pool_of(const sd_scoreboard *sb, uint32_t pool) {
  sd_pool_view view;
  sd_scoreboard_pool_read(sb, pool, &view);
  return view;
}

static sd_slot_view slot_of(const sd_scoreboard *sb, uint32_t slot) {
  sd_slot_view view;
  sd_scoreboard_slot_read(sb, slot, &view);
  return view;
}

/* Runs `fn` in a process of its own, with `slot`. */
static pid_t start(const sd_scoreboard *sb, uint32_t slot, void (*fn)(sd_scoreboard *mine, void *arg), void *arg) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid > 0) return pid;
  sd_scoreboard mine;
  if (sd_scoreboard_attach(&mine, sb->fd, sb->bell, slot) != 0) _exit(1);
  fn(&mine, arg);
  _exit(0);
}

static int end_of(pid_t pid) {
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Each listens as an accepting loop does. */
typedef struct {
  int epoll;
} ear;

static ear listen_to(const sd_scoreboard *sb) {
  ear e = { .epoll = epoll_create1(EPOLL_CLOEXEC) };
  struct epoll_event ev = { .events = EPOLLIN | EPOLLET };
  assert_true(e.epoll >= 0);
  assert_int_equal(epoll_ctl(e.epoll, EPOLL_CTL_ADD, sb->bell, &ev), 0);
  epoll_wait(e.epoll, &ev, 1, 0); /* what had rung before we came */
  return e;
}

static bool heard(ear e) {
  struct epoll_event ev;
  return epoll_wait(e.epoll, &ev, 1, 0) == 1;
}

/* ---- admission ---- */

static void admits_as_many_as_allowed(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0), b = join(sb, 1);
  sd_scoreboard_set_max(sb, 0, 3);
  assert_int_equal(sd_scoreboard_reserve(&a, 0), 0);
  assert_int_equal(sd_scoreboard_reserve(&b, 0), 0);
  assert_int_equal(sd_scoreboard_reserve(&a, 0), 0);
  assert_int_equal(sd_scoreboard_reserve(&b, 0), -EAGAIN);
  sd_scoreboard_release(&a, 0);
  assert_int_equal(sd_scoreboard_reserve(&b, 0), 0);
  assert_int_equal(sd_scoreboard_reserve(&a, 0), -EAGAIN);
  assert_int_equal(pool_of(sb, 0).reserved, 3);
  sd_scoreboard_close(&a);
  sd_scoreboard_close(&b);
}

static void rings_once_for_those_who_were_refused(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0);
  ear one = listen_to(sb), two = listen_to(sb);
  sd_scoreboard_set_max(sb, 0, 1);
  sd_scoreboard_reserve(&a, 0);
  sd_scoreboard_release(&a, 0);
  assert_false(heard(one)); /* nobody was refused */
  sd_scoreboard_reserve(&a, 0);
  assert_int_equal(sd_scoreboard_reserve(&a, 0), -EAGAIN);
  sd_scoreboard_release(&a, 0);
  assert_true(heard(one));
  assert_true(heard(two));
  assert_false(heard(one));
  sd_scoreboard_reserve(&a, 0);
  sd_scoreboard_release(&a, 0);
  assert_false(heard(one));
  close(one.epoll);
  close(two.epoll);
  sd_scoreboard_close(&a);
}

static void a_lower_limit_cuts_nobody(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0);
  ear e = listen_to(sb);
  for (int i = 0; i < 3; i++) assert_int_equal(sd_scoreboard_reserve(&a, 0), 0);
  sd_scoreboard_set_max(sb, 0, 2);
  assert_int_equal(pool_of(sb, 0).reserved, 3);
  assert_int_equal(sd_scoreboard_reserve(&a, 0), -EAGAIN);
  sd_scoreboard_release(&a, 0);
  assert_false(heard(e)); /* two of two: still no room */
  assert_int_equal(sd_scoreboard_reserve(&a, 0), -EAGAIN);
  sd_scoreboard_release(&a, 0);
  assert_true(heard(e));
  assert_int_equal(sd_scoreboard_reserve(&a, 0), 0);
  close(e.epoll);
  sd_scoreboard_close(&a);
}

static void zero_admits_nobody_until_it_is_raised(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0);
  ear e = listen_to(sb);
  sd_scoreboard_set_max(sb, 0, 0);
  assert_int_equal(sd_scoreboard_reserve(&a, 0), -EAGAIN);
  sd_scoreboard_set_max(sb, 0, SD_SCOREBOARD_UNLIMITED);
  assert_true(heard(e));
  for (int i = 0; i < 1000; i++) assert_int_equal(sd_scoreboard_reserve(&a, 0), 0);
  close(e.epoll);
  sd_scoreboard_close(&a);
}

/* ---- several processes ---- */

typedef struct {
  _Atomic int inside;
  _Atomic int most;
  _Atomic int admitted;
} room;

#define ROOM 3

static room *new_room(void) {
  room *r = mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_ptr_not_equal(r, MAP_FAILED);
  return r;
}

static void note_most(room *r, int inside) {
  int most = r->most;
  while (inside > most && !atomic_compare_exchange_weak(&r->most, &most, inside)) continue;
}

static void go_in_and_out(sd_scoreboard *mine, void *arg) {
  room *r = arg;
  for (int i = 0; i < 50000; i++) {
    if (sd_scoreboard_reserve(mine, 0) != 0) continue;
    note_most(r, ++r->inside);
    r->admitted++;
    --r->inside;
    sd_scoreboard_release(mine, 0);
  }
}

static void four_processes_never_exceed_the_limit(void **state) {
  sd_scoreboard *sb = *state;
  room *r = new_room();
  pid_t pids[4];
  sd_scoreboard_set_max(sb, 0, ROOM);
  for (uint32_t i = 0; i < 4; i++) pids[i] = start(sb, i, go_in_and_out, r);
  for (int i = 0; i < 4; i++) assert_int_equal(end_of(pids[i]), 0);
  assert_in_range(r->most, 1, ROOM);
  assert_true(r->admitted > 0);
  assert_int_equal(pool_of(sb, 0).reserved, 0);
  munmap(r, sizeof *r);
}

/* Waits for the bell whenever it is refused: were one ring lost, it would not
 * come to its end. */
static void come_in_often_enough(sd_scoreboard *mine, void *arg) {
  (void)arg;
  alarm(30);
  struct epoll_event ev = { .events = EPOLLIN | EPOLLET };
  int epoll = epoll_create1(0);
  epoll_ctl(epoll, EPOLL_CTL_ADD, mine->bell, &ev);
  for (int i = 0; i < 2000; i++) {
    while (sd_scoreboard_reserve(mine, 0) != 0) epoll_wait(epoll, &ev, 1, -1);
    sd_scoreboard_release(mine, 0);
  }
}

static void no_ring_is_lost(void **state) {
  sd_scoreboard *sb = *state;
  pid_t pids[4];
  sd_scoreboard_set_max(sb, 0, 1);
  for (uint32_t i = 0; i < 4; i++) pids[i] = start(sb, i, come_in_often_enough, NULL);
  for (int i = 0; i < 4; i++) assert_int_equal(end_of(pids[i]), 0);
}

/* ---- processes that die ---- */

/* At the worst moment: the place is taken, the sum does not know. */
static void die_with_the_lock(sd_scoreboard *mine, void *arg) {
  (void)arg;
  pthread_mutex_lock(&mine->pools[0].mutex);
  mine->held[mine->slot]++;
  raise(SIGKILL);
}

static void a_lock_survives_its_holder(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0);
  sd_scoreboard_set_max(sb, 0, 2);
  sd_scoreboard_reserve(&a, 0);
  assert_int_equal(end_of(start(sb, 1, die_with_the_lock, NULL)), -SIGKILL);
  assert_int_equal(sd_scoreboard_reserve(&a, 0), -EAGAIN); /* counted anew */
  assert_int_equal(pool_of(sb, 0).reserved, 2);
  ear e = listen_to(sb);
  assert_int_equal(sd_scoreboard_slot_reap(sb, 1), 0);
  assert_true(heard(e));
  assert_int_equal(sd_scoreboard_reserve(&a, 0), 0);
  close(e.epoll);
  sd_scoreboard_close(&a);
}

static void a_lock_survives_two_in_a_row(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0);
  end_of(start(sb, 1, die_with_the_lock, NULL));
  end_of(start(sb, 2, die_with_the_lock, NULL));
  sd_scoreboard_slot_reap(sb, 1);
  assert_int_equal(pool_of(sb, 0).reserved, 1);
  sd_scoreboard_slot_reap(sb, 2);
  assert_int_equal(pool_of(sb, 0).reserved, 0);
  assert_int_equal(sd_scoreboard_reserve(&a, 0), 0);
  sd_scoreboard_close(&a);
}

static void go_on_until_killed(sd_scoreboard *mine, void *arg) {
  (void)arg;
  for (;;)
    if (sd_scoreboard_reserve(mine, 0) == 0) sd_scoreboard_release(mine, 0);
}

static void whoever_is_killed_anywhere_gives_all_back(void **state) {
  sd_scoreboard *sb = *state;
  sd_scoreboard_set_max(sb, 0, 2);
  for (unsigned i = 0; i < 100; i++) {
    pid_t one = start(sb, 0, go_on_until_killed, NULL);
    pid_t two = start(sb, 1, go_on_until_killed, NULL);
    usleep(500 + i * 10); /* chance decides where they are */
    kill(one, SIGKILL);
    assert_int_equal(end_of(one), -SIGKILL);
    sd_scoreboard_slot_reap(sb, 0);
    kill(two, SIGKILL);
    assert_int_equal(end_of(two), -SIGKILL);
    sd_scoreboard_slot_reap(sb, 1);
    assert_int_equal(pool_of(sb, 0).reserved, 0);
  }
}

/* ---- who waits longest ---- */

static int claim(sd_scoreboard *sb, uint64_t ticket) {
  uint64_t wait;
  sd_claim c = { .now = sd_scoreboard_clock(), .ticket = ticket };
  return sd_scoreboard_claim(sb, 0, &c, &wait);
}

static void the_oldest_ticket_has_the_next_place(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0), b = join(sb, 1), c = join(sb, 2);
  sd_scoreboard_set_max(sb, 0, 1);
  assert_int_equal(claim(&a, 0), 0);
  uint64_t first = sd_scoreboard_draw(&b, 0), second = sd_scoreboard_draw(&c, 0);
  sd_scoreboard_wait(&c, 0, second);
  sd_scoreboard_wait(&b, 0, first);
  assert_int_equal(claim(&b, first), -EAGAIN);
  sd_scoreboard_release(&a, 0);
  assert_int_equal(claim(&a, 0), -EINPROGRESS);
  assert_int_equal(claim(&c, second), -EINPROGRESS);
  assert_int_equal(claim(&b, first), 0);
  sd_scoreboard_wait(&b, 0, 0);
  sd_scoreboard_release(&b, 0);
  assert_int_equal(claim(&c, second), 0);
}

static void the_next_one_is_told_when_its_turn_comes(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0), b = join(sb, 1);
  uint64_t first = sd_scoreboard_draw(&a, 0), second = sd_scoreboard_draw(&b, 0);
  sd_scoreboard_wait(&a, 0, first);
  sd_scoreboard_wait(&b, 0, second);
  sd_scoreboard_set_max(sb, 0, 0);
  sd_scoreboard_set_max(sb, 0, 2);
  ear e = listen_to(sb);
  assert_int_equal(claim(&b, second), -EINPROGRESS);
  assert_false(heard(e));
  assert_int_equal(claim(&a, first), 0);
  sd_scoreboard_wait(&a, 0, 0);
  assert_true(heard(e));
  assert_int_equal(claim(&b, second), 0);
  close(e.epoll);
}

/* Who was told since the last time that this was asked, and how often. */
static struct {
  uint32_t slot;
  int times;
} told;

static void note(uint32_t slot) {
  told.slot = slot;
  told.times++;
}

static bool was_told(uint32_t slot) {
  bool so = told.times == 1 && told.slot == slot;
  told.times = 0;
  return so;
}

static sd_scoreboard join_and_tell(const sd_scoreboard *sb, uint32_t slot) {
  sd_scoreboard mine = join(sb, slot);
  mine.tell = note;
  told.times = 0;
  return mine;
}

static uint64_t wait_in_line(sd_scoreboard *sb) {
  uint64_t ticket = sd_scoreboard_draw(sb, 0);
  sd_scoreboard_wait(sb, 0, ticket);
  return ticket;
}

static void only_the_first_in_line_is_told(void **state) {
  sd_scoreboard *sb = *state, a = join_and_tell(sb, 0), b = join_and_tell(sb, 1), c = join_and_tell(sb, 2);
  sd_scoreboard_set_max(sb, 0, 2);
  for (int i = 0; i < 2; i++) assert_int_equal(claim(&a, 0), 0);
  assert_int_equal(claim(&b, 0), -EAGAIN);
  uint64_t first = wait_in_line(&b), second = wait_in_line(&c);
  ear e = listen_to(sb);
  sd_scoreboard_release(&a, 0);
  assert_true(was_told(1));
  sd_scoreboard_release(&a, 0); /* it knows that already */
  assert_int_equal(told.times, 0);
  assert_int_equal(claim(&b, first), 0);
  sd_scoreboard_wait(&b, 0, 0);
  assert_true(was_told(2));
  assert_int_equal(claim(&c, second), 0);
  assert_false(heard(e));
  close(e.epoll);
}

static void each_place_is_another_turn(void **state) {
  sd_scoreboard *sb = *state, a = join_and_tell(sb, 0), b = join_and_tell(sb, 1);
  sd_scoreboard_set_max(sb, 0, 1);
  assert_int_equal(claim(&a, 0), 0);
  uint64_t ticket = wait_in_line(&b);
  sd_scoreboard_release(&a, 0);
  assert_true(was_told(1));
  assert_int_equal(claim(&b, ticket), 0); /* and finds nobody there, but still has the ticket */
  sd_scoreboard_release(&b, 0);
  assert_true(was_told(1));
}

static void a_turn_that_a_lower_max_took_away_comes_again(void **state) {
  sd_scoreboard *sb = *state, a = join_and_tell(sb, 0), b = join_and_tell(sb, 1);
  sd_scoreboard_set_max(sb, 0, 1);
  assert_int_equal(claim(&a, 0), 0);
  uint64_t ticket = wait_in_line(&b);
  sd_scoreboard_release(&a, 0);
  assert_true(was_told(1));
  sd_scoreboard_set_max(sb, 0, 0);
  assert_int_equal(claim(&b, ticket), -EAGAIN);
  sd_scoreboard_set_max(&a, 0, 1);
  assert_true(was_told(1));
}

static void a_place_that_lies_is_noticed_once(void **state) {
  sd_scoreboard *sb = *state, a = join_and_tell(sb, 0), b = join_and_tell(sb, 1);
  sd_scoreboard_set_max(sb, 0, 1);
  assert_int_equal(claim(&a, 0), 0);
  wait_in_line(&b);
  sd_scoreboard_release(&a, 0);
  uint64_t now = sd_scoreboard_clock(), late = now + SD_SCOREBOARD_PATIENCE + 1;
  assert_int_equal(sd_scoreboard_turn(&a, 0, now), SD_TURN_TOLD);
  assert_int_equal(sd_scoreboard_turn(&a, 0, late), SD_TURN_FORSAKEN);
  assert_int_equal(sd_scoreboard_turn(&a, 0, late), SD_TURN_NONE);
}

static void who_lets_a_place_lie_is_passed_over(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0), b = join(sb, 1);
  sd_scoreboard_set_max(sb, 0, 0);
  sd_scoreboard_wait(&a, 0, sd_scoreboard_draw(&a, 0));
  sd_scoreboard_set_max(sb, 0, 1);
  assert_int_equal(claim(&b, 0), -EINPROGRESS);
  usleep(SD_SCOREBOARD_PATIENCE / 1000 + 1000);
  assert_int_equal(claim(&b, 0), 0);
}

static void the_dead_wait_no_longer(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0), b = join(sb, 1);
  sd_scoreboard_set_max(sb, 0, 0);
  sd_scoreboard_wait(&a, 0, sd_scoreboard_draw(&a, 0));
  sd_scoreboard_set_max(sb, 0, 1);
  sd_scoreboard_slot_reap(sb, 0);
  assert_int_equal(claim(&b, 0), 0);
}

static void accepts_have_one_rate_over_all_processes(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0), b = join(sb, 1);
  sd_claim c = { .now = 1000000000, .rate = sd_rate_of(4, 2) };
  uint64_t wait;
  assert_int_equal(sd_scoreboard_claim(&a, 0, &c, &wait), 0);
  assert_int_equal(sd_scoreboard_claim(&b, 0, &c, &wait), 0);
  assert_int_equal(sd_scoreboard_claim(&b, 0, &c, &wait), -EBUSY);
  assert_int_equal(wait, 250000000);
  sd_scoreboard_unclaim(&a, 0, &c);
  assert_int_equal(sd_scoreboard_claim(&b, 0, &c, &wait), 0);
}

static void a_dead_process_leaves_no_network_counted(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0), b = join(sb, 1);
  sd_headcount_key key = { { 7 } };
  sd_headcount_limits one = { .connections = 1 };
  uint32_t ticket;
  assert_int_equal(sd_scoreboard_enter(&a, 0, &key, &one, 1, &ticket), 0);
  assert_int_equal(sd_scoreboard_enter(&b, 0, &key, &one, 1, &ticket), -EUSERS);
  assert_int_equal(sd_scoreboard_enter(&b, 1, &key, &one, 1, &ticket), 0);
  sd_scoreboard_slot_reap(sb, 0);
  assert_int_equal(sd_scoreboard_enter(&b, 0, &key, &one, 1, &ticket), 0);
}

static void serve_and_die(sd_scoreboard *mine, void *arg) {
  (void)arg;
  for (int i = 0; i < 5; i++) {
    sd_scoreboard_reserve(mine, 0);
    sd_scoreboard_count_accepted(mine, 0);
  }
  sd_scoreboard_count_closed(mine, 0);
  sd_scoreboard_release(mine, 0);
  sd_scoreboard_count_rejected(mine, 0, SD_REJECT_FULL);
  sd_scoreboard_count_part_error(mine, 0);
  sd_scoreboard_count_accepted(mine, 1);
  sd_scoreboard_slot_enter(mine, 1, 0, 7, 42);
  raise(SIGKILL);
}

static void the_counters_of_the_dead_stay_in_the_sum(void **state) {
  sd_scoreboard *sb = *state;
  assert_int_equal(end_of(start(sb, 2, serve_and_die, NULL)), -SIGKILL);
  assert_int_equal(pool_of(sb, 0).connections, 4);
  assert_int_equal(pool_of(sb, 0).reserved, 4);
  assert_int_equal(slot_of(sb, 2).connections, 5);
  assert_int_equal(slot_of(sb, 2).connection, 42);
  assert_int_equal(sd_scoreboard_slot_reap(sb, 2), 5);
  sd_pool_view web = pool_of(sb, 0);
  assert_int_equal(web.accepted, 5);
  assert_int_equal(web.closed, 5);
  assert_int_equal(web.rejected, 1);
  assert_int_equal(web.part_errors, 1);
  assert_int_equal(web.connections, 0);
  assert_int_equal(web.reserved, 0);
  assert_int_equal(slot_of(sb, 2).entered_ns, 0);
  assert_int_equal(slot_of(sb, 2).state, SD_SLOT_FREE);
}

/* ---- slots ---- */

static int pass(sd_scoreboard *sb, uint32_t from, int32_t from_pid, uint32_t to, int32_t to_pid) {
  return sd_scoreboard_pass(sb, 0, (sd_scoreboard_party){ from, from_pid }, (sd_scoreboard_party){ to, to_pid }, true);
}

static void a_place_passes_to_another_process(void **state) {
  sd_scoreboard *sb = *state;
  sd_scoreboard one = join(sb, 1), two = join(sb, 2);
  sb->slots[1].pid = 11;
  sb->slots[2].pid = 22;
  assert_int_equal(pass(sb, 1, 11, 2, 22), -ESRCH); /* it has none */
  assert_int_equal(sd_scoreboard_reserve(&one, 0), 0);
  sd_scoreboard_count_accepted(&one, 0);
  assert_int_equal(pass(&one, 1, 11, 2, 22), 0);
  assert_int_equal(slot_of(sb, 1).connections, 0);
  assert_int_equal(slot_of(sb, 2).connections, 1);
  assert_int_equal(pool_of(sb, 0).reserved, 1);
  sd_scoreboard_count_closed(&two, 0);
  sd_scoreboard_release(&two, 0);
  sd_pool_view pool = pool_of(sb, 0);
  assert_int_equal(pool.reserved, 0);
  assert_int_equal(pool.accepted, 1);
  assert_int_equal(pool.closed, 1);
  assert_int_equal(pool.connections, 0);
  sd_scoreboard_close(&one);
  sd_scoreboard_close(&two);
}

static void the_dead_are_passed_nothing(void **state) {
  sd_scoreboard *sb = *state;
  sd_scoreboard one = join(sb, 1);
  sb->slots[1].pid = 11;
  sb->slots[2].pid = 22;
  assert_int_equal(sd_scoreboard_reserve(&one, 0), 0);
  sd_scoreboard_count_accepted(&one, 0);
  sd_scoreboard_slot_reap(sb, 2);
  assert_int_equal(pass(&one, 1, 11, 2, 22), -ESRCH);
  sb->slots[2].pid = 23; /* another process in the same slot */
  assert_int_equal(pass(&one, 1, 11, 2, 22), -ESRCH);
  assert_int_equal(pass(&one, 1, 11, 2, 23), 0);
  assert_int_equal(sd_scoreboard_slot_reap(sb, 2), 1);
  assert_int_equal(pool_of(sb, 0).reserved, 0);
  assert_int_equal(pool_of(sb, 0).closed, 1);
  sd_scoreboard_close(&one);
}

static void a_slot_tells_where_its_worker_is(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 3);
  uint64_t now = sd_scoreboard_clock();
  assert_int_equal(slot_of(sb, 3).entered_ns, 0);
  sd_scoreboard_slot_enter(&a, now, 1, 7, 42);
  sd_slot_view busy = slot_of(sb, 3);
  assert_in_range(busy.entered_ns, now - SD_SCOREBOARD_STAMP, now);
  assert_int_equal(busy.pool, 1);
  assert_int_equal(busy.generation, 7);
  assert_int_equal(busy.connection, 42);
  sd_scoreboard_slot_leave(&a);
  assert_int_equal(slot_of(sb, 3).entered_ns, 0);
  sd_scoreboard_close(&a);
}

static void a_slot_tells_how_its_loop_runs(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 3);
  sd_scoreboard_beat(&a, 1500);
  sd_scoreboard_loading(&a, true);
  sd_scoreboard_dropped_log(&a);
  sd_slot_view slot = slot_of(sb, 3);
  assert_int_equal(slot.lag_ns, 1500);
  assert_true(slot.beat_ns > 0);
  assert_true(slot.loading);
  assert_int_equal(slot.dropped_logs, 1);
  sd_scoreboard_close(&a);
}

/* Every number says the same, so a torn reading shows. */
static void enter_and_leave(sd_scoreboard *mine, void *arg) {
  (void)arg;
  for (uint32_t i = 1;; i++) {
    sd_scoreboard_slot_enter(mine, i, i, i, i);
    sd_scoreboard_slot_leave(mine);
  }
}

static void a_heartbeat_is_never_torn(void **state) {
  sd_scoreboard *sb = *state;
  pid_t pid = start(sb, 0, enter_and_leave, NULL);
  for (int i = 0; i < 200000; i++) {
    sd_slot_view slot = slot_of(sb, 0);
    if (slot.entered_ns == 0) continue;
    assert_int_equal(slot.pool, slot.generation);
    assert_int_equal(slot.pool, slot.connection);
  }
  kill(pid, SIGKILL);
  end_of(pid);
}

static void states_have_names(void **state) {
  (void)state;
  assert_int_equal(sd_slot_state_named("stuck"), SD_SLOT_STUCK);
  assert_string_equal(sd_slot_state_name(SD_SLOT_DRAINING), "draining");
  assert_int_equal(sd_slot_state_named("dead"), -1);
}

/* ---- pools ---- */

static void a_generation_is_seen_everywhere(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0);
  assert_int_equal(sd_scoreboard_generation(&a, 0), 0);
  sd_scoreboard_set_generation(sb, 0, 5);
  assert_int_equal(sd_scoreboard_generation(&a, 0), 5);
  assert_int_equal(sd_scoreboard_generation(&a, 1), 0);
  sd_scoreboard_close(&a);
}

static void a_pool_is_known_by_slot_too(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0), b = join(sb, 1);
  sd_scoreboard_count_accepted(&a, 0);
  sd_scoreboard_count_accepted(&b, 0);
  sd_scoreboard_count_accepted(&b, 0);
  sd_scoreboard_reserve(&b, 0);
  sd_pool_view of_b;
  sd_scoreboard_pool_slot_read(sb, 0, 1, &of_b);
  assert_string_equal(of_b.name, "web");
  assert_int_equal(of_b.accepted, 2);
  assert_int_equal(of_b.reserved, 1);
  assert_int_equal(pool_of(sb, 0).accepted, 3);
  sd_scoreboard_close(&a);
  sd_scoreboard_close(&b);
}

static void an_index_is_reused_only_when_it_is_empty(void **state) {
  sd_scoreboard *sb = *state, a = join(sb, 0);
  assert_int_equal(sd_scoreboard_pool_open(sb, 0, "other"), -EBUSY);
  sd_scoreboard_reserve(&a, 0);
  sd_scoreboard_count_accepted(&a, 0);
  sd_scoreboard_pool_close(sb, 0);
  assert_int_equal(sd_scoreboard_reserve(&a, 0), -EAGAIN);
  assert_int_equal(sd_scoreboard_pool_open(sb, 0, "other"), -EBUSY);
  sd_scoreboard_release(&a, 0);
  assert_int_equal(sd_scoreboard_pool_open(sb, 0, "other"), -EBUSY);
  sd_scoreboard_count_closed(&a, 0);
  assert_int_equal(sd_scoreboard_pool_open(sb, 0, "other"), 0);
  assert_string_equal(pool_of(sb, 0).name, "other");
  assert_int_equal(pool_of(sb, 0).accepted, 0);
  assert_true(pool_of(sb, 0).max == SD_SCOREBOARD_UNLIMITED);
  sd_scoreboard_close(&a);
}

static void a_name_has_its_length(void **state) {
  sd_scoreboard *sb = *state;
  char name[SD_SCOREBOARD_NAME_MAX + 1];
  memset(name, 'n', sizeof name);
  name[SD_SCOREBOARD_NAME_MAX] = '\0';
  assert_int_equal(sd_scoreboard_pool_open(sb, 1, name), -EINVAL);
  name[SD_SCOREBOARD_NAME_MAX - 1] = '\0';
  assert_int_equal(sd_scoreboard_pool_open(sb, 1, name), 0);
  assert_string_equal(pool_of(sb, 1).name, name);
}

/* ---- the mapping ---- */

static void only_a_scoreboard_can_be_attached(void **state) {
  sd_scoreboard *sb = *state, mine;
  int fd = memfd_create("other", MFD_CLOEXEC);
  assert_int_equal(sd_scoreboard_attach(&mine, fd, sb->bell, 0), -EINVAL);
  assert_int_equal(ftruncate(fd, 1 << 20), 0);
  assert_int_equal(sd_scoreboard_attach(&mine, fd, sb->bell, 0), -EINVAL);
  close(fd);
  assert_int_equal(sd_scoreboard_attach(&mine, -1, sb->bell, 0), -EBADF);
  assert_int_equal(sd_scoreboard_attach(&mine, sb->fd, sb->bell, SLOTS), -EINVAL);
}

static void nobody_can_shrink_it(void **state) {
  sd_scoreboard *sb = *state;
  assert_int_equal(ftruncate(sb->fd, 0), -1);
  assert_int_equal(errno, EPERM);
}

static void closing_twice_is_harmless(void **state) {
  sd_scoreboard mine = join(*state, SD_SCOREBOARD_NO_SLOT);
  sd_scoreboard_close(&mine);
  sd_scoreboard_close(&mine);
}

static void slots_do_not_share_lines(void **state) {
  sd_scoreboard *sb = *state;
  for (uint32_t i = 0; i < SLOTS; i++) {
    assert_int_equal((uintptr_t)&sb->slots[i] % SD_SCOREBOARD_LINE, 0);
    assert_int_equal((uintptr_t)sd_scoreboard_counters_of(sb, i, 0) % SD_SCOREBOARD_LINE, 0);
  }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST(admits_as_many_as_allowed),
    TEST(rings_once_for_those_who_were_refused),
    TEST(a_lower_limit_cuts_nobody),
    TEST(zero_admits_nobody_until_it_is_raised),
    TEST(four_processes_never_exceed_the_limit),
    TEST(no_ring_is_lost),
    TEST(a_lock_survives_its_holder),
    TEST(a_lock_survives_two_in_a_row),
    TEST(whoever_is_killed_anywhere_gives_all_back),
    TEST(the_oldest_ticket_has_the_next_place),
    TEST(the_next_one_is_told_when_its_turn_comes),
    TEST(only_the_first_in_line_is_told),
    TEST(each_place_is_another_turn),
    TEST(a_turn_that_a_lower_max_took_away_comes_again),
    TEST(a_place_that_lies_is_noticed_once),
    TEST(who_lets_a_place_lie_is_passed_over),
    TEST(the_dead_wait_no_longer),
    TEST(accepts_have_one_rate_over_all_processes),
    TEST(a_dead_process_leaves_no_network_counted),
    TEST(the_counters_of_the_dead_stay_in_the_sum),
    TEST(a_place_passes_to_another_process),
    TEST(the_dead_are_passed_nothing),
    TEST(a_slot_tells_where_its_worker_is),
    TEST(a_slot_tells_how_its_loop_runs),
    TEST(a_heartbeat_is_never_torn),
    TEST(states_have_names),
    TEST(a_generation_is_seen_everywhere),
    TEST(a_pool_is_known_by_slot_too),
    TEST(an_index_is_reused_only_when_it_is_empty),
    TEST(a_name_has_its_length),
    TEST(only_a_scoreboard_can_be_attached),
    TEST(nobody_can_shrink_it),
    TEST(closing_twice_is_harmless),
    TEST(slots_do_not_share_lines),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
