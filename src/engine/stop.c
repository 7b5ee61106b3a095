/* stop.c - stop strings over a byte stream. Each string has its own matcher (failure links
 * of Knuth, Morris and Pratt), so a byte costs a few comparisons however the stream is cut.
 * Bytes that may still begin a stop string are held: their number is the longest prefix that
 * any matcher has matched. Where several strings end at one byte the longest counts: it
 * began first. Read next: generate.c. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "fathom/fathom.h"

struct matcher {
    char *text;     /* owned, with the failure links behind it in `fail` */
    uint32_t *fail; /* owned: [n] longest proper border of text[0..i] */
    size_t n, at;   /* bytes matched so far, < n */
};

struct fathom_stop {
    struct matcher *m;
    size_t n;
    struct buf held; /* bytes not released: the longest partial match */
    struct buf out;  /* what the last call returned */
    bool done;       /* a string was found */
};

static bool matcher_init(struct matcher *m, const char *text)
{
    m->n = strlen(text);
    m->text = mem_strdup(text);
    m->fail = mem_calloc(m->n, sizeof *m->fail);
    if (!m->text || !m->fail) {
        return false;
    }
    for (size_t i = 1, k = 0; i < m->n; i++) {
        while (k > 0 && text[i] != text[k]) {
            k = m->fail[k - 1];
        }
        k += text[i] == text[k];
        m->fail[i] = (uint32_t)k;
    }
    return true;
}

fathom_stop *fathom_stop_new(const char *const *strings, size_t n)
{
    fathom_stop *st = mem_calloc(1, sizeof *st);
    if (!st) {
        return NULL;
    }
    st->m = mem_calloc(n, sizeof *st->m);
    bool ok = st->m != NULL;
    for (size_t i = 0; i < n && ok; i++) {
        if (strings[i] && strings[i][0]) { /* an empty string never stops */
            ok = matcher_init(&st->m[st->n++], strings[i]);
        }
    }
    if (!ok) {
        fathom_stop_free(st);
        return NULL;
    }
    return st;
}

void fathom_stop_free(fathom_stop *st)
{
    if (!st) {
        return;
    }
    for (size_t i = 0; st->m && i < st->n; i++) {
        mem_free(st->m[i].text);
        mem_free(st->m[i].fail);
    }
    mem_free(st->m);
    buf_free(&st->held);
    buf_free(&st->out);
    mem_free(st);
}

/* Advances all matchers by one byte: longest complete match, else longest partial one. */
static size_t advance(fathom_stop *st, char c, bool *hit)
{
    size_t best = 0, found = 0;
    for (size_t i = 0; i < st->n; i++) {
        struct matcher *m = &st->m[i];
        while (m->at > 0 && m->text[m->at] != c) {
            m->at = m->fail[m->at - 1];
        }
        m->at += m->text[m->at] == c;
        if (m->at == m->n) {
            found = MAX(found, m->n);
            m->at = m->fail[m->n - 1];
        } else {
            best = MAX(best, m->at);
        }
    }
    *hit = found > 0;
    return found ? found : best;
}

const char *fathom_stop_feed(fathom_stop *st, const char *bytes, size_t n, size_t *n_out,
                             bool *hit)
{
    *n_out = 0;
    *hit = st->done;
    buf_clear(&st->out);
    if (st->done) {
        return "";
    }
    buf_add(&st->out, st->held.p, st->held.n);
    buf_add(&st->out, bytes, n);
    size_t before = st->held.n, keep = before, i = 0;
    while (i < n && !st->done) {
        keep = advance(st, bytes[i++], &st->done);
    }
    if (st->out.failed) {
        return NULL;
    }
    *hit = st->done;
    *n_out = before + i - keep; /* the match, or what may become one, stays behind */
    buf_clear(&st->held);
    if (!st->done) {
        buf_add(&st->held, st->out.p + *n_out, keep);
    }
    return st->held.failed ? NULL : st->out.p ? st->out.p : "";
}

const char *fathom_stop_flush(fathom_stop *st, size_t *n_out)
{
    buf_clear(&st->out);
    buf_add_slice(&st->out, buf_slice(&st->held));
    buf_clear(&st->held);
    for (size_t i = 0; i < st->n; i++) {
        st->m[i].at = 0;
    }
    *n_out = st->out.n;
    return buf_cstr(&st->out);
}
