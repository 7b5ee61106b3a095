/* sched.c - the engine thread: continuous batching.
 *
 * Each round admits waiting jobs, forms one step and hands its results out. A step holds the
 * next token of every answer that is being written, and fills up with prompt tokens of the
 * others, in turn. While answers are being written the prompt part is kept so short (by the
 * measured time of a prompt token) that no stream waits longer than stall_seconds for it; the
 * arithmetic does not depend on how a prompt is cut, so neither do the answers.
 *
 * The queue is first in, first out among the jobs of one key; keys take turns. Cancelled jobs
 * are dropped before each step. When a step fails, its sequences are tried one by one, so that
 * only the guilty answer ends. Read next: slots.c, decoder.c. */
#include "server/sched_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/trace.h"

enum {
    RESERVE_OPEN = 8192,  /* tokens of an answer without a limit that memory is kept for */
    RESERVE_MOST = 32768, /* and at most, whatever the limit */
    PREFILL_LEAST = 8,    /* prompt tokens a step takes at least */
    KEYS = 64,            /* keys whose turns are remembered apart */
};

struct sched {
    struct sched_config cfg;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct job *first, **end;    /* queue, under lock */
    uint32_t n_queued;           /* under lock */
    struct job **running;        /* under lock: [slots.n], for joining; NULL where free */
    uint32_t n_running;          /* under lock: room of `running` */
    bool stopping;               /* under lock */
    double stop_at;              /* under lock: clock_now() when running jobs are ended */
    uint64_t served[KEYS], turn; /* under lock: last turn of each key */
    /* engine thread only */
    struct slots slots;
    struct decoder_tools tools;
    uint32_t *mask;   /* owned: no calls */
    struct run **run; /* owned: n_run of slots.n, in order of admission */
    struct model_work *work;
    struct run **part; /* owned: the run of each work */
    uint32_t n_run, rotate;
    double prompt_token; /* measured seconds of a prompt token, 0: not known */
};

struct sched *sched_new(const struct sched_config *cfg)
{
    struct sched *s = mem_calloc(1, sizeof *s);
    if (s) {
        s->cfg = *cfg;
        s->end = &s->first;
        pthread_mutex_init(&s->lock, NULL);
        clock_cond_init(&s->wake);
    }
    return s;
}

void sched_free(struct sched *s)
{
    if (s) {
        pthread_mutex_destroy(&s->lock);
        pthread_cond_destroy(&s->wake);
        mem_free(s);
    }
}

/* ---- submission: any thread ---- */

static struct job *find_same(struct sched *s, const struct job_spec *spec)
{
    for (struct job *j = s->first; j; j = j->next) {
        if (job_same(&j->spec, spec) && job_join(j)) {
            return j;
        }
    }
    for (uint32_t i = 0; i < s->n_running; i++) {
        struct job *j = s->running[i];
        if (j && job_same(&j->spec, spec) && job_join(j)) {
            return j;
        }
    }
    return NULL;
}

/* The queue's bound, not counting jobs that a free slot is waiting for. */
static bool is_full(const struct sched *s)
{
    uint32_t busy = 0;
    for (uint32_t i = 0; i < s->n_running; i++) {
        busy += s->running[i] != NULL;
    }
    return s->n_queued >= s->cfg.max_queue + (s->n_running - busy);
}

struct job *sched_submit(struct sched *s, struct job_spec *spec, enum submit *how)
{
    struct job *j = NULL;
    pthread_mutex_lock(&s->lock);
    if (s->stopping) {
        *how = SUBMIT_STOPPING;
    } else if ((j = find_same(s, spec)) != NULL) {
        *how = SUBMIT_JOINED;
        atomic_fetch_add(&s->cfg.metrics->joined, 1);
    } else if (is_full(s)) {
        *how = SUBMIT_FULL;
    } else {
        j = job_new(spec);
        *how = j ? SUBMIT_OK : SUBMIT_NOMEM;
        if (j) {
            job_ref(j); /* the scheduler's */
            *s->end = j;
            s->end = &j->next;
            atomic_store(&s->cfg.metrics->queued, ++s->n_queued);
            pthread_cond_signal(&s->wake);
        }
    }
    pthread_mutex_unlock(&s->lock);
    job_spec_fini(spec);
    return j;
}

