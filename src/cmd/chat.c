/* chat.c - `fathom chat`: a conversation on the terminal. Every turn renders the whole
 * conversation anew; the session finds the common prefix itself, and a checkpoint before each
 * answer makes the next turn start from there. Ctrl-C ends the answer that is being written,
 * not the program. */
#include "cmd/cmd.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cmd/answer.h"
#include "cmd/line.h"
#include "cmd/model.h"
#include "engine/engine.h"

struct chat {
    struct cli *o;
    struct answer_setup s;
    fathom_info info;
    struct arena arena; /* the conversation's texts */
    struct chat_conversation c;
    struct buf system;
    fathom_result last;
};

static int reset(struct chat *ch, fathom_err *err)
{
    arena_fini(&ch->arena);
    ch->arena = (struct arena){0};
    chat_init(&ch->c, &ch->arena);
    if (ch->system.n && !chat_add(&ch->c, CHAT_SYSTEM, buf_slice(&ch->system))) {
        return err_nomem(err, "system message", ch->system.n);
    }
    return 0;
}

/* Renders the conversation, computes the prompt up to the generation prefix, keeps a frontier
 * there, and lets the model answer. */
static int answer_turn(struct chat *ch, struct answer *a, fathom_err *err)
{
    struct chat_render_opts r;
    struct chat_prompt p = {0};
    struct ids ids = {0};
    fathom_reuse reuse = {0};
    double start = clock_now(), prefill = 0;
    int rc = answer_render_opts(&r, ch->o, &ch->info, err);
    rc = rc ? rc : chat_render(&p, &ch->c, &r, err);
    rc = rc ? rc : chat_prompt_ids(&p, ch->s.tok, &ids, err);
    if (rc == 0 && ids.n > 2) {
        rc = fathom_session_sync(ch->s.session, ids.p, (uint32_t)ids.n - 1, progress_report,
                                 ch->s.progress, &reuse, err);
        rc = rc ? rc : fathom_session_checkpoint(ch->s.session, err);
        progress_end(ch->s.progress);
        prefill = clock_now() - start;
    }
    rc = rc ? rc : answer_run(a, &ch->s, &ids, p.in_reasoning, err);
    a->gen.reuse = reuse; /* of the whole turn, not of the one token that was left */
    a->gen.prefill_seconds += prefill;
    chat_prompt_fini(&p);
    ids_free(&ids);
    return rc;
}

/* One question; after an error or an empty interrupted answer the conversation is as before. */
static void turn(struct chat *ch, struct slice text)
{
    fathom_err err = {0};
    struct answer a = {0};
    size_t before = ch->c.n;
    interrupt_clear();
    int rc = chat_add(&ch->c, CHAT_USER, text) ? 0 : err_nomem(&err, "message", text.n);
    rc = rc ? rc : answer_turn(ch, &a, &err);
    struct chat_message *m = NULL;
    if (rc == 0 && (a.msg.content.n || a.msg.reasoning.n)) {
        m = chat_add(&ch->c, CHAT_ASSISTANT, buf_slice(&a.msg.content));
        rc = m && chat_set_reasoning(&ch->c, m, buf_slice(&a.msg.reasoning))
                 ? 0
                 : err_nomem(&err, "answer", a.msg.content.n);
        ch->last = a.gen;
    }
    putchar('\n');
    if (rc == FATHOM_ECANCEL || a.interrupted) {
        cmd_note("stopped");
    } else if (rc) {
        cmd_fail(NULL, &err);
    } else if (a.msg.end == CHAT_END_LENGTH) {
        cmd_note("the answer was cut off after %u tokens (-n, --ctx)", a.gen.n_generated);
    }
    if (rc || !m) {
        ch->c.n = before;
    }
    answer_fini(&a);
    fflush(stdout);
}

