/* embedded.h - the model inside the program. One of two files in this folder is linked: mini.c
 * into `fathom`, none.c into `fathom-boot`, which exists to convert that model during the build
 * (cmake/products.cmake), and into builds for another machine. */
#ifndef CMD_EMBEDDED_EMBEDDED_H
#define CMD_EMBEDDED_EMBEDDED_H

#include <stddef.h>

/* A GGUF, 4096-aligned, for the life of the process; NULL if this program carries none. */
const void *embedded_model(size_t *n_bytes);

#endif
