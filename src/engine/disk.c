/* disk.c - sessions and the disk store. Writing: full pages are offered as soon as they are
 * full, frontiers when a conversation ends, is replaced or saved; the store decides what is worth
 * it and does the rest in the background. The page stays in the pool, with one reference for the
 * writer, until the store releases it. Reading: files that continue what RAM knows are loaded
 * into pages of the session's own reservation, checked, and only then become part of it; a load
 * that fails leaves the session as it was before and is a miss. Read next: kv/store.h, reuse.c.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine_int.h"

enum { DISK_READERS = 4, DISK_SAVE_MS = 500 };
/* Of one core: enough for some 10 MB/s of pages, where a CPU's prefill makes 1 MB/s. */
static const double writer_share = 0.01;

/* ---- page access (any thread; kv/store.h) ---- */

static void page_read(void *user, uint32_t page, uint64_t at, void *dst, uint64_t n)
{
    const struct kv_pool *p = &((fathom_engine *)user)->pool;
    p->be->buf_read(p->dev, p->page, page * p->layout->page_bytes + at, dst, n);
}

static void page_write(void *user, uint32_t page, uint64_t at, const void *src, uint64_t n)
{
    const struct kv_pool *p = &((fathom_engine *)user)->pool;
    p->be->buf_write(p->dev, p->page, page * p->layout->page_bytes + at, src, n);
}

static void page_release(void *user, uint32_t page, void *ref)
{
    fathom_engine *e = user;
    if (ref) {
        frontier_drop(ref);
    } else {
        pool_page_drop(&e->pool, page);
    }
}

/* ---- life ---- */

static bool save_always(const fathom_engine_options *o)
{
    return o->kv_save_ms < 0 || str_list_has(o->debug, "kv-save-all");
}

static int open_store(fathom_engine *e, const fathom_engine_options *o, fathom_err *err)
{
    struct kv_geom *g = mem_alloc(1, sizeof *g);
    if (!g) {
        return err_nomem(err, "disk store", sizeof *g);
    }
    int rc = kv_geom_from_layout(g, &e->layout, e->shape.n_vocab, err);
    rc = rc ? rc : engine_identity(e, o->act_f32, g, &e->identity, err);
    if (rc == 0) {
        uint32_t ms = o->kv_save_ms > 0 ? (uint32_t)o->kv_save_ms : DISK_SAVE_MS;
        uint64_t total, available;
        memory_info(&total, &available);
        struct kv_store_config cfg = {
            .dir = o->kv_dir,
            .budget_bytes = o->kv_disk_bytes,
            .identity = e->identity,
            .geom = g,
            .io = {.user = e, .read = page_read, .write = page_write, .release = page_release},
            .min_cost_ms = save_always(o) ? 0 : ms,
            .n_readers = DISK_READERS,
            .writer_share = e->caps.host_visible ? writer_share : 0,
            .single_threaded = str_list_has(o->debug, "kv-single"),
            /* Weights that fill the page cache must not have to make room for these files. */
            .direct_io = !o->model_data && e->weights.bytes > total / 2};
        rc = kv_store_open(&e->store, &cfg, err);
    }
    mem_free(g);
    return rc;
}

int disk_open(fathom_engine *e, const fathom_engine_options *o, fathom_err *err)
{
    if (!o->kv_dir || !e->tree.pool) {
        return 0;
    }
    e->disk_min_tokens = save_always(o) ? 0 : DISK_MIN_TOKENS;
    e->flush_seconds = o->kv_flush_seconds != 0 ? o->kv_flush_seconds : 5;
    fathom_err own = {0};
    int rc = open_store(e, o, &own);
    if (rc == FATHOM_ENOMEM) {
        return err_set(err, rc, "%s", own.msg);
    }
    if (rc != 0) { /* rows that cannot be stored: the model runs without */
        e->store = NULL;
        snprintf(e->store_off, sizeof e->store_off, "%.*s", (int)sizeof e->store_off - 1,
                 own.msg);
        log_warn("no disk store: %s", own.msg);
    }
    return 0;
}

void disk_close(fathom_engine *e)
{
    kv_store_close(e->store, MAX(e->flush_seconds, 0.0));
    e->store = NULL;
}

