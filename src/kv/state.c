/* state.c - see state.h. The whole difficulty of a sequence's state is to know which ring slots
 * still hold what a position needs; this file keeps that as a few numbers and never guesses.
 *
 * What position n' needs before its first new token (model.md 13): window rows n'-(W-1) .. n'-1
 * of each layer; inputs of the incomplete group of every compressor; for k = 2 also the first
 * halves of the group before. What may be missing: overwritten  a ring of s slots keeps
 * position p only while nothing beyond p + s was written: `high` and `win_high` are the ends of
 * what was written, rejected tokens included; never there  after a restore at m the compressor
 * rings hold only the previous group of m
 *                (`restore`), after a frontier the window ring only the last W rows
 * (`win_low`); not exact    an exact re-run from `start` > 0 sees no window below start: layer
 * l is right from start + l (W - 1) on (start_exact). A boundary copy tag bound[i] = m says
 * that copy i holds the group before m, exactly. Read next: engine/session.c, the only caller
 * besides tests. */
#include "kv/state.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

/* ---- position arithmetic ---- */

/* First position whose inputs layer il needs at n', besides window rows; n' if none. */
static int64_t group_need(const struct layout_layer *y, uint32_t n_new)
{
    if (y->ratio == 0) {
        return n_new;
    }
    int64_t first = (int64_t)(n_new / y->ratio) * y->ratio;
    return y->k == 2 ? first - y->ratio : first;
}

static int64_t window_need(const struct layout *l, uint32_t n_new)
{
    return (int64_t)n_new - (l->window - 1);
}

uint32_t layout_rerun_start(const struct layout *l, uint32_t n_new)
{
    int64_t start = n_new;
    for (uint32_t il = 0; il < l->n_layer; il++) {
        int64_t need = MIN(window_need(l, n_new), group_need(&l->layer[il], n_new));
        start = MIN(start, need - (int64_t)il * (l->window - 1));
    }
    return start <= 0 ? 0 : (uint32_t)(start / l->align * l->align);
}

/* Is everything that n' needs exact, given where inputs begin? */
static bool start_exact(const struct kv_state *st, uint32_t n_new)
{
    const struct layout *l = st->pool->layout;
    if (st->start == 0) {
        return true;
    }
    for (uint32_t il = 0; il < l->n_layer; il++) {
        int64_t need = MIN(window_need(l, n_new), group_need(&l->layer[il], n_new));
        if (need < (int64_t)st->start + (int64_t)il * (l->window - 1)) {
            return false;
        }
    }
    return true;
}

/* Does the window ring still hold the rows that a step at n' reads? */
static bool window_holds(const struct kv_state *st, uint32_t n_new)
{
    const struct layout *l = st->pool->layout;
    int64_t lo = MAX(window_need(l, n_new), (int64_t)st->start);
    return lo >= st->win_low && lo + l->ring_slots >= st->win_high;
}

/* Can the sequence go on at `base` (<= n) as it is, and be exact from n' >= base on? base < n'
 * is a re-run that is under way. */
static bool free_possible(const struct kv_state *st, uint32_t base, uint32_t n_new)
{
    return base >= st->restore && st->high <= base + STEP_VERIFY_MAX &&
           window_holds(st, base) && start_exact(st, n_new);
}

/* Can multiple m <= n be restored from the window ring and its boundary copy? */
static bool ring_possible(const struct kv_state *st, uint32_t m)
{
    const struct layout *l = st->pool->layout;
    if (m == 0 || m > st->n || !window_holds(st, m) || !start_exact(st, m)) {
        return false;
    }
    return l->bound_bytes == 0 || st->bound[m / l->align % 2] == m;
}

/* Pages for n tokens; none if the layout stores no compressed rows. */
static uint32_t pages_for(const struct kv_pool *p, uint64_t n_tokens)
{
    const struct layout *l = p->layout;
    return l->page_bytes ? (uint32_t)((n_tokens + l->page_tokens - 1) / l->page_tokens) : 0;
}

/* ---- life ---- */

int state_init(struct kv_state *st, struct kv_pool *p, uint32_t cap_tokens, fathom_err *err)
{
    *st = (struct kv_state){.pool = p, .cap_pages = pages_for(p, cap_tokens)};
    st->pages = mem_alloc(st->cap_pages, sizeof *st->pages);
    if (!st->pages) {
        st->pool = NULL;
        return err_nomem(err, "page table", st->cap_pages * sizeof *st->pages);
    }
    if (!pool_slot_take(p, &st->slot)) {
        mem_free(st->pages);
        *st = (struct kv_state){0};
        return err_set(err, FATHOM_ELIMIT,
                       "all %u sequences are in use; end one, or open the engine with a larger "
                       "max_seq",
                       p->n_slots);
    }
    return 0;
}

