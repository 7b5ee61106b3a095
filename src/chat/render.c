/* render.c - turns to a prompt.
 *
 * A prompt is built by three calls: put_control (one control token), put_template (text of the
 * template, in which spelled control tokens become control segments) and put_text (text from
 * outside, in which nothing is ever recognised). The bytes of the three together are exactly
 * the string that the release renders, so both forms of ids come from one rendering.
 *
 * The opening <think> of an answer is not part of the assistant turn but of the transition that
 * ends the turn before it; put_transition decides about it. With api_rules the transition may
 * also come after system turns (docs/chat-format.md, "API rules"), so that no turn loses it and
 * the next request extends this prompt. Read first: turns.c. Next: events.c, the way back. */
#include "chat/render.h"

#include "chat/template.h"
#include "chat/turns.h"

struct renderer {
    struct chat_prompt *out;
    const struct chat_render_opts *o;
    struct chat_turns turns;
    struct arena arena;
    fathom_err *err;
};

bool chat_release_parse(const char *name, enum chat_release *out)
{
    if (strcmp(name, "preview") != 0 && strcmp(name, "0731") != 0) {
        return false;
    }
    *out = name[0] == 'p' ? CHAT_PREVIEW : CHAT_0731;
    return true;
}

bool chat_think_set(struct chat_render_opts *o, const char *word, uint64_t n_ctx)
{
    static const struct {
        const char *word;
        bool thinking;
        enum chat_effort effort;
    } words[] = {
        {"off", false, CHAT_EFFORT_NONE}, {"none", false, CHAT_EFFORT_NONE},
        {"on", true, CHAT_EFFORT_NONE},   {"minimal", true, CHAT_EFFORT_LOW},
        {"low", true, CHAT_EFFORT_LOW},   {"medium", true, CHAT_EFFORT_HIGH},
        {"high", true, CHAT_EFFORT_HIGH}, {"xhigh", true, CHAT_EFFORT_HIGH},
        {"max", true, CHAT_EFFORT_MAX},   {"ultra", true, CHAT_EFFORT_MAX},
    };
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(word, words[i].word) == 0) {
            o->thinking = words[i].thinking;
            o->effort = words[i].effort;
            if (o->effort == CHAT_EFFORT_LOW && o->release == CHAT_PREVIEW) {
                o->effort = CHAT_EFFORT_HIGH; /* preview has no low; its high adds nothing */
            }
            if (o->effort == CHAT_EFFORT_MAX && n_ctx && n_ctx < CHAT_MAX_EFFORT_CTX) {
                o->effort = CHAT_EFFORT_HIGH;
            }
            return true;
        }
    }
    return false;
}

/* ---- segments ---- */

static void put(struct chat_prompt *p, enum chat_seg_kind kind, enum control_token token,
                const char *s, size_t n)
{
    struct chat_seg *last = p->n_seg ? &p->seg[p->n_seg - 1] : NULL;
    if (n == 0 || p->failed) {
        return;
    }
    if (last && last->kind == kind && kind != CHAT_SEG_CONTROL) {
        last->n += n;
    } else {
        if (p->n_seg == p->cap_seg) {
            size_t cap = p->cap_seg ? p->cap_seg * 2 : 32;
            struct chat_seg *seg = mem_realloc(p->seg, cap, sizeof *seg);
            if (!seg) {
                p->failed = true;
                return;
            }
            p->seg = seg;
            p->cap_seg = cap;
        }
        p->seg[p->n_seg++] = (struct chat_seg){kind, token, p->text.n, n};
    }
    buf_add(&p->text, s, n);
    p->failed = p->text.failed;
}

static void put_control(struct renderer *r, enum control_token token)
{
    const char *s = control_token_text(token);
    put(r->out, CHAT_SEG_CONTROL, token, s, strlen(s));
}

static void put_text(struct renderer *r, struct slice s)
{
    put(r->out, CHAT_SEG_TEXT, CT_COUNT, s.p, s.n);
}

/* The control token spelled at s, or CT_COUNT. No spelling is a prefix of another. */
static enum control_token control_at(const char *s)
{
    int t = 0;
    while (t < CT_COUNT) {
        const char *text = control_token_text((enum control_token)t);
        if (strncmp(s, text, strlen(text)) == 0) {
            break;
        }
        t++;
    }
    return (enum control_token)t;
}

