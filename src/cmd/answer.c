/* answer.c - see answer.h. Sampled tokens go one by one through the event splitter of src/chat;
 * content goes to stdout at once, reasoning (dim) to stderr if that is a terminal. Stop strings
 * act on the content only and hold back what may belong to one. */
#include "cmd/answer.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "cmd/cmd.h"

struct stream {
    const struct answer_setup *s;
    struct answer *a;
    struct chat_events ev;
    fathom_stop *stop;
    bool color, show_reasoning, dim;
};

void answer_sampling(fathom_sampling *p, const struct cli *o)
{
    uint64_t seed = splitmix64((uint64_t)time(NULL) ^ (uint64_t)getpid() << 32);
    *p = (fathom_sampling){.temperature = (float)o->temp,
                           .top_k = o->top_k,
                           .top_p = (float)o->top_p,
                           .min_p = (float)o->min_p,
                           .seed = o->seed_given ? o->seed : seed};
}

int answer_render_opts(struct chat_render_opts *r, const struct cli *o, const fathom_info *info,
                       fathom_err *err)
{
    const char *release = o->release ? o->release : info->release ? info->release : "preview";
    const char *think = o->think ? o->think : "on";
    *r = (struct chat_render_opts){.api_rules = true};
    if (!chat_release_parse(release, &r->release)) {
        return err_set(err, FATHOM_EFORMAT, "unknown chat release \"%s\"", release);
    }
    if (!chat_think_set(r, think, info->max_ctx)) {
        return err_set(err, FATHOM_EINVAL, "--think takes off, on, low, high or max");
    }
    if (strcmp(think, "max") == 0 && info->max_ctx < CHAT_MAX_EFFORT_CTX) {
        cmd_note("--think max wants a context of %d tokens, this one has %u: high is used",
                 CHAT_MAX_EFFORT_CTX, info->max_ctx);
    }
    return 0;
}

static void set_dim(struct stream *t, bool dim)
{
    if (t->color && t->dim != dim) {
        fputs(dim ? "\x1b[2m" : "\x1b[0m", stderr);
    }
    t->dim = dim;
}

static void show_reasoning(struct stream *t, struct slice text)
{
    if (t->show_reasoning && text.n > 0) {
        set_dim(t, true);
        fwrite(text.p, 1, text.n, stderr);
        fflush(stderr);
    }
}

/* The answer begins: reasoning on the same terminal is ended by a new line. */
static void end_reasoning(struct stream *t)
{
    if (t->dim) {
        set_dim(t, false);
        fputs("\n\n", stderr);
        fflush(stderr);
    }
}

static void show_content(struct stream *t, struct slice text)
{
    if (!t->s->quiet && text.n > 0) {
        end_reasoning(t);
        fwrite(text.p, 1, text.n, stdout);
        fflush(stdout);
    }
}

static void on_event(void *user, const struct chat_event *event)
{
    struct stream *t = user;
    struct chat_event ev = *event;
    if (ev.kind == CHAT_EV_CONTENT && t->stop) {
        bool hit = false;
        if (t->a->stopped) {
            return;
        }
        ev.text.p = fathom_stop_feed(t->stop, ev.text.p, ev.text.n, &ev.text.n, &hit);
        t->a->stopped = hit;
    } else if (ev.kind == CHAT_EV_END && t->stop && !t->a->stopped) {
        struct chat_event rest = {.kind = CHAT_EV_CONTENT};
        rest.text.p = fathom_stop_flush(t->stop, &rest.text.n);
        chat_result_sink(&t->a->msg, &rest);
        show_content(t, rest.text);
    }
    chat_result_sink(&t->a->msg, &ev);
    if (ev.kind == CHAT_EV_REASONING) {
        show_reasoning(t, ev.text);
    } else if (ev.kind == CHAT_EV_CONTENT) {
        show_content(t, ev.text);
    }
}

static bool on_token(void *user, const fathom_choice *choice, const char *bytes, size_t n)
{
    struct stream *t = user;
    (void)bytes;
    (void)n;
    progress_end(t->s->progress);
    chat_events_token(&t->ev, choice->id);
    t->a->interrupted = interrupted();
    return !t->a->interrupted && !t->a->stopped && !chat_events_done(&t->ev);
}

int answer_run(struct answer *a, const struct answer_setup *s, const struct ids *prompt,
               bool in_reasoning, fathom_err *err)
{
    const struct cli *o = s->o;
    struct stream t = {.s = s, .a = a};
    t.color = term_has_color(STDERR_FILENO);
    t.show_reasoning = !s->quiet && (o->show_reasoning || isatty(STDERR_FILENO));
    if (o->stop.n > 0 && !(t.stop = fathom_stop_new(o->stop.v, o->stop.n))) {
        return err_nomem(err, "stop strings", 0);
    }
    chat_events_start(
        &t.ev,
        &(struct chat_events_opts){.thinking = in_reasoning, .sink = on_event, .user = &t},
        s->tok);
    fathom_generate_options g = {.max_tokens = o->n_predict,
                                 .progress = progress_report,
                                 .progress_user = s->progress,
                                 .on_token = on_token,
                                 .user = &t};
    answer_sampling(&g.sampling, o);
    int rc = fathom_generate(s->session, prompt->p, (uint32_t)prompt->n, &g, &a->gen, err);
    progress_end(s->progress);
    if (rc == 0 && a->gen.finish == FATHOM_FINISH_EOS && !chat_events_done(&t.ev)) {
        chat_events_token(&t.ev, (uint32_t)fathom_token_eos(s->engine));
    }
    int end = chat_events_finish(&t.ev, rc ? NULL : err);
    end_reasoning(&t);
    fathom_stop_free(t.stop);
    rc = rc ? rc : end;
    return rc ? rc : a->msg.failed ? err_nomem(err, "answer", 0) : 0;
}

void answer_fini(struct answer *a)
{
    chat_result_fini(&a->msg);
}

const char *answer_finish(const struct answer *a)
{
    if (a->interrupted) {
        return "interrupted";
    }
    if (a->stopped) {
        return "stop";
    }
    switch (a->msg.end) {
    case CHAT_END_LENGTH: return "length";
    case CHAT_END_MALFORMED: return "malformed";
    case CHAT_END_STOP: break;
    }
    return a->msg.n_call ? "tool_calls" : "stop";
}
