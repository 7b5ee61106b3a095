/* messages.c - Anthropic Messages, the request. Blocks become messages of the conversation: tool
 * results and texts of a user message stay in their order, texts and calls of an assistant
 * message become one message. cache_control is not looked at: it moves every turn. What comes
 * back is messages_out.c. */
#include "server/request.h"

#include "base/log.h"

/* A system block that carries changing bookkeeping of a client; in the prompt it would break
 * every cached prefix. */
static bool is_private(struct slice text)
{
    static const char mark[] = "x-anthropic-";
    return text.n >= sizeof mark - 1 && memcmp(text.p, mark, sizeof mark - 1) == 0;
}

static void read_system(struct api_request *r, const struct fields *f)
{
    const struct json *v = field(f, "system");
    if (!v) {
        return;
    }
    if (v->type == JSON_STRING) {
        struct slice s = {v->s, v->n};
        if (!is_private(s)) {
            add_message(r, f, CHAT_SYSTEM, s);
        }
        return;
    }
    if (v->type != JSON_ARRAY) {
        field_fail(f, "system", "must be a string or a list of text blocks");
        return;
    }
    for (size_t i = 0; i < v->n && f->e->fault == API_OK; i++) {
        struct fields b = field_element(f, "system", v, i);
        struct slice text = {0};
        if (b.obj && !field_str(&b, "text", &text)) {
            field_fail(&b, "text", "is missing");
        } else if (b.obj && !is_private(text)) {
            add_message(r, &b, CHAT_SYSTEM, text);
        }
    }
}

/* ---- blocks ---- */

static void read_result(struct api_request *r, const struct fields *b,
                        const struct request_policy *p)
{
    struct slice id = {0};
    struct chat_message *m = add_message(r, b, CHAT_TOOL, read_text(r, b, "content", p));
    field_str(b, "tool_use_id", &id);
    if (m && id.n && !chat_set_call_id(&r->conv, m, id)) {
        no_memory(b);
    }
}

static void read_use(struct api_request *r, const struct fields *b, struct chat_message *m)
{
    struct slice id = {0}, name = {0};
    field_str(b, "id", &id);
    if (!field_str(b, "name", &name)) {
        field_fail(b, "name", "is missing");
        return;
    }
    if (!chat_add_call(&r->conv, m, id, name, json_text(r, b, field(b, "input")))) {
        no_memory(b);
    }
}

static int refuse_block(const struct fields *b, struct slice type)
{
    return field_fail(b, "type",
                      "\"%.*s\" blocks are not supported here: this model reads text only (the "
                      "server can be started with --image-placeholder to leave images out)",
                      (int)MIN(type.n, (size_t)64), type.p);
}

static void read_user_block(struct api_request *r, const struct fields *b, struct slice type,
                            const struct request_policy *p)
{
    struct slice text = {"", 0};
    if (slice_is(type, "text")) {
        field_str(b, "text", &text);
        add_message(r, b, CHAT_USER, text);
    } else if (slice_is(type, "tool_result")) {
        read_result(r, b, p);
    } else if (p->image_placeholder &&
               (slice_is(type, "image") || slice_is(type, "document"))) {
        add_message(r, b, CHAT_USER,
                    slice_is(type, "image") ? SLICE("[Unsupported image]")
                                            : SLICE("[Unsupported document]"));
    } else {
        refuse_block(b, type);
    }
}

static void read_assistant_block(struct api_request *r, const struct fields *b,
                                 struct slice type, struct chat_message *m)
{
    struct slice text = {0};
    if (slice_is(type, "text")) {
        field_str(b, "text", &text);
        add_content(r, b, m, text);
    } else if (slice_is(type, "thinking")) {
        field_str(b, "thinking", &text);
        add_reasoning(r, b, m, text);
    } else if (slice_is(type, "tool_use")) {
        read_use(r, b, m);
    } else if (slice_is(type, "redacted_thinking")) {
        return;
    } else if (slice_is(type, "server_tool_use") || slice_is(type, "web_search_tool_result")) {
        add_content(r, b, m, json_text(r, b, b->obj));
    } else {
        refuse_block(b, type);
    }
}

static void read_blocks(struct api_request *r, const struct fields *f, const struct json *list,
                        struct chat_message *m, const struct request_policy *p)
{
    for (size_t i = 0; i < list->n && f->e->fault == API_OK; i++) {
        struct fields b = field_element(f, "content", list, i);
        struct slice type = {0};
        if (b.obj && !field_str(&b, "type", &type)) {
            field_fail(&b, "type", "is missing");
        }
        if (f->e->fault != API_OK) {
            return;
        }
        if (m) {
            read_assistant_block(r, &b, type, m);
        } else {
            read_user_block(r, &b, type, p);
        }
    }
}