bool disk_give_up(fathom_engine *e, uint32_t pages)
{
    if (!e->store) {
        return false;
    }
    if (kv_store_give_up(e->store, pages) > 0) {
        return true;
    }
    kv_store_flush(e->store, 1.0); /* the one that is being written */
    return kv_store_poll(e->store) > 0;
}

uint64_t disk_held_bytes(const fathom_engine *e)
{
    struct kv_store_stats s = {0};
    if (e->store) {
        kv_store_get_stats(e->store, &s);
    }
    return s.queued_bytes;
}

bool fathom_engine_kv_flush(fathom_engine *e, double max_seconds)
{
    bool done = !e->store || kv_store_flush(e->store, max_seconds);
    if (e->store) {
        kv_store_poll(e->store);
    }
    return done;
}

/* ---- writing ---- */

static bool stores(const fathom_session *s)
{
    return s->e->store && session_shares(s) && !s->no_store;
}

/* What computing n tokens would take. Without a measurement: worth writing. */
static uint32_t cost_ms(const fathom_engine *e, uint32_t n)
{
    double ms = e->tok_seconds > 0 ? n * e->tok_seconds * 1e3 : 1e6;
    return ms < 1e9 ? (uint32_t)ms : 1000000000u;
}

void disk_put_pages(fathom_session *s)
{
    fathom_engine *e = s->e;
    uint32_t size = e->layout.page_tokens;
    if (!stores(s) || s->n_put >= s->n_pub || s->n_pub * size < e->disk_min_tokens) {
        return;
    }
    struct tree_node **path = e->reuse.path, *at = s->node;
    uint32_t saves = cost_ms(e, s->n_pub * size); /* the pages of a long prompt go together */
    for (uint32_t k = s->n_pub; k-- > 0; at = at->parent) {
        path[k] = at;
    }
    while (s->n_put < s->n_pub) {
        uint32_t k = s->n_put, page = s->kv.pages[k];
        pool_page_ref(&e->pool, page);
        enum kv_why why = kv_store_put_segment(e->store, &s->chain, s->ids, k, page,
                                               cost_ms(e, size), saves, path[k]->n_hit > 0);
        if (why != KV_WHY_NONE) {
            pool_page_drop(&e->pool, page);
            break; /* what lies behind needs this one */
        }
        s->n_put++;
    }
}

static void put_front(fathom_session *s, struct frontier *f)
{
    fathom_engine *e = s->e;
    uint32_t size = e->layout.page_tokens, page_at = f->pos - f->pos % size;
    uint32_t page = f->pos > page_at ? s->kv.pages[f->pos / size] : 0;
    uint32_t start = layout_rerun_start(&e->layout, page_at); /* the segments' rows remain */
    if (f->pos < e->disk_min_tokens) {
        return;
    }
    frontier_ref(f);
    if (kv_store_put_frontier(e->store, &s->chain, s->ids, f->pos, f->data, f, page,
                              cost_ms(e, f->pos - start)) != KV_WHY_NONE) {
        frontier_drop(f);
    }
}

void disk_put_fronts(fathom_session *s)
{
    if (!stores(s)) {
        return;
    }
    for (uint32_t i = 0; i < s->n_front; i++) {
        if (i == 0 || i + 2 >= s->n_front) {
            put_front(s, s->front[i]);
        }
    }
}

/* ---- reading ---- */

/* One attempt to continue a session from files. */
struct extend {
    fathom_session *s;
    struct kv_hit hit;
    uint32_t n, rows, seg_end; /* target; tokens that RAM has; end of the stored segments */
    uint32_t keep;             /* tokens that would be known */
    bool use_front;            /* the stored frontier would help */
    uint32_t first, n_pages;   /* pages taken: first .. first + n_pages - 1 of the sequence */
    uint32_t *pages;
    uint32_t scratch; /* page for tail rows that RAM has already; valid if has_scratch */
    bool has_scratch;
    struct frontier *front;
    uint64_t staging;
    double gain; /* seconds of computing that it saves; 0: not known */
};

