/* Load for an echo server on 127.0.0.1, and a check of every byte that comes back.
 *
 *   load echo  -p PORT [-c connections] [-m bytes] [-k depth] [-d seconds] [-w warmup] [-n processes] [-r rate]
 *   load churn …       each connection sends one message, reads it back and closes
 *   load idle  …       each connection sends one message, reads it back and stays, until standard input ends
 *
 * A closed loop: `depth` messages are under way on each connection at any time. With a rate (messages a second) an
 * open one: each is sent at its time, whatever has been answered by then, and its latency counts from that time, so a
 * server that is behind cannot hide it. Every message carries its number.
 * Prints one line: rate= (messages a second), p50= p99= max= (microseconds), total= (messages with the warm-up),
 * errors= (ended connections, and messages for which there was no room), wrong= (bytes that differ). `idle` prints
 * `ready N` and the number of those that have been answered. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 512, READ_BUFFER = 262144, SEND_BUFFER = 65536, BUCKETS = 64 * 40, STEPS = 64, MOST_UNDER_WAY = 256 };
enum { IDLE_PATIENCE = 60 };

typedef struct {
  int fd;
  uint64_t sent, wanted, received; /* positions in its endless stream of messages, in bytes */
  uint64_t *started;               /* a ring of times, one for each that may be under way */
  uint64_t asked;
} client;

static struct {
  enum { ECHO, CHURN, IDLE } mode;
  int port, connections, depth, processes, ring;
  uint64_t size;
  double seconds, warmup, rate;
} options = { .connections = 50, .depth = 1, .processes = 1, .size = 64, .seconds = 2, .warmup = 0.3 };

typedef struct {
  uint64_t messages, total, errors, wrong, longest, count[BUCKETS];
  double seconds;
} results;

static results result;
static int measuring;

static char *pattern; /* one message, whose first 8 bytes are replaced by its number */
static uint32_t serial;
static int poller;

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- latencies: a histogram of 64 steps for every power of two */

static int bucket(uint64_t v) {
  if (v < STEPS) return (int)v;
  int shift = 63 - __builtin_clzll(v) - 6, i = (shift + 1) * STEPS + (int)((v >> shift) - STEPS);
  return i < BUCKETS ? i : BUCKETS - 1;
}

static double bucket_value(int i) {
  if (i < STEPS) return i;
  return ((double)(i % STEPS + STEPS) + 0.5) * (double)(1ull << (i / STEPS - 1));
}

static double quantile(double q) {
  uint64_t wanted = (uint64_t)(q * (double)result.messages), seen = 0;
  for (int i = 0; i < BUCKETS; i++) {
    seen += result.count[i];
    if (seen > wanted) return bucket_value(i) / 1e3;
  }
  return (double)result.longest / 1e3;
}

static void count_message(uint64_t nanoseconds) {
  result.total++;
  if (!measuring) return;
  result.messages++;
  result.count[bucket(nanoseconds)]++;
  if (nanoseconds > result.longest) result.longest = nanoseconds;
}

/* --- the stream of one client */

static uint64_t number_of(const client *c, uint64_t position) {
  return position / options.size ^ (uint64_t)c->fd * 0x9E3779B97F4A7C15u;
}

/* The bytes of the stream from `position` on, as far as `length` or the end of their message. */
static size_t piece(const client *c, uint64_t position, char *out, size_t length) {
  size_t offset = (size_t)(position % options.size), n = (size_t)options.size - offset;
  if (n > length) n = length;
  memcpy(out, pattern + offset, n);
  uint64_t number = number_of(c, position);
  for (size_t i = offset; i < 8 && i < offset + n; i++) out[i - offset] = (char)(number >> (8 * i));
  return n;
}

