/* program.h - a recorded program: the op list of one step, built once per size class T_max by
 * the model (model/forward.c) and executed by backends. Building: program_new, then tensors and
 * ops in order, then program_finish, which finds levels from operand hazards (read after write,
 * write after read, write after write) and plans the arena by liveness: memory is reused only
 * by tensors whose first level is later than the last level of what lay there, so reuse never
 * adds a hazard.
 *
 * Ownership: a program owns its arrays; weights are borrowed (outlive it). Immutable after
 * finish. */
#ifndef OP_PROGRAM_H
#define OP_PROGRAM_H

#include "base/err.h"
#include "base/str.h"
#include "op/op.h"

/* A weight tensor as backends see it: rank <= 3, [n_mat][rows][cols], row-major, in the mapping
 * or in the owner's converted copies. cols = ne[0]. */
struct op_weight {
    const char *name;
    uint32_t type; /* enum qtype */
    uint32_t cols, rows, n_mat;
    uint64_t row_bytes;
    uint64_t bytes;
    const void *data; /* NULL in a shape-only program (plan, explain) */
};

/* Frequencies of one rope class; n = rope dims / 2 (model.md 3). Angle = fp32(pos) * freq
 * rounded to fp32, cos and sin evaluated in double from that. */
enum { ROPE_PLAIN, ROPE_YARN, ROPE_CLASSES, ROPE_MAX = 128 };
struct rope_table {
    uint32_t n;
    float freq[ROPE_MAX];
};

/* Rows of a tensor: how its row count follows from the class. */
enum row_count {
    ROWS_TOK,
    ROWS_OUT,
    ROWS_PAIR /* T*k */,
    ROWS_ONE,
    ROWS_SLOT /* state slots */
};

struct tensor {
    const char *name; /* static */
    int16_t layer;
    uint8_t space, form, rows; /* op_space, op_form, row_count */
    uint32_t cols;
    uint64_t row_bytes;
    uint64_t bytes; /* ARENA, IO: at T_max; STATE, PAGE: of the plane */
    uint64_t offset;
    uint16_t first, last; /* levels of first write and last use */
};

/* Size class and limits of a program. */
struct program_limits {
    uint32_t t_max;   /* rows of every [T] tensor */
    uint32_t out_max; /* logits rows */
    uint32_t seq_max; /* sequences in a step */
    uint32_t n_slots; /* state slots of the pool */
    uint32_t max_ctx; /* longest sequence: scratch of INDEX_SELECT */
    /* Levels by which a backend may move an op when it folds ops together: tensors stay alive so
     * much longer on both sides (backend_caps.live_slack). */
    uint32_t live_slack;
};

struct program {
    struct op *ops;
    uint32_t n_ops, n_levels;
    struct tensor *tensors;
    uint32_t n_tensors;
    const struct op_weight *weights; /* borrowed */
    uint32_t n_weights;
    struct program_limits lim;
    uint64_t arena_bytes, io_bytes;
    uint64_t slot_bytes, page_bytes; /* of the KV pool's state slots and pages */
    uint32_t page_tokens;            /* S */
    struct rope_table rope[ROPE_CLASSES];
    /* IO tensors the host uses; NULL operand space if the program has no head. */
    struct opnd io_logits, io_mask, io_picks, io_picked;
    uint32_t cap_ops, cap_tensors;
};

struct program *program_new(const struct program_limits *lim, fathom_err *err);
void program_free(struct program *p);

/* New ARENA or IO tensor; row_bytes is rounded up to 64. k: slots per token for ROWS_PAIR (else
 * 1). FORM_A8: cols a multiple of 32. Returns an operand for the whole tensor (space NONE after
 * an allocation failure, which program_finish reports). */
struct opnd program_tensor(struct program *p, const char *name, int layer, enum op_space space,
                           enum op_form form, enum row_count rows, uint32_t cols, uint32_t k);
/* A plane of a state slot or page: offset and row bytes from model/layout. */
struct opnd program_plane(struct program *p, const char *name, int layer, enum op_space space,
                          enum op_form form, uint32_t cols, uint64_t offset, uint64_t row_bytes,
                          uint64_t bytes);
/* Columns [col0, col0 + cols) of an F32/I32 operand. */
struct opnd opnd_cols(struct opnd o, uint32_t col0, uint32_t cols);
/* Appends a zeroed op and returns it to be filled; valid until the next call. Never NULL (a
 * scratch op after an allocation failure). */
struct op *program_op(struct program *p, enum op_kind kind, int layer, const char *role);
/* Levels, arena, validation. After an error the program is only good for program_free. */
int program_finish(struct program *p, fathom_err *err);

/* check.c: full validation of a finished program: operand shapes agree with weights and
 * attributes, no overlap of live arena tensors, levels respect hazards, offsets inside their
 * space. */
int program_check(const struct program *p, fathom_err *err);

/* print.c: the listing behind `fathom explain`: one line an op, grouped by level, then a
 * summary. */
struct program_print_options {
    bool operands; /* also print each operand with its place */
    int layer;     /* only this layer; -1 all; -2 one layer of each kind */
};
void program_print(struct buf *out, const struct program *p,
                   const struct program_print_options *opt);

#endif
