/* backend.h - all a backend has to be. A backend is a table of functions; registry.c lists
 * those compiled in. Model and backend do not know each other: they meet in op/.
 *
 * Threads: open/close/compile/submit/wait from the engine thread only.
 * buf_write/buf_read/buf_copy on KV pages that no running step uses may come from any thread.
 * Nothing allocates between submit and wait. */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include "base/err.h"
#include "op/program.h"
#include "op/step.h"

struct device; /* opaque, one per open */
struct exec;   /* opaque, a compiled program */
struct buffer; /* opaque device memory */

struct backend_info {
    bool available;
    char device_name[128];
    char features[256];    /* tiers, extensions: for selftest and bug reports */
    uint64_t memory_bytes; /* of the device */
    uint32_t n_units;      /* cores, SMs */
};

struct backend_config {
    uint32_t n_threads; /* 0 = all cores this process may use (cpu, ref) */
    uint32_t cpu_mask;  /* tiers that may be used; 0 = all (backend/cpu/kern.h) */
    bool pin;           /* pin workers to cores */
    const char *debug;  /* developer switches, comma separated, or NULL */
};

struct backend_caps {
    char arith_class[64]; /* "cpu/1": changes whenever any bit of any result changes */
    bool host_visible;    /* buf_map works: host and device share memory */
    bool picked;          /* TOK_PICKED is supported */
    uint32_t t_max;       /* largest size class worth compiling */
    uint32_t row_align;   /* bytes */
    uint32_t live_slack;  /* for program_limits of programs compiled here */
};

enum buf_use { BUF_ARENA, BUF_STATE, BUF_PAGE, BUF_IO };

/* Buffers a program is compiled against; all outlive the exec. The arena is at least
 * program.arena_bytes, io at least io_bytes. */
struct exec_bind {
    struct buffer *arena, *state, *page, *io;
};

/* Tracing: called from the engine thread after an op (ref, cpu: in list order) with its time,
 * and through read for tensor dumps. A tracing step may run slower and op by op. */
struct backend_trace {
    uint64_t kinds; /* bit per op_kind; 0 switches tracing off */
    void (*fn)(void *user, const struct op *op, const struct step *step, double seconds);
    void *user;
};

struct backend {
    const char *name; /* "ref", "cpu", ... */
    int (*probe)(struct backend_info *out, fathom_err *err);
    int (*open)(struct device **out, const struct backend_config *cfg, fathom_err *err);
    void (*close)(struct device *dev);
    void (*caps)(const struct device *dev, struct backend_caps *out);

    /* Makes the weights usable: zero-copy view or repack, never two resident copies. `weights`
     * and the data they point to outlive the device's use; program.weights of every compiled
     * program is this same array. */
    int (*weights_load)(struct device *dev, const struct op_weight *weights, uint32_t n,
                        fathom_err *err);
    void (*weights_free)(struct device *dev);

    /* Memory is committed lazily where the system can. */
    int (*buf_alloc)(struct device *dev, struct buffer **out, uint64_t bytes, enum buf_use use,
                     fathom_err *err);
    void (*buf_free)(struct device *dev, struct buffer *b);
    void (*buf_write)(struct device *dev, struct buffer *b, uint64_t at, const void *p,
                      uint64_t n);
    void (*buf_read)(struct device *dev, const struct buffer *b, uint64_t at, void *p,
                     uint64_t n);
    void (*buf_copy)(struct device *dev, struct buffer *dst, uint64_t to,
                     const struct buffer *src, uint64_t from,
                     uint64_t n); /* regions may be in the same buffer, no overlap */
    void *(*buf_map)(struct device *dev, struct buffer *b); /* host pointer, or NULL */

    /* Can this op (with its weight types) run here? NULL = yes, else a static reason. Asked by
     * compile and by tools, never later. */
    const char *(*supports)(const struct device *dev, const struct program *p,
                            const struct op *op);
    int (*compile)(struct device *dev, struct exec **out, const struct program *p,
                   const struct exec_bind *bind, fathom_err *err);
    void (*exec_free)(struct device *dev, struct exec *e);
    /* Starts one step; the step block is copied. At most one step is in flight per device. */
    int (*submit)(struct device *dev, struct exec *e, const struct step *s, fathom_err *err);
    int (*wait)(struct device *dev, fathom_err *err);
    void (*trace)(struct device *dev, const struct backend_trace *t);
};

/* registry.c: the compiled-in backends in order of preference; NULL when i is past the end. */
const struct backend *backend_at(size_t i);
const struct backend *backend_by_name(const char *name);
/* First available one, best first ("ref" is never chosen by itself). */
const struct backend *backend_default(void);

extern const struct backend backend_ref, backend_cpu;
#ifdef FATHOM_METAL
extern const struct backend backend_metal;
#endif

#endif