static int send_wanted(client *c) {
  static char out[SEND_BUFFER];
  while (c->sent < c->wanted) {
    size_t length = 0, limit = c->wanted - c->sent < SEND_BUFFER ? (size_t)(c->wanted - c->sent) : SEND_BUFFER;
    while (length < limit) length += piece(c, c->sent + length, out + length, limit - length);
    ssize_t n = send(c->fd, out, length, MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    c->sent += (uint64_t)n;
  }
  return 0;
}

static void check(client *c, const char *bytes, size_t length) {
  static char expected[SEND_BUFFER];
  for (size_t at = 0; at < length;) {
    size_t left = length - at < SEND_BUFFER ? length - at : SEND_BUFFER;
    size_t n = piece(c, c->received + at, expected, left);
    if (memcmp(bytes + at, expected, n) != 0) result.wrong++;
    at += n;
  }
}

static void ask(client *c, uint64_t time) {
  c->started[c->asked++ % (uint64_t)options.ring] = time;
  c->wanted += options.size;
}

/* Answers have come up to `c->received`; in a closed loop each makes room for another question. */
static void take_answers(client *c, uint64_t before) {
  uint64_t time = now();
  for (uint64_t i = before / options.size; i < c->received / options.size; i++) {
    count_message(time - c->started[i % (uint64_t)options.ring]);
    if (options.mode == ECHO && options.rate == 0) ask(c, time);
  }
}

/* 1 when a churning client is done, -1 when the connection has ended. */
static int receive(client *c) {
  static char in[READ_BUFFER];
  for (;;) {
    ssize_t n = recv(c->fd, in, READ_BUFFER, 0);
    if (n == 0) return -1;
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    check(c, in, (size_t)n);
    uint64_t before = c->received;
    c->received += (uint64_t)n;
    take_answers(c, before);
    if (options.mode == CHURN && c->received >= options.size) return 1;
    if (send_wanted(c) != 0) return -1;
    if (n < READ_BUFFER) return 0;
  }
}

/* Source addresses are spread over 127.1.0.0/16, so that ports do not run out. */
static int open_socket(int nonblocking) {
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0), 0);
  if (fd < 0) return -1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  struct sockaddr_in from = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010001u + (serial++ & 0x3fff)) };
  struct sockaddr_in to = { .sin_family = AF_INET,
    .sin_port = htons((uint16_t)options.port),
    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  if (bind(fd, (struct sockaddr *)&from, sizeof from) != 0) goto fail;
  if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) goto fail;
  fcntl(fd, F_SETFL, O_NONBLOCK | O_RDWR);
  return fd;

fail:
  close(fd);
  return -1;
}

/* The sockets of a closed loop connect one after the other; those of a churn while others work. */
static void open_client(client *c) {
  uint64_t time = now();
  c->sent = c->wanted = c->received = c->asked = 0;
  c->fd = open_socket(options.mode == CHURN);
  if (c->fd < 0) {
    result.errors++;
    return;
  }
  for (int i = 0; options.rate == 0 && i < options.depth; i++) ask(c, time);
  struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c };
  epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static int serve(client *c, uint32_t events) {
  if (events & EPOLLERR) return -1;
  if (c->sent < c->wanted && send_wanted(c) != 0) return -1;
  return events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP) ? receive(c) : 0;
}

/* Sends what is due by now, to one client after the other. */
static void send_due(client *clients, double *due) {
  static int next;
  for (double time = (double)now(), step = 1e9 / options.rate; *due <= time; *due += step) {
    client *c = &clients[next++ % options.connections];
    int room = c->fd >= 0 && c->wanted - c->received < options.size * (uint64_t)options.ring;
    if (room) ask(c, (uint64_t)*due);
    if (!room || send_wanted(c) != 0) result.errors++;
  }
}

static void serve_all(client *clients, int wait) {
  static struct epoll_event events[EVENTS];
  int n = epoll_wait(poller, events, EVENTS, wait);
  for (int i = 0; i < n; i++) {
    client *c = events[i].data.ptr;
    int end = c->fd < 0 ? 0 : serve(c, events[i].events);
    if (end == 0) continue;
    if (end < 0) result.errors++;
    close(c->fd);
    c->fd = -1;
    if (options.mode == CHURN) open_client(c);
  }
  for (int i = 0; options.mode == CHURN && i < options.connections; i++)
    if (clients[i].fd < 0) open_client(&clients[i]);
}

static void run_until(uint64_t deadline, client *clients) {
  static double due;
  if (due == 0) due = (double)now();
  while (now() < deadline) {
    if (options.rate > 0) send_due(clients, &due);
    serve_all(clients, options.rate > 0 ? 0 : 100);
  }
}