static void drop_pages(struct kv_state *st, uint32_t n_keep)
{
    while (st->n_pages > n_keep) {
        pool_page_drop(st->pool, st->pages[--st->n_pages]);
    }
}

void state_fini(struct kv_state *st)
{
    if (st->pool) {
        drop_pages(st, 0);
        pool_unreserve(st->pool, st->reserved);
        pool_slot_drop(st->pool, st->slot);
        mem_free(st->pages);
    }
    *st = (struct kv_state){0};
}

/* ---- admission ---- */

/* New pages that growing from n_keep rows to n_total tokens will take: pages behind the table,
 * and one for a shared partial page. */
static uint32_t pages_needed(const struct kv_state *st, uint32_t n_keep, uint32_t n_total)
{
    const struct kv_pool *p = st->pool;
    uint32_t have = MIN(pages_for(p, n_keep), st->n_pages), all = pages_for(p, n_total);
    if (n_total <= n_keep || all == 0) {
        return 0;
    }
    uint32_t need = all > have ? all - have : 0;
    uint32_t first = n_keep / p->layout->page_tokens; /* page of the first row written */
    return need + (first < have && pool_page_shared(p, st->pages[first]));
}

int state_reserve(struct kv_state *st, uint32_t n_total, fathom_err *err)
{
    struct kv_pool *p = st->pool;
    uint32_t need = pages_needed(st, state_rows(st), n_total);
    if (pages_for(p, n_total) > st->cap_pages) {
        return err_set(err, FATHOM_ELIMIT, "%u tokens: the longest sequence has %llu", n_total,
                       (unsigned long long)st->cap_pages * p->layout->page_tokens);
    }
    if (need <= st->reserved) {
        pool_unreserve(p, st->reserved - need);
    } else if (!pool_reserve(p, need - st->reserved)) {
        return err_set(
            err, FATHOM_ELIMIT,
            "KV memory: %u tokens need %u more pages of %u tokens, %u of %u are free; end "
            "other sequences or give the engine a larger kv_bytes",
            n_total, need - st->reserved, p->layout->page_tokens, pool_available(p),
            p->n_pages);
    }
    st->reserved = need;
    return 0;
}

/* ---- a step ---- */

static uint32_t take_page(struct kv_state *st)
{
    assert(st->reserved > 0);
    st->reserved--;
    return pool_page_take(st->pool);
}

void state_begin(struct kv_state *st, uint32_t n_tok)
{
    struct kv_pool *p = st->pool;
    uint32_t end = st->n + n_tok, rows = state_rows(st);
    assert(n_tok > 0 && pages_for(p, end) <= st->cap_pages);
    if (end > rows && p->layout->page_bytes) {
        uint32_t first =
            rows / p->layout->page_tokens; /* groups below `rows` are not written */
        if (first < st->n_pages && pool_page_shared(p, st->pages[first])) {
            uint32_t page = take_page(st);
            pool_page_copy(p, page, st->pages[first]);
            pool_page_drop(p, st->pages[first]);
            st->pages[first] = page;
        }
        while (st->n_pages < pages_for(p, end)) {
            uint32_t page = take_page(st);
            st->pages[st->n_pages++] = page;
        }
        for (uint32_t i = first; i < pages_for(p, end); i++) {
            assert(!pool_page_shared(p, st->pages[i]));
        }
    }
    st->high = MAX(st->high, end);
    st->win_high = MAX(st->win_high, end);
    /* The copies of the last two multiples inside the step are about to change. */
    uint32_t a = p->layout->align, m = end / a * a;
    for (int i = 0; i < 2 && m > st->n; i++, m -= a) {
        st->bound[m / a % 2] = 0;
    }
}

void state_step(const struct kv_state *st, uint32_t n_tok, struct step_seq *seq,
                uint32_t *pages)
{
    seq->state = st->slot;
    seq->n0 = st->n;
    seq->n_tok = n_tok;
    seq->start = st->start;
    seq->keep = st->keep;
    seq->n_page = pages_for(st->pool, (uint64_t)st->n + n_tok);
    assert(seq->n_page <= st->n_pages);
    if (seq->n_page) {
        memcpy(pages, st->pages, seq->n_page * sizeof *pages);
    }
}

void state_commit(struct kv_state *st, uint32_t n_tok)
{
    uint32_t a = st->pool->layout->align, end = st->n + n_tok, m = end / a * a;
    for (int i = 0; i < 2 && m > st->n; i++, m -= a) {
        st->bound[m / a % 2] = m;
    }
    st->n = end;
}

