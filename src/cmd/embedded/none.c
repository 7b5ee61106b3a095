/* none.c - a program without an embedded model; see embedded.h. */
#include "cmd/embedded/embedded.h"

const void *embedded_model(size_t *n_bytes)
{
    *n_bytes = 0;
    return NULL;
}
