/* reuse.c - the heart of fathom_session_set: from where can a prompt be continued with the
 * least computing?
 *
 * Known prefixes lie in three places: the session's own tokens, other live sessions (their
 * partial pages and rings, too), and pages in the tree that no session needs any more; a
 * fourth, the disk, may continue what those three have (disk.c). Rows of a prefix are the same
 * bytes wherever they lie, so pages and frontiers of all places are combined; only rings come
 * with their session.
 *
 * Order of work: find and hold the best source; check that memory will do, with everything that
 * may be evicted counted, and refuse before anything changes; leave the old content to the
 * tree; continue from the source; reserve; then try the disk. Read next: share.c, disk.c,
 * kv/state.h. */
#include <string.h>

#include "base/mem.h"
#include "engine/engine_int.h"

enum source_kind { SOURCE_SELF, SOURCE_LIVE, SOURCE_TREE };

struct source {
    enum source_kind kind;
    fathom_session *live; /* SOURCE_LIVE */
    uint32_t keep;        /* tokens whose rows it has, < n */
    struct kv_plan plan;
};

struct search {
    fathom_session *s;
    const uint32_t *ids;
    uint32_t n;
    struct tree_match tree;
    struct source best;
    uint32_t matched;        /* longest prefix known anywhere in RAM */
    struct frontier **front; /* of prefixes of ids, with a reference each */
    uint32_t n_front;
    uint32_t *pages; /* SOURCE_LIVE, SOURCE_TREE: pages of [0, keep), with a reference each */
    uint32_t n_pages;
    bool tail; /* the session's partial page may stay in the tree */
    /* The continuation that the prompt did not take, at `matched`. */
    bool differs;
    uint32_t n_other, other[REUSE_OTHER_IDS];
};

/* ---- finding ---- */

static void add_front(struct search *k, struct frontier *f)
{
    if (k->n_front < k->s->e->reuse.cap_front) {
        k->front[k->n_front++] = frontier_ref(f);
    }
}

/* A known prefix of `same` tokens that then goes on with n_rest ids (0: it ends). */
static void note_match(struct search *k, uint32_t same, const uint32_t *rest, uint32_t n_rest)
{
    bool differs = same < k->n && n_rest > 0;
    if (same > k->matched || (same == k->matched && differs && !k->differs)) {
        k->matched = same;
        k->differs = differs;
        k->n_other = differs ? MIN(n_rest, (uint32_t)REUSE_OTHER_IDS) : 0;
        if (k->n_other) {
            memcpy(k->other, rest, k->n_other * sizeof *rest);
        }
    }
}

/* Tokens that a session's rows share with the prompt; its frontiers there become candidates. */
static uint32_t match_session(struct search *k, fathom_session *t)
{
    uint32_t rows = state_rows(&t->kv), same = ids_common(t->ids, k->ids, MIN(rows, k->n));
    note_match(k, same, t->ids + same, rows - same);
    for (uint32_t i = 0; i < t->n_front; i++) {
        if (t->front[i]->pos <= same) {
            add_front(k, t->front[i]);
        }
    }
    return same;
}

static void match_tree(struct search *k)
{
    struct frontier *f[TREE_BRANCH_FRONTS + TREE_NODE_FRONTS];
    tree_find(&k->s->e->tree, k->s->chain.key, k->ids, k->n, &k->tree);
    note_match(k, k->tree.n, k->tree.other_ids, k->tree.differs ? k->tree.n_other : 0);
    uint32_t n = tree_match_fronts(&k->tree, f, ARRAY_LEN(f));
    for (uint32_t i = 0; i < n; i++) {
        add_front(k, f[i]);
    }
}

static bool same_salt(const fathom_session *a, const fathom_session *b)
{
    return memcmp(&a->chain.salt, &b->chain.salt, sizeof a->chain.salt) == 0;
}

/* Better: less to compute; then less to compute from files (a longer prefix); then the session
 * itself, which costs nothing to take over. */
static void consider(struct search *k, enum source_kind kind, fathom_session *live,
                     const struct kv_state *st, uint32_t keep)
{
    struct source c = {kind, live, keep, state_plan(st, keep, k->front, k->n_front)};
    const struct source *b = &k->best;
    if (kind == SOURCE_SELF || c.plan.from > b->plan.from ||
        (c.plan.from == b->plan.from && keep > b->keep)) {
        k->best = c;
    }
}

