/* cache.h - where the program keeps what it may lose: $XDG_CACHE_HOME/fathom, else the
 * platform's place below $HOME. Folders are made for this user alone. */
#ifndef BASE_CACHE_H
#define BASE_CACHE_H

#include "base/str.h"

/* Appends the path of `name` in the cache folder and makes the folder (not `name`); appends
 * nothing if neither variable names an absolute path. Reads the environment: any thread, as long as
 * none changes it. */
void cache_path(struct buf *path, const char *name);

#endif
