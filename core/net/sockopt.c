/* Socket options by name. */
#include "sockopt.h"

#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#define DAY 86400
#define TCP IPPROTO_TCP
#define SOL SOL_SOCKET

enum { L = SD_SOCKOPT_LISTEN, C = SD_SOCKOPT_CONNECTION, LC = SD_SOCKOPT_BOTH, B = SD_SOCKOPT_BIND };

/* The keepalive rows are limited to what the kernel takes, buffers to a sane size. */
/* clang-format off */
static const sd_sockopt rows[] = {
  { "nodelay",            TCP, TCP_NODELAY,       SD_SOCKOPT_SWITCH,       0, 1,       LC, true,
    "send small writes at once" },
  { "keepalive",          SOL, SO_KEEPALIVE,      SD_SOCKOPT_KEEPALIVE,    1, 32767,   LC, true,
    "probe a silent peer: true, false, or seconds of silence before the first probe" },
  { "keepalive_idle",     TCP, TCP_KEEPIDLE,      SD_SOCKOPT_SECONDS,      1, 32767,   LC, true,
    "seconds of silence before the first probe" },
  { "keepalive_interval", TCP, TCP_KEEPINTVL,     SD_SOCKOPT_SECONDS,      1, 32767,   LC, true,
    "seconds between probes" },
  { "keepalive_count",    TCP, TCP_KEEPCNT,       SD_SOCKOPT_COUNT,        1, 127,     LC, true,
    "unanswered probes before the connection counts as dead" },
  { "linger",             SOL, SO_LINGER,         SD_SOCKOPT_LINGER,       0, 32767,   LC, true,
    "0: close with a reset; false: the kernel goes on sending what is queued" },
  { "rcvbuf",             SOL, SO_RCVBUF,         SD_SOCKOPT_BUFFER,       1, 1 << 30, LC, false,
    "bytes of receive buffer; ends the kernel's own tuning" },
  { "sndbuf",             SOL, SO_SNDBUF,         SD_SOCKOPT_BUFFER,       1, 1 << 30, LC, false,
    "bytes of send buffer; ends the kernel's own tuning" },
  { "tos",                IPPROTO_IP, IP_TOS,     SD_SOCKOPT_TOS,          0, 255,     LC, true,
    "type of service (IPv4) and traffic class (IPv6) byte" },
  { "priority",           SOL, SO_PRIORITY,       SD_SOCKOPT_COUNT,        0, 6,       LC, false,
    "queueing priority on the way out" },
  { "mark",               SOL, SO_MARK,           SD_SOCKOPT_COUNT,        0, 0xffffffffu, LC, false,
    "packet mark for routing and firewall; needs CAP_NET_ADMIN" },
  { "user_timeout",       TCP, TCP_USER_TIMEOUT,  SD_SOCKOPT_MILLISECONDS, 0, DAY,     LC, true,
    "seconds that sent bytes may stay unacknowledged; 0: the kernel's own" },
  { "notsent_lowat",      TCP, TCP_NOTSENT_LOWAT, SD_SOCKOPT_COUNT,        1, 1 << 30, LC, true,
    "bytes not yet sent below which the socket counts as writable" },
  { "quickack",           TCP, TCP_QUICKACK,      SD_SOCKOPT_SWITCH,       0, 1,       C,  true,
    "acknowledge at once; the kernel falls back by itself" },
  { "backlog",            -1,  -1,                SD_SOCKOPT_COUNT,        1, 65535,   L,  false,
    "connections the kernel holds ready for accept; net.core.somaxconn caps it" },
  { "defer_accept",       TCP, TCP_DEFER_ACCEPT,  SD_SOCKOPT_SECONDS,      0, 3600,    L,  true,
    "seconds to wait for the first bytes before a connection is shown; 0: off" },
  { "fastopen",           TCP, TCP_FASTOPEN,      SD_SOCKOPT_COUNT,        0, 65535,   L,  true,
    "pending connections that may bring bytes in their first packet; 0: off" },
  { "reuseport",          SOL, SO_REUSEPORT,      SD_SOCKOPT_SWITCH,       0, 1,       B,  true,
    "several listen sockets share one port" },
  { "v6only",             IPPROTO_IPV6, IPV6_V6ONLY, SD_SOCKOPT_SWITCH,    0, 1,       B,  true,
    "an IPv6 listen socket takes no IPv4 peers" },
};

