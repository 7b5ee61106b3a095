/* jobs.c - see jobs.h. A reader copies what is new under the lock and works on its copy, so the
 * engine thread never waits for a socket. */
#include "server/jobs.h"

#include "base/clock.h"
#include "base/mem.h"

void job_spec_fini(struct job_spec *s)
{
    ids_free(&s->prompt);
    for (size_t i = 0; i < s->n_stop; i++) {
        mem_free(s->stop[i]);
    }
    constraint_free(s->constraint);
    *s = (struct job_spec){0};
}

struct job *job_new(struct job_spec *spec)
{
    struct job *j = mem_calloc(1, sizeof *j);
    if (!j) {
        job_spec_fini(spec);
        return NULL;
    }
    j->spec = *spec;
    *spec = (struct job_spec){0};
    j->refs = j->readers = 1;
    j->text.max_bytes = JOB_LOG_BYTES;
    j->submitted = clock_now();
    atomic_init(&j->cancel, false);
    pthread_mutex_init(&j->lock, NULL);
    clock_cond_init(&j->more);
    return j;
}

static void job_free(struct job *j)
{
    job_spec_fini(&j->spec);
    buf_free(&j->text);
    mem_free(j->event);
    mem_free(j->logprob);
    ids_free(&j->output);
    pthread_mutex_destroy(&j->lock);
    pthread_cond_destroy(&j->more);
    mem_free(j);
}

void job_ref(struct job *j)
{
    pthread_mutex_lock(&j->lock);
    j->refs++;
    pthread_mutex_unlock(&j->lock);
}

void job_unref(struct job *j)
{
    pthread_mutex_lock(&j->lock);
    bool last = --j->refs == 0;
    pthread_mutex_unlock(&j->lock);
    if (last) {
        job_free(j);
    }
}

bool job_join(struct job *j)
{
    pthread_mutex_lock(&j->lock);
    bool ok = j->readers > 0 && !j->failed;
    if (ok) {
        j->readers++;
        j->refs++;
    }
    pthread_mutex_unlock(&j->lock);
    return ok;
}

void job_leave(struct job *j)
{
    pthread_mutex_lock(&j->lock);
    if (--j->readers == 0) {
        atomic_store(&j->cancel, true);
    }
    pthread_mutex_unlock(&j->lock);
    job_unref(j);
}

static bool same_sampling(const fathom_sampling *a, const fathom_sampling *b)
{
    return a->temperature == b->temperature && a->top_k == b->top_k && a->top_p == b->top_p &&
           a->min_p == b->min_p && a->repeat_penalty == b->repeat_penalty &&
           a->frequency_penalty == b->frequency_penalty &&
           a->presence_penalty == b->presence_penalty && a->seed == b->seed &&
           a->n_logprobs == b->n_logprobs;
}

static bool same_constraint(const struct constraint *a, const struct constraint *b)
{
    return a == b || (a && b && memcmp(a->digest, b->digest, sizeof a->digest) == 0);
}

bool job_same(const struct job_spec *a, const struct job_spec *b)
{
    bool same = a->seeded && b->seeded && a->key == b->key && sip_equal(a->salt, b->salt) &&
                a->chat == b->chat && a->in_reasoning == b->in_reasoning &&
                a->one_call == b->one_call && a->no_calls == b->no_calls &&
                a->max_tokens == b->max_tokens && a->reasoning_tokens == b->reasoning_tokens &&
                a->n_stop == b->n_stop && same_constraint(a->constraint, b->constraint) &&
                a->prompt.n == b->prompt.n && same_sampling(&a->sampling, &b->sampling) &&
                memcmp(a->prompt.p, b->prompt.p, a->prompt.n * sizeof *a->prompt.p) == 0;
    for (size_t i = 0; same && i < a->n_stop; i++) {
        same = strcmp(a->stop[i], b->stop[i]) == 0;
    }
    return same;
}

/* ---- writing ---- */

/* Room for n more elements of an array; false when memory is out. */
static bool grow(void **p, size_t n, size_t more, size_t *cap, size_t bytes)
{
    if (n + more <= *cap) {
        return true;
    }
    size_t want = MAX(n + more, *cap + *cap / 2 + 16);
    void *q = mem_realloc(*p, want, bytes);
    if (q) {
        *p = q;
        *cap = want;
    }
    return q != NULL;
}