void sched_poke(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

uint32_t sched_queued(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    uint32_t n = s->n_queued;
    pthread_mutex_unlock(&s->lock);
    return n;
}

void sched_stop(struct sched *s, double grace_seconds)
{
    double at = clock_now() + grace_seconds;
    pthread_mutex_lock(&s->lock);
    s->stop_at = s->stopping ? MIN(s->stop_at, at) : at;
    s->stopping = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

/* ---- the queue: engine thread, under lock ---- */

static struct job *unlink_job(struct sched *s, struct job **link)
{
    struct job *j = *link;
    *link = j->next;
    if (!j->next) {
        s->end = link;
    }
    j->next = NULL;
    atomic_store(&s->cfg.metrics->queued, --s->n_queued);
    return j;
}

/* The first job of the key that had its turn longest ago, without those passed over. */
static struct job *next_job(const struct sched *s)
{
    struct job *best = NULL;
    for (struct job *j = s->first; j; j = j->next) {
        if (!j->later &&
            (!best || s->served[j->spec.key % KEYS] < s->served[best->spec.key % KEYS])) {
            best = j;
        }
    }
    return best;
}

static void end_queued(struct sched *s, struct job *j, enum finish finish, const char *why)
{
    struct job_usage u = {.prompt = (uint32_t)j->spec.prompt.n,
                          .queued_s = clock_now() - j->submitted};
    if (atomic_load(&j->cancel)) {
        atomic_fetch_add(&s->cfg.metrics->cancelled[CANCEL_QUEUE], 1);
    }
    job_end(j, finish, 0, slice_of(why), &u, NULL);
    job_unref(j);
}

static void drop_cancelled(struct sched *s)
{
    for (struct job **l = &s->first; *l;) {
        if (s->stopping || atomic_load(&(*l)->cancel)) {
            end_queued(s, unlink_job(s, l), FINISH_SHUTDOWN, "the server is shutting down");
        } else {
            l = &(*l)->next;
        }
    }
}

/* ---- admission ---- */

static uint32_t reserve_for(const struct job_spec *j)
{
    uint32_t answer = j->context_bound ? MIN(j->max_tokens, (uint32_t)RESERVE_OPEN)
                                       : MIN(j->max_tokens, (uint32_t)RESERVE_MOST);
    return (uint32_t)j->prompt.n + answer;
}

static void run_free(struct run *r)
{
    decoder_fini(&r->decoder);
    mem_free(r);
}

/* Rows of files that are used without computing again. */
static uint32_t from_disk(const fathom_reuse *r)
{
    return MIN(r->disk, r->kept);
}

/* Why the prompt has to be computed from where it has, with the text around. May read the
 * beginning of one file, which a server with a trace can afford. */
static void trace_reuse(struct sched *s, const struct run *r)
{
    char text[4096];
    const struct model *m = s->slots.m;
    if (s->cfg.trace && m->ops->explain) {
        size_t n = m->ops->explain(m->impl, r->seq, text, sizeof text);
        trace_text(s->cfg.trace, r->job->spec.id, "reuse",
                   (struct slice){text, MIN(n, sizeof text - 1)});
    }
}

/* Gives the job a sequence and puts it on the list. err: of PLACE_ERROR. */
static enum place start_job(struct sched *s, struct job *j, fathom_err *err)
{
    struct run *r = mem_calloc(1, sizeof *r);
    if (!r || decoder_start(&r->decoder, &s->tools, j, err) != 0) {
        mem_free(r);
        err_nomem(err, "an answer", sizeof *r);
        return PLACE_ERROR;
    }
    r->job = j;
    r->reserve = reserve_for(&j->spec);
    r->started = clock_now();
    enum place place = slots_place(&s->slots, r, err);
    if (place != PLACE_OK) {
        decoder_close(&r->decoder, true);
        run_free(r);
        return place;
    }
    s->run[s->n_run++] = r;
    struct metrics *m = s->cfg.metrics;
    metrics_observe(&m->queue_wait, r->started - j->submitted);
    atomic_fetch_add(&m->prompt_tokens, j->spec.prompt.n);
    uint32_t disk = from_disk(&r->reuse);
    atomic_fetch_add(&m->cached_live, r->reuse.kept - disk);
    atomic_fetch_add(&m->cached_disk, disk);
    atomic_fetch_add(&m->disk_hits, disk > 0);
    trace_reuse(s, r);
    job_put(j, (struct job_event){.kind = JOB_EV_START, .n = r->reuse.kept}, (struct slice){0},
            NULL, 0);
    return PLACE_OK;
}

/* From the queue to the running ones, where it can still be joined. */
static void move_to_running(struct sched *s, struct job **link)
{
    struct job *j = unlink_job(s, link);
    uint32_t i = 0;
    while (s->running[i]) {
        i++;
    }
    s->running[i] = j;
    s->served[j->spec.key % KEYS] = ++s->turn;
}

/* Admits jobs while slots and memory last. Called under the lock, which it gives up while it
 * works on a job; the job stays queued meanwhile (others only append to the queue). */
static void admit(struct sched *s)
{
    struct job *j;
    for (j = s->first; j; j = j->next) {
        j->later = false;
    }
    while (s->n_run < s->slots.n && (j = next_job(s)) != NULL) {
        fathom_err err = {0};
        pthread_mutex_unlock(&s->lock);
        enum place place = start_job(s, j, &err);
        pthread_mutex_lock(&s->lock);
        struct job **link = &s->first;
        while (*link != j) {
            link = &(*link)->next;
        }
        if (place == PLACE_WAIT) {
            break;
        }
        if (place == PLACE_LATER) {
            j->later = true;
        } else if (place == PLACE_ERROR) {
            end_queued(s, unlink_job(s, link), FINISH_FAULT, err.msg);
        } else {
            move_to_running(s, link);
        }
    }
    atomic_store(&s->cfg.metrics->running, s->n_run);
}

/* ---- ends ---- */

static struct job_usage usage_of(const struct run *r)
{
    double now = clock_now(), first = r->first_token > 0 ? r->first_token : now;
    return (struct job_usage){
        .prompt = (uint32_t)r->job->spec.prompt.n,
        .cached = r->reuse.kept,
        .cached_disk = from_disk(&r->reuse),
        .matched = r->reuse.matched,
        .end = fathom_reuse_end_name(r->reuse.end),
        .output = r->decoder.n_output,
        .reasoning = r->decoder.n_reasoning,
        .queued_s = r->started - r->job->submitted,
        .prefill_s = first - r->started,
        .decode_s = now - first,
        .first_token_s = first - r->job->submitted,
    };
}

static void count_end(struct sched *s, const struct run *r, const struct job_usage *u,
                      bool cancelled)
{
    struct metrics *m = s->cfg.metrics;
    unsigned long long n = r->job->spec.prompt.n + r->decoder.n_output;
    atomic_fetch_add(&m->output_tokens, u->output);
    metrics_add_seconds(&m->prefill_ns, u->prefill_s);
    metrics_add_seconds(&m->decode_ns, u->decode_s);
    if (n > atomic_load(&m->context_max)) {
        atomic_store(&m->context_max, n);
    }
    if (cancelled) {
        atomic_fetch_add(
            &m->cancelled[r->state == RUN_PREFILL ? CANCEL_PREFILL : CANCEL_DECODE], 1);
    }
}

/* Ends an answer and takes it off the list. why: of a fault, else NULL. */
static void end_run(struct sched *s, struct run *r, enum finish finish, const char *why)
{
    struct job *j = r->job;
    enum finish own = decoder_close(&r->decoder, finish == FINISH_FAULT);
    if (finish != FINISH_SHUTDOWN) {
        finish = own;
    }
    if (finish == FINISH_FAULT && !why) {
        why = "out of memory";
    }
    struct job_usage u = usage_of(r);
    bool cancelled = atomic_load(&j->cancel);
    count_end(s, r, &u, cancelled);
    log_debug("%s: %u prompt tokens (%u cached), %u out%s", j->spec.id, u.prompt, u.cached,
              u.output, cancelled ? ", cancelled" : "");
    slots_release(&s->slots, r);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->n_running; i++) {
        if (s->running[i] == j) {
            s->running[i] = NULL;
        }
    }
    pthread_mutex_unlock(&s->lock);
    uint32_t i = 0;
    while (s->run[i] != r) {
        i++;
    }
    s->n_run--;
    memmove(&s->run[i], &s->run[i + 1], (s->n_run - i) * sizeof *s->run);
    atomic_store(&s->cfg.metrics->running, s->n_run);
    job_end(j, finish, r->decoder.stop_index, slice_of(why ? why : ""), &u, &r->decoder.output);
    job_unref(j);
    run_free(r);
}

/* ---- a step ---- */

static struct model_work work_of(struct sched *s, struct run *r, uint32_t most)
{
    uint32_t pending = s->slots.m->ops->pending(s->slots.m->impl, r->seq);
    uint32_t n = MIN(pending, most);
    return (struct model_work){.seq = r->seq, .n_tok = n, .want = n == pending};
}

/* Prompt tokens that the step may take beside n_decode answers. */
static uint32_t prompt_quota(const struct sched *s, uint32_t n_decode)
{
    uint32_t room = s->slots.m->info.chunk - n_decode;
    if (n_decode == 0 || s->prompt_token <= 0) {
        return n_decode == 0 ? room : MIN(room, (uint32_t)PREFILL_LEAST * 4);
    }
    double most = s->cfg.stall_seconds / s->prompt_token;
    uint32_t quota = most > room ? room : (uint32_t)most;
    return MIN(room, MAX(quota, (uint32_t)PREFILL_LEAST));
}

/* Fills s->work; returns how many. *n_prompt: prompt tokens among them. */
static uint32_t compose(struct sched *s, uint32_t *n_prompt)
{
    uint32_t n = 0, quota, first = s->rotate;
    *n_prompt = 0;
    for (uint32_t i = 0; i < s->n_run; i++) {
        if (s->run[i]->state == RUN_DECODE) {
            s->part[n] = s->run[i];
            s->work[n++] = work_of(s, s->run[i], s->slots.m->info.chunk);
        }
    }
    quota = prompt_quota(s, n);
    for (uint32_t i = 0; i < s->n_run && quota > 0; i++) {
        struct run *r = s->run[(first + i) % s->n_run];
        if (r->state == RUN_PREFILL) {
            s->part[n] = r;
            s->work[n] = work_of(s, r, quota);
            quota -= s->work[n].n_tok;
            *n_prompt += s->work[n++].n_tok;
            s->rotate = (first + i + 1) % s->n_run;
        }
    }
    return n;
}

/* The next token of r, whose logits are there. */
static void choose(struct sched *s, struct run *r)
{
    struct model *m = s->slots.m;
    fathom_err err = {0};
    fathom_choice c = {0};
    int rc = 0;
    if (!decoder_forced(&r->decoder, &c.id)) {
        fathom_sampling p = decoder_sampling_now(&r->decoder);
        rc = m->ops->sample(m->impl, r->seq, &p, decoder_mask(&r->decoder), &c, &err);
    }
    if (rc) {
        end_run(s, r, FINISH_FAULT, err.msg);
        return;
    }
    if (r->first_token <= 0) {
        r->first_token = clock_now();
        metrics_observe(&s->cfg.metrics->ttft, r->first_token - r->job->submitted);
    }
    bool done = decoder_take(&r->decoder, &c);
    do { /* also a last token is kept: the next prompt contains it */
        err = (fathom_err){0};
        rc = m->ops->append(m->impl, r->seq, c.id, &err);
    } while (rc == FATHOM_ELIMIT && slots_evict(&s->slots, NULL));
    if (rc && !done) {
        log_warn("%s: the answer ends early: %s", r->job->spec.id, err.msg);
        r->decoder.done = true;
        r->decoder.finish = FINISH_CONTEXT;
        done = true;
    }
    if (done || r->job->failed) {
        end_run(s, r, FINISH_STOP, NULL);
    }
}

/* What one sequence's part of a step has led to. */
static void advance(struct sched *s, struct run *r, bool logits)
{
    if (!logits) {
        return;
    }
    if (r->state == RUN_PREFILL) {
        s->slots.m->ops->checkpoint(s->slots.m->impl, r->seq);
        r->state = RUN_DECODE;
    }
    choose(s, r);
}

/* After a failed step: each sequence alone. */
static void step_singly(struct sched *s, uint32_t n)
{
    struct model *m = s->slots.m;
    for (uint32_t i = 0; i < n; i++) {
        fathom_err err = {0};
        struct run *r = s->part[i];
        bool want = s->work[i].want;
        if (m->ops->step(m->impl, &s->work[i], 1, &err) != 0) {
            log_error("%s: %s", r->job->spec.id, err.msg);
            end_run(s, r, FINISH_FAULT, err.msg);
        } else {
            advance(s, r, want);
        }
    }
}

static void step(struct sched *s)
{
    struct model *m = s->slots.m;
    fathom_err err = {0};
    uint32_t n_prompt, n = compose(s, &n_prompt), n_tok = 0;
    for (uint32_t i = 0; i < n; i++) {
        n_tok += s->work[i].n_tok;
    }
    double start = clock_now();
    int rc = m->ops->step(m->impl, s->work, n, &err);
    double took = clock_now() - start;
    atomic_fetch_add(&s->cfg.metrics->steps, 1);
    atomic_fetch_add(&s->cfg.metrics->step_tokens, n_tok);
    if (rc && n > 1) {
        log_warn("a step of %u sequences failed (%s): trying each alone", n, err.msg);
        step_singly(s, n);
        return;
    }
    if (rc) {
        log_error("%s: %s", s->part[0]->job->spec.id, err.msg);
        end_run(s, s->part[0], FINISH_FAULT, err.msg);
        return;
    }
    if (n_prompt > 0) { /* a running mean; decode tokens are counted as prompt tokens */
        double per = took / n_tok;
        s->prompt_token = s->prompt_token > 0 ? 0.75 * s->prompt_token + 0.25 * per : per;
    }
    for (uint32_t i = 0; i < n; i++) {
        advance(s, s->part[i], s->work[i].want);
    }
}

static void end_unwanted(struct sched *s, bool shutdown)
{
    for (uint32_t i = s->n_run; i-- > 0;) {
        struct run *r = s->run[i];
        if (shutdown || atomic_load(&r->job->cancel)) {
            end_run(s, r, FINISH_SHUTDOWN, "the server is shutting down");
        }
    }
}

/* ---- the loop ---- */

static int prepare(struct sched *s, struct model *m, fathom_err *err)
{
    int rc = slots_init(&s->slots, m, err);
    uint32_t n = s->slots.n, words = (m->info.n_vocab + 31) / 32;
    if (rc) {
        return rc;
    }
    s->mask = mem_alloc(words, sizeof *s->mask);
    s->run = mem_calloc(n, sizeof(struct run *));
    s->part = mem_calloc(n, sizeof(struct run *));
    s->work = mem_calloc(n, sizeof *s->work);
    struct job **running = mem_calloc(n, sizeof(struct job *));
    if (!s->mask || !s->run || !s->part || !s->work || !running) {
        mem_free(running);
        return err_nomem(err, "the scheduler", words * sizeof *s->mask);
    }
    memset(s->mask, 0xff, words * sizeof *s->mask);
    int32_t call = tokenizer_control(m->tok, CT_DSML);
    if (call >= 0 && (uint32_t)call < m->info.n_vocab) {
        s->mask[call / 32] &= ~(1u << call % 32);
    }
    s->tools = (struct decoder_tools){m->tok, m->info.n_vocab, s->mask};
    pthread_mutex_lock(&s->lock);
    s->running = running;
    s->n_running = n;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static void publish_memory(struct sched *s)
{
    struct model_memory now;
    struct metrics *m = s->cfg.metrics;
    s->slots.m->ops->memory(s->slots.m->impl, &now);
    atomic_store(&m->kv_used, now.used_bytes);
    atomic_store(&m->kv_budget, now.budget_bytes);
    atomic_store(&m->disk_bytes, now.disk_bytes);
    atomic_store(&m->disk_evicted, now.disk_evicted);
}

static void wait_for_work(struct sched *s)
{
    clock_wait(&s->wake, &s->lock, 0.2);
    publish_memory(s); /* files are written in the background */
}

static void loop(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    for (;;) {
        drop_cancelled(s);
        if (!s->stopping) {
            admit(s);
        }
        bool stop = s->stopping, late = stop && clock_now() > s->stop_at;
        if (s->n_run == 0 && stop) {
            break;
        }
        if (s->n_run == 0) {
            if (!s->first) {
                wait_for_work(s);
            }
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        end_unwanted(s, late);
        if (s->n_run > 0) {
            step(s);
        }
        publish_memory(s);
        pthread_mutex_lock(&s->lock);
    }
    drop_cancelled(s);
    pthread_mutex_unlock(&s->lock);
}

int sched_run(struct sched *s, struct model *m, fathom_err *err)
{
    int rc = prepare(s, m, err);
    if (rc == 0) {
        publish_memory(s);
        loop(s);
    }
    pthread_mutex_lock(&s->lock);
    mem_free(s->running);
    s->running = NULL;
    s->n_running = 0;
    s->stopping = true;
    pthread_mutex_unlock(&s->lock);
    slots_fini(&s->slots);
    mem_free(s->mask);
    mem_free(s->run);
    mem_free(s->part);
    mem_free(s->work);
    return rc;
}