/* Names that people may look for, and what they would break. */
static const struct {
  const char *name, *why;
} refused[] = {
  { "nonblock",      "every socket is non-blocking, the loop depends on it" },
  { "blocking",      "every socket is non-blocking, the loop depends on it" },
  { "cloexec",       "every descriptor is closed on exec" },
  { "reuseaddr",     "is always set, so that a restart can bind" },
  { "acceptconn",    "says what listen() made, it cannot be chosen" },
  { "oobinline",     "urgent bytes would appear among the data" },
  { "rcvlowat",      "the loop would miss data that is there" },
  { "sndlowat",      "cannot be changed on this system" },
  { "rcvtimeo",      "use timeouts" },
  { "sndtimeo",      "use timeouts" },
  { "cork",          "writes are gathered already; use flush" },
  { "nopush",        "writes are gathered already; use flush" },
  { "peek_off",      "reads would give bytes twice" },
  { "passcred",      "the engine asks for credentials itself" },
  { "attach_filter", "listen sockets are steered with it" },
  { "attach_bpf",    "listen sockets are steered with it" },
  { "detach_filter", "listen sockets are steered with it" },
  { "lock_filter",   "listen sockets are steered with it" },
  { "ulp",           "tls does this" },
  { "repair",        "the kernel would stop speaking to the peer" },
  { "zerocopy",      "buffers would be reused too early" },
};
/* clang-format on */

enum { NROWS = sizeof rows / sizeof *rows, NREFUSED = sizeof refused / sizeof *refused };

const sd_sockopt *sd_sockopt_rows(size_t *count) {
  *count = NROWS;
  return rows;
}

static void list_names(char *out, size_t size) {
  size_t used = 0;
  for (size_t i = 0; i < NROWS && used < size; i++)
    used += (size_t)snprintf(out + used, size - used, "%s%s", i ? ", " : "", rows[i].name);
}

const sd_sockopt *sd_sockopt_find(const char *name, sd_net_error *error) {
  char names[384];
  for (size_t i = 0; i < NROWS; i++)
    if (strcmp(rows[i].name, name) == 0) return &rows[i];
  for (size_t i = 0; i < NREFUSED; i++) {
    if (strcmp(refused[i].name, name) != 0) continue;
    sd_net_error_set(error, "socket option \"%s\" belongs to the engine: %s", name, refused[i].why);
    return NULL;
  }
  list_names(names, sizeof names);
  sd_net_error_set(error, "unknown socket option \"%.60s\"; allowed are %s", name, names);
  return NULL;
}

static bool is_switch(const sd_sockopt *option) {
  return option->type == SD_SOCKOPT_SWITCH;
}

static bool may_be(const sd_sockopt *option, double value) {
  if (option->type == SD_SOCKOPT_KEEPALIVE && (value == SD_SOCKOPT_ON || value == SD_SOCKOPT_OFF)) return true;
  if (option->type == SD_SOCKOPT_LINGER && value == SD_SOCKOPT_OFF) return true;
  if (!(value >= option->min && value <= option->max)) return false; /* not for NaN either */
  return option->type == SD_SOCKOPT_MILLISECONDS || value == floor(value);
}

void sd_sockopt_allowed(const sd_sockopt *option, char *out, size_t size) {
  static const char *const forms[] = {
    [SD_SOCKOPT_SWITCH] = "true or false",
    [SD_SOCKOPT_COUNT] = "a whole number from %.0f to %.0f",
    [SD_SOCKOPT_BUFFER] = "a whole number of bytes from %.0f to %.0f",
    [SD_SOCKOPT_TOS] = "a whole number from %.0f to %.0f",
    [SD_SOCKOPT_SECONDS] = "whole seconds from %.0f to %.0f",
    [SD_SOCKOPT_MILLISECONDS] = "seconds from %.0f to %.0f",
    [SD_SOCKOPT_KEEPALIVE] = "true, false or whole seconds from %.0f to %.0f",
    [SD_SOCKOPT_LINGER] = "false or whole seconds from %.0f to %.0f",
  };
  if (is_switch(option))
    snprintf(out, size, "true or false");
  else
    snprintf(out, size, forms[option->type], option->min, option->max);
}

int sd_sockopt_check(const sd_sockopt *option, double value, sd_net_error *error) {
  char allowed[96];
  if (may_be(option, value)) return 0;
  sd_sockopt_allowed(option, allowed, sizeof allowed);
  sd_net_error_set(error, "socket option \"%s\" cannot be %.14g; allowed is %s", option->name, value, allowed);
  return UV_EINVAL;
}

