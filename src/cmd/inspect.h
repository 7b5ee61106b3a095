/* inspect.h - the full validation behind `fathom inspect --check`. */
#ifndef CMD_INSPECT_H
#define CMD_INSPECT_H

#include <stdbool.h>

struct gguf;

/* Prints one line a check (or one JSON object); EXIT_DONE, or EXIT_INPUT after the first
 * failure of each kind. */
int inspect_check(const struct gguf *g, bool as_json);

#endif
