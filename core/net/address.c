/* Addresses: from text, to text, to what the kernel takes. */
#include "address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <limits.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>
#include <uv.h>

#define FORMS                                                                                                          \
  "tcp://host:port, :port, [ipv6]:port, tls://host:port, udp://host:port, "                                            \
  "unix:/path, fd:N, systemd:NAME"

/* One parse in progress. */
typedef struct {
  const char *whole;
  sd_address *out;
  sd_net_error *error;
} parse;

void sd_net_error_set(sd_net_error *error, const char *format, ...) {
  if (error == NULL) return;
  va_list args;
  va_start(args, format);
  vsnprintf(error->text, sizeof error->text, format, args);
  va_end(args);
}

static int fail(const parse *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int fail(const parse *p, const char *format, ...) {
  char why[320];
  va_list args;
  va_start(args, format);
  vsnprintf(why, sizeof why, format, args);
  va_end(args);
  sd_net_error_set(p->error, "address \"%.160s\": %s", p->whole, why);
  return UV_EINVAL;
}

/* A decimal number without sign or blanks: -1 for anything else or above max. */
static long decimal(const char *text, long max) {
  if (*text == '\0' || strlen(text) > 10) return -1;
  if (text[strspn(text, "0123456789")] != '\0') return -1;
  long long number = atoll(text);
  return number > max ? -1 : (long)number;
}

/* Host and port. */

static int parse_port(parse *p, const char *text) {
  long port = decimal(text, 65535);
  if (*text == '\0') return fail(p, "the port is missing; write host:port, 0 to 65535");
  if (port < 0) return fail(p, "port \"%.40s\" is no number from 0 to 65535", text);
  p->out->port = (int)port;
  return 0;
}

static int parse_ipv6(parse *p, const char *host) {
  struct in6_addr bits;
  char bare[SD_ADDRESS_HOST];
  const char *zone = strchr(host, '%'); /* fe80::1%eth0 */
  size_t len = zone ? (size_t)(zone - host) : strlen(host);
  if (len >= sizeof bare) return fail(p, "the host is too long");
  memcpy(bare, host, len);
  bare[len] = '\0';
  if (inet_pton(AF_INET6, bare, &bits) != 1) return fail(p, "\"%.60s\" in brackets is no IPv6 address", host);
  if (zone && (zone[1] == '\0' || strlen(zone) > IF_NAMESIZE))
    return fail(p, "\"%.60s\" is no network interface", zone + 1);
  inet_ntop(AF_INET6, &bits, p->out->host, INET6_ADDRSTRLEN);
  if (zone) strcat(p->out->host, zone);
  return 0;
}

static int parse_name(parse *p, const char *host) {
  if (strlen(host) > 253) return fail(p, "the host has %zu bytes, at most 253 are allowed", strlen(host));
  if (host[strspn(host, "0123456789.")] == '\0')
    return fail(p, "\"%.60s\" is no IPv4 address; write four numbers, 0 to 255", host);
  for (const char *c = host; *c; c++)
    if (!isalnum((unsigned char)*c) && strchr("._-", *c) == NULL)
      return fail(p, "host \"%.60s\" may hold letters, digits, '.', '-' and '_' only", host);
  for (size_t i = 0; i <= strlen(host); i++) p->out->host[i] = (char)tolower((unsigned char)host[i]);
  return 0;
}

static int parse_host(parse *p, const char *host) {
  struct in_addr bits;
  if (*host == '\0') host = "0.0.0.0";
  if (strchr(host, ':')) return fail(p, "an IPv6 host needs brackets: [%.60s]:port", host);
  if (inet_pton(AF_INET, host, &bits) != 1) return parse_name(p, host);
  strcpy(p->out->host, host);
  return 0;
}

static int parse_ip(parse *p, char *rest) {
  if (strpbrk(rest, "/?#")) return fail(p, "no path or query can follow host:port");
  bool brackets = *rest == '[';
  char *host = rest + brackets;
  char *end = brackets ? strchr(host, ']') : strrchr(host, ':');
  if (end == NULL && brackets) return fail(p, "']' is missing");
  if (end == NULL) return fail(p, "the port is missing; write host:port, 0 to 65535");
  char *port = end + 1;
  if (brackets && *port++ != ':') return fail(p, "the port is missing; write [host]:port, 0 to 65535");
  *end = '\0';
  int err = brackets ? parse_ipv6(p, host) : parse_host(p, host);
  return err ? err : parse_port(p, port);
}

/* unix:/path?mode=0660&owner=user:group */

static int set_mode(parse *p, const char *value) {
  size_t len = strlen(value);
  long mode = strtol(value, NULL, 8);
  if (len == 0 || len > 5 || value[strspn(value, "01234567")] != '\0' || mode > 0777)
    return fail(p, "mode \"%.40s\" is no octal number from 0 to 0777", value);
  p->out->mode = (int)mode;
  return 0;
}

static int set_owner(parse *p, const char *value) {
  size_t len = strcspn(value, ":");
  const char *group = value[len] == ':' ? value + len + 1 : "";
  if (*value == '\0' || (value[len] == ':' && *group == '\0') || strchr(group, ':'))
    return fail(p, "owner \"%.40s\" must be user, user:group or :group", value);
  if (len >= SD_ADDRESS_USER || strlen(group) >= SD_ADDRESS_USER)
    return fail(p, "owner \"%.40s\": a name has at most %d bytes", value, SD_ADDRESS_USER - 1);
  memcpy(p->out->owner, value, len);
  strcpy(p->out->group, group);
  return 0;
}

static int parse_query(parse *p, char *query) {
  static const struct {
    const char *key;
    int (*set)(parse *, const char *);
  } keys[] = { { "mode", set_mode }, { "owner", set_owner } };
  enum { NKEYS = sizeof keys / sizeof *keys };
  bool seen[NKEYS] = { false };
  char *next;
  for (char *pair = query; pair; pair = next) {
    size_t i = 0;
    next = strchr(pair, '&');
    if (next) *next++ = '\0';
    char *value = strchr(pair, '=');
    if (value) *value++ = '\0';
    while (i < NKEYS && strcmp(pair, keys[i].key) != 0) i++;
    if (i == NKEYS) return fail(p, "unknown key \"%.40s\"; allowed are mode and owner", pair);
    if (value == NULL) return fail(p, "key \"%s\" has no value", pair);
    if (seen[i]) return fail(p, "key \"%s\" is there twice", pair);
    seen[i] = true;
    int err = keys[i].set(p, value);
    if (err) return err;
  }
  return 0;
}

static int parse_unix(parse *p, char *rest) {
  char *query = strchr(rest, '?');
  if (query) *query++ = '\0';
  size_t len = strlen(rest);
  if (len == 0) return fail(p, "the path is missing; write unix:/path");
  if (len >= SD_ADDRESS_PATH)
    return fail(p, "the path has %zu bytes, at most %d are allowed", len, SD_ADDRESS_PATH - 1);
  for (size_t i = 0; i < len; i++)
    if (iscntrl((unsigned char)rest[i])) return fail(p, "the path holds a control character");
  memcpy(p->out->path, rest, len + 1);
  return query ? parse_query(p, query) : 0;
}

/* Sockets that somebody else has opened. */

static int parse_fd(parse *p, char *rest) {
  long fd = decimal(rest, INT_MAX);
  if (fd < 0) return fail(p, "\"%.40s\" is no descriptor; write fd:N with N from 0 on", rest);
  p->out->fd = (int)fd;
  return 0;
}

static int parse_systemd(parse *p, char *rest) {
  size_t len = strlen(rest);
  if (len == 0) return fail(p, "the name is missing; write systemd:NAME, or systemd:0 for the first");
  if (len > 255) return fail(p, "the name has %zu bytes, at most 255 are allowed", len);
  for (size_t i = 0; i < len; i++)
    if (rest[i] <= ' ' || rest[i] == 127 || rest[i] == ':')
      return fail(p, "the name may not hold blanks, ':' or control characters");
  memcpy(p->out->name, rest, len + 1);
  return 0;
}

static const struct row {
  const char *name; /* in the order of sd_address_scheme */
  const char *prefix;
  int (*parse)(parse *, char *);
} schemes[] = {
  [SD_ADDRESS_TCP] = { "tcp", "tcp://", parse_ip },
  [SD_ADDRESS_TLS] = { "tls", "tls://", parse_ip },
  [SD_ADDRESS_UDP] = { "udp", "udp://", parse_ip },
  [SD_ADDRESS_UNIX] = { "unix", "unix:", parse_unix },
  [SD_ADDRESS_FD] = { "fd", "fd:", parse_fd },
  [SD_ADDRESS_SYSTEMD] = { "systemd", "systemd:", parse_systemd },
};
enum { NSCHEMES = sizeof schemes / sizeof *schemes };

/* host:port without a scheme is tcp. Only digits after the last colon make it
 * one, so that a mistyped scheme is called by its name. */
static bool looks_like_tcp(const char *text) {
  const char *colon = strrchr(text, ':');
  if (*text == ':' || *text == '[') return true;
  return colon && strchr(text, '/') == NULL && decimal(colon + 1, LONG_MAX) >= 0;
}

static int parse_plain(parse *p, char *text) {
  char *colon = strchr(text, ':');
  if (looks_like_tcp(text)) return parse_ip(p, text);
  if (colon == NULL) return fail(p, "neither scheme nor port; allowed are " FORMS);
  *colon = '\0';
  for (size_t i = 0; i < NSCHEMES; i++)
    if (strcasecmp(text, schemes[i].name) == 0) return fail(p, "after %s: two slashes must follow", text);
  return fail(p, "unknown scheme \"%.40s\"; allowed are " FORMS, text);
}

int sd_address_parse(sd_address *out, const char *text, size_t len, sd_net_error *error) {
  char whole[1024], work[1024];
  parse p = { whole, out, error };
  memset(out, 0, sizeof *out);
  out->mode = out->fd = -1;
  snprintf(whole, sizeof whole, "%.*s", len < sizeof whole ? (int)len : (int)sizeof whole - 1, text);
  if (len == 0) return fail(&p, "is empty; allowed are " FORMS);
  if (len >= sizeof whole) return fail(&p, "has %zu bytes, that is too long", len);
  if (strlen(whole) != len) return fail(&p, "holds a NUL byte");
  memcpy(work, whole, len + 1);
  for (size_t i = 0; i < NSCHEMES; i++) {
    size_t n = strlen(schemes[i].prefix);
    if (strncasecmp(work, schemes[i].prefix, n) != 0) continue;
    out->scheme = (sd_address_scheme)i;
    return schemes[i].parse(&p, work + n);
  }
  return parse_plain(&p, work);
}

const char *sd_address_scheme_name(sd_address_scheme scheme) {
  return schemes[scheme].name;
}

bool sd_address_is_ip(const sd_address *address) {
  return address->scheme <= SD_ADDRESS_UDP;
}

static void unix_text(const sd_address *a, char *out, size_t size) {
  char mode[16] = "", owner[2 * SD_ADDRESS_USER + 8] = "";
  bool has_owner = a->owner[0] || a->group[0];
  if (a->mode >= 0) snprintf(mode, sizeof mode, "?mode=%04o", (unsigned)a->mode & 07777);
  if (has_owner)
    snprintf(
      owner, sizeof owner, "%sowner=%s%s%s", a->mode >= 0 ? "&" : "?", a->owner, a->group[0] ? ":" : "", a->group);
  snprintf(out, size, "unix:%s%s%s", a->path, mode, owner);
}

const char *sd_address_text(const sd_address *a, char *out, size_t size) {
  const char *format = strchr(a->host, ':') ? "%s[%s]:%d" : "%s%s:%d";
  switch (a->scheme) {
    case SD_ADDRESS_UNIX:
      unix_text(a, out, size);
      break;
    case SD_ADDRESS_FD:
      snprintf(out, size, "fd:%d", a->fd);
      break;
    case SD_ADDRESS_SYSTEMD:
      snprintf(out, size, "systemd:%s", a->name);
      break;
    default:
      snprintf(out, size, format, schemes[a->scheme].prefix, a->host, a->port);
  }
  return out;
}

/* To the kernel. */

static int unix_sockaddr(const sd_address *address, struct sockaddr_storage *out, socklen_t *len) {
  struct sockaddr_un *un = (struct sockaddr_un *)out;
  un->sun_family = AF_UNIX;
  strcpy(un->sun_path, address->path);
  *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(un->sun_path) + 1);
  return 0;
}