static void put_template(struct renderer *r, const char *s)
{
    const char *run = s;
    while (*s) {
        bool may_start = *s == '<' || *s == CHAT_DSML[0];
        enum control_token token = may_start ? control_at(s) : CT_COUNT;
        if (token == CT_COUNT) {
            s++;
            continue;
        }
        put(r->out, CHAT_SEG_TEMPLATE, CT_COUNT, run, (size_t)(s - run));
        put_control(r, token);
        s += strlen(control_token_text(token));
        run = s;
    }
    put(r->out, CHAT_SEG_TEMPLATE, CT_COUNT, run, (size_t)(s - run));
}

static void put_json(struct renderer *r, const struct json *v)
{
    struct buf b = {0};
    json_write_python(&b, v);
    put_text(r, buf_slice(&b));
    r->out->failed = r->out->failed || b.failed;
    buf_free(&b);
}

/* ---- calls ---- */

static void put_parameter(struct renderer *r, struct slice key, const struct json *v)
{
    put_template(r, CHAT_PARAM_OPEN);
    put_text(r, key);
    if (v->type == JSON_STRING) {
        put_template(r, CHAT_PARAM_STRING);
        put_text(r, json_str(v));
    } else {
        put_template(r, CHAT_PARAM_JSON);
        put_json(r, v);
    }
    put_template(r, CHAT_PARAM_CLOSE);
}

/* Arguments that are not valid JSON become one string parameter; so do, for the APIs, arguments
 * that are no object, where the release itself fails. */
static int put_arguments(struct renderer *r, const struct chat_call *call)
{
    struct json args;
    struct slice text = call->arguments;
    int rc = json_read_python(&args, &r->arena, text.p, text.n, NULL);
    if (rc == FATHOM_ENOMEM) {
        return err_nomem(r->err, "tool call arguments", text.n);
    }
    if (rc == 0 && args.type != JSON_OBJECT && !r->o->api_rules) {
        return err_set(r->err, FATHOM_EFORMAT, "arguments of a call are JSON but no object");
    }
    if (rc != 0 || args.type != JSON_OBJECT) {
        struct json raw = {.type = JSON_STRING, .n = text.n, .s = text.n ? text.p : ""};
        put_parameter(r, SLICE(CHAT_ARGUMENTS_KEY), &raw);
        return 0;
    }
    for (size_t i = 0; i < args.n; i++) {
        put_template(r, i ? "\n" : "");
        put_parameter(r, args.members[i].key, &args.members[i].value);
    }
    return 0;
}

static int put_calls(struct renderer *r, const struct chat_message *m)
{
    int rc = 0;
    if (m->n_call == 0) {
        return 0;
    }
    put_template(r, CHAT_BLANK_LINE CHAT_CALLS_OPEN "\n");
    for (size_t i = 0; i < m->n_call && !rc; i++) {
        put_template(r, CHAT_INVOKE_OPEN);
        put_text(r, m->call[i].name);
        put_template(r, CHAT_INVOKE_OPEN_END "\n");
        rc = put_arguments(r, &m->call[i]);
        put_template(r, "\n" CHAT_INVOKE_CLOSE "\n");
    }
    put_template(r, CHAT_CALLS_CLOSE);
    return rc;
}

/* ---- roles ---- */

/* Tool definitions and response format of a system or developer turn. */
static void put_definitions(struct renderer *r, const struct chat_turn *t)
{
    bool any = false;
    for (size_t k = 0; k < t->n_msg; k++) {
        const struct json *tools = t->msg[k]->tools;
        for (size_t i = 0; tools && i < tools->n; i++) {
            if (any) {
                put_template(r, "\n");
            } else {
                put_template(r, CHAT_BLANK_LINE);
                put_template(r, chat_tools_head);
            }
            any = true;
            put_json(r, json_get(&tools->items[i], "function"));
        }
    }
    if (any) {
        put_template(r, chat_tools_tail);
    }
    for (size_t k = 0; k < t->n_msg; k++) {
        if (t->msg[k]->response_format) {
            put_template(r, CHAT_BLANK_LINE);
            put_template(r, chat_format_head);
            put_json(r, t->msg[k]->response_format);
        }
    }
}

