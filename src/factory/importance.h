/* importance.h - which tensors of a conversion take importance from a matrix (imatrix.h), and
 * what a user should know about those that get none. */
#ifndef FACTORY_IMPORTANCE_H
#define FACTORY_IMPORTANCE_H

#include "factory/plan.h"

struct gguf_writer;

/* Opens opt->imatrix, if any, and binds every tensor whose type is searched by weighted error;
 * the others ignore importance. With opt->imatrix_strict one that has none is FATHOM_EFORMAT and
 * is named. Entries of another model's size are FATHOM_EFORMAT. */
int importance_bind(struct plan *p, const struct convert_options *opt, fathom_err *err);
/* One line to opt->report per class of tensors: how many have importance, how many experts were
 * chosen rarely or never, and what those without an entry get. */
void importance_report(const struct plan *p, const struct convert_options *opt);
/* Keys that name the matrix in the file: quantize.imatrix.* as other writers, and digest and
 * shrinkage. Nothing without one. */
void importance_meta(const struct plan *p, struct gguf_writer *w);

#endif
