/* message.c - building a conversation, by hand or from the messages JSON that `fathom render`
 * reads and render.json holds.
 *
 * Only shapes are checked here: whether a message may stand where it stands, which efforts and
 * tasks exist and so on is for render.c, because the two releases differ there. Lists of
 * content parts become one text: parts joined by a blank line, parts that are not text as
 * "[Unsupported TYPE]" (docs/chat-format.md). Next: render.c. */
#include "chat/message.h"

#include "chat/template.h"

void chat_init(struct chat_conversation *c, struct arena *arena)
{
    *c = (struct chat_conversation){.arena = arena};
}

/* A copy of s in the arena, repaired if it is not valid UTF-8. */
static bool keep_text(struct arena *a, struct slice s, struct slice *out)
{
    struct buf clean = {0};
    bool valid = s.n == 0 || utf8_valid(s.p, s.n);
    if (!valid) {
        buf_add_utf8_lossy(&clean, s.p, s.n);
        s = buf_slice(&clean);
    }
    char *p = clean.failed ? NULL : arena_strndup(a, s.n ? s.p : "", s.n);
    *out = (struct slice){p, p ? s.n : 0};
    buf_free(&clean);
    return p != NULL;
}

/* Makes room for one more of the n elements of `bytes` each; the old block stays in the arena.
 */
static void *grow(struct arena *a, void *old, size_t n, size_t *cap, size_t bytes)
{
    size_t new_cap = *cap ? *cap * 2 : 4, total;
    if (n < *cap) {
        return old;
    }
    void *p = size_mul(new_cap, bytes, &total) ? arena_alloc(a, total) : NULL;
    if (p) {
        memcpy(p, n ? old : p, n * bytes);
        *cap = new_cap;
    }
    return p;
}

struct chat_message *chat_add(struct chat_conversation *c, enum chat_role role,
                              struct slice content)
{
    struct chat_message **msg = grow(c->arena, c->msg, c->n, &c->cap, sizeof(void *));
    struct chat_message *m = msg ? arena_alloc(c->arena, sizeof *m) : NULL;
    if (msg) {
        c->msg = msg;
    }
    if (!m || !keep_text(c->arena, content, &m->content)) {
        return NULL;
    }
    m->role = role;
    c->msg[c->n++] = m;
    return m;
}

bool chat_set_reasoning(struct chat_conversation *c, struct chat_message *m, struct slice text)
{
    return keep_text(c->arena, text, &m->reasoning);
}

bool chat_set_call_id(struct chat_conversation *c, struct chat_message *m, struct slice id)
{
    return keep_text(c->arena, id, &m->call_id);
}

bool chat_add_call(struct chat_conversation *c, struct chat_message *m, struct slice id,
                   struct slice name, struct slice arguments)
{
    struct chat_call *call = grow(c->arena, m->call, m->n_call, &m->cap_call, sizeof *call);
    if (!call) {
        return false;
    }
    m->call = call;
    call += m->n_call;
    if (!keep_text(c->arena, id, &call->id) || !keep_text(c->arena, name, &call->name) ||
        !keep_text(c->arena, arguments, &call->arguments)) {
        return false;
    }
    m->n_call++;
    return true;
}

static int check_tools(const struct json *tools, fathom_err *err)
{
    if (!json_is(tools, JSON_ARRAY)) {
        return err_set(err, FATHOM_EFORMAT, "tools is not an array");
    }
    for (size_t i = 0; i < tools->n; i++) {
        if (!json_get(&tools->items[i], "function")) {
            return err_set(err, FATHOM_EFORMAT, "tools[%zu] has no \"function\"", i);
        }
    }
    return 0;
}

int chat_attach_tools(struct chat_conversation *c, const struct json *tools, fathom_err *err)
{
    if (!tools || json_is(tools, JSON_NULL) || (json_is(tools, JSON_ARRAY) && tools->n == 0)) {
        return 0;
    }
    int rc = check_tools(tools, err);
    if (rc) {
        return rc;
    }
    bool first =
        c->n > 0 && (c->msg[0]->role == CHAT_SYSTEM || c->msg[0]->role == CHAT_DEVELOPER);
    if (!first) {
        struct chat_message *m = chat_add(c, CHAT_SYSTEM, (struct slice){0});
        if (!m) {
            return err_nomem(err, "a message", sizeof *m);
        }
        memmove(c->msg + 1, c->msg, (c->n - 1) * sizeof *c->msg);
        c->msg[0] = m;
    }
    c->msg[0]->tools = tools;
    return 0;
}

/* ---- from JSON ---- */

static bool is_absent(const struct json *v)
{
    return !v || v->type == JSON_NULL;
}

/* What Python takes for false: such values of optional fields count as absent. */
static bool is_falsy(const struct json *v)
{
    double d;
    return is_absent(v) || v->type == JSON_FALSE ||
           (v->type == JSON_NUMBER && json_double(v, &d) && d == 0) ||
           (v->type >= JSON_STRING && v->n == 0);
}

static int join_parts(struct chat_conversation *c, const struct json *parts, struct slice *out,
                      fathom_err *err)
{
    struct buf b = {0};
    int rc = 0;
    for (size_t i = 0; i < parts->n && !rc; i++) {
        const struct json *part = &parts->items[i];
        struct slice type = json_str(json_get(part, "type"));
        if (i > 0) {
            buf_adds(&b, CHAT_BLANK_LINE);
        }
        if (part->type != JSON_OBJECT || !type.p) {
            rc = err_set(err, FATHOM_EFORMAT, "content[%zu] is not an object with a type", i);
        } else if (slice_is(type, "text")) {
            buf_add_slice(&b, json_str(json_get(part, "text")));
        } else {
            buf_adds(&b, CHAT_UNSUPPORTED_OPEN);
            buf_add_slice(&b, type);
            buf_adds(&b, CHAT_UNSUPPORTED_CLOSE);
        }
    }
    if (!rc && (b.failed || !keep_text(c->arena, buf_slice(&b), out))) {
        rc = err_nomem(err, "a message", b.n);
    }
    buf_free(&b);
    return rc;
}

