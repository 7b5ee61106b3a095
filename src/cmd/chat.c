/* chat.c - `fathom chat`: a conversation on the terminal. Every turn renders the whole
 * conversation anew; the session finds the known prefix itself, and a checkpoint before each
 * answer makes the next turn start from there, also after a restart: the texts of the
 * conversation are kept by talk.c, its KV state by the engine's disk store. Ctrl-C ends the
 * answer that is being written, not the program. */
#include "cmd/cmd.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cmd/answer.h"
#include "base/cache.h"
#include "cmd/line.h"
#include "cmd/model.h"
#include "cmd/talk.h"
#include "engine/engine.h"

struct chat {
    struct cli *o;
    struct answer_setup s;
    fathom_info info;
    struct arena arena; /* the conversation's texts */
    struct chat_conversation c;
    struct buf system;
    struct talk talk;
    fathom_result last;
    char explain[4096]; /* of the last turn */
};

static int reset(struct chat *ch, fathom_err *err)
{
    talk_new(&ch->talk);
    arena_fini(&ch->arena);
    ch->arena = (struct arena){0};
    chat_init(&ch->c, &ch->arena);
    if (ch->system.n && !chat_add(&ch->c, CHAT_SYSTEM, buf_slice(&ch->system))) {
        return err_nomem(err, "system message", ch->system.n);
    }
    return 0;
}

/* Pending tokens up to position `stop`, then a frontier there. */
static int prefill_to(struct chat *ch, uint32_t stop, uint32_t first, uint32_t total,
                      fathom_err *err)
{
    fathom_session *s = ch->s.session;
    uint32_t len = fathom_session_len(s);
    if (len >= stop) {
        return 0;
    }
    for (; len < stop; len = fathom_session_len(s)) {
        fathom_work w = {s, MIN(stop - len, ch->info.chunk), FATHOM_WANT_NONE};
        int rc = fathom_step(ch->s.engine, &w, 1, err);
        if (rc != 0) {
            return rc;
        }
        if (!progress_report(ch->s.progress, "prefill", len + w.n_tok - first, total - first)) {
            return err_set(err, FATHOM_ECANCEL, "cancelled");
        }
    }
    return fathom_session_checkpoint(s, err);
}

/* Continues from what is known of the prompt and computes all but its last token. Frontiers stay
 * where later prompts will go on: behind a system message, which many conversations share, and
 * before the generation prefix ends, where the next turn will differ (docs/chat-format.md). */
static int prefill(struct chat *ch, const struct ids *ids, fathom_reuse *reuse, fathom_err *err)
{
    fathom_session *s = ch->s.session;
    uint32_t n = (uint32_t)ids->n, system_end = 0;
    while (system_end < n &&
           (int32_t)ids->p[system_end] != tokenizer_control(ch->s.tok, CT_USER)) {
        system_end++;
    }
    int rc = fathom_session_set(s, ids->p, n, reuse, err);
    if (rc != 0) {
        return rc;
    }
    fathom_session_explain(s, ch->explain, sizeof ch->explain);
    uint32_t first = fathom_session_len(s);
    rc = prefill_to(ch, MIN(system_end, n - 1), first, n, err);
    return rc ? rc : prefill_to(ch, n - 1, first, n, err);
}

/* Renders the conversation, computes the prompt and lets the model answer. */
static int answer_turn(struct chat *ch, struct answer *a, fathom_err *err)
{
    struct chat_render_opts r;
    struct chat_prompt p = {0};
    struct ids ids = {0};
    fathom_reuse reuse = {0};
    double start = clock_now(), seconds = 0;
    int rc = answer_render_opts(&r, ch->o, &ch->info, err);
    rc = rc ? rc : chat_render(&p, &ch->c, &r, err);
    rc = rc ? rc : chat_prompt_ids(&p, ch->s.tok, &ids, err);
    if (rc == 0) {
        rc = prefill(ch, &ids, &reuse, err);
        progress_end(ch->s.progress);
        seconds = clock_now() - start;
    }
    rc = rc ? rc : answer_run(a, &ch->s, &ids, p.in_reasoning, err);
    a->gen.reuse = reuse; /* of the whole turn, not of the one token that was left */
    a->gen.prefill_seconds += seconds;
    fathom_session_save(ch->s.session);
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
    } else {
        talk_save(&ch->talk, &ch->c);
    }
    answer_fini(&a);
    fflush(stdout);
}

static void print_disk(const struct chat *ch)
{
    static const char *const states[] = {"off", "read-only", "on"};
    fathom_kv_info k;
    fathom_engine_kv(ch->s.engine, &k);
    printf("KV memory %s of %s; disk %s",
           cmd_bytes(k.page_bytes + k.slot_bytes + k.frontier_bytes), cmd_bytes(k.budget_bytes),
           states[k.disk_state]);
    if (k.disk_state != FATHOM_DISK_OFF) {
        printf(", %s of %s, written %s, read %s", cmd_bytes(k.disk_used_bytes),
               cmd_bytes(k.disk_budget_bytes), cmd_bytes(k.disk_written_bytes),
               cmd_bytes(k.disk_loaded_bytes));
    }
    printf("%s%s\n", k.disk_reason[0] ? ": " : "", k.disk_reason);
}

static void print_stats(const struct chat *ch)
{
    const fathom_result *r = &ch->last;
    fathom_info i;
    fathom_engine_info(ch->s.engine, &i);
    printf("model %s on %s (%s), context %u of %u tokens\n", i.model_name, i.backend,
           i.arith_class, fathom_session_len(ch->s.session), i.max_ctx);
    printf("last turn: prompt %u tokens (%u computed) in %.2f s, answer %u tokens in %.2f s",
           r->n_prompt, r->reuse.rerun + r->reuse.computed, r->prefill_seconds, r->n_generated,
           r->decode_seconds);
    if (r->decode_seconds > 0) {
        printf(" (%.1f a second)", r->n_generated / r->decode_seconds);
    }
    printf("%s%s\n", ch->explain[0] ? "\n" : "", ch->explain);
    print_disk(ch);
}

