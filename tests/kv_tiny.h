/* kv_tiny.h - a small world for tests of the disk store: a geometry of 8 tokens per segment and
 * rows of 16 bytes, rows and frontiers that are a function of the token ids (so that one wrong
 * row is seen), pages, a clock, and the two things an engine does: save a conversation, and
 * restore as much of it as the store has, checking every byte against the function. */
#ifndef TESTS_KV_TINY_H
#define TESTS_KV_TINY_H

#include "kv/store.h"
#include "kv_memfs.h"

/* Under a sanitizer the tests make fewer runs (it is for what a run touches, not for counts). */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TINY_FEWER 16
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TINY_FEWER 16
#endif
#endif
#if !defined(TINY_FEWER)
#define TINY_FEWER 1
#endif

enum { TINY_S = 8, TINY_VOCAB = 1000, TINY_MAX = 512, TINY_PAGES = 128 };

static inline void tiny_geom(struct kv_geom *g)
{
    *g = (struct kv_geom){.page_tokens = TINY_S,
                          .align = 8,
                          .window = 4,
                          .n_layer = 3,
                          .n_vocab = TINY_VOCAB,
                          .layout = KV_LAYOUT_NATIVE,
                          .page_bytes = 128};
    g->layer[0].window_row_bytes = 20;
    g->layer[1] = (struct kv_geom_layer){
        .ratio = 4,
        .plane = {{16, 0}, {4, 32}, {8, 64}, {2, 80}}, /* a hole after the scales */
        .window_row_bytes = 20,
        .group_bytes = 24,
        .slot_bytes = 12};
    g->layer[2] = (struct kv_geom_layer){
        .ratio = 8, .plane = {{16, 96}, {4, 112}}, .window_row_bytes = 20, .slot_bytes = 8};
}

struct tiny {
    struct kv_geom g;
    struct memfs *fs; /* NULL: the real one */
    struct kv_fs table;
    struct kv_clock clock;
    double mono;
    int64_t wall;
    struct kv_store *s;
    struct kv_store_config cfg;
    unsigned char page[TINY_PAGES][128];
    bool page_busy[TINY_PAGES]; /* handed to the store */
    uint32_t n_busy;
    unsigned char state[1024]; /* of the frontier being written */
    bool state_busy;
    uint64_t checked_rows;
};

static inline double tiny_mono(void *user)
{
    return ((struct tiny *)user)->mono;
}
static inline int64_t tiny_wall(void *user)
{
    return ((struct tiny *)user)->wall;
}
static inline void tiny_read(void *user, uint32_t page, uint64_t at, void *dst, uint64_t n)
{
    struct tiny *w = user;
    memcpy(dst, w->page[page] + at, (size_t)n);
}
static inline void tiny_write(void *user, uint32_t page, uint64_t at, const void *src,
                              uint64_t n)
{
    struct tiny *w = user;
    memcpy(w->page[page] + at, src, (size_t)n);
}
static inline void tiny_release(void *user, uint32_t page, void *ref)
{
    struct tiny *w = user;
    if (ref) {
        if (!w->state_busy) {
            abort();
        }
        w->state_busy = false;
        return;
    }
    if (!w->page_busy[page]) {
        abort(); /* released twice, or never given */
    }
    w->page_busy[page] = false;
    w->n_busy--;
}

static inline void tiny_init(struct tiny *w, struct memfs *fs)
{
    memset(w, 0, sizeof *w);
    tiny_geom(&w->g);
    w->wall = 1700000000;
    w->fs = fs;
    w->clock = (struct kv_clock){w, tiny_mono, tiny_wall};
    w->cfg = (struct kv_store_config){.dir = "/kv",
                                      .budget_bytes = (uint64_t)1 << 30,
                                      .geom = &w->g,
                                      .io = {w, tiny_read, tiny_write, tiny_release},
                                      .clock = &w->clock,
                                      .single_threaded = true};
    for (int i = 0; i < KV_ID_BYTES; i++) {
        w->cfg.identity.b[i] = (unsigned char)(i + 1);
    }
    if (fs) {
        fs->wall = &w->wall;
        w->table = memfs_table(fs);
        w->cfg.fs = &w->table;
    }
}

