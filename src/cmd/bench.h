/* bench.h - `fathom bench`: what its files share. bench.c chooses; bench_machine.c measures
 * what the machine can do at most; bench_kernels.c the products of the CPU backend against
 * that; bench_model.c a model at its contexts, by the steps of bench_steps.c; bench_turn.c
 * compares contexts that were measured in turn; bench_products.c the weight products of a prompt
 * against the arithmetic of the same moments; bench_bytes.c counts what a step has to read and
 * to multiply; bench_report.c prints. */
#ifndef CMD_BENCH_H
#define CMD_BENCH_H

#include "backend/cpu/peak.h"
#include "base/team.h"
#include "cmd/cmd.h"
#include "cmd/model.h"
#include "cmd/progress.h"
#include "engine/engine.h"

/* ---- machine ---- */

/* A team that reads a block of memory larger than all caches. */
struct bench_reader {
    struct team *team;  /* owned */
    unsigned char *p;   /* 64-byte aligned */
    unsigned char *own; /* p, if the reader has allocated it */
    size_t bytes;
    struct cpu_peak peak;
    uint32_t streams;
    uint64_t rounds[2]; /* of a pass of the int8 and the F32 loop, once they were measured */
    uint64_t keep[TEAM_MAX];
};
/* Bytes of a working set that streams from memory: several times the last-level cache. */
size_t bench_stream_bytes(void);
const char *bench_cpu_name(void); /* as the system reports it; static buffer */
/* Over a borrowed block, or over one of its own of bench_stream_bytes. */
int bench_reader_open(struct bench_reader *r, const void *p, size_t bytes, uint32_t threads,
                      fathom_err *err);
int bench_reader_new(struct bench_reader *r, uint32_t threads, fathom_err *err);
void bench_reader_close(struct bench_reader *r);
/* One pass over the block; GB/s. Each worker reads its part as this many streams in turn: 1 is
 * the plain read loop, several keep more of the memory's prefetchers busy. */
enum { BENCH_PLAIN = 1, BENCH_STREAMS = 4 };
double bench_read_pass(struct bench_reader *r, uint32_t streams);
/* Best rates of the register-only loops on all workers, in 1e9 operations per second. */
void bench_peaks(struct bench_reader *r, double *int8_gops, double *f32_gflops);
/* The rates of this moment: one pass of a few milliseconds each. */
void bench_loop_pass(struct bench_reader *r, double *int8_gops, double *f32_gflops);

/* ---- kernels ---- */
int bench_kernels(const struct cli *o);

/* ---- model ---- */

enum { BENCH_KINDS = 8, BENCH_ROWS = 16 };

/* Layers of one ratio. */
struct bench_kind {
    uint32_t ratio, n_layer;
    uint32_t n_full;     /* layers of this kind in the whole model, if this is a cut of it */
    uint64_t read_bytes; /* per decoded token, all layers of the kind */
};

/* Seconds of a token, and what of them falls on embedding and head and on all layers of each of
 * the row's kinds. */
struct bench_split {
    double step, head, kind[BENCH_KINDS];
};

/* Products by matrices of block formats (with 8-bit activations), which 8-bit dot instructions
 * can do, and by F16, BF16 and F32 matrices, which they cannot. */
enum { BENCH_BLOCK, BENCH_FLOAT };
/* The weight products of a prompt, or of one kind of op. An op that has matrices of both sorts
 * has its time divided as the loops would need it. */
struct bench_products {
    double flop[2], seconds[2];
    double loop_flop[2]; /* of the int8 loop, of the F32 loop, in those seconds */
    double int8_ops;     /* of the int8 loop in all the seconds */
};
/* Collects them while traced steps run. The register-only loops run before and after every tenth
 * of a second of ops, on as many threads; the mean of the two is the rate in between. */
struct bench_meter {
    struct bench_reader *reader;
    const struct program *program;
    struct bench_products op[OP_KIND_COUNT];
    double gops[2];      /* of the last pass of the loops: int8, F32 */
    double loop_seconds; /* that the passes took, none of them in an op's time */
    /* since that pass: */
    double seconds;
    uint32_t n;
    struct bench_meter_op {
        enum op_kind kind;
        double flop[2], seconds;
    } last[32];
};
void bench_meter_begin(struct bench_meter *m, struct bench_reader *r, const struct program *p);
/* An op that took `seconds` for n_tok tokens. */
void bench_meter_op(struct bench_meter *m, const struct op *op, uint32_t n_tok, double seconds);
void bench_meter_end(struct bench_meter *m); /* the op array is complete */
/* a += b. */
void bench_products_add(struct bench_products *a, const struct bench_products *b);