static int from_resolver(int code) {
  static const struct {
    int theirs, ours;
  } codes[] = { { EAI_NONAME, UV_EAI_NONAME }, { EAI_AGAIN, UV_EAI_AGAIN }, { EAI_FAIL, UV_EAI_FAIL },
    { EAI_FAMILY, UV_EAI_FAMILY }, { EAI_MEMORY, UV_EAI_MEMORY }, { EAI_NODATA, UV_EAI_NODATA },
    { EAI_SERVICE, UV_EAI_SERVICE }, { EAI_SOCKTYPE, UV_EAI_SOCKTYPE } };
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i].theirs == code) return codes[i].ours;
  return UV_EAI_FAIL;
}

static int ask(const sd_address *address, int flags, struct sockaddr_storage *out, socklen_t *len) {
  bool local = strcmp(address->host, "localhost") == 0;
  struct addrinfo *list, hints = { .ai_flags = flags | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM };
  char port[16];
  if (address->scheme == SD_ADDRESS_UDP) hints.ai_socktype = SOCK_DGRAM;
  snprintf(port, sizeof port, "%d", address->port);
  int code = getaddrinfo(local ? "127.0.0.1" : address->host, port, &hints, &list);
  if (code) return from_resolver(code);
  memcpy(out, list->ai_addr, list->ai_addrlen);
  *len = list->ai_addrlen;
  freeaddrinfo(list);
  return 0;
}

