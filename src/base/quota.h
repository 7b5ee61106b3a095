/* quota.h - how much processor time the system lets this process have. */
#ifndef BASE_QUOTA_H
#define BASE_QUOTA_H

#include <stdint.h>

/* Processors that the CPU quota of a process's control group and of those around it is worth,
 * rounded up, at least 1; 0 where there is no quota or the system does not say. Linux, cgroup
 * v2: proc is the process's "/proc/self/cgroup", root where the groups are mounted,
 * "/sys/fs/cgroup". */
uint32_t quota_cpus(const char *proc, const char *root);

#endif
