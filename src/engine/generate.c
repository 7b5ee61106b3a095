/* generate.c - fathom_generate: prompt in, answer out, for one session. A plain loop over
 * the public calls; whoever needs several sessions at once, masks or speculation writes the
 * same loop over fathom_step (server/sched.c does).
 *
 * Text: raw bytes of tokens go through the stop matcher first and become UTF-8 last, so that
 * stop strings are found wherever tokens are cut. The end token is counted and reported to
 * on_token, is no text, and stays in the session as a pending token: the next prompt
 * contains it. */
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/engine_int.h"
#include "text/text.h"

struct gen {
    fathom_session *s;
    const fathom_generate_options *opt;
    fathom_result *res;
    fathom_stop *stop; /* NULL: no text wanted and no stop strings */
    struct detok detok;
    struct buf text;
    bool stopped; /* a stop string was found */
};

static int emit(struct gen *g, const char *bytes, size_t n, bool end, fathom_err *err)
{
    if (!g->opt->on_text) {
        return 0;
    }
    buf_clear(&g->text);
    detok_feed(&g->detok, bytes, n, &g->text);
    if (end) {
        detok_flush(&g->detok, &g->text);
    }
    if (g->text.failed) {
        return err_nomem(err, "text", n);
    }
    if (g->text.n > 0) {
        g->opt->on_text(g->opt->user, g->text.p, g->text.n);
    }
    return 0;
}

/* Bytes of one token through the stop matcher. */
static int feed(struct gen *g, const char *bytes, size_t n, fathom_err *err)
{
    if (!g->stop) {
        return 0;
    }
    size_t n_out;
    const char *out = fathom_stop_feed(g->stop, bytes, n, &n_out, &g->stopped);
    return out ? emit(g, out, n_out, false, err) : err_nomem(err, "text", n);
}

static int finish_text(struct gen *g, fathom_err *err)
{
    if (!g->stop) {
        return 0;
    }
    size_t n_out = 0;
    const char *out = g->stopped ? "" : fathom_stop_flush(g->stop, &n_out);
    return emit(g, out, n_out, true, err);
}

/* Samples one token, reports it and queues it; *done when the answer ends with it. */
static int one_token(struct gen *g, bool *done, fathom_err *err)
{
    fathom_session *s = g->s;
    fathom_choice c;
    int rc = fathom_session_sample(s, &g->opt->sampling, NULL, &c, err);
    rc = rc ? rc : fathom_session_append(s, &c.id, 1, err);
    if (rc != 0) {
        return rc;
    }
    g->res->n_generated++;
    size_t n;
    const char *bytes = fathom_token_bytes(s->e, c.id, &n);
    bool eos = (int32_t)c.id == fathom_token_eos(s->e);
    bool go_on = !g->opt->on_token || g->opt->on_token(g->opt->user, &c, bytes, n);
    rc = eos ? 0 : feed(g, bytes, n, err);
    *done = eos || g->stopped || !go_on;
    g->res->finish = eos          ? FATHOM_FINISH_EOS
                     : g->stopped ? FATHOM_FINISH_STOP
                                  : FATHOM_FINISH_CALLER;
    return rc;
}

static int decode(struct gen *g, fathom_err *err)
{
    fathom_session *s = g->s;
    uint32_t room = s->e->max_ctx - s->n_ids;
    uint32_t most = g->opt->max_tokens ? MIN(g->opt->max_tokens, room) : room;
    bool done = false;
    int rc = 0;
    while (rc == 0 && !done && g->res->n_generated < most) {
        if (g->res->n_generated > 0) {
            fathom_work w = {s, fathom_session_pending(s), FATHOM_WANT_LAST};
            rc = fathom_step(s->e, &w, 1, err);
        }
        rc = rc ? rc : one_token(g, &done, err);
    }
    if (rc == 0 && !done) {
        g->res->finish = FATHOM_FINISH_LENGTH;
    }
    int rc2 = finish_text(g, rc ? NULL : err);
    return rc ? rc : rc2;
}

int fathom_generate(fathom_session *s, const uint32_t *ids, uint32_t n,
                    const fathom_generate_options *opt, fathom_result *out, fathom_err *err)
{
    fathom_result own;
    struct gen g = {.s = s, .opt = opt, .res = out ? out : &own};
    *g.res = (fathom_result){.finish = FATHOM_FINISH_LENGTH, .n_prompt = n};
    if (opt->n_stop > 0 || opt->on_text) {
        g.stop = fathom_stop_new(opt->stop, opt->n_stop);
        if (!g.stop) {
            return err_nomem(err, "stop strings", opt->n_stop);
        }
    }
    double t0 = clock_now();
    int rc =
        fathom_session_sync(s, ids, n, opt->progress, opt->progress_user, &g.res->reuse, err);
    double t1 = clock_now();
    g.res->prefill_seconds = t1 - t0;
    if (rc == 0) {
        rc = decode(&g, err);
        g.res->decode_seconds = clock_now() - t1;
    }
    fathom_stop_free(g.stop);
    buf_free(&g.text);
    return rc;
}
