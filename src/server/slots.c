/* slots.c - which sequence a prompt goes to: prefixes that are computed already, forks of
 * sequences that others still use, and KV memory.
 *
 * Prefixes are compared by ids, among sequences of the same salt only, so that one key's
 * prompts cannot be guessed by another key's times. A prompt that another answer is just
 * computing waits for it instead of computing it twice. Memory: a job is admitted only when
 * its prompt and a fair share of its answer fit beside what the running ones were promised;
 * idle sequences are given up for it, oldest first. Read next: sched.c. */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/sched_int.h"

enum {
    WORTH = 256, /* tokens: less is computed again rather than waited or forked for */
};

int slots_init(struct slots *s, struct model *m, fathom_err *err)
{
    *s = (struct slots){.m = m, .n = m->info.max_seq};
    s->slot = mem_calloc(s->n, sizeof *s->slot);
    return s->slot ? 0 : err_nomem(err, "slots", s->n * sizeof *s->slot);
}

void slots_fini(struct slots *s)
{
    for (uint32_t i = 0; s->slot && i < s->n; i++) {
        if (s->slot[i].seq) {
            s->m->ops->seq_free(s->m->impl, s->slot[i].seq);
        }
    }
    mem_free(s->slot);
}

uint32_t slots_busy(const struct slots *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        n += s->slot[i].run != NULL;
    }
    return n;
}

static uint32_t common(const uint32_t *a, uint32_t n_a, const struct ids *b)
{
    uint32_t n = MIN(n_a, (uint32_t)b->n), i = 0;
    while (i < n && a[i] == b->p[i]) {
        i++;
    }
    return i;
}

static uint32_t computed_prefix(struct slots *s, const struct slot *t, const struct job_spec *j)
{
    uint32_t n = 0;
    if (!t->seq || !sip_equal(t->salt, j->salt)) {
        return 0;
    }
    const uint32_t *ids = s->m->ops->ids(s->m->impl, t->seq, &n);
    return common(ids, n, &j->prompt);
}

/* What the slots offer to a prompt. */
struct offer {
    struct slot *idle, *busy, *empty, *oldest; /* best idle and busy; one without sequence */
    uint32_t idle_n, busy_n;                   /* computed tokens of the prompt in them */
    uint32_t coming;                           /* tokens that a running prefill will have */
};

static struct offer look(struct slots *s, const struct job_spec *j)
{
    struct offer o = {0};
    for (uint32_t i = 0; i < s->n; i++) {
        struct slot *t = &s->slot[i];
        uint32_t n = computed_prefix(s, t, j);
        if (t->run) {
            if (n > o.busy_n) {
                o.busy = t;
                o.busy_n = n;
            }
            if (t->run->state == RUN_PREFILL && sip_equal(t->salt, j->salt)) {
                const struct ids *p = &t->run->job->spec.prompt;
                uint32_t c = common(p->p, (uint32_t)p->n, &j->prompt);
                o.coming = MAX(o.coming, c);
            }
        } else if (!t->seq) {
            o.empty = o.empty ? o.empty : t;
        } else {
            if (!o.oldest || t->used < o.oldest->used) {
                o.oldest = t;
            }
            if (n > o.idle_n || (n > 0 && n == o.idle_n && t->used > o.idle->used)) {
                o.idle = t;
                o.idle_n = n;
            }
        }
    }
    return o;
}

static void drop(struct slots *s, struct slot *t)
{
    s->m->ops->seq_free(s->m->impl, t->seq);
    t->seq = NULL;
}

bool slots_evict(struct slots *s, const struct slot *but)
{
    struct slot *oldest = NULL;
    for (uint32_t i = 0; i < s->n; i++) {
        struct slot *t = &s->slot[i];
        if (t->seq && !t->run && t != but && (!oldest || t->used < oldest->used)) {
            oldest = t;
        }
    }
    if (oldest) {
        drop(s, oldest);
    }
    return oldest != NULL;
}

static uint64_t pages_bytes(const struct slots *s, uint64_t tokens)
{
    uint64_t per = s->m->info.page_tokens;
    return per ? (tokens + per - 1) / per * s->m->info.page_bytes : 0;
}

