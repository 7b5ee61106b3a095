/* detok.c - bytes of generated tokens to text that is valid UTF-8 at every moment.
 * A token may end inside a code point. The longest valid prefix is released at once, an
 * incomplete but still possible tail (at most 3 bytes) waits in struct detok, and every maximal
 * invalid subpart becomes one U+FFFD, the same policy as buf_add_utf8_lossy has for whole
 * texts. Invariant: pend[0..n) is always the proper prefix of some well-formed sequence. Read
 * next: docs/tokenizer.md, "Decoding". */
#include "text/text.h"

#define REPLACEMENT "\xEF\xBF\xBD"

/* Completes the held sequence with bytes from the front of s; returns how many it took. */
static size_t finish_pending(struct detok *d, const char *s, size_t n, struct buf *out)
{
    size_t used = 0;
    while (d->n > 0 && used < n) {
        uint32_t cp;
        d->pend[d->n] = (unsigned char)s[used];
        int len = utf8_decode((const char *)d->pend, d->n + 1u, &cp);
        if (len != 0 && cp == UTF8_BAD) { /* s[used] cannot follow: it starts afresh */
            buf_adds(out, REPLACEMENT);
            d->n = 0;
            break;
        }
        used++;
        d->n++;
        if (len != 0) {
            buf_add(out, d->pend, (size_t)len);
            d->n = 0;
        }
    }
    return used;
}

void detok_feed(struct detok *d, const char *bytes, size_t n, struct buf *out)
{
    size_t i = finish_pending(d, bytes, n, out), start = i;
    while (i < n) {
        uint32_t cp;
        int len = utf8_decode(bytes + i, n - i, &cp);
        if (len != 0 && cp != UTF8_BAD) {
            i += (size_t)len;
            continue;
        }
        buf_add(out, bytes + start, i - start);
        if (len == 0) {
            d->n = (uint8_t)(n - i);
            memcpy(d->pend, bytes + i, n - i);
            return;
        }
        buf_adds(out, REPLACEMENT);
        i += (size_t)len;
        start = i;
    }
    if (i > start) {
        buf_add(out, bytes + start, i - start);
    }
}

void detok_flush(struct detok *d, struct buf *out)
{
    if (d->n > 0) {
        buf_adds(out, REPLACEMENT);
        d->n = 0;
    }
}