static inline bool tiny_open(struct tiny *w)
{
    fathom_err err = {0};
    return kv_store_open(&w->s, &w->cfg, &err) == 0;
}
static inline void tiny_close(struct tiny *w)
{
    kv_store_close(w->s, 5);
    w->s = NULL;
    if (w->n_busy != 0 || w->state_busy) {
        abort(); /* everything must have come back */
    }
}

/* ---- rows as a function of ids, identity and salt ---- */

static inline void tiny_prefix(const struct tiny *w, const struct kv_id *salt,
                               const uint32_t *ids, uint32_t n, uint64_t h[TINY_MAX + 1])
{
    uint64_t x = 1469598103934665603u;
    for (int i = 0; i < KV_ID_BYTES; i++) {
        x = (x ^ w->cfg.identity.b[i]) * 1099511628211u;
        x = (x ^ (salt ? salt->b[i] : 0u)) * 1099511628211u;
    }
    h[0] = x;
    for (uint32_t i = 0; i < n; i++) {
        h[i + 1] = splitmix64(h[i] ^ ids[i]);
    }
}
static inline unsigned char tiny_byte(uint64_t h, uint32_t layer, uint32_t plane, uint32_t i)
{
    return (unsigned char)(splitmix64(h + layer * 131 + plane * 17 + i / 8) >> (i % 8 * 8));
}

/* Fills or compares the rows of tokens [0, n) of segment k in a page. */
static inline bool tiny_rows(struct tiny *w, const uint64_t *h, uint32_t k, uint32_t n,
                             unsigned char *page, bool compare)
{
    for (uint32_t il = 0; il < w->g.n_layer; il++) {
        const struct kv_geom_layer *y = &w->g.layer[il];
        for (uint32_t r = 0; y->ratio && r < n / y->ratio; r++) {
            for (uint32_t p = 0; p < KV_PLANES; p++) {
                for (uint32_t i = 0; i < y->plane[p].row_bytes; i++) {
                    unsigned char *b =
                        page + y->plane[p].at + (uint64_t)r * y->plane[p].row_bytes + i;
                    unsigned char v = tiny_byte(h[k * TINY_S + (r + 1) * y->ratio], il, p, i);
                    if (compare && *b != v) {
                        return false;
                    }
                    *b = v;
                }
            }
            w->checked_rows += compare;
        }
    }
    return true;
}

static inline bool tiny_state(struct tiny *w, const uint64_t *h, uint32_t pos,
                              unsigned char *state, bool compare)
{
    uint64_t n = kv_geom_state_bytes(&w->g, pos);
    for (uint32_t i = 0; i < n; i++) {
        unsigned char v = tiny_byte(h[pos], 99, 0, i);
        if (compare && state[i] != v) {
            return false;
        }
        state[i] = v;
    }
    return true;
}

static inline uint32_t tiny_take_page(struct tiny *w)
{
    for (uint32_t i = 0; i < TINY_PAGES; i++) {
        if (!w->page_busy[i]) {
            return i;
        }
    }
    abort();
}

/* ---- what an engine does ---- */

/* Offers all full segments of ids[0..n) and, if frontier, the frontier at n; does the background
 * work unless `queue_only`. Returns the reason of the first refusal. */