static void read_message(struct api_request *r, const struct fields *f,
                         const struct request_policy *p)
{
    struct slice role = {0};
    const struct json *content = field(f, "content");
    field_str(f, "role", &role);
    bool assistant = role.p && slice_is(role, "assistant");
    if (role.p && slice_is(role, "system")) {
        add_message(r, f, CHAT_SYSTEM, read_text(r, f, "content", p));
        return;
    }
    if (!assistant && !(role.p && slice_is(role, "user"))) {
        field_fail(f, "role", "must be user, assistant or system");
        return;
    }
    struct chat_message *m = NULL;
    if (assistant) {
        m = next_assistant(r, f);
        if (!m) {
            return;
        }
    }
    if (json_is(content, JSON_ARRAY)) {
        read_blocks(r, f, content, m, p);
    } else if (json_is(content, JSON_STRING)) {
        struct slice text = {content->s, content->n};
        if (m) {
            add_content(r, f, m, text);
        } else {
            add_message(r, f, CHAT_USER, text);
        }
    } else if (!m) {
        field_fail(f, "content", "must be a string or a list of blocks");
    }
}

/* ---- the rest ---- */

static void read_tools(struct api_request *r, const struct fields *f)
{
    const struct json *list = field_array(f, "tools");
    if (!list || list->n == 0) {
        return;
    }
    alloc_tools(r, f, list->n);
    for (size_t i = 0; i < list->n && f->e->fault == API_OK; i++) {
        struct fields t = field_element(f, "tools", list, i);
        struct slice name = {0}, type = {0};
        field_str(&t, "name", &name);
        field_str(&t, "type", &type);
        const struct json *schema = field(&t, "input_schema");
        if (!schema) { /* a tool of the vendor's servers */
            r->dropped_tools = true;
            log_debug("tools[%zu]: %.*s has no input_schema and is left out", i,
                      (int)MIN(name.n, (size_t)64), name.p ? name.p : "");
            continue;
        }
        struct json *def = make_function(r, name, field(&t, "description"), schema);
        if (!def) {
            no_memory(&t);
            return;
        }
        add_tool(r, &t, def, (struct api_tool){.shown = name, .name = name});
    }
    if (r->n_tool == 0) {
        r->tools = NULL;
    }
}

static void read_thinking(struct api_request *r, const struct fields *f)
{
    struct fields t = field_object(f, "thinking");
    struct slice type = {0}, display = {0};
    int64_t budget;
    if (t.obj && !field_str(&t, "type", &type)) {
        field_fail(&t, "type", "is missing");
    }
    if (type.p && slice_is(type, "disabled")) {
        r->thinking = 0;
    } else if (type.p && (slice_is(type, "enabled") || slice_is(type, "adaptive"))) {
        r->thinking = 1;
    } else if (type.p) {
        field_fail(&t, "type", "must be enabled, disabled or adaptive");
    }
    if (field_int(&t, "budget_tokens", 1, UINT32_MAX, &budget)) {
        r->budget = (uint32_t)budget;
        if (r->max_tokens && r->budget >= r->max_tokens) {
            field_fail(&t, "budget_tokens", "must be less than max_tokens");
        }
    }
    field_str(&t, "display", &display);
    r->omit_thinking = display.p && slice_is(display, "omitted");
}

static void read_choice(struct api_request *r, const struct fields *f)
{
    struct fields c = field_object(f, "tool_choice");
    struct slice type = {0}, name = {0};
    bool single = false;
    if (!c.obj) {
        return;
    }
    field_str(&c, "type", &type);
    field_bool(&c, "disable_parallel_tool_use", &single);
    r->one_call = single;
    if (type.p && slice_is(type, "none")) {
        r->choice = CHOICE_NONE;
    } else if (type.p && slice_is(type, "any")) {
        require_call(r, &c, "type");
    } else if (type.p && slice_is(type, "tool")) {
        field_str(&c, "name", &name);
        choose_tool(r, &c, name);
    } else if (!type.p || !slice_is(type, "auto")) {
        field_fail(&c, "type", "must be auto, any, none or tool");
    }
}

int messages_read(struct api_request *r, const struct fields *f, const struct request_policy *p)
{
    const struct json *messages = field_array(f, "messages");
    if (!messages || messages->n == 0) {
        field_fail(f, "messages", "must be an array with at least one message");
        return -1;
    }
    if (field(f, "thread")) {
        return api_fail(f->e, API_NO_THREAD, "thread",
                        "thread: conversations are not stored here; send the full history "
                        "without thread (in the SDK's tool runner: thread: false)");
    }
    read_system(r, f);
    read_tools(r, f);
    for (size_t i = 0; i < messages->n && f->e->fault == API_OK; i++) {
        struct fields m = field_element(f, "messages", messages, i);
        if (m.obj) {
            read_message(r, &m, p);
        }
    }
    read_max_tokens(r, f, "max_tokens");
    read_sampling(r, f, 1);
    read_stop(r, f, "stop_sequences");
    read_thinking(r, f);
    read_choice(r, f);
    struct fields config = field_object(f, "output_config");
    struct fields format = field_object(&config, "format");
    struct fields legacy = field_object(f, "output_format");
    field_str(&config, "effort", &r->effort);
    read_format(r, format.obj ? &format : &legacy);
    return f->e->fault == API_OK ? 0 : -1;
}
