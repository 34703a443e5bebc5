/* How many processors this process may really use. */
#ifndef SD_BASE_CPUS_H
#define SD_BASE_CPUS_H

/* The processors of the affinity mask, or fewer where a cgroup (version 1 or 2, our
 * own or any above it) allows less time than they have: rounded up, at least 1. */
unsigned sd_cpus(void);

/* The smallest quota on the way from the group that `membership` (the text form of
 * /proc/self/cgroup) names up to `mount`, in processors; 0 when there is none. Groups
 * that are not visible under `mount`, as inside a container, count as the top. */
double sd_cpus_quota(const char *membership, const char *mount);

#endif
