/* Listen sockets: TCP, unix, and those that somebody passed in. */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "base/user.h"

#define LOCK_TRIES 100 /* of 10 ms each */

/* One attempt to listen, and what it has to say if it fails. */
typedef struct {
  const sd_address *address;
  const sd_listener_options *options;
  sd_net_error *error;
} attempt;

static int fail_because(const attempt *a, int err, const char *why) {
  char text[SD_ADDRESS_TEXT];
  sd_address_text(a->address, text, sizeof text);
  sd_net_error_set(a->error, "listen %s: %s (%s)", text, uv_err_name(err), why);
  return err;
}

static int fail(const attempt *a, int err) {
  return fail_because(a, err, uv_strerror(err));
}

/* An option's own text already names the option; the address is put before it. */
static int fail_option(const attempt *a, int err, const sd_net_error *option) {
  char text[SD_ADDRESS_TEXT];
  sd_address_text(a->address, text, sizeof text);
  sd_net_error_set(a->error, "listen %.200s: %.290s", text, option->text);
  return err;
}

static int apply_options(const attempt *a, int fd) {
  sd_net_error why = { "" };
  const sd_listener_options *o = a->options;
  int err = sd_sockopt_apply(fd, o->options, o->option_count, SD_SOCKOPT_LISTEN, &why);
  return err ? fail_option(a, err, &why) : 0;
}

static int start_listening(const attempt *a, int fd) {
  int backlog = a->options->backlog > 0 ? a->options->backlog : SD_LISTENER_BACKLOG;
  return listen(fd, backlog) ? fail(a, -errno) : 0;
}

static int switch_on(int fd, int level, int optname, int on) {
  return setsockopt(fd, level, optname, &on, sizeof on) ? -errno : 0;
}

/* TCP. */