static void print_stats(const struct chat *ch)
{
    const fathom_result *r = &ch->last;
    fathom_info i;
    fathom_engine_info(ch->s.engine, &i);
    uint32_t fresh = r->n_prompt - MIN(r->n_prompt, r->reuse.kept);
    printf("model %s on %s (%s), context %u of %u tokens\n", i.model_name, i.backend,
           i.arith_class, fathom_session_len(ch->s.session), i.max_ctx);
    printf("last turn: prompt %u tokens (%u computed) in %.2f s, answer %u tokens in %.2f s",
           r->n_prompt, fresh, r->prefill_seconds, r->n_generated, r->decode_seconds);
    if (r->decode_seconds > 0) {
        printf(" (%.1f a second)", r->n_generated / r->decode_seconds);
    }
    putchar('\n');
}

/* A line that starts with '/'. False: end the program. */
static bool command(struct chat *ch, const char *line)
{
    static const char *const levels[] = {"off", "on", "low", "high", "max"};
    const char *arg = strchr(line, ' ');
    size_t n = arg ? (size_t)(arg - line) : strlen(line);
    arg = arg ? arg + strspn(arg, " ") : "";
    struct slice name = {line, n};
    fathom_err err = {0};
    if (slice_is(name, "/exit") || slice_is(name, "/quit")) {
        return false;
    }
    if (slice_is(name, "/reset")) {
        reset(ch, &err);
    } else if (slice_is(name, "/stats")) {
        print_stats(ch);
    } else if (slice_is(name, "/system")) {
        buf_clear(&ch->system);
        buf_adds(&ch->system, arg);
        reset(ch, &err);
        puts(*arg ? "new conversation with this system message"
                  : "new conversation without system message");
    } else if (slice_is(name, "/think")) {
        for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
            if (strcmp(arg, levels[i]) == 0) {
                ch->o->think = levels[i];
                return true;
            }
        }
        printf("/think takes off, on, low, high or max; now %s\n",
               ch->o->think ? ch->o->think : "on");
    } else {
        puts(
            "/help           this list\n/think LEVEL    off, on, low, high, max\n"
            "/system TEXT    new conversation with this system message\n"
            "/reset          new conversation\n/stats          speed and context of the last turn\n"
            "/exit           end (also Ctrl-D); Ctrl-C stops an answer");
    }
    if (err.code) {
        cmd_fail(NULL, &err);
    }
    return true;
}

static void loop(struct chat *ch, struct line_reader *in)
{
    struct buf line = {0};
    enum line_result got;
    while ((got = line_read(in, &line)) != LINE_END) {
        if (got == LINE_INTERRUPTED || line.n == 0) {
            continue;
        }
        if (line.p[0] == '/') {
            if (!command(ch, buf_cstr(&line))) {
                break;
            }
        } else {
            turn(ch, buf_slice(&line));
        }
    }
    buf_free(&line);
}

int cmd_chat(struct cli *o)
{
    fathom_err err = {0};
    struct model_ref m;
    struct progress progress = {0};
    struct chat ch = {.o = o, .s = {.o = o, .progress = &progress}};
    int rc = model_find(&m, o, &err);
    if (rc == 0 && model_engine(&ch.s.engine, o, &m, &progress, &err)) {
        return model_fail(&m, &err);
    }
    if (rc == 0 && !(ch.s.tok = engine_tokenizer(ch.s.engine))) {
        rc = err_set(&err, FATHOM_EFORMAT, "%s has no tokenizer: chat needs one",
                     model_label(&m));
    }
    rc = rc ? rc : fathom_session_new(&ch.s.session, ch.s.engine, &err);
    buf_adds(&ch.system, o->system ? o->system : "");
    rc = rc ? rc : reset(&ch, &err);
    struct line_reader *in = rc ? NULL : line_open("> ");
    if (in) {
        fathom_engine_info(ch.s.engine, &ch.info);
        interrupt_on();
        loop(&ch, in);
        interrupt_off();
    }
    int code = rc ? cmd_fail(NULL, &err) : in ? EXIT_DONE : EXIT_RUNTIME;
    line_close(in);
    arena_fini(&ch.arena);
    buf_free(&ch.system);
    fathom_session_free(ch.s.session);
    fathom_engine_close(ch.s.engine);
    return code;
}
