/* trie.c - see trie.h. Tokens are sorted by bytes; then each adds the nodes that it does not
 * share with the one before it. */
#include "constrain/trie.h"

#include <stdlib.h>

#include "base/mem.h"
#include "text/text.h"

struct entry {
    struct slice s;
    uint32_t id;
    uint8_t clean[TRIE_TEXTS]; /* code points if clean, else 0 */
};

static int by_bytes(const void *pa, const void *pb)
{
    const struct entry *a = pa, *b = pb;
    int c = memcmp(a->s.p, b->s.p, MIN(a->s.n, b->s.n));
    if (c == 0) {
        c = (a->s.n > b->s.n) - (a->s.n < b->s.n);
    }
    return c ? c : (a->id > b->id) - (a->id < b->id);
}

/* Length in code points if s is whole code points (and, for JSON, needs no escape), else 0. */
static uint8_t clean_length(struct slice s, enum trie_text which)
{
    uint32_t n = 0;
    for (size_t i = 0; i < s.n; n++) {
        unsigned char c = (unsigned char)s.p[i];
        uint32_t cp;
        int len = utf8_decode(s.p + i, s.n - i, &cp);
        bool escaped = c < 0x20 || c == '"' || c == '\\';
        if (len == 0 || cp == UTF8_BAD || (which == TRIE_JSON && escaped)) {
            return 0;
        }
        i += (size_t)len;
    }
    return n <= TRIE_CLEAN_MAX ? (uint8_t)n : 0;
}

static size_t shared_prefix(struct slice a, struct slice b)
{
    size_t n = 0, most = MIN(a.n, b.n);
    while (n < most && a.p[n] == b.p[n]) {
        n++;
    }
    return n;
}

static void add_token(struct trie_part *p, const struct entry *e, size_t shared, uint32_t *path)
{
    for (size_t d = shared; d < e->s.n; d++) {
        path[d] = p->n;
        p->node[p->n++] =
            (struct trie_node){TRIE_NONE << 8 | (unsigned char)e->s.p[d], UINT32_MAX};
    }
    struct trie_node *last = &p->node[path[e->s.n - 1]];
    last->token_byte = e->id << 8 | (last->token_byte & 0xFF);
}

static void close_nodes(struct trie_part *p, const uint32_t *path, size_t from, size_t to)
{
    for (size_t d = from; d < to; d++) {
        p->node[path[d]].end = p->n;
    }
}

/* The trie of those of e[0..n), sorted and without doubles, that are not clean for `which`
 * (TRIE_TEXTS: of all). */
static bool build(struct trie_part *p, const struct entry *e, size_t n, enum trie_text which)
{
    uint32_t path[TRIE_DEPTH_MAX];
    struct slice last = {"", 0};
    size_t nodes = 0;
    for (int pass = 0; pass < 2; pass++) {
        last.n = 0;
        for (size_t i = 0; i < n; i++) {
            if (which != TRIE_TEXTS && e[i].clean[which]) {
                continue;
            }
            size_t shared = shared_prefix(last, e[i].s);
            if (pass == 0) {
                nodes += e[i].s.n - shared;
            } else {
                close_nodes(p, path, shared, last.n);
                add_token(p, &e[i], shared, path);
            }
            last = e[i].s;
        }
        if (pass == 0 && (p->node = mem_alloc(nodes, sizeof *p->node)) == NULL) {
            return false;
        }
    }
    close_nodes(p, path, 0, last.n);
    return true;
}

static bool build_clean(struct token_trie *t, const struct entry *e, size_t n,
                        enum trie_text which)
{
    size_t words = (size_t)(TRIE_CLEAN_MAX + 1) * t->n_words;
    uint32_t *m = t->clean[which] = mem_calloc(words, sizeof *m);
    if (!m) {
        return false;
    }
    t->bytes += words * sizeof *m;
    for (size_t i = 0; i < n; i++) {
        uint32_t *row = m + (size_t)e[i].clean[which] * t->n_words;
        if (e[i].clean[which]) {
            row[e[i].id / 32] |= 1u << e[i].id % 32;
        }
    }
    for (size_t i = t->n_words; i < words; i++) { /* "at most k" from "exactly k" */
        m[i] |= m[i - t->n_words];
    }
    return true;
}

/* Takes tokens of equal bytes out of the sorted list; returns what is left. */
static size_t take_doubles(struct token_trie *t, struct entry *e, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (k > 0 && slice_eq(e[k - 1].s, e[i].s)) {
            t->same[2 * t->n_same] = e[k - 1].id;
            t->same[2 * t->n_same++ + 1] = e[i].id;
        } else {
            e[k++] = e[i];
        }
    }
    return k;
}

static size_t collect(struct token_trie *t, struct entry *e)
{
    size_t n = 0;
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        struct slice s = tokenizer_bytes(t->tok, id);
        if (s.n > 0 && s.n <= TRIE_DEPTH_MAX && !tokenizer_is_control(t->tok, id)) {
            e[n++] =
                (struct entry){s, id, {clean_length(s, TRIE_JSON), clean_length(s, TRIE_TEXT)}};
        }
    }
    qsort(e, n, sizeof *e, by_bytes);
    return n;
}

int trie_new(struct token_trie **out, const struct tokenizer *tok, fathom_err *err)
{
    uint32_t n_vocab = tokenizer_n_vocab(tok);
    struct token_trie *t = mem_calloc(1, sizeof *t);
    struct entry *e = mem_alloc(n_vocab, sizeof *e);
    *out = NULL;
    if (t) {
        t->same = mem_alloc(n_vocab, 2 * sizeof *t->same);
    }
    if (!t || !e || !t->same) {
        mem_free(e);
        trie_free(t);
        return err_nomem(err, "the token trie", n_vocab * sizeof *e);
    }
    t->tok = tok;
    t->n_vocab = n_vocab;
    t->n_words = (n_vocab + 31) / 32;
    t->mark = (uint32_t)tokenizer_control(tok, CT_DSML);
    t->eos = (uint32_t)tokenizer_control(tok, CT_EOS);
    t->think_close = (uint32_t)tokenizer_control(tok, CT_THINK_CLOSE);
    size_t n = take_doubles(t, e, collect(t, e));
    bool ok = build(&t->all, e, n, TRIE_TEXTS) && build(&t->rest[TRIE_JSON], e, n, TRIE_JSON) &&
              build(&t->rest[TRIE_TEXT], e, n, TRIE_TEXT) && build_clean(t, e, n, TRIE_JSON) &&
              build_clean(t, e, n, TRIE_TEXT);
    mem_free(e);
    t->bytes += (size_t)(t->all.n + t->rest[0].n + t->rest[1].n) * sizeof *t->all.node +
                (size_t)n_vocab * 2 * sizeof *t->same + sizeof *t;
    if (!ok) {
        trie_free(t);
        return err_nomem(err, "the token trie", n * sizeof *e);
    }
    *out = t;
    return 0;
}

void trie_free(struct token_trie *t)
{
    if (t) {
        mem_free(t->all.node);
        for (int i = 0; i < TRIE_TEXTS; i++) {
            mem_free(t->rest[i].node);
            mem_free(t->clean[i]);
        }
        mem_free(t->same);
        mem_free(t);
    }
}
