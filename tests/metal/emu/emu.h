/* emu.h - a GPU on the host's processors: runs kernels that were written in the Metal shading
 * language and translated to C++ (translate.py, shim/metal_stdlib). Every GPU thread is a fiber,
 * so barriers and simdgroup operations behave as on a GPU, and are stricter: what a GPU leaves
 * undefined ends the dispatch with a message (docs/testing.md, "Metal on Linux").
 *
 * A translated library is a shared object with one function, `emu_library_get`. It reaches the
 * emulator only through the table `struct emu_api` that loading hands to it, so the library can
 * be built with a sanitizer that the emulator is not built with.
 *
 * Threads: one dispatch at a time per process (function constants are variables of the library);
 * inside a dispatch, threadgroups are spread over worker threads. */
#ifndef METAL_EMU_H
#define METAL_EMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    EMU_BUFFERS = 31,         /* buffer slots of a kernel */
    EMU_LENGTHS = 31,         /* threadgroup memory slots */
    EMU_SIMD = 32,            /* lanes of a simdgroup */
    EMU_THREADS = 1024,       /* threads of a threadgroup */
    EMU_TG_BYTES = 32 * 1024, /* threadgroup memory */
    EMU_VALUE = 64,           /* bytes of one value that lanes exchange */
};

enum emu_arg_kind { EMU_ARG_BUFFER, EMU_ARG_THREADGROUP, EMU_ARG_BUILTIN };
enum emu_builtin {
    EMU_THREAD_POSITION_IN_GRID,
    EMU_THREADGROUP_POSITION_IN_GRID,
    EMU_THREAD_POSITION_IN_THREADGROUP,
    EMU_THREAD_INDEX_IN_THREADGROUP,
    EMU_SIMDGROUP_INDEX_IN_THREADGROUP,
    EMU_THREAD_INDEX_IN_SIMDGROUP,
    EMU_THREADS_PER_THREADGROUP,
    EMU_THREADGROUPS_PER_GRID,
    EMU_THREADS_PER_GRID,
    EMU_SIMDGROUPS_PER_THREADGROUP,
    EMU_THREADS_PER_SIMDGROUP,
    EMU_BUILTINS
};
struct emu_arg {
    uint8_t kind, index; /* enum emu_arg_kind; slot or enum emu_builtin */
};

/* One GPU thread as its kernel sees it. */
struct emu_lane {
    uint32_t builtin[EMU_BUILTINS][3];
    void *const *buffer;    /* [EMU_BUFFERS] */
    void *const *tg_memory; /* [EMU_LENGTHS] */
};

/* What loading a library gives to it. */
struct emu_api {
    /* Publishes `n` bytes of this lane and waits for the live lanes of its simdgroup. Returns
     * their values, one a lane, valid until this lane's next but one exchange; *active: the mask
     * of lanes that took part. site: place of the call in the source; lanes that meet at
     * different places end the dispatch. */
    const unsigned char (*(*exchange)(const void *value, size_t n, int site, uint32_t *active,
                                      uint32_t *self))[EMU_VALUE];
    /* threadgroup_barrier, simdgroup_barrier. */
    void (*barrier)(bool whole_group, int site);
    /* Memory of a threadgroup variable declared inside a kernel. */
    void *(*tg_local)(int id, size_t bytes);
    /* Ends the dispatch with a message. */
    void (*fail)(const char *message, int site);
};

struct emu_kernel {
    const char *name;
    void (*invoke)(void (*fn)(void), const struct emu_lane *lane, const struct emu_arg *args);
    void (*fn)(void);
    const struct emu_arg *args;
    int n_args;
    const size_t *needs; /* [n_args] bytes that must be bound; 0: a pointer, or no buffer */
    int line;
    struct emu_kernel *next;
};
struct emu_constant {
    const char *name;
    int index;
    void *at;
    size_t bytes;
    struct emu_constant *next;
};
/* What the function `emu_library_get` of a translated library returns. */
struct emu_library {
    struct emu_kernel *kernels;
    struct emu_constant *constants;
    const struct emu_api *api; /* set by emu_load */
    int *butterfly;            /* likewise */
};

/* ---- for the host side ---- */

#ifdef __cplusplus
extern "C" {
#endif

/* Opens a translated library; NULL with *why (static or until the next call) if it cannot. */
struct emu_library *emu_load(const char *path, const char **why);
const struct emu_kernel *emu_find(const struct emu_library *lib, const char *name);

enum emu_order { EMU_FORWARD, EMU_REVERSE, EMU_RANDOM };
struct emu_options {
    enum emu_order order; /* in which lanes of a simdgroup, and simdgroups, take turns */
    uint64_t seed;        /* of EMU_RANDOM */
    unsigned workers;     /* OS threads; 0: 2 */
    bool butterfly; /* order in which simd_sum and its like add: sequential or butterfly */
};
void emu_set_options(const struct emu_options *o);

struct emu_value { /* of a function constant */
    int index;
    const void *at;
    size_t bytes;
};
struct emu_dispatch {
    const struct emu_library *lib;
    const struct emu_kernel *kernel;
    const struct emu_value *constant; /* [n_constants] */
    size_t n_constants;
    void *buffer[EMU_BUFFERS];
    size_t bound[EMU_BUFFERS];      /* bytes of each from its offset on */
    uint32_t tg_bytes[EMU_LENGTHS]; /* dynamic threadgroup memory */
    uint32_t threads[3];            /* of the grid, if whole_groups is false */
    uint32_t groups[3];             /* threadgroups of the grid otherwise */
    uint32_t group_size[3];
    bool whole_groups;
};
/* Runs it; NULL, or a message about what the kernel did wrong (valid until the next dispatch). */
const char *emu_run(const struct emu_dispatch *d);

/* Does `at` lie behind the threadgroup memory of the lane that this thread runs? */
bool emu_is_tg_end(const void *at);
/* For a signal handler: if this thread runs a lane, its dispatch ends with the message and the call
 * does not return. */
void emu_fault(const char *message);

#ifdef __cplusplus
}
#endif

#endif