static int parse(int argc, char **argv) {
  int option;
  if (argc < 2) return -1;
  options.mode = strcmp(argv[1], "churn") == 0 ? CHURN : strcmp(argv[1], "idle") == 0 ? IDLE : ECHO;
  if (options.mode == ECHO && strcmp(argv[1], "echo") != 0) return -1;
  optind = 2;
  while ((option = getopt(argc, argv, "p:c:m:k:d:w:n:r:")) != -1) switch (option) {
      case 'p': options.port = atoi(optarg); break;
      case 'c': options.connections = atoi(optarg); break;
      case 'm': options.size = strtoull(optarg, NULL, 10); break;
      case 'k': options.depth = atoi(optarg); break;
      case 'd': options.seconds = atof(optarg); break;
      case 'w': options.warmup = atof(optarg); break;
      case 'n': options.processes = atoi(optarg); break;
      case 'r': options.rate = atof(optarg); break;
      default: return -1;
    }
  if (options.mode != ECHO) options.depth = 1;
  if (options.mode == IDLE) options.processes = 1;
  options.ring = options.rate > 0 ? MOST_UNDER_WAY : options.depth;
  return options.port > 0 && options.connections >= options.processes && options.processes > 0 && options.size > 0 &&
           options.depth > 0 ? 0 : -1;
}

static client *open_clients(void) {
  client *clients = calloc((size_t)options.connections, sizeof *clients);
  pattern = malloc((size_t)options.size);
  if (pattern == NULL || clients == NULL) exit(1);
  for (uint64_t i = 0; i < options.size; i++) pattern[i] = (char)('a' + i % 26);
  poller = epoll_create1(0);
  for (int i = 0; i < options.connections; i++) {
    clients[i].started = calloc((size_t)options.ring, sizeof *clients[i].started);
    if (clients[i].started == NULL) exit(1);
    open_client(&clients[i]);
  }
  return clients;
}

/* The load of one process: its share of the connections and of the rate. */
static void measure(int number) {
  options.connections = options.connections / options.processes + (number < options.connections % options.processes);
  options.rate /= options.processes;
  serial = (uint32_t)number * 7919;
  client *clients = open_clients();
  run_until(now() + (uint64_t)(options.warmup * 1e9), clients);
  uint64_t begin = now();
  measuring = 1;
  run_until(begin + (uint64_t)(options.seconds * 1e9), clients);
  result.seconds = (double)(now() - begin) / 1e9;
}

static void add(const results *other) {
  result.messages += other->messages;
  result.total += other->total;
  result.errors += other->errors;
  result.wrong += other->wrong;
  if (other->longest > result.longest) result.longest = other->longest;
  for (int i = 0; i < BUCKETS; i++) result.count[i] += other->count[i];
  if (other->seconds > result.seconds) result.seconds = other->seconds;
}

static int measure_in_processes(void) {
  size_t size = sizeof(results) * (size_t)options.processes;
  results *all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) return 1;
  for (int i = 0; i < options.processes; i++) {
    if (fork() != 0) continue;
    measure(i);
    all[i] = result;
    _exit(0);
  }
  while (wait(NULL) > 0) continue;
  for (int i = 0; i < options.processes; i++) add(&all[i]);
  return 0;
}

static int stay_idle(void) {
  uint64_t late = now() + IDLE_PATIENCE * 1000000000ull;
  client *clients = open_clients();
  while (result.total < (uint64_t)options.connections && result.errors == 0 && now() < late) serve_all(clients, 100);
  printf("ready %llu\n", (unsigned long long)result.total);
  fflush(stdout);
  while (getchar() != EOF) continue;
  return 0;
}

int main(int argc, char **argv) {
  if (parse(argc, argv) != 0) {
    fprintf(stderr, "usage: see the head of load.c\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);

  if (options.mode == IDLE) return stay_idle();
  if (options.processes == 1) measure(0);
  else if (measure_in_processes() != 0) return 1;
  printf("rate=%.1f p50=%.1f p99=%.1f max=%.1f total=%llu errors=%llu wrong=%llu\n",
    (double)result.messages / result.seconds, quantile(0.5), quantile(0.99), (double)result.longest / 1e3,
    (unsigned long long)result.total, (unsigned long long)result.errors, (unsigned long long)result.wrong);
  return 0;
}
