/* verify.h - the check after a conversion: the file that was written, read back by the ordinary
 * reader, against the sources. */
#ifndef FACTORY_VERIFY_H
#define FACTORY_VERIFY_H

#include "factory/plan.h"

/* Opens path as a GGUF file, compares every tensor's record with the plan and samples of its
 * rows with the source, within the bounds of the types' roundings. */
int verify_file(const struct plan *p, const char *path, fathom_err *err);

/* Is `stored`, decoded from this type, what rounding x (n values of a row) can give? Exact for
 * F32, half a step of the type's grid otherwise, for searched types the relative error to
 * expect, weighed by importance (n values; NULL: equal). bad: the first index where it is not. */
bool verify_row(uint32_t type, const float *x, const float *stored, const float *importance,
                size_t n, size_t *bad);

#endif
