/* write.c - see write.h. A team of threads draws items from one counter; each thread has its
 * own buffers (item_maker), all share the file, where every item has its place. Two passes: the
 * first reads what the journal lists, the second makes the rest.
 *
 * Only thread 0, the caller, calls progress; the others add to the count of bytes. A failure is
 * noted with the number of its item, and all threads stop at their next slice. */
#include "factory/write.h"

#include "base/team.h"

/* All threads' slices together, three times (item_maker). */
static const uint64_t ALL_SLICES_BYTES = 256u << 20;
enum { CHECK_BYTES = 1 << 20 };

struct writing {
    const struct plan *plan;
    const struct item *items;
    size_t n;
    const struct convert_options *opt;
    struct file_out *file;
    struct journal *journal;
    struct item_maker *makers; /* [team size] */
    bool *intact;              /* [n]: read back and right */
    const char *stage;
    uint64_t total;
    atomic_size_t next;
    atomic_uint_fast64_t done;
    atomic_bool stop;
    pthread_mutex_t lock; /* for the rest */
    uint64_t *lost;
    size_t bad_item;
    int rc;
    fathom_err err;
};

static void fail(struct writing *w, size_t item, int rc, const fathom_err *err)
{
    pthread_mutex_lock(&w->lock);
    if (w->rc == 0 || item < w->bad_item) {
        w->rc = rc;
        w->bad_item = item;
        w->err = *err;
    }
    pthread_mutex_unlock(&w->lock);
    atomic_store(&w->stop, true);
}

static void finish(struct writing *w, const struct item *it, uint64_t lost)
{
    pthread_mutex_lock(&w->lock);
    w->lost[it->tensor] += lost;
    pthread_mutex_unlock(&w->lock);
}

/* Counts n bytes; FATHOM_ECANCEL if the work is to stop. */
static int advance(struct writing *w, uint32_t rank, uint64_t n, fathom_err *err)
{
    uint64_t done = atomic_fetch_add(&w->done, n) + n;
    const struct convert_options *o = w->opt;
    bool go_on = !(o->cancel && atomic_load(o->cancel));
    if (go_on && rank == 0 && o->progress) {
        go_on = o->progress(o->user, w->stage, done, w->total);
    }
    go_on = go_on && !atomic_load(&w->stop);
    return go_on ? 0 : err_set(err, FATHOM_ECANCEL, "cancelled");
}

/* One item on its way to the file. */
struct put {
    struct writing *w;
    uint32_t rank;
    struct checksum sum;
};

static int put_slice(void *ctx, const void *p, size_t n, uint64_t at, fathom_err *err)
{
    struct put *put = ctx;
    checksum_add(&put->sum, p, n);
    int rc = file_out_pwrite(put->w->file, p, n, at, err);
    return rc ? rc : advance(put->w, put->rank, n, err);
}

/* The checksum covers number and count, so that the journal's line is believed as a whole. */
static uint64_t line_sum(struct checksum *sum, size_t item, uint64_t lost)
{
    checksum_u64(sum, item);
    checksum_u64(sum, lost);
    return checksum_end(sum);
}

static int make_item(struct writing *w, uint32_t rank, size_t i, fathom_err *err)
{
    struct put put = {w, rank, {0}};
    struct journal_entry e = {.done = true};
    int rc = item_make(&w->makers[rank], &w->items[i], put_slice, &put, &e.lost, err);
    if (rc == 0) {
        e.sum = line_sum(&put.sum, i, e.lost);
        finish(w, &w->items[i], e.lost);
        rc = journal_add(w->journal, w->file->fd, i, &e, w->items[i].bytes, err);
    }
    return rc;
}

static int check_item(struct writing *w, uint32_t rank, size_t i, fathom_err *err)
{
    const struct item *it = &w->items[i];
    struct journal_entry *e = &w->journal->entry[i];
    struct checksum sum = {0};
    unsigned char *buf = mem_alloc(CHECK_BYTES, 1);
    int rc = buf ? 0 : err_nomem(err, "a buffer", CHECK_BYTES);
    for (uint64_t k = 0; rc == 0 && k < it->bytes; k += CHECK_BYTES) {
        size_t n = (size_t)MIN(it->bytes - k, (uint64_t)CHECK_BYTES);
        rc = file_pread_full(w->file->fd, buf, n, it->at + k, w->file->part, err);
        if (rc == 0) {
            checksum_add(&sum, buf, n);
            rc = advance(w, rank, n, err);
        }
    }
    mem_free(buf);
    if (rc == 0 && line_sum(&sum, i, e->lost) == e->sum) {
        w->intact[i] = true;
        finish(w, it, e->lost);
    }
    return rc;
}