static int load_content(struct chat_conversation *c, struct chat_message *m,
                        const struct json *content, fathom_err *err)
{
    if (json_is(content, JSON_STRING)) {
        m->content = json_str(content);
    } else if (json_is(content, JSON_ARRAY)) {
        return join_parts(c, content, &m->content, err);
    } else if (!is_absent(content) || (content && m->role == CHAT_USER)) {
        return err_set(err, FATHOM_EFORMAT, "content is neither a string nor a list of parts");
    }
    return 0;
}

/* An optional string field. */
static int load_str(const struct json *obj, const char *key, struct slice *out, fathom_err *err)
{
    const struct json *v = json_get(obj, key);
    if (!is_absent(v) && v->type != JSON_STRING) {
        return err_set(err, FATHOM_EFORMAT, "%s is not a string", key);
    }
    *out = json_str(v);
    return 0;
}

/* Arguments that are no string are what the release makes of them: the value of one parameter
 * called "arguments". */
static int wrap_arguments(struct chat_conversation *c, const struct json *value,
                          struct slice *out, fathom_err *err)
{
    struct buf b = {0};
    buf_adds(&b, "{\"" CHAT_ARGUMENTS_KEY "\":");
    json_write_compact(&b, value);
    buf_adds(&b, "}");
    bool ok = !b.failed && keep_text(c->arena, buf_slice(&b), out);
    int rc = ok ? 0 : err_nomem(err, "tool call arguments", b.n);
    buf_free(&b);
    return rc;
}

static int load_call(struct chat_conversation *c, struct chat_message *m, const struct json *v,
                     fathom_err *err)
{
    const struct json *function = json_get(v, "function");
    const struct json *name = json_get(function, "name");
    const struct json *arguments = json_get(function, "arguments");
    struct slice id, text = json_str(arguments);
    if (!json_is(name, JSON_STRING) || !arguments) {
        return err_set(err, FATHOM_EFORMAT, "a tool call needs function.name and .arguments");
    }
    int rc = load_str(v, "id", &id, err);
    if (!rc && id.n == 0) {
        rc = load_str(function, "id", &id, err);
    }
    if (!rc && arguments->type != JSON_STRING) {
        rc = wrap_arguments(c, arguments, &text, err);
    }
    if (!rc && !chat_add_call(c, m, id, json_str(name), text)) {
        rc = err_nomem(err, "a tool call", text.n);
    }
    return rc;
}

static int load_calls(struct chat_conversation *c, struct chat_message *m,
                      const struct json *calls, fathom_err *err)
{
    if (is_falsy(calls)) {
        return 0;
    }
    if (calls->type != JSON_ARRAY) {
        return err_set(err, FATHOM_EFORMAT, "tool_calls is not an array");
    }
    int rc = 0;
    for (size_t i = 0; i < calls->n && !rc; i++) {
        rc = load_call(c, m, &calls->items[i], err);
    }
    return rc;
}

static int find_role(const struct json *v, enum chat_role *out, fathom_err *err)
{
    static const struct {
        const char *name;
        enum chat_role role;
    } roles[] = {{"system", CHAT_SYSTEM},       {"user", CHAT_USER},
                 {"assistant", CHAT_ASSISTANT}, {"tool", CHAT_TOOL},
                 {"developer", CHAT_DEVELOPER}, {"latest_reminder", CHAT_LATEST_REMINDER}};
    struct slice name = json_str(json_get(v, "role"));
    for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
        if (name.p && slice_is(name, roles[i].name)) {
            *out = roles[i].role;
            return 0;
        }
    }
    return err_set(err, FATHOM_EFORMAT, "unknown role \"%.*s\"", (int)MIN(name.n, (size_t)64),
                   name.p ? name.p : "");
}

static int load_message(struct chat_conversation *c, const struct json *v, fathom_err *err)
{
    enum chat_role role = CHAT_USER;
    int rc = find_role(v, &role, err);
    struct chat_message *m = rc ? NULL : chat_add(c, role, (struct slice){0});
    if (!m) {
        return rc ? rc : err_nomem(err, "a message", sizeof *m);
    }
    const struct json *tools = json_get(v, "tools"), *format = json_get(v, "response_format");
    rc = load_content(c, m, json_get(v, "content"), err);
    rc = rc ? rc : load_str(v, "reasoning_content", &m->reasoning, err);
    rc = rc ? rc : load_str(v, "tool_call_id", &m->call_id, err);
    rc = rc ? rc : load_str(v, "task", &m->task, err);
    rc = rc ? rc : load_calls(c, m, json_get(v, "tool_calls"), err);
    if (!rc && !is_falsy(tools) && role != CHAT_USER && role != CHAT_TOOL) {
        rc = check_tools(tools, err);
        m->tools = tools;
    }
    m->response_format = is_falsy(format) ? NULL : format;
    m->wo_eos = json_is(json_get(v, "wo_eos"), JSON_TRUE);
    return rc;
}

int chat_load_messages(struct chat_conversation *c, const struct json *messages,
                       fathom_err *err)
{
    if (!json_is(messages, JSON_ARRAY)) {
        return err_set(err, FATHOM_EFORMAT, "messages is not an array");
    }
    for (size_t i = 0; i < messages->n; i++) {
        int rc = load_message(c, &messages->items[i], err);
        if (rc) {
            err_prefix(err, "messages[%zu]", i);
            return rc;
        }
    }
    return 0;
}