static int new_ip_socket(const struct sockaddr *sa, int type, bool reuseport, bool v6only) {
  int err = 0, fd = socket(sa->sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  /* For UDP reuseaddr would let two servers share the port unnoticed. */
  if (type == SOCK_STREAM) err = switch_on(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (!err && reuseport) err = switch_on(fd, SOL_SOCKET, SO_REUSEPORT, 1);
  /* Always said: net.ipv6.bindv6only may have changed the default. */
  if (!err && sa->sa_family == AF_INET6) err = switch_on(fd, IPPROTO_IPV6, IPV6_V6ONLY, v6only);
  if (!err) return fd;
  close(fd);
  return err;
}

static void set_port(struct sockaddr_storage *ss, int port) {
  if (ss->ss_family == AF_INET) ((struct sockaddr_in *)ss)->sin_port = htons((in_port_t)port);
  if (ss->ss_family == AF_INET6) ((struct sockaddr_in6 *)ss)->sin6_port = htons((in_port_t)port);
}

/* Where a bound socket really is. */
static int bound_text(int fd, sd_address_scheme scheme, char *out, size_t size) {
  struct sockaddr_storage ss;
  socklen_t len = sizeof ss;
  if (getsockname(fd, (struct sockaddr *)&ss, &len)) return -errno;
  sd_sockaddr_uri((struct sockaddr *)&ss, len, scheme, out, size);
  return 0;
}

/* Whoever asks for SO_REUSEADDR, and every server does, may bind beside a socket
 * that has it too and does not listen. So one that is to keep a port must not have
 * it, except for the moment in which connections of the port are in the way. */
static int bind_alone(int fd, const struct sockaddr *sa, socklen_t len) {
  int err = switch_on(fd, SOL_SOCKET, SO_REUSEADDR, 0);
  if (!err && bind(fd, sa, len)) err = -errno;
  if (err != UV_EADDRINUSE) return err;
  err = switch_on(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (!err && bind(fd, sa, len)) err = -errno;
  return err ? err : switch_on(fd, SOL_SOCKET, SO_REUSEADDR, 0);
}

static int bind_ip(const attempt *a, int fd, const struct sockaddr_storage *ss, socklen_t len) {
  const struct sockaddr *sa = (const struct sockaddr *)ss;
  if (a->options->bind_only) return bind_alone(fd, sa, len);
  return bind(fd, sa, len) ? -errno : 0;
}

static int bind_and_listen(const attempt *a, sd_listener *out, const struct sockaddr_storage *ss, socklen_t len) {
  int err = apply_options(a, out->fd);
  if (err) return err;
  err = bind_ip(a, out->fd, ss, len);
  if (err) return fail(a, err);
  err = a->options->bind_only ? 0 : start_listening(a, out->fd);
  if (err) return err;
  err = bound_text(out->fd, a->address->scheme, out->text, sizeof out->text);
  return err ? fail(a, err) : 0;
}

static int open_ip(const attempt *a, sd_listener *out) {
  struct sockaddr_storage ss;
  socklen_t len;
  int err = sd_address_resolve(a->address, &ss, &len);
  if (err) return fail(a, err);
  if (a->options->port >= 0) set_port(&ss, a->options->port);
  out->fd = new_ip_socket((struct sockaddr *)&ss, SOCK_STREAM, a->options->reuseport, a->options->v6only);
  if (out->fd < 0) return fail(a, out->fd);
  err = bind_and_listen(a, out, &ss, len);
  if (err) close(out->fd);
  return err;
}

static int probe_ip(const attempt *a) {
  struct sockaddr_storage ss;
  socklen_t len;
  int type = a->address->scheme == SD_ADDRESS_UDP ? SOCK_DGRAM : SOCK_STREAM;
  int err = sd_address_resolve(a->address, &ss, &len);
  if (err) return fail(a, err);
  int fd = new_ip_socket((struct sockaddr *)&ss, type, false, a->options->v6only);
  if (fd < 0) return fail(a, fd);
  if (bind(fd, (struct sockaddr *)&ss, len)) err = fail(a, -errno);
  close(fd);
  return err;
}

/* Unix: what is at the path already? */

/* Between looking at a stale file and removing it another server may put its own
 * there. Those of our kind take turns by a lock on the folder, which leaves no file
 * behind. Anybody may hold such a lock, and a folder need not be readable, so it is
 * asked for but not insisted on. -1 without. */
static int lock_folder(const char *path) {
  char copy[SD_ADDRESS_PATH];
  struct timespec pause = { 0, 10 * 1000 * 1000 };
  strcpy(copy, path);
  int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (int i = 0; fd >= 0 && i < LOCK_TRIES; i++) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) break;
    nanosleep(&pause, NULL);
  }
  return fd;
}

static const char *kind_of_file(mode_t mode) {
  if (S_ISREG(mode)) return "a regular file is there, and is left alone";
  if (S_ISLNK(mode)) return "a symbolic link is there, and is left alone";
  if (S_ISDIR(mode)) return "a folder is there";
  return "something that is no socket is there, and is left alone";
}

/* 0 when somebody listens, or the errno of knocking. A knock shows up at a live
 * server as a connection that ends at once; there is no quieter way to ask. */
static int knock(const struct sockaddr_storage *ss, socklen_t len) {
  int err = 0, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  if (connect(fd, (const struct sockaddr *)ss, len)) err = -errno;
  close(fd);
  return err == -EAGAIN ? 0 : err; /* its queue is full: alive */
}

/* 0 when the path is free or holds a stale socket, which `st` then describes
 * (st_ino 0 when free). */
static int look_at_path(const attempt *a, const struct sockaddr_storage *ss, socklen_t len, struct stat *st) {
  memset(st, 0, sizeof *st);
  if (lstat(a->address->path, st)) return errno == ENOENT ? 0 : fail(a, -errno);
  if (!S_ISSOCK(st->st_mode)) return fail_because(a, UV_EEXIST, kind_of_file(st->st_mode));
  int err = knock(ss, len);
  if (err == 0) return fail_because(a, UV_EADDRINUSE, "another server answers there");
  if (err == UV_EPROTOTYPE) return fail_because(a, UV_EEXIST, "a socket of another type is there, and is left alone");
  if (err == UV_ENOENT) memset(st, 0, sizeof *st); /* gone meanwhile */
  return err == UV_ECONNREFUSED || err == UV_ENOENT ? 0 : fail(a, err);
}

static int clear_path(const attempt *a, const struct sockaddr_storage *ss, socklen_t len) {
  struct stat st;
  int err = look_at_path(a, ss, len, &st);
  if (err || st.st_ino == 0) return err;
  err = sd_listener_unlink(a->address->path, st.st_dev, st.st_ino);
  return err && err != UV_ENOENT ? fail(a, err) : 0;
}

/* Unix: opening. */

static int find_owner(const attempt *a, uid_t *uid, gid_t *gid) {
  char why[96];
  const sd_address *address = a->address;
  gid_t own = (gid_t)-1; /* -1: unchanged */
  *uid = (uid_t)-1;
  *gid = (gid_t)-1;
  if (address->owner[0] && sd_user_find(address->owner, uid, &own, NULL)) {
    snprintf(why, sizeof why, "there is no user \"%s\"", address->owner);
    return fail_because(a, UV_ENOENT, why);
  }
  if (address->group[0] && sd_group_find(address->group, gid)) {
    snprintf(why, sizeof why, "there is no group \"%s\"", address->group);
    return fail_because(a, UV_ENOENT, why);
  }
  return 0;
}

/* Nobody can connect before listen(), so here nothing is ever open wider than asked. */
static int set_rights(const attempt *a, const char *path) {
  uid_t uid;
  gid_t gid;
  int mode = a->address->mode;
  int err = find_owner(a, &uid, &gid);
  if (err) return err;
  if ((uid != (uid_t)-1 || gid != (gid_t)-1) && lchown(path, uid, gid))
    return fail_because(a, -errno, "its owner cannot be set");
  if (mode >= 0 && fchmodat(AT_FDCWD, path, (mode_t)mode, AT_SYMLINK_NOFOLLOW))
    return fail_because(a, -errno, "its mode cannot be set");
  return 0;
}

/* The socket is bound at `path`: rights, listen, and the inode. */
static int finish_unix(const attempt *a, sd_listener *out, const char *path) {
  struct stat st;
  int err = set_rights(a, path);
  if (err) return err;
  err = start_listening(a, out->fd);
  if (err) return err;
  if (lstat(path, &st)) return fail(a, -errno);
  out->made_path = true;
  out->dev = st.st_dev;
  out->ino = st.st_ino;
  snprintf(out->text, sizeof out->text, "unix:%s", a->address->path);
  return 0;
}

static int bind_unix(const attempt *a, sd_listener *out) {
  struct sockaddr_storage ss;
  socklen_t len;
  sd_address_numeric(a->address, &ss, &len);
  int err = clear_path(a, &ss, len);
  if (err) return err;
  if (bind(out->fd, (struct sockaddr *)&ss, len)) return fail(a, -errno);
  err = finish_unix(a, out, a->address->path);
  if (err) unlink(a->address->path);
  return err;
}

/* Bound beside the live one and renamed over it: at no moment is the path empty. */
static int bind_beside(const attempt *a, sd_listener *out) {
  struct sockaddr_storage ss;
  socklen_t len;
  struct stat st;
  const char *path = a->address->path;
  sd_address beside = *a->address;
  int n = snprintf(beside.path, sizeof beside.path, "%s.%d~", path, (int)getpid());
  if (n >= (int)sizeof beside.path) return fail_because(a, UV_ENAMETOOLONG, "no room to open a socket beside it");
  if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) return fail_because(a, UV_EEXIST, kind_of_file(st.st_mode));
  sd_address_numeric(&beside, &ss, &len);
  if (bind(out->fd, (struct sockaddr *)&ss, len)) return fail(a, -errno);
  int err = finish_unix(a, out, beside.path);
  if (!err && rename(beside.path, path)) err = fail(a, -errno);
  if (err) unlink(beside.path);
  return err;
}

