/* added.c - finds added tokens (control strings) in trusted text, leftmost and longest.
 * Main idea: the tokens lie sorted by bytes, so the tokens that share a prefix are one range of
 * the array, and reading a byte of text narrows the range by binary search: a trie without
 * nodes. Positions whose byte begins no added token are skipped by a table. Only bpe.c calls
 * this, and only for text that templates wrote. */
#include "text/vocab.h"

#include <stdlib.h>

#include "base/mem.h"

static int by_bytes(const void *pa, const void *pb)
{
    const struct slice *a = &((const struct added_token *)pa)->text;
    const struct slice *b = &((const struct added_token *)pb)->text;
    int c = memcmp(a->p, b->p, MIN(a->n, b->n));
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

void added_prepare(struct tokenizer *t)
{
    qsort(t->added, t->n_added, sizeof *t->added, by_bytes);
    for (uint32_t i = 0; i < t->n_added; i++) {
        t->added_first[(unsigned char)t->added[i].text.p[0]] = true;
    }
}

/* First index in [lo, hi) whose byte at depth is >= c; all of them are longer than depth. */
static uint32_t lower_bound(const struct added_token *v, uint32_t lo, uint32_t hi, size_t depth,
                            unsigned c)
{
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)v[mid].text.p[depth] < c) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

static const struct added_token *longest_at(const struct tokenizer *t, const char *p,
                                            const char *end)
{
    const struct added_token *v = t->added, *best = NULL;
    uint32_t lo = 0, hi = t->n_added; /* the tokens that begin with p[0..depth) */
    for (size_t depth = 0; lo < hi; depth++) {
        if (v[lo].text.n == depth) { /* the shortest of a range sorts first */
            best = &v[lo++];
        }
        if (p + depth == end) {
            break;
        }
        unsigned c = (unsigned char)p[depth];
        lo = lower_bound(v, lo, hi, depth, c);
        hi = lower_bound(v, lo, hi, depth, c + 1);
    }
    return best;
}

const struct added_token *added_find(const struct tokenizer *t, const char *p, const char *end,
                                     const char **at)
{
    for (; p < end; p++) {
        if (t->added_first[(unsigned char)*p]) {
            const struct added_token *a = longest_at(t, p, end);
            if (a) {
                *at = p;
                return a;
            }
        }
    }
    return NULL;
}
