/* Addresses: what a user writes after `listen =` or `--listen`, and what the
 * kernel calls the two ends of a connection.
 *
 *   tcp://host:port   tls://host:port   udp://host:port
 *   host:port         :port             [::1]:port       all three mean tcp://
 *   unix:/path?mode=0660&owner=user:group
 *   fd:N              systemd:NAME
 *
 * Parsing opens nothing and asks nobody: a name that only DNS knows stays a
 * name until sd_address_resolve, which may block and is therefore for the
 * supervisor's start and for threads, never for a loop that serves. */
#ifndef SD_NET_ADDRESS_H
#define SD_NET_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#define SD_ADDRESS_HOST 256 /* the longest DNS name is 253 bytes */
#define SD_ADDRESS_PATH 108 /* sizeof sockaddr_un.sun_path: 107 bytes and the NUL */
#define SD_ADDRESS_USER 33
#define SD_ADDRESS_TEXT 320 /* room for every canonical text */

typedef enum {
  SD_ADDRESS_TCP,
  SD_ADDRESS_TLS,
  SD_ADDRESS_UDP,
  SD_ADDRESS_UNIX,
  SD_ADDRESS_FD,
  SD_ADDRESS_SYSTEMD
} sd_address_scheme;

typedef struct {
  sd_address_scheme scheme;
  char host[SD_ADDRESS_HOST]; /* without brackets; "" for the last three schemes */
  int port;
  char path[SD_ADDRESS_PATH];  /* as written: relative stays relative */
  int mode;                    /* of a unix socket, or -1: what the umask gives */
  char owner[SD_ADDRESS_USER]; /* name or number, "" unless given */
  char group[SD_ADDRESS_USER];
  int fd;                     /* -1 except for fd:N */
  char name[SD_ADDRESS_HOST]; /* of systemd:NAME */
} sd_address;

/* A failure in words, for the person who has to repair it. Every function that
 * takes one accepts NULL. */
typedef struct {
  char text[512];
} sd_net_error;

void sd_net_error_set(sd_net_error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* 0, or UV_EINVAL with a text that names what is wrong and what is allowed. */
int sd_address_parse(sd_address *out, const char *text, size_t len, sd_net_error *error);

/* The one spelling of an address; two texts of one address come out equal. */
const char *sd_address_text(const sd_address *address, char *out, size_t size);

const char *sd_address_scheme_name(sd_address_scheme scheme);
bool sd_address_is_ip(const sd_address *address); /* tcp, tls, udp: has host and port */

/* The socket address of an IP or unix address. `_numeric` answers at once, and
 * UV_EAI_NONAME for a host that only DNS knows ("localhost" is 127.0.0.1 without
 * asking anybody); `_resolve` asks getaddrinfo for those, and blocks. */
int sd_address_numeric(const sd_address *address, struct sockaddr_storage *out, socklen_t *len);
int sd_address_resolve(const sd_address *address, struct sockaddr_storage *out, socklen_t *len);

/* A socket address in text. An IPv4 peer of a dual-stack socket (::ffff:1.2.3.4)
 * is shown as the IPv4 address it is, so that lists and limits see one spelling.
 *   _text   "1.2.3.4:80", "[::1]:80", a unix path, or "" for an unnamed peer
 *   _host   "1.2.3.4", "::1", a unix path, or ""
 *   _port   0 for unix
 *   _uri    "tcp://1.2.3.4:80", "tcp://[::1]:80", "unix:/path" (no unmapping) */
#define SD_SOCKADDR_TEXT 128
const char *sd_sockaddr_text(const struct sockaddr *sa, socklen_t len, char *out, size_t size);
const char *sd_sockaddr_host(const struct sockaddr *sa, socklen_t len, char *out, size_t size);
int sd_sockaddr_port(const struct sockaddr *sa);
const char *sd_sockaddr_uri(const struct sockaddr *sa, socklen_t len, sd_address_scheme scheme, char *out, size_t size);

#endif
