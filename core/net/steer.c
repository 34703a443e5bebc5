/* Where new connections go: programs for the kernel's packet filter. */
#include "steer.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <uv.h>

#ifndef SO_DETACH_REUSEPORT_BPF
#define SO_DETACH_REUSEPORT_BPF 68
#endif

#define ACCEPT_ALL 0xffffffffu
#define TCP_FLAGS_AT 13 /* a filter on a TCP socket sees the packet from the TCP header on */
#define SYN 0x02
#define SYN_ACK 0x12

static int attach(int fd, int optname, struct sock_filter *code, size_t len) {
  struct sock_fprog program = { .len = (unsigned short)len, .filter = code };
  return setsockopt(fd, SOL_SOCKET, optname, &program, sizeof program) ? -errno : 0;
}

static int detach(int fd, int optname) {
  int unused = 0;
  if (setsockopt(fd, SOL_SOCKET, optname, &unused, sizeof unused) == 0) return 0;
  return errno == ENOENT ? 0 : -errno;
}

int sd_steer_to(int fd, const unsigned *members, size_t count, size_t total) {
  struct sock_filter code[2 + 2 * SD_STEER_MAX];
  size_t n = 0;
  if (count == 0 || count > SD_STEER_MAX) return UV_EINVAL;
  for (size_t i = 0; i < count; i++)
    if (members[i] >= total) return UV_EINVAL;
  code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)(SKF_AD_OFF + SKF_AD_RANDOM));
  code[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, (unsigned)count);
  for (size_t i = 0; i + 1 < count; i++) { /* drawn i: the i-th of the list */
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)i, 0, 1);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, members[i]);
  }
  code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, members[count - 1]);
  return attach(fd, SO_ATTACH_REUSEPORT_CBPF, code, n);
}

int sd_steer_off(int fd) {
  return detach(fd, SO_DETACH_REUSEPORT_BPF);
}

/* On a unix socket the same filter would be taken, and would eat data. */
static bool is_tcp(int fd) {
  int protocol = 0;
  socklen_t len = sizeof protocol;
  return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) == 0 && protocol == IPPROTO_TCP;
}

int sd_steer_drop_syns(int fd) {
  struct sock_filter code[] = {
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, TCP_FLAGS_AT),
    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN_ACK),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1), /* SYN without ACK */
    BPF_STMT(BPF_RET | BPF_K, 0),
    BPF_STMT(BPF_RET | BPF_K, ACCEPT_ALL),
  };
  if (!is_tcp(fd)) return UV_ENOPROTOOPT;
  return attach(fd, SO_ATTACH_FILTER, code, sizeof code / sizeof *code);
}

int sd_steer_resume(int fd) {
  return detach(fd, SO_DETACH_FILTER);
}