/* ---- rewinding ---- */

struct kv_plan state_plan(const struct kv_state *st, uint32_t n_new,
                          struct frontier *const *front, uint32_t n_front)
{
    assert(n_new <= state_rows(st));
    uint32_t a = st->pool->layout->align, base = MIN(n_new, st->n);
    struct kv_plan best = {KV_RESUME_RERUN, layout_rerun_start(st->pool->layout, n_new), n_new,
                           NULL};
    /* Better: nearer to n'; at equal distance the cheaper kind. */
    for (uint32_t i = 0; i < n_front; i++) {
        uint32_t pos = front[i]->pos;
        if (pos <= n_new &&
            (best.how == KV_RESUME_RERUN ? pos >= best.from : pos > best.from)) {
            best = (struct kv_plan){KV_RESUME_FRONTIER, pos, n_new, front[i]};
        }
    }
    for (int i = 1; i >= 0; i--) {
        uint32_t m = base / a * a;
        m = m > i * a ? m - i * a : 0;
        if (m >= best.from && ring_possible(st, m)) {
            best = (struct kv_plan){KV_RESUME_RING, m, n_new, NULL};
        }
    }
    if (base >= best.from && free_possible(st, base, n_new)) {
        best = (struct kv_plan){KV_RESUME_FREE, base, n_new, NULL};
    }
    return best;
}

/* Empties the slot's record: nothing is known below pos. */
static void restart_at(struct kv_state *st, uint32_t pos)
{
    st->n = st->restore = st->high = st->win_high = pos;
    st->win_low = st->start = pos;
    st->bound[0] = st->bound[1] = 0;
}

struct kv_plan state_rewind(struct kv_state *st, uint32_t n_new, struct frontier *const *front,
                            uint32_t n_front)
{
    struct kv_plan plan = state_plan(st, n_new, front, n_front);
    const struct layout *l = st->pool->layout;
    drop_pages(st, pages_for(st->pool, n_new));
    st->keep = n_new;
    switch (plan.how) {
    case KV_RESUME_FREE: st->n = plan.from; break;
    case KV_RESUME_RING:
        boundary_scatter(st->pool, st->slot, plan.from);
        st->n = st->restore = st->high = plan.from;
        break;
    case KV_RESUME_FRONTIER:
        restart_at(st, plan.from);
        pool_slot_poison(st->pool, st->slot);
        frontier_scatter(plan.frontier, st->slot);
        st->start = 0;
        st->win_low = plan.from > l->window ? plan.from - l->window : 0;
        st->bound[plan.from / l->align % 2] = plan.from;
        break;
    case KV_RESUME_RERUN:
        restart_at(st, plan.from);
        pool_slot_poison(st->pool, st->slot);
        break;
    }
    for (int i = 0; i < 2; i++) {
        st->bound[i] = st->bound[i] <= st->n ? st->bound[i] : 0;
    }
    return plan;
}

void state_abort(struct kv_state *st, struct frontier *const *front, uint32_t n_front)
{
    /* The rings were (perhaps) written up to `high`, beyond n: state_plan sees that. */
    uint32_t rows = state_rows(st), had = st->n_pages;
    drop_pages(st, pages_for(st->pool, rows));
    uint32_t freed = had - st->n_pages;
    bool ok = pool_reserve(st->pool, freed); /* just given back, so it cannot fail */
    assert(ok);
    st->reserved += ok ? freed : 0;
    state_rewind(st, rows, front, n_front);
}

/* ---- sharing ---- */

void state_clear(struct kv_state *st)
{
    drop_pages(st, 0);
    st->keep = 0;
    restart_at(st, 0);
}

void state_share(struct kv_state *st, const uint32_t *pages, uint32_t n)
{
    assert(state_rows(st) == 0 && st->n_pages == 0 && pages_for(st->pool, n) <= st->cap_pages);
    st->n_pages = pages_for(st->pool, n);
    memcpy(st->pages, pages, st->n_pages * sizeof *pages);
    st->keep = n;
}

void state_own(struct kv_state *st)
{
    struct kv_pool *p = st->pool;
    uint32_t rows = state_rows(st), s = p->layout->page_tokens;
    if (p->layout->page_bytes && rows % s != 0 && pool_page_shared(p, st->pages[rows / s])) {
        uint32_t page = take_page(st);
        pool_page_copy(p, page, st->pages[rows / s]);
        pool_page_drop(p, st->pages[rows / s]);
        st->pages[rows / s] = page;
    }
}