/* What the kernel says of a socket; -1 when it is none. */
static int ask(int fd, int optname) {
  int value = -1;
  socklen_t len = sizeof value;
  return getsockopt(fd, SOL_SOCKET, optname, &value, &len) ? -1 : value;
}

static bool means_something(const sd_sockopt *option, int domain) {
  if (option->level == IPPROTO_IPV6) return domain == AF_INET6;
  return !option->only_ip || domain == AF_INET || domain == AF_INET6;
}

bool sd_sockopt_applies(const sd_sockopt *option, int fd) {
  return means_something(option, ask(fd, SO_DOMAIN));
}

/* The kernel's view: `level` and `optname` are the row's except where one name
 * stands for two options. */

static int put(int fd, int level, int optname, const void *value, socklen_t len) {
  return setsockopt(fd, level, optname, value, len) ? -errno : 0;
}

static int put_number(int fd, int level, int optname, double number) {
  unsigned value = (unsigned)number; /* `mark` uses all 32 bits */
  return put(fd, level, optname, &value, sizeof value);
}

static int get_number(int fd, int level, int optname, double *number) {
  int value = 0;
  socklen_t len = sizeof value;
  if (getsockopt(fd, level, optname, &value, &len)) return -errno;
  *number = value;
  if (value < 0 && optname == SO_MARK && level == SOL_SOCKET) *number += 4294967296.0;
  return 0;
}

static int set_keepalive(int fd, double value) {
  int err = put_number(fd, SOL_SOCKET, SO_KEEPALIVE, value != SD_SOCKOPT_OFF);
  if (err || value < 0) return err;
  return put_number(fd, IPPROTO_TCP, TCP_KEEPIDLE, value);
}

static int get_keepalive(int fd, double *value) {
  int err = get_number(fd, SOL_SOCKET, SO_KEEPALIVE, value);
  if (err || *value == 0) {
    *value = SD_SOCKOPT_OFF;
    return err;
  }
  return get_number(fd, IPPROTO_TCP, TCP_KEEPIDLE, value);
}

static int set_linger(int fd, double value) {
  struct linger linger = { .l_onoff = value >= 0, .l_linger = value > 0 ? (int)value : 0 };
  return put(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

static int get_linger(int fd, double *value) {
  struct linger linger = { 0, 0 };
  socklen_t len = sizeof linger;
  if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len)) return -errno;
  *value = linger.l_onoff ? linger.l_linger : SD_SOCKOPT_OFF;
  return 0;
}

/* A dual-stack socket speaks IPv4 too, and has a byte for each. */
static int set_tos(int fd, double value) {
  int err = put_number(fd, IPPROTO_IP, IP_TOS, value);
  if (ask(fd, SO_DOMAIN) != AF_INET6) return err;
  return put_number(fd, IPPROTO_IPV6, IPV6_TCLASS, value);
}

static int get_tos(int fd, double *value) {
  if (ask(fd, SO_DOMAIN) == AF_INET6) return get_number(fd, IPPROTO_IPV6, IPV6_TCLASS, value);
  return get_number(fd, IPPROTO_IP, IP_TOS, value);
}

/* No option at all: a second listen() changes it, and TCP_INFO of a listen socket
 * shows it in a field that means something else on connections. */
static int set_backlog(int fd, double value) {
  if (ask(fd, SO_ACCEPTCONN) != 1) return UV_EINVAL;
  return listen(fd, (int)value) ? -errno : 0;
}

static int get_backlog(int fd, double *value) {
  struct tcp_info info;
  socklen_t len = sizeof info;
  if (ask(fd, SO_ACCEPTCONN) != 1) return UV_EINVAL;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len)) return -errno;
  *value = info.tcpi_sacked;
  return 0;
}

static int set(int fd, const sd_sockopt *option, double value) {
  double factor = option->type == SD_SOCKOPT_MILLISECONDS ? 1000 : 1;
  if (option->level < 0) return set_backlog(fd, value);
  switch (option->type) {
    case SD_SOCKOPT_KEEPALIVE:
      return set_keepalive(fd, value);
    case SD_SOCKOPT_LINGER:
      return set_linger(fd, value);
    case SD_SOCKOPT_TOS:
      return set_tos(fd, value);
    default:
      return put_number(fd, option->level, option->optname, value * factor);
  }
}

