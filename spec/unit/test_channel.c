/* Messages arrive whole and in order, each with its own descriptors, and the end of a peer is said once. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "net/channel.h"

enum { LARGE = 20 << 20 };

static sd_loop *loop;
static sd_channel *left, *right;
static int open_before;

/* What arrived on the right. */
static int messages, closings;
static size_t last_length;
static unsigned last_nfds;
static int last_fds[SD_CHANNEL_FDS];
static char last[64];
static void (*check)(const char *bytes, size_t length);

static void on_message(sd_channel *ch, const char *bytes, size_t length, const int *fds, unsigned nfds) {
  assert_ptr_equal(ch, right);
  messages++;
  last_length = length;
  last_nfds = nfds;
  if (nfds > 0) memcpy(last_fds, fds, nfds * sizeof *fds);
  memset(last, 0, sizeof last);
  memcpy(last, bytes, length < sizeof last - 1 ? length : sizeof last - 1);
  if (check != NULL) check(bytes, length);
}

static void on_closed(sd_channel *ch) {
  (void)ch;
  closings++;
}

static const sd_channel_events events = { on_message, on_closed };

static int count_fds(void) {
  int n = 0;
  DIR *dir = opendir("/proc/self/fd");
  while (readdir(dir) != NULL) n++;
  closedir(dir);
  return n;
}

/* What libuv opens once, for all loops, is no leak. */
static int open_first_loop(void **state) {
  (void)state;
  loop = calloc(1, sizeof *loop);
  sd_loop_init(loop);
  sd_loop_close(loop);
  free(loop);
  return 0;
}

static int set_up(void **state) {
  int fds[2];
  (void)state;
  messages = closings = 0;
  check = NULL;
  open_before = count_fds();
  loop = calloc(1, sizeof *loop);
  left = calloc(1, sizeof *left);
  right = calloc(1, sizeof *right);
  sd_loop_init(loop);
  socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds);
  sd_channel_open(left, loop, fds[0], &events);
  sd_channel_open(right, loop, fds[1], &events);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  sd_channel_close(left);
  sd_channel_close(right);
  sd_loop_close(loop);
  free(loop);
  free(left);
  free(right);
  assert_int_equal(count_fds(), open_before);
  return 0;
}

static void turn(void) {
  sd_loop_turn(loop, false);
}

static void await(const int *counter, int value) {
  while (*counter < value) sd_loop_turn(loop, true);
}

static int send_text(const char *text) {
  return sd_channel_send(left, text, strlen(text), NULL, 0);
}

static ino_t inode(int fd) {
  struct stat st;
  assert_int_equal(fstat(fd, &st), 0);
  return st.st_ino;
}

static int next;

static void check_number(const char *bytes, size_t length) {
  int number;
  assert_int_equal(length % 7000, sizeof number);
  memcpy(&number, bytes, sizeof number);
  assert_int_equal(number, next++);
}

static void keeps_order_and_borders(void **state) {
  static char bytes[70000];
  (void)state;
  next = 0;
  check = check_number;
  for (int i = 0; i < 500; i++) { /* far more than the kernel takes at once */
    memcpy(bytes, &i, sizeof i);
    assert_int_equal(sd_channel_send(left, bytes, sizeof i + 7000 * (size_t)(i % 10), NULL, 0), 0);
  }
  await(&messages, 500);
  assert_int_equal(sd_buffer_length(&left->out), 0);
}

static size_t longest;

static void note_longest(const char *bytes, size_t length) {
  if (length <= longest) return;
  longest = length;
  assert_memory_equal(bytes, "large", 5);
}

static void carries_empty_and_large_messages(void **state) {
  (void)state;
  char *bytes = calloc(1, LARGE);
  assert_int_equal(send_text(""), 0);
  await(&messages, 1);
  assert_int_equal(last_length, 0);
  memcpy(bytes, "large", 5);
  check = note_longest;
  longest = 6;
  assert_int_equal(sd_channel_send(left, bytes, LARGE, NULL, 0), 0);
  assert_int_equal(send_text("behind"), 0);
  await(&messages, 3);
  assert_int_equal(longest, LARGE);
  assert_string_equal(last, "behind");
  assert_null(right->in.block); /* nothing is held when nothing waits */
  free(bytes);
}

static void refuses_what_is_too_long(void **state) {
  (void)state;
  assert_int_equal(sd_channel_send(left, "", (size_t)SD_CHANNEL_MESSAGE + 1, NULL, 0), SD_ELIMIT);
  assert_int_equal(sd_channel_send(left, "", 0, last_fds, SD_CHANNEL_FDS + 1), SD_ELIMIT);
  assert_int_equal(send_text("fine"), 0);
  await(&messages, 1);
}

static ino_t sent_inodes[40];

static void check_cargo(const char *bytes, size_t length) {
  check_number(bytes, length);
  int i = next - 1;
  assert_int_equal(last_nfds, i % 3 == 0 ? 2 : 0);
  for (unsigned k = 0; k < last_nfds; k++) {
    assert_int_equal(inode(last_fds[k]), sent_inodes[i]);
    close(last_fds[k]);
  }
}