static int find(struct search *k, fathom_err *err)
{
    fathom_session *s = k->s;
    uint32_t self = match_session(k, s);
    if (session_shares(s)) {
        kv_chain_cut(&s->chain, ids_common(s->ids, k->ids, MIN(s->n_ids, k->n)));
        int rc = kv_chain_extend(&s->chain, k->ids, k->n, err);
        if (rc != 0) {
            return rc;
        }
        for (fathom_session *t = s->e->sessions; t; t = t->next) {
            if (t != s && session_shares(t) && same_salt(s, t)) {
                match_session(k, t);
            }
        }
        match_tree(k);
    }
    uint32_t most = k->n - 1; /* the last token is computed for its logits */
    consider(k, SOURCE_SELF, NULL, &s->kv, MIN(self, most));
    if (!session_shares(s)) {
        return 0;
    }
    for (fathom_session *t = s->e->sessions; t; t = t->next) {
        if (t != s && session_shares(t) && same_salt(s, t)) {
            uint32_t same = ids_common(t->ids, k->ids, MIN(state_rows(&t->kv), most));
            consider(k, SOURCE_LIVE, t, &t->kv, same);
        }
    }
    struct kv_state none = {.pool = &s->e->pool, .keep = MIN(k->tree.n, most)};
    consider(k, SOURCE_TREE, NULL, &none, none.keep);
    return 0;
}

/* ---- admission ---- */

static uint32_t ceil_pages(const fathom_engine *e, uint32_t n)
{
    return e->layout.page_bytes ? (uint32_t)layout_pages(&e->layout, n) : 0;
}

/* Takes references to the pages of the source, so that nothing can evict them. */
static void hold_pages(struct search *k)
{
    fathom_engine *e = k->s->e;
    k->pages = e->reuse.pages;
    k->n_pages = ceil_pages(e, k->best.keep);
    if (k->best.kind == SOURCE_LIVE) {
        memcpy(k->pages, k->best.live->kv.pages, k->n_pages * sizeof *k->pages);
    } else {
        tree_match_pages(&e->tree, &k->tree, k->pages);
    }
    for (uint32_t i = 0; i < k->n_pages; i++) {
        pool_page_ref(&e->pool, k->pages[i]);
    }
}

/* New pages that the sequence will take on its way to n tokens; *tail_extra: one more if the
 * session's partial page goes to the tree. */
static uint32_t pages_wanted(const struct search *k, uint32_t *tail_extra)
{
    const fathom_engine *e = k->s->e;
    const struct kv_state *st = &k->s->kv;
    uint32_t size = e->layout.page_tokens, keep = k->best.keep, at = keep / size;
    uint32_t all = ceil_pages(e, k->n);
    *tail_extra = 0;
    if (all == 0) {
        return 0;
    }
    if (k->best.kind != SOURCE_SELF || keep % size == 0) {
        return all - at; /* a partial page is copied */
    }
    bool shared = pool_page_shared(&e->pool, st->pages[at]);
    *tail_extra = !shared && at == state_rows(st) / size;
    return all - at - 1 + shared;
}

/* Pages that could be had for it. */
static uint32_t pages_to_be_had(const struct search *k)
{
    fathom_engine *e = k->s->e;
    const struct kv_state *st = &k->s->kv;
    uint32_t first = k->best.kind == SOURCE_SELF ? ceil_pages(e, k->best.keep) : 0, n = 0;
    for (uint32_t i = first; i < st->n_pages; i++) {
        n += e->pool.ref[st->pages[i]] == 1;
        e->reuse.ignore[st->pages[i]]++;
    }
    n += st->reserved + share_available(e, e->reuse.ignore);
    for (uint32_t i = first; i < st->n_pages; i++) {
        e->reuse.ignore[st->pages[i]]--;
    }
    return n;
}