static bool wants(const struct writing *w, size_t i, bool checking)
{
    return checking ? w->journal->entry[i].done : !w->intact[i];
}

static void draw_items(struct writing *w, uint32_t rank, bool checking)
{
    for (;;) {
        size_t i = atomic_fetch_add(&w->next, 1);
        if (i >= w->n || atomic_load(&w->stop)) {
            return;
        }
        if (!wants(w, i, checking)) {
            continue;
        }
        fathom_err err = {0};
        int rc = checking ? check_item(w, rank, i, &err) : make_item(w, rank, i, &err);
        /* A thread that was stopped by another's failure has none of its own. */
        if (rc && !(rc == FATHOM_ECANCEL && atomic_load(&w->stop))) {
            fail(w, i, rc, &err);
        }
    }
}

static void check_share(void *ctx, uint32_t rank)
{
    draw_items(ctx, rank, true);
}

static void make_share(void *ctx, uint32_t rank)
{
    draw_items(ctx, rank, false);
}

static void run_pass(struct writing *w, struct team *team, bool checking)
{
    w->stage = checking ? "check" : w->plan->is_draft ? "convert mtp" : "convert";
    w->total = 0;
    for (size_t i = 0; i < w->n; i++) {
        w->total += wants(w, i, checking) ? w->items[i].bytes : 0;
    }
    atomic_store(&w->next, 0);
    atomic_store(&w->done, 0);
    if (w->total == 0) {
        return;
    }
    team_run(team, checking ? check_share : make_share, w);
    if (w->rc == 0 && w->opt->progress) {
        w->opt->progress(w->opt->user, w->stage, w->total, w->total);
    }
}

static int init(struct writing *w, uint32_t n_threads, fathom_err *err)
{
    uint64_t slice = w->opt->slice_bytes ? w->opt->slice_bytes
                                         : MIN((uint64_t)4 << 20, ALL_SLICES_BYTES / n_threads);
    w->makers = mem_calloc(n_threads, sizeof *w->makers);
    w->intact = mem_calloc(w->n + 1, sizeof *w->intact);
    int rc = w->makers && w->intact ? 0 : err_nomem(err, "the list of work", w->n);
    for (uint32_t i = 0; rc == 0 && i < n_threads; i++) {
        rc = item_maker_init(&w->makers[i], w->plan, slice, err);
    }
    if (rc == 0 && pthread_mutex_init(&w->lock, NULL) != 0) {
        rc = err_set(err, FATHOM_ENOMEM, "cannot make a lock");
    }
    return rc;
}

static void run_passes(struct writing *w, struct team *team, struct write_result *result)
{
    run_pass(w, team, true);
    for (size_t i = 0; i < w->n; i++) {
        result->n_resumed += w->intact[i];
    }
    if (w->rc == 0) {
        run_pass(w, team, false);
    }
    fathom_err err = {0};
    int rc =
        journal_flush(w->journal, w->file->fd, &err); /* also what a cancelled run finished */
    if (rc) {
        fail(w, w->n, rc, &err);
    }
}

int write_items(const struct plan *p, const struct item *items, size_t n,
                const struct convert_options *opt, struct file_out *f, struct journal *j,
                struct write_result *result, fathom_err *err)
{
    struct writing w = {.plan = p, .items = items, .n = n, .opt = opt, .file = f, .journal = j};
    w.lost = result->lost;
    struct team *team = NULL;
    int rc = team_create(&team, opt->threads > 0 ? (uint32_t)opt->threads : 0, false, err);
    uint32_t n_threads = rc ? 0 : team_size(team);
    rc = rc ? rc : init(&w, n_threads, err);
    if (rc == 0) {
        run_passes(&w, team, result);
        pthread_mutex_destroy(&w.lock);
        rc = w.rc;
        if (rc && err) {
            *err = w.err;
        }
    }
    for (uint32_t i = 0; w.makers && i < n_threads; i++) {
        item_maker_free(&w.makers[i]);
    }
    mem_free(w.makers);
    mem_free(w.intact);
    team_free(team);
    return rc;
}
