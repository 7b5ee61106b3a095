/* mini.c - the mini model of models/mini, converted during the build and placed in read-only
 * data by cmake/embed.cmake; see embedded.h. */
#include "cmd/embedded/embedded.h"

extern const unsigned char fathom_mini_gguf[], fathom_mini_gguf_end[];

const void *embedded_model(size_t *n_bytes)
{
    *n_bytes = (size_t)(fathom_mini_gguf_end - fathom_mini_gguf);
    return fathom_mini_gguf;
}
