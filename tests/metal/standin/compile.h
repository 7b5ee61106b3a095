/* compile.h - Metal source to a library of the emulator. */
#ifndef STANDIN_COMPILE_H
#define STANDIN_COMPILE_H

#include <stdbool.h>

struct emu_library;
/* Translates and compiles the source, or takes the result of an earlier call from the cache
 * folder. NULL with *why (valid until the next call). */
struct emu_library *standin_compile(const char *source, bool fast_math, const char **why);

#endif
