/* sample.c - see sample.h for the definition.
 *
 * Two sources give the same ordered stream of candidates: the 64 best of the pick record,
 * when they provably suffice, or a heap over the whole row, popped only as far as needed. A
 * token outside the record has at most the logit of the record's last entry, and penalties
 * that only lower a value keep it there: so a record entry that is unchanged, or still above
 * that bound, comes before all outsiders. Invariant: r->seen is all zero on return. Read
 * next: session-level glue at the end. */
#include "engine/sample.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "engine/engine_int.h"

int sample_room_init(struct sample_room *r, uint32_t n_vocab, fathom_err *err)
{
    *r = (struct sample_room){.n_vocab = n_vocab};
    r->heap = mem_alloc(n_vocab, sizeof *r->heap);
    r->sorted = mem_alloc(n_vocab, sizeof *r->sorted);
    r->seen = mem_calloc(n_vocab, sizeof *r->seen);
    if (!r->heap || !r->sorted || !r->seen) {
        sample_room_fini(r);
        return err_nomem(err, "sampling", n_vocab * sizeof *r->heap * 2);
    }
    return 0;
}

void sample_room_fini(struct sample_room *r)
{
    mem_free(r->heap);
    mem_free(r->sorted);
    mem_free(r->seen);
    *r = (struct sample_room){0};
}

/* ---- one draw ---- */

struct draw {
    struct sample_room *r;
    const struct sample_in *in;
    const fathom_sampling *p;
    double repeat; /* 1: off */
    bool penalties;
    uint32_t window; /* first counted token */
    uint32_t n_heap; /* heap: entries left */
    uint32_t n_list; /* list source: entries in r->sorted; they are given in order */
    bool from_list;
    uint32_t n_taken;
    double max;   /* value of the first taken */
    double total; /* weight of all (heap source), in order of ids */
};

static bool top_p_on(const fathom_sampling *p)
{
    return p->top_p > 0.0f && p->top_p < 1.0f;
}

static bool allowed(const struct sample_in *in, uint32_t id)
{
    return !in->mask || (in->mask[id / 32] >> (id % 32) & 1u);
}

static double adjusted(const struct draw *d, uint32_t id, float logit)
{
    double x = logit;
    uint32_t count = d->r->seen[id];
    if (count > 0) {
        x = x > 0 ? x / d->repeat : x * d->repeat;
        x -= (double)d->p->frequency_penalty * count + (double)d->p->presence_penalty;
    }
    return x;
}

/* Larger first, ties to the lower id. */
static bool before(const struct cand *a, const struct cand *b)
{
    return a->x > b->x || (a->x == b->x && a->id < b->id);
}

static double weight(const struct draw *d, double x, double max)
{
    if (isinf(max)) {
        return x == max ? 1.0 : 0.0;
    }
    return exp((x - max) / (double)d->p->temperature);
}

static void count_seen(struct draw *d, bool on)
{
    const struct sample_in *in = d->in;
    for (uint32_t i = d->window; d->penalties && i < in->n_ids; i++) {
        if (in->ids[i] < d->r->n_vocab) {
            d->r->seen[in->ids[i]] = on ? d->r->seen[in->ids[i]] + 1 : 0;
        }
    }
}

/* ---- source 1: the pick record ---- */

static void sort_list(struct cand *c, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) { /* nearly sorted, at most 64 */
        struct cand v = c[i];
        uint32_t j = i;
        for (; j > 0 && before(&v, &c[j - 1]); j--) {
            c[j] = c[j - 1];
        }
        c[j] = v;
    }
}

/* Does a prefix of `certain` entries decide the draw? */
static bool enough(const struct draw *d, uint32_t certain, uint32_t n, bool complete)
{
    const fathom_sampling *p = d->p;
    const struct cand *c = d->r->sorted;
    if (n == 0) {
        return false; /* mask: the whole row may hold more */
    }
    if (p->temperature == 0.0f) {
        return complete || certain >= 1;
    }
    if (p->top_k > 0) {
        return complete || certain >= p->top_k;
    }
    if (p->min_p > 0.0f && !top_p_on(p) && certain > 0) {
        return weight(d, c[certain - 1].x, c[0].x) < (double)p->min_p;
    }
    return false; /* needs the weight of all */
}

