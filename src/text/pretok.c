/* pretok.c - splits text into the pieces that BPE works on (docs/tokenizer.md,
 * "Pre-tokenizer"). The release describes the split by three regular expressions, each applied
 * to the pieces of the one before: (1) numbers in groups of three, (2) runs of CJK ideographs
 * and kana, (3) an alternation (a)..(f) of words, punctuation and white space. Main idea: no
 * expression looks behind, so the class of the code point at the current position says which
 * stage owns it, and every alternative is a forward scan. A segment of stages 1 and 2 is an end
 * of string for stage 3: class_in() reports CLASS_END there, and the scans need not know why.
 * Backtracking of the expressions reduces to remembering one position (blank_end). Invariants:
 * pieces are adjacent, never empty and cover the text; invalid bytes, which callers have
 * replaced already, count as CLASS_OTHER. Nothing depends on NUL termination.
 * Read next: bpe.c. */
#include "text/pretok.h"

#include "text/classes.h"
#include "text/text.h"

enum { CLASS_END = 7 }; /* beyond the text or the segment */

/* Class and CJK flag of the code point at p < end; *len is its length in bytes. */
static inline unsigned class_at(const char *p, const char *end, int *len)
{
    unsigned char c = (unsigned char)*p;
    if (c < 0x80) {
        *len = 1;
        return char_class(c);
    }
    uint32_t cp;
    *len = utf8_decode(p, (size_t)(end - p), &cp);
    if (*len == 0) {
        *len = (int)(end - p);
    }
    return cp == UTF8_BAD ? CLASS_OTHER : char_class(cp);
}

/* The same inside a stage 3 segment whose CJK flag is seg. */
static inline unsigned class_in(const char *p, const char *end, unsigned seg, int *len)
{
    *len = 0;
    if (p == end) {
        return CLASS_END;
    }
    unsigned k = class_at(p, end, len);
    return k == CLASS_N || (k & CLASS_CJK) != seg ? (unsigned)CLASS_END : k & CLASS_MASK;
}

static inline bool ascii_letter(char c)
{
    return (unsigned char)((c | 32) - 'a') < 26;
}

/* Stage 1: \p{N}{1,3} */
static const char *number_end(const char *p, const char *end)
{
    int len;
    for (int i = 0; i < 3 && p < end && class_at(p, end, &len) == CLASS_N; i++) {
        p += len;
    }
    return p;
}

/* [\p{L}\p{M}]* */
static const char *word_end(const char *p, const char *end, unsigned seg)
{
    for (;;) {
        int len;
        if (seg == 0) {
            while (p < end && ascii_letter(*p)) {
                p++;
            }
        }
        if (class_in(p, end, seg, &len) != CLASS_LM) {
            return p;
        }
        p += len;
    }
}

/* [\p{P}\p{S}]*[\r\n]* */
static const char *punct_end(const char *p, const char *end, unsigned seg)
{
    int len;
    while (class_in(p, end, seg, &len) == CLASS_PS) {
        p += len;
    }
    while (class_in(p, end, seg, &len) == CLASS_NL) {
        p += len;
    }
    return p;
}

/* (d) \s*[\r\n]+ ends behind the last CR or LF of the run; (e) \s+(?!\S) is a run up to the end
 * of the segment, or all but its last character; (f) \s+ is what is left: one character. */
static const char *blank_end(const char *p, const char *end, unsigned seg)
{
    const char *start = p, *last = p, *after_nl = NULL;
    for (;;) {
        int len;
        unsigned k = class_in(p, end, seg, &len);
        if (k != CLASS_WS && k != CLASS_NL) {
            if (after_nl) {
                return after_nl;
            }
            return k == CLASS_END || last == start ? p : last;
        }
        last = p;
        p += len;
        if (k == CLASS_NL) {
            after_nl = p;
        }
    }
}

/* Characters that no alternative matches, up to the one that (b) joins to following letters. */
static const char *gap_end(const char *p, const char *end, unsigned seg)
{
    int len, next_len;
    while (class_in(p, end, seg, &len) == CLASS_OTHER) {
        if (class_in(p + len, end, seg, &next_len) == CLASS_LM) {
            break;
        }
        p += len;
    }
    return p;
}

static const char *piece_end(const char *p, const char *end)
{
    int len, next_len;
    unsigned k = class_at(p, end, &len);
    if (k == CLASS_N) {
        return number_end(p, end);
    }
    unsigned seg = k & CLASS_CJK;
    k &= CLASS_MASK;
    const char *next = p + len;
    unsigned next_k = class_in(next, end, seg, &next_len);
    switch (k) {
    case CLASS_LM: return word_end(p, end, seg);
    case CLASS_PS:
        if (len == 1 && next < end && ascii_letter(*next)) { /* (a) */
            do {
                next++;
            } while (next < end && ascii_letter(*next));
            return next;
        }
        return punct_end(p, end, seg); /* (c) */
    case CLASS_NL: return blank_end(p, end, seg);
    default:                      /* CLASS_WS, CLASS_OTHER */
        if (next_k == CLASS_LM) { /* (b) with its optional first character */
            return word_end(next, end, seg);
        }
        if (*p == ' ' && next_k == CLASS_PS) { /* (c) with its optional space */
            return punct_end(next, end, seg);
        }
        return k == CLASS_WS ? blank_end(p, end, seg) : gap_end(p, end, seg);
    }
}

bool pretok_next(struct pretok *s, struct slice *piece)
{
    if (s->p == s->end) {
        return false;
    }
    const char *to = piece_end(s->p, s->end);
    *piece = (struct slice){s->p, (size_t)(to - s->p)};
    s->p = to;
    return true;
}

void pretok_split(const char *s, size_t n, void (*fn)(void *user, const char *p, size_t n),
                  void *user)
{
    if (n == 0) {
        return;
    }
    struct pretok it = {s, s + n};
    struct slice piece;
    while (pretok_next(&it, &piece)) {
        fn(user, piece.p, piece.n);
    }
}
