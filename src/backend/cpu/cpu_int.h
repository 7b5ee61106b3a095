/* cpu_int.h - private to backend/cpu: the compiled program, what a worker holds while it walks
 * the op list, how work is shared out, and the ops' entry points.
 *
 * An op's run function is called by every worker of the team with the same op. It splits its
 * work into items, and takes items until none is left; results never depend on who took which.
 * Items of one phase are independent of each other and of all other ops of the level; a phase
 * that needs the whole of an earlier one calls worker_barrier between them, on a condition that
 * is the same for all workers (it follows from op and step alone). */
#ifndef CPU_CPU_INT_H
#define CPU_CPU_INT_H

#include <stdatomic.h>

#include "backend/cpu/kern.h"
#include "backend/host/host.h"
#include "base/mem.h"
#include "base/team.h"
#include "op/rows.h"
#include "quant/act.h"

enum {
    CPU_FEW = KERN_FEW,    /* tokens up to which shares are fixed, as in decode */
    CPU_PHASES = 3,        /* phases an op may share out */
    CPU_PACK_TOKENS = 256, /* tokens packed at a time */
    CPU_PACK_BYTES =
        768 << 10,        /* ... and of not more codes than this, if there are 64 tokens */
    CPU_DOWN_ROWS = 1024, /* MOE_DOWN: columns a worker sums up at a time, at most */
    CPU_HC_MAX = 16,
    CPU_T_MAX = 4096,
};

struct device {
    struct cpu_kern kern;
    enum cpu_tier tier;
    struct team *team;
    uint32_t n_workers;
    bool folds; /* the ops of a level run without barriers between them; off: no-folds */
    struct backend_trace trace;
};

struct op_plan {
    uint64_t shared; /* offset of this op's shared scratch */
    uint32_t slot;   /* its place in the level, times CPU_PHASES */
};

/* How far a worker's range of items is taken (share.c). A line each. */
struct share_slot {
    _Alignas(64) atomic_ullong v;
};

struct exec {
    struct device *dev;
    const struct program *p;
    struct host_bind h;
    struct host_step step;
    struct op_plan *plan;    /* [n_ops] */
    atomic_uint *next;       /* [n_ops * CPU_PHASES] next item to be taken */
    struct share_slot *slot; /* [ops of a level * CPU_PHASES][n_workers] */
    uint32_t n_slot;
    uint64_t tag;            /* of this step's first op; never the same in two steps */
    unsigned char *shared;   /* scratch of ops, disjoint within a level */
    unsigned char *private_; /* n_workers times private_bytes */
    uint64_t private_bytes;
    float *angles[ROPE_CLASSES]; /* [t_max][2 * n] of this step, or NULL if unused */
};

struct worker {
    struct exec *e;
    const struct cpu_kern *k;
    const struct step *s;
    uint32_t rank, n;
    uint32_t op;        /* index of the running op */
    unsigned char *mem; /* private scratch */
};

/* ---- sharing work out ---- */
struct share {
    const struct worker *w;
    atomic_uint *next;       /* many tokens: the next item of all */
    struct share_slot *slot; /* few tokens: [n_workers] */
    uint64_t tag;            /* of this phase of this step */
    uint32_t n, n_tried;     /* items; workers whose range is empty */
};
/* n items of phase `phase` of the running op. Many tokens: whoever is free takes the next one.
 * Few: fixed contiguous ranges, so that a worker touches the same weights every step (its
 * caches and its node have them); who is done with his own helps his neighbours. */
struct share share_make(const struct worker *w, uint32_t phase, uint32_t n);
bool share_next(struct share *s, uint32_t *item);
static inline void worker_barrier(const struct worker *w)
{
    team_barrier(w->e->dev->team);
}

/* ---- scratch: the same calls measure it (base NULL) and hand it out ---- */
struct carve {
    unsigned char *base;
    uint64_t used;
};
void *carve_take(struct carve *c, uint64_t n, uint64_t size); /* 64-byte aligned */
static inline void *shared_scratch(const struct worker *w)
{
    return w->e->shared + w->e->plan[w->op].shared;
}

/* ---- rope angles of a token row, or of any position of a sequence ---- */
static inline const float *angles_of_row(const struct worker *w, uint32_t rope, uint32_t t)
{
    return w->e->angles[rope] + (size_t)t * 2 * w->e->p->rope[rope].n;
}

/* ---- outputs ---- */
/* n floats, mostly KERN_ROWS: a copy of constant length needs no call. */
static inline void copy_floats(float *to, const float *from, uint32_t n)
{
    if (n == KERN_ROWS) {
        memcpy(to, from, KERN_ROWS * sizeof *to);
    } else {
        memcpy(to, from, n * sizeof *to);
    }
}
/* n values at column k0 of row `row` to the F32 operand, the A8 operand or both (n and k0
 * multiples of 32 if the A8 form exists). */
void out_put(const struct worker *w, const struct opnd *f32, const struct opnd *a8,
             uint64_t row, uint32_t k0, const float *x, uint32_t n);
/* The same for rows row[0 .. n_tok) (NULL: row0, row0 + 1, ...): x[t][0 .. n). */
void out_block(const struct worker *w, const struct opnd *f32, const struct opnd *a8,
               const uint32_t *row, uint32_t row0, uint32_t n_tok, uint32_t k0,
               float (*x)[KERN_ROWS], uint32_t n);

/* Residual streams and their coefficients, as LINEAR_HC and MOE_DOWN name them. */
struct streams {
    const struct opnd *x, *post, *comb;
    uint32_t hc, d;
};
/* HCpost on columns [d0, d0 + n) of tokens [t0, t0 + n_tok); y: n values a token, y_ld apart. */
void stream_update(const struct worker *w, const struct streams *s, uint32_t t0, uint32_t n_tok,
                   uint32_t d0, uint32_t n, const float *y, size_t y_ld);

/* ---- the ops ---- */
struct cpu_op {
    void (*run)(struct worker *w, const struct op *op);
    /* Scratch of one worker, and of the op as a whole; NULL = none. */
    void (*private_scratch)(const struct exec *e, const struct op *op, struct carve *c);
    void (*shared_scratch)(const struct exec *e, const struct op *op, struct carve *c);
    const char *(*supports)(const struct program *p, const struct op *op);
};
extern const struct cpu_op cpu_embed, cpu_hc_mix, cpu_hc_norm, cpu_hc_head; /* hc.c */
extern const struct cpu_op cpu_linear, cpu_linear_hc, cpu_ffn_up;           /* linear.c */
extern const struct cpu_op cpu_rms_norm, cpu_kv_row, cpu_head_finish,
    cpu_ring_store;                                             /* norm.c */
extern const struct cpu_op cpu_compress;                        /* compress.c */
extern const struct cpu_op cpu_index_select;                    /* index.c */
extern const struct cpu_op cpu_attn;                            /* attn.c */
extern const struct cpu_op cpu_route, cpu_moe_up, cpu_moe_down; /* moe.c */
extern const struct cpu_op cpu_pick;                            /* pick.c */

#endif