static void put_locked(struct job *j, struct job_event ev, struct slice text,
                       const struct job_logprob *logprob, size_t n_logprob)
{
    void *events = j->event, *logprobs = j->logprob;
    bool ok = grow(&events, j->n_event, 1, &j->cap_event, sizeof *j->event);
    j->event = events;
    ok = ok && grow(&logprobs, j->n_logprob, n_logprob, &j->cap_logprob, sizeof *j->logprob);
    j->logprob = logprobs;
    ev.text_at = j->text.n;
    ev.text_n = text.n;
    ev.logprob_at = j->n_logprob;
    ev.logprob_n = n_logprob;
    buf_add(&j->text, text.n ? text.p : "", text.n);
    if (!ok || j->text.failed) {
        j->failed = true;
        return;
    }
    if (n_logprob) {
        memcpy(j->logprob + j->n_logprob, logprob, n_logprob * sizeof *logprob);
        j->n_logprob += n_logprob;
    }
    j->event[j->n_event++] = ev;
}

void job_put(struct job *j, struct job_event ev, struct slice text,
             const struct job_logprob *logprob, size_t n_logprob)
{
    pthread_mutex_lock(&j->lock);
    put_locked(j, ev, text, logprob, n_logprob);
    pthread_cond_broadcast(&j->more);
    pthread_mutex_unlock(&j->lock);
}

void job_end(struct job *j, enum finish finish, uint32_t n, struct slice why,
             const struct job_usage *usage, const struct ids *output)
{
    pthread_mutex_lock(&j->lock);
    j->usage = *usage;
    if (output) {
        ids_add_all(&j->output, output->p, output->n);
    }
    put_locked(j, (struct job_event){.kind = JOB_EV_END, .finish = finish, .n = n}, why, NULL,
               0);
    j->ended = true;
    pthread_cond_broadcast(&j->more);
    pthread_mutex_unlock(&j->lock);
}

/* ---- reading ---- */

static void wait_more(struct job *j, double seconds)
{
    clock_wait(&j->more, &j->lock, seconds);
}

/* Copies events [at, n_event); their offsets become those of the copy. */
static void copy_events(struct job_reader *r)
{
    struct job *j = r->job;
    size_t n = j->n_event - r->at;
    if (n == 0) {
        return;
    }
    const struct job_event *first = &j->event[r->at];
    size_t text0 = first->text_at, lp0 = first->logprob_at, n_lp = j->n_logprob - lp0;
    void *events = r->event, *logprobs = r->logprob;
    bool ok = grow(&events, 0, n, &r->cap, sizeof *r->event);
    r->event = events;
    ok = ok && grow(&logprobs, 0, n_lp, &r->cap_logprob, sizeof *r->logprob);
    r->logprob = logprobs;
    buf_add(&r->text, j->text.n ? j->text.p + text0 : "", j->text.n - text0);
    if (!ok || r->text.failed) {
        r->failed = true;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        r->event[i] = first[i];
        r->event[i].text_at -= text0;
        r->event[i].logprob_at -= lp0;
    }
    if (n_lp) {
        memcpy(r->logprob, j->logprob + lp0, n_lp * sizeof *r->logprob);
    }
    r->n_logprob = n_lp;
    r->n = n;
    r->at += n;
}

void job_read(struct job_reader *r, double seconds)
{
    struct job *j = r->job;
    r->n = r->n_logprob = 0;
    buf_clear(&r->text);
    pthread_mutex_lock(&j->lock);
    if (r->at == j->n_event && !j->ended && !j->failed && seconds > 0) {
        wait_more(j, seconds);
    }
    r->failed = r->failed || j->failed;
    copy_events(r);
    pthread_mutex_unlock(&j->lock);
}

struct slice job_text(const struct job_reader *r, const struct job_event *ev)
{
    return (struct slice){(r->text.p ? r->text.p : "") + ev->text_at, ev->text_n};
}

void job_reader_fini(struct job_reader *r)
{
    buf_free(&r->text);
    mem_free(r->event);
    mem_free(r->logprob);
    *r = (struct job_reader){0};
}

struct job_usage job_usage(struct job *j)
{
    pthread_mutex_lock(&j->lock);
    struct job_usage u = j->usage;
    pthread_mutex_unlock(&j->lock);
    return u;
}
