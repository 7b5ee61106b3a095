/* tasks.c - see tasks.h. An answer is watched while it grows: as soon as it can no longer become
 * an accepted one it has failed, so wrong answers cost little. */
#include "eval/tasks.h"

#include <stdlib.h>

#include "base/mem.h"

/* ---- loading ---- */

struct load {
    struct eval_tasks *t;
    const struct manifest_ctx *m;
    uint32_t every, seen;
};

static const char *copy_str(struct arena *a, const struct json *v)
{
    struct slice s = json_str(v);
    return s.n ? arena_strndup(a, s.p, s.n) : "";
}

static int copy_expected(struct eval_task *k, struct arena *a, const struct json *list,
                         fathom_err *err)
{
    k->expected = arena_alloc(a, list->n * sizeof *k->expected);
    for (size_t i = 0; k->expected && i < list->n; i++) {
        struct slice s = json_str(&list->items[i]);
        if (s.n == 0) {
            return err_set(err, FATHOM_EFORMAT, "expected[%zu] is no text", i);
        }
        char *p = arena_strndup(a, s.p, s.n);
        k->expected[i] = (struct slice){p, s.n};
        k->n_expected = p ? i + 1 : 0;
        k->longest = MAX(k->longest, s.n);
        if (!p) {
            break;
        }
    }
    return k->n_expected == list->n ? 0 : err_nomem(err, "tasks", list->n);
}

static struct eval_task *push(struct eval_tasks *t)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        struct eval_task *more = mem_realloc(t->v, cap, sizeof *more);
        if (!more) {
            return NULL;
        }
        t->v = more;
        t->cap = cap;
    }
    t->v[t->n] = (struct eval_task){0};
    return &t->v[t->n++];
}

static int add_task(void *user, const struct json *entry, fathom_err *err)
{
    struct load *l = user;
    struct eval_tasks *t = l->t;
    const struct json *expected = json_get(entry, "expected");
    struct ids ids = {0};
    if (!json_is(expected, JSON_ARRAY) || expected->n == 0) {
        t->n_skipped++;
        return 0;
    }
    if (l->seen++ % l->every) {
        return 0;
    }
    struct eval_task *k = push(t);
    if (!k) {
        return err_nomem(err, "tasks", t->n * sizeof *k);
    }
    int rc = manifest_prompt(&ids, l->m, entry, err);
    rc = rc ? rc : copy_expected(k, &t->mem, expected, err);
    k->id = copy_str(&t->mem, json_get(entry, "id"));
    k->group = copy_str(&t->mem, json_get(entry, "task"));
    if (rc == 0 && (!k->id || !k->group)) {
        rc = err_nomem(err, "tasks", 0);
    }
    if (rc == 0 && ids.n > UINT32_MAX / 2) {
        rc = err_set(err, FATHOM_ELIMIT, "a prompt of %zu tokens", ids.n);
    }
    k->ids = ids.p; /* taken over */
    k->n = rc ? 0 : (uint32_t)ids.n;
    size_t room = k->n + k->longest;
    t->longest = MAX(t->longest, k->n);
    t->room = (uint32_t)MAX((size_t)t->room, MIN(room, (size_t)UINT32_MAX));
    return rc;
}

int eval_tasks_load(struct eval_tasks *t, const struct manifest_ctx *m, struct slice text,
                    uint32_t every, fathom_err *err)
{
    struct load l = {t, m, MAX(every, 1u), 0};
    int rc = m->tok ? 0
                    : err_set(err, FATHOM_EUNSUPPORTED,
                              "the model file has no tokenizer: its answers are no text");
    rc = rc ? rc : manifest_each(text, add_task, &l, err);
    if (rc == 0 && t->n == 0) {
        rc = err_set(err, FATHOM_EFORMAT,
                     "no task: no line has accepted answers (\"expected\")");
    }
    return rc;
}

void eval_tasks_fini(struct eval_tasks *t)
{
    for (size_t i = 0; i < t->n; i++) {
        mem_free(t->v[i].ids);
        buf_free(&t->v[i].text);
    }
    mem_free(t->v);
    arena_fini(&t->mem);
    *t = (struct eval_tasks){0};
}

/* ---- answering ---- */

struct slot {
    fathom_session *s;
    struct eval_task *t; /* NULL: idle */
    size_t next, end;    /* its share of the order */
};
struct answering {
    fathom_engine *e;
    struct eval_task **order; /* sorted by prompt, so that neighbours share prefixes */
    struct slot slot[EVAL_TASK_SESSIONS];
    uint32_t n_slot, chunk;
    size_t n_done;
};

static int by_prompt(const void *a, const void *b)
{
    const struct eval_task *x = *(struct eval_task *const *)a,
                           *y = *(struct eval_task *const *)b;
    for (uint32_t i = 0; i < x->n && i < y->n; i++) {
        if (x->ids[i] != y->ids[i]) {
            return x->ids[i] < y->ids[i] ? -1 : 1;
        }
    }
    if (x->n != y->n) {
        return x->n < y->n ? -1 : 1;
    }
    return (x > y) - (x < y);
}