static bool try_list(struct draw *d)
{
    const struct pick *k = d->in->pick;
    const fathom_sampling *p = d->p;
    bool lowering =
        d->repeat >= 1.0 && p->frequency_penalty >= 0.0f && p->presence_penalty >= 0.0f;
    if (d->in->full || k->n_top > PICK_TOP || (d->penalties && !lowering)) {
        return false;
    }
    bool complete = k->n_top < PICK_TOP;
    double bound = complete ? -INFINITY : (double)k->top[PICK_TOP - 1].logit;
    uint32_t n = 0, certain = 0;
    for (uint32_t i = 0; i < k->n_top; i++) {
        uint32_t id = k->top[i].id;
        if (id < d->r->n_vocab && allowed(d->in, id)) {
            d->r->sorted[n++] = (struct cand){adjusted(d, id, k->top[i].logit), id};
        }
    }
    sort_list(d->r->sorted, n);
    while (certain < n && (complete || d->r->seen[d->r->sorted[certain].id] == 0 ||
                           d->r->sorted[certain].x > bound)) {
        certain++;
    }
    d->from_list = true;
    d->n_list = n;
    return enough(d, certain, n, complete);
}

/* ---- source 2: the row, as a heap ---- */

static void sift_down(struct cand *h, uint32_t n, uint32_t i)
{
    struct cand v = h[i];
    for (;;) {
        uint32_t c = 2 * i + 1;
        if (c >= n) {
            break;
        }
        if (c + 1 < n && before(&h[c + 1], &h[c])) {
            c++;
        }
        if (!before(&h[c], &v)) {
            break;
        }
        h[i] = h[c];
        i = c;
    }
    h[i] = v;
}

static void build_heap(struct draw *d, const float *row)
{
    struct cand *h = d->r->heap;
    double max = -INFINITY;
    uint32_t n = 0;
    for (uint32_t id = 0; id < d->r->n_vocab; id++) {
        if (!isnan(row[id]) && allowed(d->in, id)) {
            double x = adjusted(d, id, row[id]);
            h[n++] = (struct cand){x, id};
            max = x > max ? x : max;
        }
    }
    d->total = 0.0;
    for (uint32_t i = 0; i < n && d->p->temperature > 0.0f; i++) {
        d->total += weight(d, h[i].x, max);
    }
    for (uint32_t i = n / 2; i-- > 0;) {
        sift_down(h, n, i);
    }
    d->n_heap = n;
    d->from_list = false;
}

/* Takes the next candidate in order: r->sorted[n_taken] gets its id and its weight (its
 * value if greedy); false at the end. */
static bool take(struct draw *d)
{
    struct cand *c = &d->r->sorted[d->n_taken];
    if (d->from_list) {
        if (d->n_taken >= d->n_list) {
            return false;
        }
    } else {
        if (d->n_heap == 0) {
            return false;
        }
        struct cand *h = d->r->heap;
        *c = h[0];
        h[0] = h[--d->n_heap];
        if (d->n_heap > 0) {
            sift_down(h, d->n_heap, 0);
        }
    }
    if (d->p->temperature > 0.0f) {
        d->max = d->n_taken == 0 ? c->x : d->max;
        c->x = weight(d, c->x, d->max);
    }
    d->n_taken++;
    return true;
}

/* ---- choosing ---- */

static double sum_taken(const struct draw *d, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        sum += d->r->sorted[i].x;
    }
    return sum;
}

/* Candidates that top-k, top-p and min-p leave: the first n of r->sorted. Without top-k no
 * more are taken than needed. */
static uint32_t filter(struct draw *d)
{
    const fathom_sampling *p = d->p;
    const struct cand *c = d->r->sorted;
    double base = d->total, goal = INFINITY, run = 0.0;
    if (p->top_k > 0) {
        while (d->n_taken < p->top_k && take(d)) {
        }
        base = sum_taken(d, d->n_taken);
    }
    if (top_p_on(p)) {
        goal = (double)p->top_p * base;
    }
    for (uint32_t i = 0;; i++) {
        if (i == d->n_taken && (p->top_k > 0 || !take(d))) {
            return i;
        }
        if (i > 0 && c[i].x < (double)p->min_p) {
            return i;
        }
        run += c[i].x;
        if (run >= goal) {
            return i + 1;
        }
    }
}