static int open_unix(const attempt *a, sd_listener *out) {
  if (a->options->reuseport) return fail_because(a, UV_EINVAL, "a unix address has one listen socket");
  out->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (out->fd < 0) return fail(a, -errno);
  /* The new file starts with this mode, less the umask. */
  int err = a->address->mode >= 0 && fchmod(out->fd, (mode_t)a->address->mode) ? fail(a, -errno) : 0;
  int lock = lock_folder(a->address->path);
  if (!err) err = apply_options(a, out->fd);
  if (!err) err = a->options->replace ? bind_beside(a, out) : bind_unix(a, out);
  if (lock >= 0) close(lock);
  if (err) close(out->fd);
  return err;
}

static int probe_unix(const attempt *a) {
  struct sockaddr_storage ss;
  struct stat st;
  socklen_t len;
  sd_address_numeric(a->address, &ss, &len);
  return look_at_path(a, &ss, len, &st);
}

/* Passed in. */

static int check_passed(const attempt *a, int fd) {
  int type = 0, listening = 0;
  socklen_t len = sizeof type;
  if (fcntl(fd, F_GETFD) < 0) return fail_because(a, -errno, "no such descriptor is open");
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len)) return fail_because(a, -errno, "it is no socket");
  if (type != SOCK_STREAM) return fail_because(a, UV_EPROTOTYPE, "it is no stream socket");
  len = sizeof listening;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len)) return fail(a, -errno);
  return listening ? 0 : fail_because(a, UV_EINVAL, "it is no listen socket");
}

