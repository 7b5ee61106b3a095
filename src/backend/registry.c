/* registry.c - the backends of this build, in order of preference. Nothing registers itself: a
 * backend is one line in this table, and a build without it is a build without that line.
 * Read next: backend.h for what an entry is. */
#include <string.h>

#include "backend/backend.h"

/* The reference comes last and is only used when it is asked for by name. */
static const struct backend *const BACKENDS[] = {
#ifdef FATHOM_METAL
    &backend_metal,
#endif
    &backend_cpu,
    &backend_ref,
};

const struct backend *backend_at(size_t i)
{
    return i < sizeof BACKENDS / sizeof BACKENDS[0] ? BACKENDS[i] : NULL;
}

const struct backend *backend_by_name(const char *name)
{
    for (size_t i = 0; backend_at(i); i++) {
        if (strcmp(backend_at(i)->name, name) == 0) {
            return backend_at(i);
        }
    }
    return NULL;
}

const struct backend *backend_default(void)
{
    for (size_t i = 0; backend_at(i); i++) {
        struct backend_info info;
        if (backend_at(i) != &backend_ref && backend_at(i)->probe(&info, NULL) == 0 &&
            info.available) {
            return backend_at(i);
        }
    }
    return NULL;
}