/* Where computing would begin with `keep` known tokens and these frontiers. */
static uint32_t begin_at(const fathom_session *s, uint32_t keep, uint32_t more_front)
{
    uint32_t from = layout_rerun_start(&s->e->layout, keep);
    for (uint32_t i = 0; i < s->n_front; i++) {
        from = s->front[i]->pos <= keep ? MAX(from, s->front[i]->pos) : from;
    }
    return more_front <= keep ? MAX(from, more_front) : from;
}

/* What is stored, and is it worth reading? */
static bool look(struct extend *x)
{
    fathom_session *s = x->s;
    struct kv_store *st = s->e->store;
    kv_store_find(st, &s->chain, s->ids, x->n, &x->hit);
    if (x->hit.frontier_pos >= x->n) { /* the last token has to be computed */
        struct kv_hit lower = {0};
        kv_store_find(st, &s->chain, s->ids, x->n - 1, &lower);
        if (lower.n_segments == x->hit.n_segments) {
            kv_hit_release(st, &x->hit);
            x->hit = lower;
        } else {
            kv_hit_release(st, &lower);
        }
    }
    uint32_t size = s->e->layout.page_tokens, pos = x->hit.frontier_pos;
    pos = pos < x->n ? pos : 0;
    x->seg_end = x->hit.n_segments * size;
    x->keep = MAX(x->rows, MIN(MAX(x->seg_end, pos), x->n - 1));
    uint32_t without = begin_at(s, x->keep, 0), with = begin_at(s, x->keep, pos);
    x->use_front = pos > 0 && with > without && with > s->kv.n;
    uint32_t from = x->use_front ? with : without;
    if (from <= s->kv.n) {
        return false;
    }
    x->gain = (from - s->kv.n) * s->e->tok_seconds;
    return true;
}

/* Pages, frontier and staging memory; false: no room. */
static bool take_memory(struct extend *x)
{
    fathom_session *s = x->s;
    fathom_engine *e = s->e;
    uint32_t size = e->layout.page_tokens, pos = x->hit.frontier_pos;
    x->pages = e->reuse.pages;
    x->first = x->rows / size;
    if (x->keep > x->rows) {
        if (!state_load_begin(&s->kv, x->keep, &x->first, x->pages)) {
            return false;
        }
        x->n_pages = (x->keep + size - 1) / size - x->first;
    }
    if (x->use_front && pos % size != 0 && (pos <= x->rows || pos < x->seg_end)) {
        if (!pool_reserve(&e->pool, 1)) {
            return false;
        }
        x->scratch = pool_page_take(&e->pool);
        x->has_scratch = true;
    }
    if (x->use_front && !(x->front = frontier_new(&e->pool, pos))) {
        return false;
    }
    uint64_t staging =
        (uint64_t)MIN(x->n_pages + 1, (uint32_t)DISK_READERS) * e->layout.page_bytes;
    if (!pool_charge(&e->pool, KV_STAGING, staging)) {
        return false;
    }
    x->staging = staging;
    return true;
}

static void read_files(struct extend *x, struct kv_load_result *res)
{
    fathom_session *s = x->s;
    struct kv_store *st = s->e->store;
    uint32_t end = x->n_pages ? x->hit.n_segments : 0, pos = x->hit.frontier_pos;
    struct kv_load_request req = {.hit = &x->hit,
                                  .ids = s->ids,
                                  .first = end > x->first ? x->first : 0,
                                  .end = end > x->first ? end : 0,
                                  .pages = x->pages,
                                  .frontier = x->use_front};
    if (x->use_front) {
        req.state = x->front->data;
        req.tail_page = x->has_scratch ? x->scratch : 0;
        if (!x->has_scratch && pos % s->e->layout.page_tokens != 0) {
            req.tail_page = x->pages[pos / s->e->layout.page_tokens - x->first];
        }
    }
    /* A load that takes twice as long as computing is abandoned. */
    double most = x->gain > 0 ? 2 * x->gain + 0.05 : 60;
    struct kv_load *l = kv_load_start(st, &s->chain, &req);
    if (l) {
        kv_load_finish(l, most, res);
    } else {
        *res = (struct kv_load_result){.why = KV_WHY_NO_MEMORY};
    }
    res->end = MAX(res->end, end > x->first ? x->first : x->hit.n_segments);
}

