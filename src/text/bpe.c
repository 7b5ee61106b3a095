/* bpe.c - text to ids: added tokens, pre-tokeniser, byte-level BPE (docs/tokenizer.md, "BPE").
 * Rule of BPE: begin with one symbol a byte, merge the adjacent pair of lowest rank, leftmost
 * first, until no pair is in the table. In this vocabulary the merge of rank r makes id 259 + r
 * (checked at load), so the id that a pair would become is its rank, and symbols are ids. Main
 * idea: three ways for a piece. Most repeat and come from the cache. Short ones keep the rank
 * of each adjacent pair in a small array and scan it. Long ones (a megabyte without a break is
 * one piece) use a linked list and a heap of (rank, position): O(n log n). A heap entry is
 * stale when the pair at its position has changed since; it is dropped when it surfaces.
 * Invariant: the three ways give the same ids; `trusted` only decides whether added_find is
 * asked.
 * Read next: pretok.c, piece_cache.c, added.c. */
#include "text/vocab.h"

#include "base/mem.h"
#include "text/pretok.h"

enum {
    SHORT_MAX = 48, /* bytes; measured: the scan wins up to about 64 */
    HEAP_WAYS = 4,  /* children of a heap entry; 4 is a fifth faster than 2 */
};

void ids_free(struct ids *v)
{
    mem_free(v->p);
    *v = (struct ids){0};
}

static bool ids_reserve(struct ids *v, size_t extra)
{
    if (v->failed || extra > SIZE_MAX / 8 - v->n) {
        v->failed = true;
        return false;
    }
    if (v->n + extra <= v->cap) {
        return true;
    }
    size_t cap = MAX(v->n + extra, MAX((size_t)64, v->cap + v->cap / 2));
    uint32_t *p = mem_realloc(v->p, cap, sizeof *p);
    if (!p) {
        v->failed = true;
        return false;
    }
    v->p = p;
    v->cap = cap;
    return true;
}

void ids_add(struct ids *v, uint32_t id)
{
    if (ids_reserve(v, 1)) {
        v->p[v->n++] = id;
    }
}

void ids_add_all(struct ids *v, const uint32_t *p, size_t n)
{
    if (n > 0 && ids_reserve(v, n)) {
        memcpy(v->p + v->n, p, n * sizeof *p);
        v->n += n;
    }
}

/* What one encode call works with. */
struct encoder {
    const struct tokenizer *t;
    struct cache_lane *lane; /* NULL: no cache */
    struct ids *out;
    struct long_piece *tmp; /* [tmp_cap], for long pieces; owned */
    uint64_t *heap;         /* [2 * tmp_cap] */
    size_t tmp_cap;
};

/* ---- short pieces ---- */

/* Merges sym[0..n), 2 <= n <= SHORT_MAX, in place; returns the new count. */
static size_t merge_short(const struct tokenizer *t, uint32_t *sym, size_t n)
{
    uint32_t rank[SHORT_MAX]; /* rank[i]: of the pair (i, i + 1) */
    for (size_t i = 0; i + 1 < n; i++) {
        rank[i] = pair_find(t, sym[i], sym[i + 1]);
    }
    while (n > 1) {
        size_t at = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            at = rank[i] < rank[at] ? i : at;
        }
        if (rank[at] == NO_ID) {
            break;
        }
        sym[at] = rank[at];
        n--;
        for (size_t i = at + 1; i < n; i++) {
            sym[i] = sym[i + 1];
            rank[i - 1] = rank[i];
        }
        if (at + 1 < n) {
            rank[at] = pair_find(t, sym[at], sym[at + 1]);
        }
        if (at > 0) {
            rank[at - 1] = pair_find(t, sym[at - 1], sym[at]);
        }
    }
    return n;
}

static void encode_short(struct encoder *e, struct slice piece)
{
    uint64_t key[4];
    struct cache_entry *slot = NULL;
    if (e->lane && piece.n <= CACHE_PIECE_MAX) {
        slot = piece_cache_slot(e->lane, piece, key);
        if (memcmp(slot->key, key, sizeof key) == 0) {
            ids_add_all(e->out, slot->ids, slot->n);
            return;
        }
    }
    uint32_t sym[SHORT_MAX];
    for (size_t i = 0; i < piece.n; i++) {
        sym[i] = e->t->byte_id[(unsigned char)piece.p[i]];
    }
    size_t n = merge_short(e->t, sym, piece.n);
    ids_add_all(e->out, sym, n);
    if (slot && n <= CACHE_IDS_MAX) {
        memcpy(slot->key, key, sizeof key);
        slot->n = (uint32_t)n;
        memcpy(slot->ids, sym, n * sizeof *sym);
    }
}

/* ---- long pieces ---- */

struct long_piece { /* a symbol, at the index of its first byte */
    uint32_t sym;
    uint32_t rank; /* of the pair with the next symbol; NO_ID at the end and once merged away */
    uint32_t prev, next;
};

static bool long_reserve(struct encoder *e, size_t n)
{
    if (n <= e->tmp_cap) {
        return true;
    }
    mem_free(e->tmp);
    mem_free(e->heap);
    e->tmp = mem_alloc(n, sizeof *e->tmp);
    e->heap = mem_alloc(n, 2 * sizeof *e->heap);
    e->tmp_cap = e->tmp && e->heap ? n : 0;
    return e->tmp_cap != 0;
}

