/* cache.c - see cache.h. */
#include "base/cache.h"

#include <stdlib.h>
#include <sys/stat.h>

void cache_path(struct buf *path, const char *name)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
#ifdef __APPLE__
    const char *below = "Library/Caches";
#else
    const char *below = ".cache";
#endif
    if (xdg && xdg[0] == '/') {
        buf_adds(path, xdg);
    } else if (home && home[0] == '/') {
        buf_addf(path, "%s/%s", home, below);
    } else {
        return;
    }
    (void)mkdir(buf_cstr(path), 0700); /* may exist */
    buf_adds(path, "/fathom");
    (void)mkdir(buf_cstr(path), 0700);
    buf_addf(path, "/%s", name);
}
