/* pretok.h - iterator form of the pre-tokeniser (text.h has the callback form).
 * Thread rule: a struct pretok belongs to one thread; the text must outlive it. */
#ifndef TEXT_PRETOK_H
#define TEXT_PRETOK_H

#include "base/str.h"

struct pretok {
    const char *p, *end; /* what is left of the text */
};

/* Sets *piece to the next piece (never empty); false at the end of the text. Pieces are
 * adjacent and cover the text. O(piece + one piece of lookahead), so linear over a text. */
bool pretok_next(struct pretok *s, struct slice *piece);

#endif
