/* quota.c - CPU quotas of control groups: cpu.max of a group holds "MICROSECONDS PERIOD" or "max
 * PERIOD", and each group around it has its own. */
#include "base/quota.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The path of the process's group from the line "0::/path"; false if there is none. */
static bool group_path(const char *proc, char *path, size_t bytes)
{
    char line[1024];
    bool found = false;
    FILE *f = fopen(proc, "r");
    while (f && !found && fgets(line, sizeof line, f)) {
        size_t n = strcspn(line, "\n");
        found = strncmp(line, "0::/", 4) == 0 && line[n] == '\n';
        line[n] = 0;
    }
    if (f) {
        fclose(f);
    }
    return found && (size_t)snprintf(path, bytes, "%s", line + 3) < bytes;
}

/* Of one group; 0: none. */
static uint32_t group_quota(const char *root, const char *group)
{
    char file[2048];
    uint64_t quota = 0, period = 0;
    if ((size_t)snprintf(file, sizeof file, "%s%s/cpu.max", root, group) >= sizeof file) {
        return 0;
    }
    FILE *f = fopen(file, "r");
    if (!f) {
        return 0; /* the outermost group has no such file */
    }
    bool have = fscanf(f, "%" SCNu64 " %" SCNu64, &quota, &period) == 2 && period > 0;
    fclose(f);
    uint64_t cpus = have ? quota / period + (quota % period > 0) : 0;
    return cpus < UINT32_MAX ? (uint32_t)cpus : UINT32_MAX;
}

uint32_t quota_cpus(const char *proc, const char *root)
{
    char group[1024];
    uint32_t least = 0;
    if (!group_path(proc, group, sizeof group)) {
        return 0;
    }
    for (char *end = group; end;) { /* and the groups around it, the outermost is "" */
        uint32_t n = group_quota(root, group);
        least = n > 0 && (least == 0 || n < least) ? n : least;
        end = strrchr(group, '/');
        if (end) {
            *end = 0;
        }
    }
    return least;
}