static void put_parts(struct renderer *r, const struct chat_turn *t)
{
    for (size_t i = 0; i < t->n_part; i++) {
        if (i > 0) {
            put_template(r, CHAT_BLANK_LINE);
        }
        if (t->part[i].result) {
            put_template(r, CHAT_RESULT_OPEN);
            put_text(r, t->part[i].text);
            put_template(r, CHAT_RESULT_CLOSE);
        } else {
            put_text(r, t->part[i].text);
        }
    }
}

/* The turn before number i that decides how i begins: with api_rules system turns in between do
 * not count. NULL if there is none. */
static const struct chat_turn *turn_before(const struct renderer *r, size_t i)
{
    const struct chat_turn *t = r->turns.turn;
    while (i > 0 && r->o->api_rules && t[i - 1].role == CHAT_SYSTEM) {
        i--;
    }
    return i > 0 ? &t[i - 1] : NULL;
}

static int put_assistant(struct renderer *r, size_t i)
{
    const struct chat_message *m = r->turns.turn[i].msg[0];
    const struct chat_turn *before = turn_before(r, i);
    bool last = i + 1 == r->turns.n;
    bool after_last_user = r->turns.last_user == SIZE_MAX || i > r->turns.last_user;
    if (r->o->thinking && !(before && before->task.p) &&
        (r->turns.keep_reasoning || after_last_user)) {
        put_text(r, m->reasoning);
        put_control(r, CT_THINK_CLOSE);
    }
    put_text(r, m->content);
    int rc = put_calls(r, m);
    bool continued = r->o->api_rules && last; /* the model goes on with this very message */
    if (continued && m->n_call > 0 && !rc) {
        rc = err_set(r->err, FATHOM_EFORMAT,
                     "the last message has tool calls, but their results are missing");
    }
    if (!m->wo_eos && !continued) {
        put_control(r, CT_EOS);
    }
    return rc;
}

static int put_turn(struct renderer *r, size_t i)
{
    const struct chat_turn *t = &r->turns.turn[i];
    r->out->in_reasoning = false;
    switch (t->role) {
    case CHAT_SYSTEM:
        if (r->o->api_rules && i > 0 && t[-1].role != CHAT_ASSISTANT) {
            put_template(r, CHAT_BLANK_LINE);
        }
        put_parts(r, t);
        put_definitions(r, t);
        return 0;
    case CHAT_DEVELOPER:
        if (t->msg[0]->content.n == 0) {
            return err_set(r->err, FATHOM_EFORMAT, "a developer message is empty");
        }
        put_control(r, CT_USER);
        put_parts(r, t);
        put_definitions(r, t);
        return 0;
    case CHAT_LATEST_REMINDER:
        put_control(r, CT_LATEST_REMINDER);
        put_parts(r, t);
        return 0;
    case CHAT_ASSISTANT: return put_assistant(r, i);
    case CHAT_USER:
    case CHAT_TOOL: break;
    }
    put_control(r, CT_USER);
    put_parts(r, t);
    return 0;
}

/* ---- transitions ---- */

static void put_header(struct renderer *r, bool reasoning)
{
    put_control(r, CT_ASSISTANT);
    put_control(r, reasoning ? CT_THINK_OPEN : CT_THINK_CLOSE);
    r->out->in_reasoning = reasoning;
}

static int put_task(struct renderer *r, struct slice task)
{
    static const struct {
        const char *name;
        enum control_token token;
    } tasks[] = {{"action", CT_ACTION}, {"query", CT_QUERY}, {"authority", CT_AUTHORITY},
                 {"domain", CT_DOMAIN}, {"title", CT_TITLE}, {"read_url", CT_READ_URL}};
    for (size_t i = 0; i < ARRAY_LEN(tasks); i++) {
        if (slice_is(task, tasks[i].name)) {
            if (tasks[i].token == CT_ACTION) {
                put_header(r, r->o->thinking);
            }
            put_control(r, tasks[i].token);
            return 0;
        }
    }
    return err_set(r->err, FATHOM_EFORMAT, "unknown task \"%.*s\"",
                   (int)MIN(task.n, (size_t)64), task.p);
}

