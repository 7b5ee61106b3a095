/* exec.h - private to backend/cpu: compiling and running programs, used by cpu.c. Signatures
 * and rules as in struct backend. */
#ifndef CPU_EXEC_H
#define CPU_EXEC_H

#include "backend/cpu/cpu_int.h"

const char *cpu_exec_supports(const struct program *p, const struct op *op);
int cpu_exec_compile(struct device *dev, struct exec **out, const struct program *p,
                     const struct exec_bind *bind, fathom_err *err);
void cpu_exec_free(struct device *dev, struct exec *e);
/* Runs the whole step; the caller is worker 0. */
int cpu_exec_submit(struct device *dev, struct exec *e, const struct step *s, fathom_err *err);

#endif
