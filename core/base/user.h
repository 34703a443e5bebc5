/* Users and groups by name or number. */
#ifndef SD_BASE_USER_H
#define SD_BASE_USER_H

#include <stddef.h>
#include <sys/types.h>

#define SD_USER_NAME 64

/* 0 or a negative errno: -ENOENT when there is no such user or group. A number
 * needs no entry in the database. `gid` of a user is that of its entry; for a bare
 * number without one it is left as it was. `name`, of SD_USER_NAME bytes, becomes
 * "" then, and may be NULL. */
int sd_user_find(const char *user, uid_t *uid, gid_t *gid, char *name);
int sd_group_find(const char *group, gid_t *gid);

#endif