struct kv_plan state_follow(struct kv_state *st, const struct kv_state *src,
                            struct frontier *const *front, uint32_t n_front)
{
    uint32_t n_new = st->keep;
    struct kv_state copy = *src;
    copy.slot = st->slot;
    copy.pages = st->pages;
    copy.n_pages = st->n_pages;
    copy.cap_pages = st->cap_pages;
    copy.reserved = st->reserved;
    *st = copy;
    if (state_plan(src, n_new, front, n_front).how <= KV_RESUME_RING) {
        pool_slot_copy(st->pool, st->slot, src->slot);
    }
    return state_rewind(st, n_new, front, n_front);
}

int state_fork(struct kv_state *out, const struct kv_state *src, uint32_t n_new,
               struct frontier *const *front, uint32_t n_front, uint32_t cap_tokens,
               fathom_err *err)
{
    assert(n_new <= state_rows(src) && src->cap_pages <= pages_for(src->pool, cap_tokens));
    struct kv_pool *p = src->pool;
    int rc = state_init(out, src->pool, cap_tokens, err);
    if (rc != 0) {
        return rc;
    }
    out->reserved = p->layout->page_bytes && n_new % p->layout->page_tokens != 0;
    if (!pool_reserve(p, out->reserved)) {
        out->reserved = 0;
        state_fini(out);
        return err_set(err, FATHOM_ELIMIT,
                       "KV memory: a fork needs one page, none of %u is free; end other "
                       "sequences or give the engine a larger kv_bytes",
                       p->n_pages);
    }
    for (uint32_t i = 0; i < pages_for(p, n_new); i++) {
        pool_page_ref(p, src->pages[i]);
    }
    state_share(out, src->pages, n_new);
    state_own(out);
    state_follow(out, src, front, n_front);
    return 0;
}

/* ---- rows from elsewhere ---- */

bool state_load_begin(struct kv_state *st, uint32_t n, uint32_t *first, uint32_t *pages)
{
    struct kv_pool *p = st->pool;
    uint32_t end = pages_for(p, n), rows = state_rows(st);
    assert(n > rows && end <= st->cap_pages);
    *first = rows / p->layout->page_tokens;
    /* The partial page stays until its replacement is complete: one more than was reserved. */
    uint32_t more = end - *first;
    more = more > st->reserved ? more - st->reserved : 0;
    if (!pool_reserve(p, more)) {
        return false;
    }
    st->reserved += more;
    for (uint32_t i = *first; i < end; i++) {
        pages[i - *first] = take_page(st);
    }
    return true;
}

void state_load_end(struct kv_state *st, uint32_t first, const uint32_t *pages,
                    uint32_t n_loaded, uint32_t n_new)
{
    struct kv_pool *p = st->pool;
    uint32_t end = n_new > state_rows(st) ? pages_for(p, n_new) : first;
    assert(end <= first + n_loaded);
    for (uint32_t i = 0; i < n_loaded; i++) {
        uint32_t at = first + i;
        if (at >= end) {
            pool_page_drop(p, pages[i]);
            bool ok = pool_reserve(p, 1); /* just given back */
            assert(ok);
            st->reserved += ok;
        } else if (at < st->n_pages) {
            pool_page_drop(p, st->pages[at]);
            st->pages[at] = pages[i];
        } else {
            assert(at == st->n_pages);
            st->pages[st->n_pages++] = pages[i];
        }
    }
    st->keep = MAX(st->keep, n_new > state_rows(st) ? n_new : 0);
}

int state_adopt(struct kv_state *st, uint32_t n, fathom_err *err)
{
    assert(state_rows(st) == 0 && st->n_pages == 0);
    int rc = state_reserve(st, n, err);
    if (rc != 0) {
        return rc;
    }
    while (st->n_pages < pages_for(st->pool, n)) {
        uint32_t page = take_page(st);
        st->pages[st->n_pages++] = page;
    }
    st->keep = n;
    return 0;
}

void state_assume(struct kv_state *st)
{
    const struct layout *l = st->pool->layout;
    assert(st->n == 0 && st->keep % l->align == 0);
    restart_at(st, st->keep);
    st->start = 0;
    st->win_low = st->keep > l->window ? st->keep - l->window : 0;
}

struct frontier *state_checkpoint(const struct kv_state *st)
{
    const struct layout *l = st->pool->layout;
    uint32_t m = st->n / l->align * l->align;
    if (!ring_possible(st, m)) {
        return NULL;
    }
    struct frontier *f = frontier_new(st->pool, m);
    if (f) {
        uint32_t lo = st->win_low;
        if (st->win_high > l->ring_slots) {
            lo = MAX(lo, st->win_high - l->ring_slots);
        }
        frontier_gather(f, st->slot, MIN(lo, m));
    }
    return f;
}