static int to_sockaddr(const sd_address *address, int flags, struct sockaddr_storage *out, socklen_t *len) {
  memset(out, 0, sizeof *out);
  if (address->scheme == SD_ADDRESS_UNIX) return unix_sockaddr(address, out, len);
  return sd_address_is_ip(address) ? ask(address, flags, out, len) : UV_EINVAL;
}

int sd_address_numeric(const sd_address *address, struct sockaddr_storage *out, socklen_t *len) {
  return to_sockaddr(address, AI_NUMERICHOST, out, len);
}

int sd_address_resolve(const sd_address *address, struct sockaddr_storage *out, socklen_t *len) {
  return to_sockaddr(address, 0, out, len);
}

/* From the kernel. */

static void unix_path(const struct sockaddr *sa, socklen_t len, char *out, size_t size) {
  const struct sockaddr_un *un = (const struct sockaddr_un *)sa;
  size_t head = offsetof(struct sockaddr_un, sun_path);
  size_t room = len > head ? len - head : 0;
  /* sun_path need not be terminated; an abstract name (NUL first) reads as "" */
  snprintf(out, size, "%.*s", (int)strnlen(un->sun_path, room), un->sun_path);
}

static void ipv6_host(const struct sockaddr_in6 *in6, bool unmap, char *out, size_t size) {
  const struct in6_addr *bits = &in6->sin6_addr;
  char zone[IF_NAMESIZE];
  if (unmap && IN6_IS_ADDR_V4MAPPED(bits)) {
    inet_ntop(AF_INET, bits->s6_addr + 12, out, (socklen_t)size);
    return;
  }
  inet_ntop(AF_INET6, bits, out, (socklen_t)size);
  if (in6->sin6_scope_id && if_indextoname(in6->sin6_scope_id, zone)) {
    size_t used = strlen(out);
    snprintf(out + used, size - used, "%%%s", zone);
  }
}

