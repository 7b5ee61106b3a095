/* decoder.c - see decoder.h. Tokens go through the event parser of src/chat by id; content then
 * passes the stop strings; what may be sent becomes events of the job's log.
 *
 * Stop strings see content only. The first that completes ends the answer; what follows it, and
 * calls after it, are not sent. Log probabilities belong to content tokens: they wait until the
 * text of their token is released, and are dropped with text that turns out to be a tag. Read
 * next: sched.c (who calls this), sse.h (who reads the events). */
#include "server/decoder.h"

#include "base/mem.h"

static void put(struct decoder *a, enum job_event_kind kind, struct slice text)
{
    job_put(a->job, (struct job_event){.kind = kind, .call = a->n_call}, text, NULL, 0);
}

/* ---- log probabilities ---- */

static void wait_logprob(struct decoder *a, const fathom_choice *c, size_t bytes)
{
    if (a->n_wait == a->cap_wait) {
        size_t cap = a->cap_wait ? a->cap_wait * 2 : 16;
        struct job_logprob *w = mem_realloc(a->wait, cap, sizeof *w);
        a->wait = w ? w : a->wait;
        size_t *b = mem_realloc(a->wait_bytes, cap, sizeof *b);
        a->wait_bytes = b ? b : a->wait_bytes;
        if (!w || !b) {
            a->failed = true;
            return;
        }
        a->cap_wait = cap;
    }
    struct job_logprob *l = &a->wait[a->n_wait];
    *l = (struct job_logprob){.id = c->id, .logprob = c->logprob, .n_top = c->n_top};
    memcpy(l->top, c->top, c->n_top * sizeof *c->top);
    a->wait_bytes[a->n_wait++] = bytes;
}

/* Content, with the tokens that begin in it: a token whose end turns out to be the begin of a tag
 * still counts as content. */
static void put_content(struct decoder *a, struct slice text)
{
    size_t n = 0;
    a->credit += (int64_t)text.n;
    while (n < a->n_wait && a->credit > 0) {
        a->credit -= (int64_t)a->wait_bytes[n++];
    }
    if (text.n == 0) {
        return;
    }
    job_put(a->job, (struct job_event){.kind = JOB_EV_CONTENT}, text, a->wait, n);
    a->n_wait -= n;
    if (n > 0) {
        memmove(a->wait, a->wait + n, a->n_wait * sizeof *a->wait);
        memmove(a->wait_bytes, a->wait_bytes + n, a->n_wait * sizeof *a->wait_bytes);
    }
}

/* ---- text ---- */

/* Which stop string ended the text. `rest` begins with it; if several do, the shortest was
 * complete first. */
static uint32_t find_stop(const struct decoder *a, struct slice rest)
{
    const struct job_spec *s = &a->job->spec;
    size_t best = SIZE_MAX;
    uint32_t index = 0;
    for (uint32_t i = 0; i < s->n_stop; i++) {
        size_t n = strlen(s->stop[i]);
        if (n < best && n <= rest.n && memcmp(rest.p, s->stop[i], n) == 0) {
            best = n;
            index = i;
        }
    }
    return index;
}

static void content(struct decoder *a, struct slice text)
{
    bool hit = false;
    if (text.n == 0 || (a->done && a->finish == FINISH_STRING)) {
        return;
    }
    if (!a->stop) {
        put_content(a, text);
        return;
    }
    buf_add_slice(&a->clean, text); /* what the matcher has and has not released */
    size_t n;
    const char *out = fathom_stop_feed(a->stop, text.p, text.n, &n, &hit);
    if (!out || a->clean.failed) {
        a->failed = true;
        return;
    }
    if (n > 0) {
        put_content(a, (struct slice){out, n});
    }
    memmove(a->clean.p, a->clean.p + n, a->clean.n - n);
    a->clean.n -= n;
    if (hit) {
        a->stop_index = find_stop(a, buf_slice(&a->clean));
        a->done = true;
        a->finish = FINISH_STRING;
    }
}

/* Text that can no longer become a stop string. */
static void flush_content(struct decoder *a)
{
    if (a->stop && !(a->done && a->finish == FINISH_STRING)) {
        size_t n;
        const char *out = fathom_stop_flush(a->stop, &n);
        put_content(a, (struct slice){out, n});
        buf_clear(&a->clean);
    }
}

static void on_event(void *user, const struct chat_event *ev)
{
    struct decoder *a = user;
    bool enough = a->finish == FINISH_STRING || a->finish == FINISH_CALLS;
    if (ev->kind != CHAT_EV_END && a->done && enough) {
        return; /* after a stop string, or after the only call that is wanted */
    }
    chat_result_sink(&a->msg, ev);
    switch (ev->kind) {
    case CHAT_EV_REASONING: put(a, JOB_EV_REASONING, ev->text); break;
    case CHAT_EV_CONTENT: content(a, ev->text); break;
    case CHAT_EV_CALL:
        flush_content(a);
        a->n_wait = 0;
        a->credit = 0;
        put(a, JOB_EV_CALL, ev->text);
        break;
    case CHAT_EV_ARGUMENTS: put(a, JOB_EV_ARGUMENTS, ev->text); break;
    case CHAT_EV_CALL_END:
        put(a, JOB_EV_CALL_END, (struct slice){0});
        a->n_call++;
        if (a->job->spec.one_call) {
            a->done = true;
            a->finish = FINISH_CALLS;
        }
        break;
    case CHAT_EV_END: break;
    }
}

