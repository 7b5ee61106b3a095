/* memory.c - how much memory this machine has, and how much of it is still to be had. Pages
 * that only cache files count as available: mapped weights live there. Read next: plan.c. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "engine/plan.h"

#ifdef __APPLE__
#include <sys/sysctl.h>
#include <unistd.h>

static uint64_t sysctl_u64(const char *name)
{
    uint64_t v = 0;
    size_t n = sizeof v;
    if (sysctlbyname(name, &v, &n, NULL, 0) != 0) {
        return 0;
    }
    if (n == 4) {
        uint32_t v32;
        memcpy(&v32, &v, 4);
        return v32;
    }
    return v;
}

void memory_info(uint64_t *total, uint64_t *available)
{
    static const char *const kinds[] = {"vm.page_free_count", "vm.page_speculative_count",
                                        "vm.page_purgeable_count",
                                        "vm.page_pageable_external_count"};
    long page = sysconf(_SC_PAGESIZE);
    *total = sysctl_u64("hw.memsize");
    *available = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        *available += sysctl_u64(kinds[i]) * (uint64_t)(page > 0 ? page : 4096);
    }
    *available = *available < *total ? *available : *total;
}
#else
void memory_info(uint64_t *total, uint64_t *available)
{
    *total = *available = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    if (!f) {
        return;
    }
    char line[256];
    unsigned long long kib;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "MemTotal: %llu kB", &kib) == 1) {
            *total = kib * 1024;
        } else if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) {
            *available = kib * 1024;
        }
    }
    fclose(f);
}
#endif