static int get(int fd, const sd_sockopt *option, double *value) {
  if (option->level < 0) return get_backlog(fd, value);
  switch (option->type) {
    case SD_SOCKOPT_KEEPALIVE:
      return get_keepalive(fd, value);
    case SD_SOCKOPT_LINGER:
      return get_linger(fd, value);
    case SD_SOCKOPT_TOS:
      return get_tos(fd, value);
    default:
      break;
  }
  int err = get_number(fd, option->level, option->optname, value);
  if (option->type == SD_SOCKOPT_MILLISECONDS) *value /= 1000;
  if (option->type == SD_SOCKOPT_BUFFER) *value /= 2; /* the kernel doubles what it is given */
  if (option->type == SD_SOCKOPT_SWITCH) *value = *value != 0;
  return err;
}

static int explain(const sd_sockopt *option, const char *verb, int err, sd_net_error *error) {
  sd_net_error_set(error, "%s socket option \"%s\": %s (%s)", verb, option->name, uv_err_name(err), uv_strerror(err));
  return err;
}

static int check_here(int fd, const sd_sockopt *option, const char *verb, sd_net_error *error) {
  int domain = ask(fd, SO_DOMAIN);
  if (domain < 0) return explain(option, verb, -errno, error);
  if (means_something(option, domain)) return 0;
  sd_net_error_set(error, "socket option \"%s\" does not exist for this kind of socket", option->name);
  return UV_ENOPROTOOPT;
}

int sd_sockopt_set(int fd, const sd_sockopt *option, double value, sd_net_error *error) {
  int err = sd_sockopt_check(option, value, error);
  if (err) return err;
  err = check_here(fd, option, "set", error);
  if (err) return err;
  if (option->where == SD_SOCKOPT_BIND) {
    sd_net_error_set(error, "socket option \"%s\" is decided when the address is opened", option->name);
    return UV_EINVAL;
  }
  if (option->where == SD_SOCKOPT_LISTEN && ask(fd, SO_ACCEPTCONN) != 1) {
    sd_net_error_set(error, "socket option \"%s\" is for listen sockets", option->name);
    return UV_EINVAL;
  }
  err = set(fd, option, value);
  return err ? explain(option, "set", err, error) : 0;
}

/* What a new socket says of an option. */
static int get_default(int fd, const sd_sockopt *option, double *value) {
  int fresh = socket(ask(fd, SO_DOMAIN), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fresh < 0) return -errno;
  int err = get(fresh, option, value);
  close(fresh);
  return err;
}

/* A size that was set is locked against the kernel's tuning, and stays so when it
 * is set to what it was before. */
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

static int unlock_buffer(int fd, const sd_sockopt *option) {
  enum { SNDBUF_LOCK = 1, RCVBUF_LOCK = 2 };
  int locks = ask(fd, SO_BUF_LOCK);
  if (locks < 0) return UV_ENOTSUP;
  locks &= option->optname == SO_SNDBUF ? ~SNDBUF_LOCK : ~RCVBUF_LOCK;
  return put(fd, SOL_SOCKET, SO_BUF_LOCK, &locks, sizeof locks);
}

int sd_sockopt_reset(int fd, const sd_sockopt *option, sd_net_error *error) {
  double value = 0;
  int err = check_here(fd, option, "reset", error);
  if (err) return err;
  err = get_default(fd, option, &value);
  if (!err) err = set(fd, option, value); /* unchecked: the kernel's 0 may be no value that can be given */
  if (!err && option->type == SD_SOCKOPT_BUFFER) err = unlock_buffer(fd, option);
  return err ? explain(option, "reset", err, error) : 0;
}

int sd_sockopt_get(int fd, const sd_sockopt *option, double *value, sd_net_error *error) {
  int err = check_here(fd, option, "get", error);
  if (err) return err;
  err = get(fd, option, value);
  return err ? explain(option, "get", err, error) : 0;
}

int sd_sockopt_apply(int fd, const sd_sockopt_setting *list, size_t count, int where, sd_net_error *error) {
  int domain = ask(fd, SO_DOMAIN);
  for (size_t i = 0; i < count; i++) {
    const sd_sockopt *option = list[i].option;
    bool meant = (option->where & where) != 0 && option->level >= 0;
    if (!meant || !means_something(option, domain)) continue;
    int err = sd_sockopt_check(option, list[i].value, error);
    if (err) return err;
    err = set(fd, option, list[i].value);
    if (err) return explain(option, "set", err, error);
  }
  return 0;
}

void sd_sockopt_before_close(int fd) {
  double seconds = 0;
  if (get_linger(fd, &seconds) == 0 && seconds > 0) set_linger(fd, SD_SOCKOPT_OFF);
}
