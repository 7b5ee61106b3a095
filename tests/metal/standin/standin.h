/* standin.h - how tests steer the stand-in Metal device and read what it saw. C. */
#ifndef STANDIN_H
#define STANDIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "emu.h"

struct standin_options {
    struct emu_options emu;
    bool
        shuffle; /* dispatches between two barriers of a concurrent encoder run in random order */
    uint64_t shuffle_seed;
    size_t max_buffer_bytes;  /* 0: 1 GiB. Small values exercise the splitting of weights */
    size_t working_set_bytes; /* recommendedMaxWorkingSetSize; 0: 64 GiB */
    uint32_t max_threads;     /* maxTotalThreadsPerThreadgroup of pipelines; 0: 1024 */
    /* Faults: the n-th call from now fails (0: never). */
    uint32_t fail_buffer, fail_library, fail_pipeline, fail_command_buffer;
    bool no_device;
    bool dry; /* calls are checked and counted; no kernel runs */
};
void standin_set(const struct standin_options *o);

struct standin_counts {
    uint64_t dispatches, threadgroups, barriers, encoders, command_buffers, pipelines,
        libraries; /* pipelines: compiled, not found in an archive */
    uint64_t buffers_alive, buffer_bytes_alive, residency_requests;
    uint64_t set_bytes; /* bytes given by setBytes */
    uint64_t tg_bytes;  /* threadgroup memory of all dispatches */
    uint64_t archives_written;
};
void standin_counts(struct standin_counts *out);
void standin_reset_counts(void);

/* The first thing the host code or a kernel did wrong since the last call, or NULL; what it names
 * is also printed to stderr when it happens. */
const char *standin_fault(void);

/* A library that was built beforehand for this exact source is used instead of compiling it: the
 * folder holds <hash>.so. Default: the folder the build made. */
void standin_set_cache(const char *dir);

long standin_live_objects(void); /* runtime.h: leaks */

#endif