static void gives_each_message_its_own_descriptors(void **state) {
  static char bytes[70000];
  (void)state;
  next = 0;
  check = check_cargo;
  for (int i = 0; i < 40; i++) {
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    sent_inodes[i] = inode(fds[0]);
    memcpy(bytes, &i, sizeof i);
    int err = sd_channel_send(left, bytes, sizeof i + 7000 * (size_t)(i % 10), fds, i % 3 == 0 ? 2 : 0);
    assert_int_equal(err, 0);
    close(fds[0]); /* the sender's own are the sender's to close */
    close(fds[1]);
  }
  await(&messages, 40);
}

static void closes_descriptors_that_nobody_gets(void **state) {
  static char bytes[300000];
  (void)state;
  for (int i = 0; i < 20; i++) assert_int_equal(sd_channel_send(left, bytes, sizeof bytes, &left->source.fd, 1), 0);
  while (right->nreceived == 0) { /* some arrived with a message that is not whole yet, others wait to be sent */
    last_nfds = 0;
    turn();
    if (last_nfds > 0) close(last_fds[0]);
  }
  sd_channel_close(right); /* tear_down counts */
}

static void tells_once_that_the_peer_is_gone(void **state) {
  (void)state;
  assert_int_equal(send_text("last words"), 0);
  sd_channel_close(left);
  sd_channel_close(left);
  await(&closings, 1);
  assert_int_equal(messages, 1);
  assert_string_equal(last, "last words");
  turn();
  assert_int_equal(closings, 1);
  assert_int_equal(sd_channel_send(left, "x", 1, NULL, 0), SD_ECLOSED);
}

static void close_right(const char *bytes, size_t length) {
  (void)bytes;
  (void)length;
  sd_channel_close(right);
}

static void may_be_closed_while_it_delivers(void **state) {
  (void)state;
  check = close_right;
  send_text("one");
  send_text("two");
  await(&messages, 1);
  turn();
  assert_int_equal(messages, 1);
}

static void hangs_up_on_a_stream_without_sense(void **state) {
  static const unsigned char nonsense[16] = { 0xff, 0xff, 0xff, 0xff };
  (void)state;
  assert_int_equal(write(left->source.fd, nonsense, sizeof nonsense), sizeof nonsense);
  await(&closings, 1);
  assert_int_equal(messages, 0);
}

/* ---- a peer that never stops ---- */

static atomic_bool enough;

static void is_quiet_when_nothing_is_under_way(void **state) {
  char *bytes = calloc(1, LARGE);
  (void)state;
  assert_true(sd_channel_quiet(left) && sd_channel_quiet(right));
  sd_channel_send(left, bytes, LARGE, NULL, 0);
  assert_false(sd_channel_quiet(left)); /* more than the kernel takes at once */
  turn();
  assert_false(sd_channel_quiet(right)); /* the beginning of a message is here */
  await(&messages, 1);
  assert_true(sd_channel_quiet(left) && sd_channel_quiet(right));
  sd_channel_close(left);
  assert_false(sd_channel_quiet(left));
  free(bytes);
}

static void *flood(void *arg) {
  static char bytes[65536];
  int fd = *(int *)arg;
  uint32_t header[2] = { sizeof bytes - sizeof header, 0 };
  memcpy(bytes, header, sizeof header);
  while (!enough) {
    for (size_t at = 0; at < sizeof bytes && !enough;) {
      ssize_t n = send(fd, bytes + at, sizeof bytes - at, MSG_NOSIGNAL);
      if (n > 0) at += (size_t)n;
    }
  }
  return NULL;
}

static void leaves_turns_to_others(void **state) {
  pthread_t thread;
  (void)state;
  enough = false;
  int fd = dup(left->source.fd);
  pthread_create(&thread, NULL, flood, &fd);
  uint64_t end = uv_hrtime() + 300 * 1000000ull;
  int turns = 0, most = 0;
  while (uv_hrtime() < end) {
    int before = messages;
    turn();
    turns++;
    if (messages - before > most) most = messages - before;
  }
  enough = true;
  pthread_join(thread, NULL);
  close(fd);
  assert_true(messages > 10);
  assert_true(most <= 2 * 16 + 1); /* events and deferred work of one turn */
  assert_true(turns > 10);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST(keeps_order_and_borders),
    TEST(carries_empty_and_large_messages),
    TEST(refuses_what_is_too_long),
    TEST(gives_each_message_its_own_descriptors),
    TEST(closes_descriptors_that_nobody_gets),
    TEST(tells_once_that_the_peer_is_gone),
    TEST(may_be_closed_while_it_delivers),
    TEST(hangs_up_on_a_stream_without_sense),
    TEST(is_quiet_when_nothing_is_under_way),
    TEST(leaves_turns_to_others),
  };
  return cmocka_run_group_tests(tests, open_first_loop, NULL);
}