static int admit(struct search *k, fathom_err *err)
{
    fathom_engine *e = k->s->e;
    uint32_t extra, want = pages_wanted(k, &extra), have;
    bool enough;
    do {
        have = pages_to_be_had(k);
        /* Frontiers that wait to be written cannot be dropped and lie in the room of pages. */
        enough = have >= want && (have - want) * e->layout.page_bytes >= disk_held_bytes(e);
    } while (!enough && disk_give_up(e, have < want ? want - have : 1));
    k->tail = session_shares(k->s) && have >= want + extra;
    if (enough) {
        return 0;
    }
    return err_set(
        err, FATHOM_ELIMIT,
        "KV memory: %u tokens need %u more pages of %u tokens, %u of %u could be freed; "
        "%.3f GB of %.3f GB are in use. End other sequences, or open the engine with a "
        "larger kv_bytes",
        k->n, want, e->layout.page_tokens, have, e->pool.n_pages,
        (double)pool_used_bytes(&e->pool, KV_KIND_COUNT) / 1e9,
        (double)pool_budget_bytes(&e->pool) / 1e9);
}

/* ---- committing ---- */

/* Where the kept pages stand in the tree. */
static void adopt_node(struct search *k)
{
    fathom_session *s = k->s;
    uint32_t full = k->best.keep / s->e->layout.page_tokens;
    if (k->best.kind == SOURCE_LIVE) {
        s->node = k->best.live->node;
        s->n_pub = k->best.live->n_pub;
    } else if (k->best.kind == SOURCE_TREE) {
        s->node = k->tree.full;
        s->n_pub = s->node ? (s->node->start + s->node->n_ids) / s->e->layout.page_tokens : 0;
    }
    if (k->best.kind != SOURCE_SELF) {
        s->n_put = 0; /* a hit: perhaps now worth being written */
    }
    session_unpublish(s, full * s->e->layout.page_tokens);
}

static void commit(struct search *k, fathom_reuse *r)
{
    fathom_session *s = k->s;
    const struct source *b = &k->best;
    struct kv_plan p;
    if (b->kind == SOURCE_SELF) {
        p = state_rewind(&s->kv, b->keep, k->front, k->n_front);
    } else {
        state_clear(&s->kv);
        state_share(&s->kv, k->pages, b->keep);
        k->n_pages = 0; /* the references passed on */
        p = b->kind == SOURCE_LIVE ? state_follow(&s->kv, &b->live->kv, k->front, k->n_front)
                                   : state_rewind(&s->kv, b->keep, k->front, k->n_front);
    }
    if (p.frontier) {
        ((struct frontier *)p.frontier)->serial = ++s->e->frontier_serial;
    }
    while (s->n_front > 0) { /* those of the prompt's prefixes are among the candidates */
        session_drop_front(s, s->n_front - 1);
    }
    session_take_fronts(s, k->front, k->n_front, b->keep);
    adopt_node(k);
    tree_touch(&s->e->tree, s->node, true); /* going on in the same session is a use, too */
    s->n_ids = b->keep;
    s->n_out = 0;
    *r = (fathom_reuse){.matched = k->matched,
                        .kept = p.from,
                        .rerun = b->keep - p.from,
                        .computed = k->n - b->keep,
                        .frontier = p.frontier ? p.from : 0,
                        .ram = b->keep};
}

/* ---- why it ended ---- */

const char *fathom_reuse_end_name(enum fathom_reuse_end end)
{
    static const char *const names[] = {"all",      "new",      "diverged", "evicted",
                                        "bad file", "io error", "identity", "salt",
                                        "budget",   "no file"};
    return (unsigned)end < ARRAY_LEN(names) ? names[end] : "unknown";
}

/* Is a longer prefix known under another salt? */
static bool known_elsewhere(const struct search *k)
{
    const fathom_session *s = k->s;
    for (const fathom_session *t = s->e->sessions; t; t = t->next) {
        if (t != s && session_shares(t) && !same_salt(s, t) &&
            ids_common(t->ids, k->ids, MIN(state_rows(&t->kv), k->n)) > k->matched) {
            return true;
        }
    }
    return tree_known_elsewhere(&s->e->tree, &s->chain.key[0], k->ids, k->n, k->matched);
}

