/* Users and groups by name or number. */
#include "user.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOM 16384 /* for one entry; a group with hundreds of members fits */

/* The last number of 32 bits means "do not change" to chown and setresuid. */
static int number(const char *text, unsigned long *out) {
  char *end;
  if (*text < '0' || *text > '9') return -EINVAL;
  errno = 0;
  *out = strtoul(text, &end, 10);
  return *end != '\0' || errno != 0 || *out >= 0xffffffffUL ? -EINVAL : 0;
}

static int found(int code, const void *entry) {
  if (entry != NULL) return 0;
  return code == EIO || code == EMFILE || code == ENFILE || code == ENOMEM || code == ERANGE ? -code : -ENOENT;
}

int sd_user_find(const char *user, uid_t *uid, gid_t *gid, char *name) {
  char room[ROOM];
  struct passwd entry, *result = NULL;
  unsigned long n;
  int numeric = number(user, &n) == 0;
  int code = numeric ? getpwuid_r((uid_t)n, &entry, room, sizeof room, &result)
                     : getpwnam_r(user, &entry, room, sizeof room, &result);
  if (name) snprintf(name, SD_USER_NAME, "%s", result ? result->pw_name : "");
  if (numeric) *uid = (uid_t)n;
  if (result == NULL) return numeric ? 0 : found(code, result);
  *uid = result->pw_uid;
  *gid = result->pw_gid;
  return 0;
}

int sd_group_find(const char *group, gid_t *gid) {
  char room[ROOM];
  struct group entry, *result = NULL;
  unsigned long n;
  if (number(group, &n) == 0) {
    *gid = (gid_t)n;
    return 0;
  }
  int code = getgrnam_r(group, &entry, room, sizeof room, &result);
  if (result) *gid = result->gr_gid;
  return found(code, result);
}
