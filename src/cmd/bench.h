/* bench.h - `fathom bench`: what its files share. bench.c chooses; bench_machine.c measures
 * what the machine can do at most; bench_kernels.c the products of the CPU backend against
 * that; bench_model.c whole steps of a model; bench_bytes.c counts what a step has to read;
 * bench_report.c prints. */
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

/* ---- kernels ---- */
int bench_kernels(const struct cli *o);

/* ---- model ---- */

enum { BENCH_KINDS = 8, BENCH_ROWS = 16 };

/* Layers of one ratio. */
struct bench_kind {
    uint32_t ratio, n_layer;
    uint32_t n_full;     /* layers of this kind in the whole model, if this is a cut of it */
    uint64_t read_bytes; /* per decoded token, all layers of the kind */
    double decode_seconds, prefill_seconds; /* per token, all layers of the kind */
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
    double head_decode_seconds, head_prefill_seconds; /* embedding and head */
    uint64_t head_read_bytes;
    double op_seconds[OP_KIND_COUNT];        /* of a decode step */
    uint64_t op_bytes[OP_KIND_COUNT];        /* that it reads */
    double prompt_op_seconds[OP_KIND_COUNT]; /* per prompt token */
    double product_seconds; /* per prompt token, in ops that multiply by weights */
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
    double product_flop;        /* per prompt token: weight products of all layers */
    struct bench_row row[BENCH_ROWS];
    uint32_t n_row;
};

int bench_model(struct cli *o);

/* What a decode step at position `pos` has to read by the recorded program: every matrix once,
 * of experts the ones used, of tables one row, and the cache rows it attends to. layer -1:
 * embedding and head. */
uint64_t bench_layer_bytes(const struct program *p, int layer, uint32_t pos);
/* The same by kind of op. */
void bench_op_bytes(const struct program *p, uint32_t pos, uint64_t bytes[OP_KIND_COUNT]);
/* Multiplications and additions by the layers' matrices for one token, as counted for experts
 * above. */
double bench_product_flop(const struct program *p);

/* Output as asked by --csv and --json: head, a row as soon as it is known, end. */
void bench_report_begin(const struct cli *o, const struct bench_result *r);
void bench_report_row(const struct cli *o, const struct bench_result *r,
                      const struct bench_row *row);
int bench_report_end(const struct cli *o, const struct bench_result *r);

#endif