/* KV memory that is in use or promised to running answers. */
static uint64_t committed(struct slots *s, uint64_t *budget)
{
    struct model_memory now;
    s->m->ops->memory(s->m->impl, &now);
    uint64_t idle = now.idle_pages * s->m->info.page_bytes;
    uint64_t used = now.used_bytes - MIN(now.used_bytes, idle);
    *budget = now.budget_bytes;
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->slot[i].run) {
            uint32_t n;
            s->m->ops->ids(s->m->impl, s->slot[i].seq, &n);
            n += s->m->ops->pending(s->m->impl, s->slot[i].seq);
            uint64_t held = pages_bytes(s, n);
            uint64_t later = pages_bytes(s, s->slot[i].run->reserve);
            used += later > held ? later - held : 0;
        }
    }
    return used;
}

/* Gives up idle sequences until run fits beside the others; false if it does not. */
static bool make_memory(struct slots *s, const struct run *run, const struct slot *keep,
                        uint32_t have)
{
    uint64_t budget, need = pages_bytes(s, run->reserve) - pages_bytes(s, have);
    for (;;) {
        uint64_t used = committed(s, &budget);
        if (budget == 0 || used + need <= budget) {
            return true;
        }
        if (!slots_evict(s, keep)) {
            return false;
        }
    }
}

/* A slot with a sequence for the prompt: the best idle one, or a fork, or a new one. */
static int take(struct slots *s, struct offer *o, struct sip_digest salt, struct slot **out,
                fathom_err *err)
{
    const struct model_ops *ops = s->m->ops;
    uint32_t n = 0;
    struct slot *free_slot = o->empty ? o->empty : o->oldest;
    bool spare = o->empty || (o->oldest && o->oldest != o->idle);
    if (o->idle) {
        ops->ids(s->m->impl, o->idle->seq, &n);
    }
    struct slot *from = NULL; /* to fork */
    if (o->busy_n > o->idle_n + WORTH) {
        from = o->busy;
        n = o->busy_n;
    } else if (o->idle && spare && o->idle_n < n / 2) {
        from = o->idle_n > WORTH ? o->idle : NULL; /* do not cut a much longer conversation */
        n = o->idle_n;
        o->idle = from;
    }
    *out = from || !o->idle ? free_slot : o->idle;
    if (!from && *out == o->idle) {
        return 0;
    }
    if ((*out)->seq) {
        drop(s, *out);
    }
    fathom_err ignored = {0};
    if (from && ops->seq_fork(s->m->impl, &(*out)->seq, from->seq, n, &ignored) == 0) {
        return 0;
    }
    return ops->seq_new(s->m->impl, &(*out)->seq, salt, err);
}

enum place slots_place(struct slots *s, struct run *run, fathom_err *err)
{
    const struct job_spec *j = &run->job->spec;
    struct offer o = look(s, j);
    struct slot *t = NULL;
    uint32_t best = MAX(o.idle_n, o.busy_n);
    if (!o.empty && !o.oldest) {
        return PLACE_WAIT;
    }
    if (o.coming > best + WORTH) {
        return PLACE_LATER;
    }
    bool alone = slots_busy(s) == 0;
    if (!make_memory(s, run, o.idle, o.idle_n) && !make_memory(s, run, NULL, 0) && !alone) {
        return PLACE_WAIT;
    }
    o = look(s, j); /* make_memory may have freed some */
    int rc = take(s, &o, j->salt, &t, err);
    if (rc) {
        return alone ? PLACE_ERROR : PLACE_WAIT;
    }
    t->salt = j->salt;
    rc = s->m->ops->set(s->m->impl, t->seq, j->prompt.p, (uint32_t)j->prompt.n, &run->reuse,
                        err);
    while (rc == FATHOM_ELIMIT && slots_evict(s, t)) {
        *err = (fathom_err){0};
        rc = s->m->ops->set(s->m->impl, t->seq, j->prompt.p, (uint32_t)j->prompt.n, &run->reuse,
                            err);
    }
    t->used = clock_now();
    if (rc) {
        return rc == FATHOM_ELIMIT && !alone ? PLACE_WAIT : PLACE_ERROR;
    }
    t->run = run;
    run->seq = t->seq;
    return PLACE_OK;
}

void slots_release(struct slots *s, struct run *run)
{
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->slot[i].run == run) {
            s->slot[i].run = NULL;
            s->m->ops->idle(s->m->impl, s->slot[i].seq);
            s->slot[i].used = clock_now();
        }
    }
}
