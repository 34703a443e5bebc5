/* Questions to the kernel about listen sockets. */
#include "diag.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 32768 };

/* One dump: what is asked, and who looks at each answer. */
typedef struct {
  struct sockaddr_storage local;
  void (*visit)(void *into, const struct inet_diag_msg *row);
  void *into;
} question;

int sd_diag_queued(int fd) {
  struct pollfd p = { .fd = fd, .events = POLLIN };
  int n = poll(&p, 1, 0);
  if (n > 0 && (p.revents & (POLLHUP | POLLNVAL))) return -EINVAL;
  return n < 0 ? -errno : n > 0;
}

static int local_address(int fd, struct sockaddr_storage *out) {
  socklen_t len = sizeof *out;
  return getsockname(fd, (struct sockaddr *)out, &len) ? -errno : 0;
}

static bool is_ip(const struct sockaddr_storage *ss) {
  return ss->ss_family == AF_INET || ss->ss_family == AF_INET6;
}

/* In network order, at the same place in both families. */
static in_port_t port_of(const struct sockaddr_storage *ss) {
  return ((const struct sockaddr_in *)ss)->sin_port;
}

static int ask(int netlink, int family, unsigned states, in_port_t port) {
  struct {
    struct nlmsghdr header;
    struct inet_diag_req_v2 body;
  } request;
  memset(&request, 0, sizeof request);
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body.sdiag_family = (__u8)family;
  request.body.sdiag_protocol = IPPROTO_TCP;
  request.body.idiag_states = states;
  request.body.id.idiag_sport = port;
  request.body.id.idiag_cookie[0] = request.body.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  return send(netlink, &request, sizeof request, 0) < 0 ? -errno : 0;
}

static int error_of(const struct nlmsghdr *header) {
  const struct nlmsgerr *e = NLMSG_DATA(header);
  return header->nlmsg_len < NLMSG_LENGTH(sizeof *e) ? -EPROTO : e->error;
}

/* One read of the answer. 1: there is more, 0: that was the end. */
static int take_some(int netlink, const question *q) {
  union {
    struct nlmsghdr header;
    char bytes[BUFFER];
  } in;
  ssize_t n = recv(netlink, &in, sizeof in, 0);
  if (n < 0) return errno == EINTR ? 1 : -errno;
  size_t left = (size_t)n;
  for (struct nlmsghdr *h = &in.header; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
    if (h->nlmsg_type == NLMSG_DONE) return 0;
    if (h->nlmsg_type == NLMSG_ERROR) return error_of(h);
    if (h->nlmsg_len >= NLMSG_LENGTH(sizeof(struct inet_diag_msg))) q->visit(q->into, NLMSG_DATA(h));
  }
  return 1;
}

static int dump(const question *q, int family, unsigned states) {
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (fd < 0) return -errno;
  int err = ask(fd, family, states, port_of(&q->local));
  if (!err) err = 1;
  while (err > 0) err = take_some(fd, q);
  close(fd);
  return err;
}

static void count_row(void *into, const struct inet_diag_msg *row) {
  (void)row;
  ++*(size_t *)into;
}

int sd_diag_handshakes(int fd, size_t *count) {
  question q = { .visit = count_row, .into = count };
  *count = 0;
  int err = local_address(fd, &q.local);
  if (err || !is_ip(&q.local)) return err;
  err = dump(&q, AF_INET, 1u << TCP_SYN_RECV);
  if (!err && q.local.ss_family == AF_INET6) err = dump(&q, AF_INET6, 1u << TCP_SYN_RECV);
  return err;
}

typedef struct {
  const struct sockaddr_storage *local;
  ino_t *list;
  size_t size, count;
} inode_list;

static bool same_address(const struct sockaddr_storage *ss, const struct inet_diag_msg *row) {
  if (ss->ss_family == AF_INET6)
    return memcmp(row->id.idiag_src, &((const struct sockaddr_in6 *)ss)->sin6_addr, sizeof(struct in6_addr)) == 0;
  return memcmp(row->id.idiag_src, &((const struct sockaddr_in *)ss)->sin_addr, sizeof(struct in_addr)) == 0;
}

static void note_inode(void *into, const struct inet_diag_msg *row) {
  inode_list *l = into;
  if (l->count < l->size && same_address(l->local, row)) l->list[l->count++] = row->idiag_inode;
}

int sd_diag_listeners(int fd, ino_t *list, size_t size, size_t *count) {
  inode_list l = { .list = list, .size = size };
  question q = { .visit = note_inode, .into = &l };
  *count = 0;
  int err = local_address(fd, &q.local);
  if (err || !is_ip(&q.local)) return err;
  l.local = &q.local;
  err = dump(&q, q.local.ss_family, 1u << TCP_LISTEN);
  *count = l.count;
  return err;
}