/* r->end is what the disk said, FATHOM_REUSE_ALL if it had nothing to say. */
static enum fathom_reuse_end why_ended(const struct search *k, const fathom_reuse *r)
{
    const fathom_session *s = k->s;
    uint32_t next = r->matched / s->e->layout.page_tokens + 1;
    if (r->matched >= k->n) {
        return FATHOM_REUSE_ALL;
    }
    if (r->end == FATHOM_REUSE_BAD_FILE || r->end == FATHOM_REUSE_IO_ERROR) {
        return r->end;
    }
    if (session_shares(s) && next <= s->chain.n &&
        tree_was_evicted(&s->e->tree, &s->chain.key[next])) {
        return FATHOM_REUSE_EVICTED;
    }
    if (k->differs && r->matched == k->matched) {
        return FATHOM_REUSE_DIVERGED;
    }
    if (session_shares(s) && r->matched == k->matched && known_elsewhere(k)) {
        return FATHOM_REUSE_SALT;
    }
    return r->end == FATHOM_REUSE_ALL ? FATHOM_REUSE_NEW : r->end;
}

static void record(struct search *k, fathom_reuse *r)
{
    fathom_session *s = k->s;
    fathom_kv_info *c = &s->e->kv;
    r->end = why_ended(k, r);
    r->want = r->have = UINT32_MAX;
    s->n_other = 0;
    if (r->end == FATHOM_REUSE_DIVERGED) {
        r->want = k->ids[r->matched];
        if (k->differs && r->matched == k->matched) {
            r->have = k->other[0];
            s->n_other = k->n_other;
            memcpy(s->other, k->other, sizeof s->other);
        }
    }
    s->last = *r;
    c->n_sets++;
    c->ram += r->ram;
    c->disk += r->disk;
    c->rerun += r->rerun;
    c->computed += r->computed;
    c->ends[r->end]++;
}

/* ---- the call ---- */

/* The content of the session is about to be replaced: what it knows is kept. Its chain still is
 * that of its own ids. */
static void before_leaving(fathom_session *s, const uint32_t *ids, uint32_t n)
{
    uint32_t rows = state_rows(&s->kv);
    session_publish(s);
    if (rows > ids_common(s->ids, ids, MIN(rows, n)) + STEP_VERIFY_MAX) {
        disk_put_pages(s);
        disk_put_fronts(s);
    }
}

static void release(struct search *k)
{
    for (uint32_t i = 0; i < k->n_front; i++) {
        frontier_drop(k->front[i]);
    }
    for (uint32_t i = 0; i < k->n_pages; i++) {
        pool_page_drop(&k->s->e->pool, k->pages[i]);
    }
    k->n_front = k->n_pages = 0;
}

/* Back to an empty session. */
static void forget(fathom_session *s)
{
    while (s->n_front > 0) {
        session_drop_front(s, s->n_front - 1);
    }
    state_clear(&s->kv);
    session_unpublish(s, 0);
    kv_chain_cut(&s->chain, 0);
    s->n_ids = s->n_out = 0;
}

int session_reuse(fathom_session *s, const uint32_t *ids, uint32_t n, fathom_reuse *reuse,
                  fathom_err *err)
{
    struct search k = {.s = s, .ids = ids, .n = n, .front = s->e->reuse.front};
    uint32_t was = s->n_ids;
    before_leaving(s, ids, n);
    int rc = find(&k, err);
    if (rc == 0 && k.best.kind != SOURCE_SELF) {
        hold_pages(&k);
    }
    rc = rc ? rc : admit(&k, err);
    if (rc != 0) {
        release(&k);
        kv_chain_cut(&s->chain, ids_common(s->ids, ids, MIN(was, n)));
        return rc;
    }
    fathom_reuse r;
    uint32_t given_up = state_rows(&s->kv) - k.best.keep;
    if (k.best.kind != SOURCE_SELF || given_up > STEP_VERIFY_MAX) {
        session_retire(s, k.tail);
    }
    commit(&k, &r);
    release(&k);
    rc = state_reserve(&s->kv, n, err);
    if (rc != 0) { /* cannot happen after admit, but must not leave a page shared and written */
        forget(s);
        return rc;
    }
    state_own(&s->kv);
    memmove(s->ids, ids, n * sizeof *ids);
    s->n_ids = n;
    disk_extend(s, &r);
    session_publish(s);
    rc = state_reserve(&s->kv, n, err); /* loading may have taken more, or left too much */
    disk_put_pages(s);
    record(&k, &r);
    if (reuse) {
        *reuse = r;
    }
    return rc;
}
