/* selftest_ops.h - every kernel of a backend beside the same op of another: a short sequence runs
 * op by op on the reference, which leaves what each op wrote on a tape; then on the backend under
 * test, where after each op its results are compared with the tape and replaced by it. So every
 * op starts from the same inputs, and a difference belongs to the op that is named. */
#ifndef CMD_SELFTEST_OPS_H
#define CMD_SELFTEST_OPS_H

#include "fathom/fathom.h"
#include "op/op.h"

/* Largest difference of a float, relative to the largest value of its row; largest share of codes
 * (8-bit activations, stored rows) that round another way, and of integers that differ. */
#define OPS_FLOAT_LIMIT 1e-4
#define OPS_CODE_LIMIT 0.01

struct op_result {
    uint64_t runs;          /* times the op ran, on each backend */
    double worst;           /* of floats; NaN sticks */
    uint64_t codes, differ; /* codes and integers compared; those that differ */
    bool far;               /* a code is more than one step away */
    double seconds, reference_seconds;
};
static inline bool op_result_ok(const struct op_result *r)
{
    return r->worst <= OPS_FLOAT_LIMIT && !r->far &&
           (double)r->differ <= OPS_CODE_LIMIT * (double)r->codes;
}

struct ops_sequence {
    const uint32_t *ids;
    uint32_t n_ids;
    const uint32_t *steps; /* tokens of each step, 0 ends; their sum is at most n_ids */
};

/* out[kind], zeros for kinds that the model does not have. base: options of both engines but the
 * backend. Errors of opening or running either; FATHOM_EFORMAT if their programs differ. */
int selftest_ops(struct op_result out[OP_KIND_COUNT], const fathom_engine_options *base,
                 const char *reference, const char *backend, const struct ops_sequence *seq,
                 fathom_err *err);

#endif