/* ---- earlier conversations ---- */

static void print_list(const struct chat *ch)
{
    struct talk_entry *e = mem_alloc(TALK_LIST, sizeof *e);
    size_t n = e ? talk_list(&ch->talk, e) : 0;
    for (size_t i = 0; i < n; i++) {
        bool here = strcmp(e[i].id, ch->talk.id) == 0,
             other = strcmp(e[i].model, ch->info.model_name) != 0;
        printf("%s%3zu  %.4s-%.2s-%.2s %.2s:%.2s  %3u messages  %s%s%s%s\n", here ? "*" : " ",
               i + 1, e[i].id, e[i].id + 4, e[i].id + 6, e[i].id + 9, e[i].id + 11, e[i].n_msg,
               e[i].first, other ? "  (" : "", other ? e[i].model : "", other ? ")" : "");
    }
    if (n == 0) {
        puts(ch->talk.dir.n ? "no conversations yet" : "conversations are not kept");
    }
    mem_free(e);
}

/* Replaces the conversation by a kept one; on error it stays. */
static int resume(struct chat *ch, const char *id, fathom_err *err)
{
    struct arena arena = {0};
    struct chat_conversation c;
    chat_init(&c, &arena);
    int rc = talk_resume(&ch->talk, id, &c, err);
    if (rc != 0) {
        arena_fini(&arena);
        return rc;
    }
    arena_fini(&ch->arena);
    ch->arena = arena;
    ch->c = c;
    ch->c.arena = &ch->arena;
    return 0;
}

/* /resume N, as /list counts. */
static int resume_number(struct chat *ch, const char *arg, fathom_err *err)
{
    struct talk_entry *e = mem_alloc(TALK_LIST, sizeof *e);
    size_t n = e ? talk_list(&ch->talk, e) : 0;
    char *end;
    unsigned long i = strtoul(arg, &end, 10);
    int rc = 0;
    if (end == arg || *end || i == 0 || i > n) {
        printf("/resume takes a number of /list, 1 to %zu\n", n);
    } else {
        rc = resume(ch, e[i - 1].id, err);
        if (rc == 0) {
            printf("conversation of %u messages: %s\n", e[i - 1].n_msg, e[i - 1].first);
        }
    }
    mem_free(e);
    return rc;
}

/* At the start: the last conversation of this model that no other program has open. */
static void resume_last(struct chat *ch)
{
    struct talk_entry *e = mem_alloc(TALK_LIST, sizeof *e);
    size_t n = e ? talk_list(&ch->talk, e) : 0;
    for (size_t i = 0; i < n; i++) {
        fathom_err err = {0};
        if (strcmp(e[i].model, ch->info.model_name) != 0) {
            continue;
        }
        int rc = resume(ch, e[i].id, &err);
        if (rc == 0) {
            cmd_note("going on with the conversation \"%s\", %u messages (/new begins another)",
                     e[i].first, e[i].n_msg);
        } else if (rc != FATHOM_ELIMIT) {
            cmd_fail("the last conversation cannot be read", &err);
        } else {
            continue;
        }
        break;
    }
    mem_free(e);
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
    if (slice_is(name, "/new") || slice_is(name, "/reset")) {
        reset(ch, &err);
    } else if (slice_is(name, "/list")) {
        print_list(ch);
    } else if (slice_is(name, "/resume")) {
        resume_number(ch, arg, &err);
    } else if (slice_is(name, "/forget")) {
        puts(talk_forget(&ch->talk) ? "deleted; new conversation" : "it could not be deleted");
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
        puts("/help           this list\n/think LEVEL    off, on, low, high, max\n"
             "/system TEXT    new conversation with this system message\n"
             "/new            new conversation (also /reset)\n"
             "/list           conversations that are kept\n"
             "/resume N       go on with number N of the list\n"
             "/forget         delete this conversation's text and begin a new one\n"
             "/stats          speed, context and reuse of the last turn\n"
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

/* With the disk store off nothing of a conversation stays, its text neither. */
static void open_talk(struct chat *ch)
{
    struct buf dir = {0}, kv = {0};
    if (model_kv_dir(&kv, ch->o)) {
        cache_path(&dir, "chat");
    }
    talk_open(&ch->talk, buf_slice(&dir), ch->info.model_name);
    buf_free(&dir);
    buf_free(&kv);
}

int cmd_chat(struct cli *o)
{
    fathom_err err = {0};
    struct model_ref m;
    struct progress progress = {0};
    struct chat ch = {.o = o, .s = {.o = o, .progress = &progress}, .talk = {.fd = -1}};
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
    if (rc == 0) {
        fathom_engine_info(ch.s.engine, &ch.info);
        open_talk(&ch);
        rc = reset(&ch, &err);
    }
    struct line_reader *in = rc ? NULL : line_open("> ");
    if (in) {
        if (!o->new_chat && !o->system) {
            resume_last(&ch);
        }
        interrupt_on();
        loop(&ch, in);
        interrupt_off();
    }
    int code = rc ? cmd_fail(NULL, &err) : in ? EXIT_DONE : EXIT_RUNTIME;
    line_close(in);
    talk_close(&ch.talk);
    arena_fini(&ch.arena);
    buf_free(&ch.system);
    fathom_session_free(ch.s.session);
    fathom_engine_close(ch.s.engine);
    return code;
}