/* The passed descriptor itself stays open, so that the address can be opened again
 * after a close; only it must not leak into children any more. */
static int open_passed(const attempt *a, sd_listener *out) {
  int given = a->address->fd;
  int err = check_passed(a, given);
  if (err) return err;
  out->fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
  if (out->fd < 0) return fail(a, -errno);
  int flags = fcntl(out->fd, F_GETFL);
  if (flags < 0 || fcntl(out->fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(given, F_SETFD, FD_CLOEXEC) < 0)
    err = fail(a, -errno);
  if (!err) err = apply_options(a, out->fd);
  if (!err) err = bound_text(out->fd, SD_ADDRESS_TCP, out->text, sizeof out->text);
  if (err) close(out->fd);
  return err;
}

int sd_listener_open(
  sd_listener *out, const sd_address *address, const sd_listener_options *options, sd_net_error *error) {
  attempt a = { address, options, error };
  memset(out, 0, sizeof *out);
  int err = UV_EPROTONOSUPPORT;
  switch (address->scheme) {
    case SD_ADDRESS_TCP:
    case SD_ADDRESS_TLS:
      err = open_ip(&a, out);
      break;
    case SD_ADDRESS_UNIX:
      err = open_unix(&a, out);
      break;
    case SD_ADDRESS_FD:
      err = open_passed(&a, out);
      break;
    default:
      fail(&a, err);
  }
  if (err) out->fd = -1;
  return err;
}

int sd_listener_probe(const sd_address *address, bool v6only, sd_net_error *error) {
  sd_listener_options options = { .v6only = v6only, .port = -1 };
  attempt a = { address, &options, error };
  switch (address->scheme) {
    case SD_ADDRESS_UNIX:
      return probe_unix(&a);
    case SD_ADDRESS_FD:
      return check_passed(&a, address->fd);
    case SD_ADDRESS_SYSTEMD:
      return fail(&a, UV_EPROTONOSUPPORT);
    default:
      return probe_ip(&a);
  }
}

int sd_listener_share(int fd) {
  return switch_on(fd, SOL_SOCKET, SO_REUSEPORT, 1);
}

int sd_listener_unlink(const char *path, dev_t dev, ino_t ino) {
  struct stat st;
  if (lstat(path, &st)) return -errno;
  if (st.st_dev != dev || st.st_ino != ino || !S_ISSOCK(st.st_mode)) return UV_EEXIST;
  return unlink(path) ? -errno : 0;
}