struct bench_spread {
    double q1, median, q3;
    double lo, hi; /* 95 % interval of the median; zeros below 6 values */
};
/* A context that was measured in turn with others: the quotients of its times by those at the
 * first context in the same round. Of the first itself all are 1. */
struct bench_turn {
    uint32_t n_round; /* 0: not in turn */
    uint32_t base_ctx;
    const struct bench_split *round; /* [n_round], in bench_result.round */
    struct bench_spread step, head, kind[BENCH_KINDS];
    struct bench_spread full; /* extrapolated to all layers; zeros: not possible */
};

/* One measured place. Speeds are 0 where nothing was measured. */
struct bench_row {
    uint32_t ctx, n_prefill, n_gen;
    double prefill_tps, gen_tps, gen_best_tps;
    uint64_t kv_bytes;   /* pages and state slot in use */
    uint64_t read_bytes; /* per decoded token: weights and cache rows */
    double read_gbs;     /* what the machine reads, mean of passes between the steps */
    double best_gbs;     /* best pass */
    double share;        /* of read_gbs */
    bool filled;         /* the cache holds random rows: decode at depth without its prefill */
    struct bench_kind kind[BENCH_KINDS];
    uint32_t n_kind;
    struct bench_split decode, prefill; /* means */
    struct bench_turn turn;
    uint64_t head_read_bytes;
    double op_seconds[OP_KIND_COUNT];              /* of a decode step */
    uint64_t op_bytes[OP_KIND_COUNT];              /* that it reads */
    double prompt_op_seconds[OP_KIND_COUNT];       /* per prompt token */
    struct bench_products products[OP_KIND_COUNT]; /* of the last chunk of the prompt */
    /* Extrapolated to all layers; 0: not possible. */
    double full_gen_tps, full_prefill_tps;
    uint64_t full_read_bytes;
};

struct bench_result {
    const char *name, *backend, *device;
    const char *cut_of; /* shape this model is a random cut of, or NULL */
    uint32_t n_layer, n_full_layer, threads, chunk;
    uint64_t weight_bytes;
    double read_gbs, int8_gops; /* best measured in this run, with as many threads */
    uint32_t n_ctx;             /* asked for */
    bool in_turn;
    char alone[256]; /* why the contexts were not measured in turn */
    struct bench_row row[BENCH_ROWS];
    uint32_t n_row;
    struct bench_split *round; /* owned: of the rows that were measured in turn */
};

int bench_model(struct cli *o);

/* What a token would take if every kind had as many layers as in the whole model; *n_layer
 * (may be NULL): how many those are, fewer than the model has if a kind is missing here. */
double bench_full_seconds(const struct bench_row *row, const struct bench_split *s,
                          uint32_t *n_layer);
/* Which of n contexts has step i of round r: every second round is the one before it reversed,
 * and every two rounds another context begins. */
uint32_t bench_turn_place(uint32_t r, uint32_t i, uint32_t n);
/* Fills in row.turn of all rows, from the rounds: n_round of the first row, then of the next.
 * FATHOM_ENOMEM. */
int bench_turn_rows(struct bench_result *r, uint32_t n_round, fathom_err *err);

/* What a decode step at position `pos` has to read by the recorded program: every matrix once,
 * of experts the ones used, of tables one row, and the cache rows it attends to. layer -1:
 * embedding and head. */
uint64_t bench_layer_bytes(const struct program *p, int layer, uint32_t pos);
/* The same by kind of op. */
void bench_op_bytes(const struct program *p, uint32_t pos, uint64_t bytes[OP_KIND_COUNT]);
/* Multiplications and additions by an op's matrices for one token, as counted for experts above:
 * of block formats, of floats. */
void bench_op_flop(const struct program *p, const struct op *op, double flop[2]);

/* Output as asked by --csv and --json: head, a row as soon as it is known, end. */
void bench_report_begin(const struct cli *o, const struct bench_result *r);
void bench_report_row(const struct cli *o, const struct bench_result *r,
                      const struct bench_row *row);
int bench_report_end(const struct cli *o, const struct bench_result *r);

#endif