/* Makes what is complete part of the sequence. */
static void take_over(struct extend *x, const struct kv_load_result *res, fathom_reuse *r)
{
    fathom_session *s = x->s;
    uint32_t size = s->e->layout.page_tokens, pos = x->hit.frontier_pos;
    uint32_t known = x->n_pages ? MAX(x->rows, res->end * size) : x->rows;
    bool front = x->use_front && res->frontier &&
                 (pos <= known || (pos > x->seg_end && known >= pos / size * size));
    uint32_t keep = MAX(x->rows, MIN(x->n - 1, MAX(known, front ? pos : 0)));
    if (x->n_pages) {
        state_load_end(&s->kv, x->first, x->pages, x->n_pages, keep > x->rows ? keep : 0);
        x->n_pages = 0;
    }
    if (keep == x->rows && !front) {
        return;
    }
    if (front) {
        x->front->serial = ++s->e->frontier_serial;
        session_take_fronts(s, &x->front, 1, keep);
    }
    struct kv_plan p = state_rewind(&s->kv, keep, s->front, s->n_front);
    r->disk = keep - x->rows;
    r->kept = p.from;
    r->rerun = keep - p.from;
    r->computed = x->n - keep;
    r->frontier = p.frontier ? p.from : 0;
    r->matched = MAX(r->matched, MIN(x->n, MAX(known, keep)));
}

static enum fathom_reuse_end end_of(enum kv_why why)
{
    switch (why) {
    case KV_WHY_NONE:
    case KV_WHY_OFF:
    case KV_WHY_COUNT: return FATHOM_REUSE_ALL;
    case KV_WHY_NO_FILE:
    case KV_WHY_CHEAP:
    case KV_WHY_NO_PARENT: return FATHOM_REUSE_NO_FILE;
    case KV_WHY_DIVERGED: return FATHOM_REUSE_DIVERGED;
    case KV_WHY_EVICTED: return FATHOM_REUSE_EVICTED;
    case KV_WHY_BAD_FILE: return FATHOM_REUSE_BAD_FILE;
    case KV_WHY_IO_ERROR:
    case KV_WHY_SLOW: return FATHOM_REUSE_IO_ERROR;
    case KV_WHY_FOREIGN:
    case KV_WHY_IDENTITY: return FATHOM_REUSE_IDENTITY;
    case KV_WHY_BUDGET:
    case KV_WHY_QUEUE:
    case KV_WHY_NO_MEMORY: return FATHOM_REUSE_BUDGET;
    }
    return FATHOM_REUSE_ALL;
}

/* Gives back what was taken and not used. */
static void give_back(struct extend *x)
{
    fathom_engine *e = x->s->e;
    if (x->n_pages) {
        state_load_end(&x->s->kv, x->first, x->pages, x->n_pages, 0);
    }
    if (x->has_scratch) {
        pool_page_drop(&e->pool, x->scratch);
    }
    if (x->staging) {
        pool_discharge(&e->pool, KV_STAGING, x->staging);
    }
    frontier_drop(x->front);
    kv_hit_release(e->store, &x->hit);
}

void disk_extend(fathom_session *s, fathom_reuse *r)
{
    struct extend x = {.s = s, .n = s->n_ids, .rows = state_rows(&s->kv)};
    r->end = FATHOM_REUSE_ALL;
    if (!s->e->store || !session_shares(s)) {
        return;
    }
    double start = clock_now();
    enum kv_why why;
    if (!look(&x)) {
        why = x.hit.why;
    } else if (!take_memory(&x)) {
        why = KV_WHY_NO_MEMORY;
    } else {
        struct kv_load_result res = {0};
        read_files(&x, &res);
        take_over(&x, &res, r);
        why = res.why != KV_WHY_NONE ? res.why : x.hit.why;
        r->load_ms = (float)((clock_now() - start) * 1e3);
    }
    r->end = end_of(why);
    kv_store_touch(s->e->store, &x.hit, r->ram + r->disk > 0);
    give_back(&x);
}