/* Min-heap of rank << 32 | position: lowest rank first, then leftmost. */
static void sift_down(uint64_t *h, size_t n, size_t i)
{
    uint64_t v = h[i];
    for (;;) {
        size_t c = HEAP_WAYS * i + 1; /* becomes the least child */
        if (c + HEAP_WAYS <= n) {
            size_t a = c + (h[c + 1] < h[c]), b = c + 2 + (h[c + 3] < h[c + 2]);
            c = h[b] < h[a] ? b : a;
        } else {
            for (size_t k = c + 1; k < n; k++) {
                c = h[k] < h[c] ? k : c;
            }
        }
        if (c >= n || h[c] >= v) {
            break;
        }
        h[i] = h[c];
        i = c;
    }
    h[i] = v;
}

static void sift_up(uint64_t *h, size_t i, uint64_t v)
{
    while (i > 0 && h[(i - 1) / HEAP_WAYS] > v) {
        h[i] = h[(i - 1) / HEAP_WAYS];
        i = (i - 1) / HEAP_WAYS;
    }
    h[i] = v;
}

/* Sets the rank of the pair that begins at symbol i and queues it; returns the heap's new size.
 */
static size_t queue_pair(const struct encoder *e, size_t n_heap, uint32_t i)
{
    struct long_piece *s = &e->tmp[i];
    s->rank = s->next == NO_ID ? NO_ID : pair_find(e->t, s->sym, e->tmp[s->next].sym);
    if (s->rank != NO_ID) {
        sift_up(e->heap, n_heap++, (uint64_t)s->rank << 32 | i);
    }
    return n_heap;
}

static size_t long_init(const struct encoder *e, struct slice piece)
{
    struct long_piece *s = e->tmp;
    size_t n = piece.n, n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        s[i].sym = e->t->byte_id[(unsigned char)piece.p[i]];
        s[i].prev = (uint32_t)i - 1; /* the first has no predecessor: NO_ID */
        s[i].next = i + 1 < n ? (uint32_t)i + 1 : NO_ID;
    }
    for (size_t i = 0; i < n; i++) {
        s[i].rank = i + 1 < n ? pair_find(e->t, s[i].sym, s[i + 1].sym) : NO_ID;
        if (s[i].rank != NO_ID) {
            e->heap[n_heap++] = (uint64_t)s[i].rank << 32 | i;
        }
    }
    for (size_t i = (n_heap + HEAP_WAYS - 2) / HEAP_WAYS; i-- > 0;) {
        sift_down(e->heap, n_heap, i);
    }
    return n_heap;
}

static void encode_long(struct encoder *e, struct slice piece)
{
    if (piece.n >= NO_ID || !long_reserve(e, piece.n)) { /* positions are 32 bits wide */
        e->out->failed = true;
        return;
    }
    struct long_piece *s = e->tmp;
    size_t n_heap = long_init(e, piece);
    while (n_heap > 0) {
        uint32_t i = (uint32_t)e->heap[0], rank = (uint32_t)(e->heap[0] >> 32);
        e->heap[0] = e->heap[--n_heap];
        sift_down(e->heap, n_heap, 0);
        if (s[i].rank != rank) {
            continue; /* stale */
        }
        uint32_t gone = s[i].next;
        s[i].sym = rank;
        s[i].next = s[gone].next;
        s[gone].rank = NO_ID;
        if (s[i].next != NO_ID) {
            s[s[i].next].prev = i;
        }
        /* One entry was removed and at most two are added: n - 1 pairs at first and at most n -
         * 1 merges keep the heap below 2 n entries. */
        n_heap = queue_pair(e, n_heap, i);
        if (s[i].prev != NO_ID) {
            n_heap = queue_pair(e, n_heap, s[i].prev);
        }
    }
    for (uint32_t i = 0; i != NO_ID; i = s[i].next) {
        ids_add(e->out, s[i].sym);
    }
}

/* ---- texts ---- */

static void encode_plain(struct encoder *e, const char *p, const char *end)
{
    struct pretok it = {p, end};
    struct slice piece;
    while (pretok_next(&it, &piece)) {
        if (piece.n == 1) {
            ids_add(e->out, e->t->byte_id[(unsigned char)piece.p[0]]);
        } else if (piece.n <= SHORT_MAX) {
            encode_short(e, piece);
        } else {
            encode_long(e, piece);
        }
    }
}

static void encode_trusted(struct encoder *e, const char *p, const char *end)
{
    const struct added_token *a;
    const char *at;
    while ((a = added_find(e->t, p, end, &at)) != NULL) {
        encode_plain(e, p, at);
        ids_add(e->out, a->id);
        p = at + a->text.n;
    }
    encode_plain(e, p, end);
}

/* utf8_valid with a shortcut for the bulk of most texts. */
static bool text_valid(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        uint32_t cp;
        if (n - i >= sizeof eight) {
            memcpy(&eight, s + i, sizeof eight);
            if ((eight & 0x8080808080808080u) == 0) {
                i += sizeof eight;
                continue;
            }
        }
        int len = utf8_decode(s + i, n - i, &cp);
        if (len == 0 || cp == UTF8_BAD) {
            return false;
        }
        i += (size_t)len;
    }
    return true;
}

void tokenizer_encode(const struct tokenizer *t, const char *s, size_t n, bool trusted,
                      struct ids *out)
{
    if (n == 0 || out->failed) {
        return;
    }
    struct buf repaired = {0};
    if (!text_valid(s, n)) {
        buf_add_utf8_lossy(&repaired, s, n);
        if (repaired.failed) {
            out->failed = true;
            buf_free(&repaired);
            return;
        }
        s = repaired.p;
        n = repaired.n;
    }
    struct encoder e = {.t = t, .lane = piece_cache_take(t->cache), .out = out};
    if (trusted) {
        encode_trusted(&e, s, s + n);
    } else {
        encode_plain(&e, s, s + n);
    }
    piece_cache_give(e.lane);
    mem_free(e.tmp);
    mem_free(e.heap);
    buf_free(&repaired);
}