static void host_of(const struct sockaddr *sa, socklen_t len, bool unmap, char *out, size_t size) {
  *out = '\0';
  switch (sa->sa_family) {
    case AF_INET:
      inet_ntop(AF_INET, &((const struct sockaddr_in *)sa)->sin_addr, out, (socklen_t)size);
      break;
    case AF_INET6:
      ipv6_host((const struct sockaddr_in6 *)sa, unmap, out, size);
      break;
    case AF_UNIX:
      unix_path(sa, len, out, size);
      break;
  }
}

const char *sd_sockaddr_host(const struct sockaddr *sa, socklen_t len, char *out, size_t size) {
  host_of(sa, len, true, out, size);
  return out;
}

int sd_sockaddr_port(const struct sockaddr *sa) {
  if (sa->sa_family == AF_INET) return ntohs(((const struct sockaddr_in *)sa)->sin_port);
  if (sa->sa_family == AF_INET6) return ntohs(((const struct sockaddr_in6 *)sa)->sin6_port);
  return 0;
}

static const char *with_port(
  const struct sockaddr *sa, socklen_t len, const char *prefix, bool unmap, char *out, size_t size) {
  char host[SD_SOCKADDR_TEXT];
  host_of(sa, len, unmap, host, sizeof host);
  const char *format = strchr(host, ':') ? "%s[%s]:%d" : "%s%s:%d";
  snprintf(out, size, format, prefix, host, sd_sockaddr_port(sa));
  return out;
}

const char *sd_sockaddr_text(const struct sockaddr *sa, socklen_t len, char *out, size_t size) {
  if (sa->sa_family != AF_INET && sa->sa_family != AF_INET6) return sd_sockaddr_host(sa, len, out, size);
  return with_port(sa, len, "", true, out, size);
}

const char *sd_sockaddr_uri(
  const struct sockaddr *sa, socklen_t len, sd_address_scheme scheme, char *out, size_t size) {
  char path[SD_SOCKADDR_TEXT];
  if (sa->sa_family == AF_UNIX) {
    unix_path(sa, len, path, sizeof path);
    snprintf(out, size, "unix:%s", path);
    return out;
  }
  return with_port(sa, len, schemes[scheme].prefix, false, out, size);
}