static inline enum kv_why tiny_save(struct tiny *w, const struct kv_id *salt,
                                    const uint32_t *ids, uint32_t n, bool frontier,
                                    bool queue_only)
{
    uint64_t h[TINY_MAX + 1];
    struct kv_chain c;
    if (kv_chain_init(&c, &w->cfg.identity, salt, TINY_S, NULL) != 0) {
        return KV_WHY_NO_MEMORY;
    }
    tiny_prefix(w, salt, ids, n, h);
    enum kv_why why = KV_WHY_NONE;
    for (uint32_t k = 0; k < n / TINY_S && why == KV_WHY_NONE; k++) {
        if (kv_store_has_segment(w->s, &c, ids, k)) {
            continue;
        }
        uint32_t page = tiny_take_page(w);
        tiny_rows(w, h, k, TINY_S, w->page[page], false);
        w->page_busy[page] = true;
        w->n_busy++;
        why = kv_store_put_segment(w->s, &c, ids, k, page, 100, 100, false);
        if (why != KV_WHY_NONE) {
            w->page_busy[page] = false;
            w->n_busy--;
        }
    }
    if (why == KV_WHY_NONE && frontier && n > 0 && !w->state_busy) {
        uint32_t page = tiny_take_page(w);
        memset(w->page[page], 0xee, sizeof w->page[page]);
        tiny_rows(w, h, n / TINY_S, n % TINY_S, w->page[page], false);
        tiny_state(w, h, n, w->state, false);
        w->state_busy = true;
        why = kv_store_put_frontier(w->s, &c, ids, n, w->state, w, page, 100);
        if (why != KV_WHY_NONE) {
            w->state_busy = false;
        }
        memset(w->page[page], 0xdd, sizeof w->page[page]); /* read during the call only */
    }
    kv_chain_fini(&c);
    if (!queue_only) {
        kv_store_flush(w->s, 10);
        kv_store_poll(w->s);
    }
    return why;
}

struct tiny_got {
    uint32_t n_segments;   /* restored and right */
    uint32_t frontier_pos; /* restored and right, 0: none */
    uint32_t found;        /* segments that the index promised */
    enum kv_why why;       /* of the find */
    enum kv_why load_why;
    bool wrong; /* a byte was not what it must be */
};

/* Finds and restores what is stored of ids[0..n), and checks it. */
static inline struct tiny_got tiny_restore(struct tiny *w, const struct kv_id *salt,
                                           const uint32_t *ids, uint32_t n)
{
    struct tiny_got got = {0};
    uint64_t h[TINY_MAX + 1];
    unsigned char state[1024];
    uint32_t pages[TINY_MAX / TINY_S + 1], n_pages = 0;
    struct kv_chain c;
    struct kv_hit hit;
    if (kv_chain_init(&c, &w->cfg.identity, salt, TINY_S, NULL) != 0) {
        return got;
    }
    tiny_prefix(w, salt, ids, n, h);
    kv_store_find(w->s, &c, ids, n, &hit);
    got.found = hit.n_segments;
    got.why = hit.why;
    for (uint32_t i = 0; i < TINY_PAGES && n_pages <= hit.n_segments; i++) {
        if (!w->page_busy[i]) {
            memset(w->page[i], 0xcc, sizeof w->page[i]);
            pages[n_pages++] = i;
        }
    }
    struct kv_load_request req = {.hit = &hit,
                                  .ids = ids,
                                  .first = 0,
                                  .end = hit.n_segments,
                                  .pages = pages,
                                  .frontier = hit.frontier_pos > 0,
                                  .tail_page = pages[n_pages - 1],
                                  .state = state};
    memset(state, 0xcc, sizeof state);
    kv_store_touch(w->s, &hit, true);
    struct kv_load *l = kv_load_start(w->s, &c, &req);
    if (l) {
        struct kv_load_result res;
        kv_load_finish(l, -1, &res);
        got.load_why = res.why;
        got.n_segments = res.end;
        for (uint32_t k = 0; k < res.end; k++) {
            got.wrong |= !tiny_rows(w, h, k, TINY_S, w->page[pages[k]], true);
        }
        if (res.frontier && hit.frontier_pos / TINY_S <= res.end) {
            uint32_t pos = hit.frontier_pos;
            got.frontier_pos = pos;
            got.wrong |= !tiny_state(w, h, pos, state, true);
            got.wrong |=
                pos / TINY_S == hit.n_segments &&
                !tiny_rows(w, h, pos / TINY_S, pos % TINY_S, w->page[req.tail_page], true);
        }
    }
    kv_hit_release(w->s, &hit);
    kv_chain_fini(&c);
    kv_store_work(w->s);
    return got;
}

static inline void tiny_ids(struct rng *r, uint32_t *ids, uint32_t from, uint32_t n)
{
    for (uint32_t i = from; i < n; i++) {
        ids[i] = rng_below(r, TINY_VOCAB);
    }
}

#endif