/* ---- the answer ---- */

int decoder_start(struct decoder *a, const struct decoder_tools *t, struct job *job,
                  fathom_err *err)
{
    const struct job_spec *s = &job->spec;
    *a = (struct decoder){.t = t, .job = job, .in_reasoning = s->chat && s->in_reasoning};
    if (s->n_stop > 0) {
        a->stop = fathom_stop_new((const char *const *)s->stop, s->n_stop);
        if (!a->stop) {
            return err_nomem(err, "stop strings", s->n_stop);
        }
    }
    struct chat_events_opts o = {.thinking = s->in_reasoning, .sink = on_event, .user = a};
    chat_events_start(&a->events, &o, t->tok);
    return 0;
}

bool decoder_forced(const struct decoder *a, uint32_t *id)
{
    uint32_t most = a->job->spec.reasoning_tokens;
    int32_t close = tokenizer_control(a->t->tok, CT_THINK_CLOSE);
    *id = (uint32_t)close;
    return a->in_reasoning && most > 0 && a->n_reasoning >= most && close >= 0;
}

static const uint32_t *no_calls(const struct decoder *a)
{
    return a->job->spec.no_calls ? a->t->no_calls_mask : NULL;
}

const uint32_t *decoder_mask(struct decoder *a)
{
    struct constraint *c = a->job->spec.constraint;
    if (c) {
        const uint32_t *mask = constraint_mask(c);
        return mask ? mask : no_calls(a);
    }
    return no_calls(a);
}

fathom_sampling decoder_sampling_now(const struct decoder *a)
{
    fathom_sampling p = a->job->spec.sampling;
    p.penalty_window = a->n_output ? a->n_output : 1;
    if (a->n_output == 0) {
        p.frequency_penalty = p.presence_penalty = 0;
    }
    return p;
}

static void raw_token(struct decoder *a, struct slice bytes)
{
    struct buf text = {0};
    detok_feed(&a->detok, bytes.p, bytes.n, &text);
    a->failed = a->failed || text.failed;
    if (text.n > 0) {
        content(a, buf_slice(&text));
    }
    buf_free(&text);
}

/* Follows reasoning and calls by the markers, for the counts. */
static void note_marker(struct decoder *a, uint32_t id)
{
    if (a->in_reasoning) {
        a->n_reasoning++;
        a->in_reasoning = tokenizer_control(a->t->tok, CT_THINK_CLOSE) != (int64_t)id;
    } else if (tokenizer_control(a->t->tok, CT_DSML) == (int64_t)id) {
        a->in_calls = true;
    }
}

bool decoder_take(struct decoder *a, const fathom_choice *choice)
{
    const struct job_spec *s = &a->job->spec;
    bool eos = tokenizer_control(a->t->tok, CT_EOS) == (int64_t)choice->id;
    struct slice bytes = tokenizer_bytes(a->t->tok, choice->id);
    ids_add(&a->output, choice->id);
    a->n_output++;
    if (s->constraint) {
        constraint_accept(s->constraint, choice->id);
    }
    bool visible = !a->in_reasoning && !a->in_calls && !eos;
    if (s->sampling.n_logprobs > 0 && visible &&
        !(s->chat && tokenizer_is_control(a->t->tok, choice->id))) {
        wait_logprob(a, choice, bytes.n);
    }
    if (s->chat) {
        note_marker(a, choice->id);
        chat_events_token(&a->events, choice->id);
        eos = eos || chat_events_done(&a->events);
    } else if (!eos) {
        raw_token(a, bytes);
    }
    a->failed = a->failed || a->output.failed;
    if (!a->done && eos) {
        a->done = true;
        a->finish = a->n_call ? FINISH_CALLS : FINISH_STOP;
    } else if (!a->done && a->n_output >= s->max_tokens) {
        a->done = true;
        a->finish = s->context_bound ? FINISH_CONTEXT : FINISH_LENGTH;
    }
    return a->done || a->failed;
}

enum finish decoder_close(struct decoder *a, bool fault)
{
    if (a->job->spec.chat) {
        a->failed = chat_events_finish(&a->events, NULL) != 0 || a->failed;
    } else {
        struct buf text = {0};
        detok_flush(&a->detok, &text);
        content(a, buf_slice(&text));
        buf_free(&text);
    }
    flush_content(a);
    if (fault || a->failed) {
        return FINISH_FAULT;
    }
    bool complete = a->finish == FINISH_STOP && a->n_call > 0;
    return complete ? FINISH_CALLS : a->finish;
}

void decoder_fini(struct decoder *a)
{
    fathom_stop_free(a->stop);
    chat_result_fini(&a->msg);
    buf_free(&a->clean);
    ids_free(&a->output);
    mem_free(a->wait);
    mem_free(a->wait_bytes);
}