/* Can the answer still become an accepted one; is it one? */
static bool goes_on(struct eval_task *t)
{
    bool alive = false;
    for (size_t i = 0; i < t->n_expected; i++) {
        struct slice want = t->expected[i];
        if (t->text.n <= want.n && memcmp(t->text.p, want.p, t->text.n) == 0) {
            alive = true;
            t->exact = t->exact || t->text.n == want.n;
        }
    }
    return alive && !t->exact;
}

/* Takes the best token after a step that ended this slot's pending ones. */
static int take_token(struct answering *a, struct slot *sl, fathom_err *err)
{
    fathom_choice c;
    fathom_sampling greedy = {0};
    int rc = fathom_session_sample(sl->s, &greedy, NULL, &c, err);
    if (rc) {
        return rc;
    }
    size_t n;
    const char *bytes = fathom_token_bytes(a->e, c.id, &n);
    if (n > 0) { /* an id without text cannot be part of an accepted answer */
        buf_add(&sl->t->text, bytes, n);
    }
    if (sl->t->text.failed) {
        return err_nomem(err, "an answer", sl->t->text.n);
    }
    if (n > 0 && goes_on(sl->t)) {
        return fathom_session_append(sl->s, &c.id, 1, err);
    }
    sl->t = NULL;
    a->n_done++;
    return 0;
}

/* Gives idle slots their next task; false when all are done. */
static int refill(struct answering *a, bool *busy, fathom_err *err)
{
    int rc = 0;
    *busy = false;
    for (uint32_t i = 0; rc == 0 && i < a->n_slot; i++) {
        struct slot *sl = &a->slot[i];
        if (!sl->t && sl->next < sl->end) {
            sl->t = a->order[sl->next++];
            rc = fathom_session_set(sl->s, sl->t->ids, sl->t->n, NULL, err);
            rc = rc ? err_prefix(err, "task %s", sl->t->id) : 0;
        }
        *busy = *busy || sl->t;
    }
    return rc;
}

/* One step: a token for each answer that is being written, what is left of the chunk for
 * prompts. */
static int one_step(struct answering *a, fathom_err *err)
{
    fathom_work work[EVAL_TASK_SESSIONS];
    struct slot *of[EVAL_TASK_SESSIONS];
    uint32_t n = 0, room = a->chunk;
    for (int prompts = 0; prompts < 2; prompts++) {
        for (uint32_t i = 0; i < a->n_slot; i++) {
            struct slot *sl = &a->slot[i];
            uint32_t left = sl->t ? fathom_session_pending(sl->s) : 0;
            uint32_t k = MIN(left, room);
            if (k > 0 && (left > 1) == (prompts == 1)) {
                work[n] =
                    (fathom_work){sl->s, k, k == left ? FATHOM_WANT_LAST : FATHOM_WANT_NONE};
                of[n++] = sl;
                room -= k;
            }
        }
    }
    int rc = fathom_step(a->e, work, n, err);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        if (work[i].want == FATHOM_WANT_LAST) {
            rc = take_token(a, of[i], err);
        }
    }
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        if (work[i].n_tok > 1) { /* later prompts may share this far */
            rc = fathom_session_checkpoint(work[i].session, err);
        }
    }
    return rc;
}

static int answer_all(struct answering *a, struct eval_tasks *t, fathom_progress_fn progress,
                      void *user, fathom_err *err)
{
    bool busy = true;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < a->n_slot; i++) {
        a->slot[i].next = t->n * i / a->n_slot;
        a->slot[i].end = t->n * (i + 1) / a->n_slot;
        rc = fathom_session_new(&a->slot[i].s, a->e, err);
    }
    while (rc == 0) {
        rc = refill(a, &busy, err);
        if (rc || !busy) {
            break;
        }
        rc = one_step(a, err);
        if (rc == 0 && progress && !progress(user, "tasks", a->n_done, t->n)) {
            rc = err_set(err, FATHOM_ECANCEL, "interrupted after %zu of %zu tasks", a->n_done,
                         t->n);
        }
    }
    for (uint32_t i = 0; i < a->n_slot; i++) {
        fathom_session_free(a->slot[i].s);
    }
    return rc;
}

int eval_tasks_run(struct eval_tasks *t, fathom_engine *e, fathom_progress_fn progress,
                   void *progress_user, fathom_err *err)
{
    fathom_info info;
    fathom_engine_info(e, &info);
    struct answering a = {.e = e, .chunk = info.chunk};
    a.n_slot = MIN((uint32_t)EVAL_TASK_SESSIONS, info.max_seq);
    a.order = mem_alloc(t->n, sizeof(void *));
    if (!a.order) {
        return err_nomem(err, "tasks", t->n * sizeof(void *));
    }
    for (size_t i = 0; i < t->n; i++) {
        a.order[i] = &t->v[i];
    }
    qsort(a.order, t->n, sizeof(void *), by_prompt);
    int rc = answer_all(&a, t, progress, progress_user, err);
    mem_free(a.order);
    t->n_exact = 0;
    for (size_t i = 0; i < t->n; i++) {
        t->n_exact += t->v[i].exact;
    }
    return rc;
}