static double unit_at(uint64_t seed, uint64_t pos)
{
    struct rng g = {splitmix64(seed) ^ splitmix64(pos * 0xD1342543DE82EF95u + 1)};
    return rng_unit(&g);
}

/* Place in r->sorted of the drawn candidate; -1 if there is none. */
static int64_t choose(struct draw *d)
{
    const fathom_sampling *p = d->p;
    const struct cand *c = d->r->sorted;
    if (p->temperature == 0.0f) {
        return take(d) ? 0 : -1;
    }
    double u = unit_at(p->seed, d->in->n_ids), run = 0.0;
    bool whole = p->top_k == 0 && p->min_p == 0.0f && !top_p_on(p);
    uint32_t n = whole ? UINT32_MAX : filter(d);
    double goal = u * (whole ? d->total : sum_taken(d, n));
    for (uint32_t i = 0; i < n; i++) {
        if (i == d->n_taken && !take(d)) {
            break;
        }
        run += c[i].x;
        if (run > goal) {
            return i;
        }
    }
    return (int64_t)MIN(n, d->n_taken) - 1; /* rounding kept the sum at or below the goal */
}

static int check(const fathom_sampling *p, fathom_err *err)
{
    bool ok = p->temperature >= 0.0f && isfinite(p->temperature) && p->top_p >= 0.0f &&
              p->top_p <= 1.0f && p->min_p >= 0.0f && p->min_p <= 1.0f &&
              p->repeat_penalty >= 0.0f && isfinite(p->repeat_penalty) &&
              isfinite(p->frequency_penalty) && isfinite(p->presence_penalty);
    if (!ok) {
        return err_set(err, FATHOM_EINVAL,
                       "sampling: temperature and penalties must be finite and not negative "
                       "(frequency and presence may be), top_p and min_p in 0..1");
    }
    if (p->n_logprobs > 20) {
        return err_set(err, FATHOM_EINVAL, "sampling: at most 20 logprobs, not %u",
                       p->n_logprobs);
    }
    return 0;
}

/* Log-probability of a logit under the unmodified distribution. */
static float logprob(const struct pick *k, float logit)
{
    float v = logit - k->lse;
    return v <= 0.0f ? v : isfinite(k->lse) ? 0.0f : logit == INFINITY ? 0.0f : -INFINITY;
}

static void report(struct draw *d, uint32_t id, fathom_choice *out)
{
    const struct pick *k = d->in->pick;
    *out = (fathom_choice){.id = id, .n_top = MIN(d->p->n_logprobs, MIN(k->n_top, PICK_TOP))};
    for (uint32_t i = 0; i < out->n_top; i++) {
        out->top[i] = (fathom_logprob){k->top[i].id, logprob(k, k->top[i].logit)};
    }
    for (uint32_t i = 0; i < MIN(k->n_top, PICK_TOP); i++) {
        if (k->top[i].id == id) {
            out->logprob = logprob(k, k->top[i].logit);
            return;
        }
    }
    out->logprob = logprob(k, d->in->row(d->in->user)[id]);
}

int sample_token(struct sample_room *r, const struct sample_in *in, const fathom_sampling *p,
                 fathom_choice *out, fathom_err *err)
{
    int rc = check(p, err);
    if (rc != 0) {
        return rc;
    }
    uint32_t window = p->penalty_window ? p->penalty_window : 64;
    struct draw d = {.r = r,
                     .in = in,
                     .p = p,
                     .repeat = p->repeat_penalty > 0.0f ? (double)p->repeat_penalty : 1.0,
                     .window = in->n_ids > window ? in->n_ids - window : 0};
    d.penalties =
        d.repeat != 1.0 || p->frequency_penalty != 0.0f || p->presence_penalty != 0.0f;
    count_seen(&d, true);
    if (!try_list(&d)) {
        build_heap(&d, in->row(in->user));
    }
    count_seen(&d, false);
    int64_t at = choose(&d);
    if (at < 0) {
        return err_set(err, FATHOM_EINVAL, "sampling: %s",
                       in->pick->n_top == 0
                           ? "no logit is a number; the model file is damaged (fathom inspect "
                             "--check)"
                           : "the mask allows no token");
    }
    report(&d, r->sorted[at].id, out);
    return 0;
}