/* What stands between turn i and an answer that follows it, or that is to be generated. */
static int put_transition(struct renderer *r, size_t i)
{
    const struct chat_turns *ts = &r->turns;
    const struct chat_turn *t = &ts->turn[i];
    enum chat_role role = t->role;
    struct slice task = t->task;
    bool last = i + 1 == ts->n;
    enum chat_role next = last ? CHAT_ASSISTANT : t[1].role;
    if (next != CHAT_ASSISTANT && next != CHAT_LATEST_REMINDER) {
        return 0;
    }
    if (role == CHAT_SYSTEM && r->o->api_rules && next == CHAT_ASSISTANT) {
        const struct chat_turn *before = turn_before(r, i);
        task = before && before->role == CHAT_USER ? before->task : (struct slice){0};
        role = CHAT_USER;
    }
    if (task.p) {
        return put_task(r, task);
    }
    if (role == CHAT_USER || role == CHAT_DEVELOPER) {
        bool now = ts->last_user == SIZE_MAX || i >= ts->last_user;
        put_header(r, r->o->thinking && (ts->keep_reasoning || now));
    }
    return 0;
}

static int put_effort(struct renderer *r, bool first)
{
    static const char *const prefix[2][4] = {
        [CHAT_PREVIEW] = {"", NULL, "", chat_effort_a},
        [CHAT_0731] = {"", "", chat_effort_a, chat_effort_b},
    };
    const char *text = prefix[r->o->release][r->o->effort];
    if (!text) {
        return err_set(r->err, FATHOM_EINVAL, "this release knows no effort \"low\"");
    }
    if (first && r->o->thinking) {
        put_template(r, text);
    }
    return 0;
}

static int render_turns(struct renderer *r)
{
    const struct chat_turns *ts = &r->turns;
    int rc = 0;
    for (size_t i = ts->n_context; i < ts->n && !rc; i++) {
        rc = put_effort(r, i == 0);
        rc = rc ? rc : put_turn(r, i);
        rc = rc ? rc : put_transition(r, i);
    }
    if (!rc && ts->n == 0 && r->o->api_rules) {
        put_header(r, r->o->thinking);
    }
    return rc;
}

int chat_render(struct chat_prompt *out, const struct chat_conversation *c,
                const struct chat_render_opts *o, fathom_err *err)
{
    struct renderer r = {.out = out, .o = o, .err = err};
    struct chat_turns_opts to = {o->n_context, o->thinking, o->keep_thinking, o->api_rules};
    out->n_seg = 0;
    out->in_reasoning = out->failed = false;
    buf_clear(&out->text);
    int rc = chat_turns_make(&r.turns, &r.arena, c, &to, err);
    if (!rc && !o->no_bos && o->n_context == 0) {
        put_control(&r, CT_BOS);
    }
    rc = rc ? rc : render_turns(&r);
    if (!rc && out->failed) {
        rc = err_nomem(err, "the prompt", out->text.n);
    }
    arena_fini(&r.arena);
    return rc;
}

void chat_prompt_fini(struct chat_prompt *p)
{
    buf_free(&p->text);
    mem_free(p->seg);
    *p = (struct chat_prompt){0};
}

/* ---- ids ---- */

int chat_prompt_ids(const struct chat_prompt *p, const struct tokenizer *t, struct ids *out,
                    fathom_err *err)
{
    const char *text = buf_cstr(&p->text);
    size_t run = 0; /* begin of the text since the last control token */
    for (size_t i = 0; i < p->n_seg; i++) {
        const struct chat_seg *seg = &p->seg[i];
        if (seg->kind != CHAT_SEG_CONTROL) {
            continue;
        }
        int32_t id = tokenizer_control(t, seg->token);
        if (id < 0) {
            return err_set(err, FATHOM_EUNSUPPORTED, "the vocabulary has no token %s",
                           control_token_text(seg->token));
        }
        tokenizer_encode(t, text + run, seg->at - run, false, out);
        ids_add(out, (uint32_t)id);
        run = seg->at + seg->n;
    }
    tokenizer_encode(t, text + run, p->text.n - run, false, out);
    return out->failed ? err_nomem(err, "the ids of a prompt", p->text.n) : 0;
}

int chat_prompt_release_ids(const struct chat_prompt *p, const struct tokenizer *t,
                            struct ids *out, fathom_err *err)
{
    tokenizer_encode(t, buf_cstr(&p->text), p->text.n, true, out);
    return out->failed ? err_nomem(err, "the ids of a prompt", p->text.n) : 0;
}
