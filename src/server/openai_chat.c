/* openai_chat.c - Chat Completions, the request: messages, tools, fields. What comes back is
 * chat_out.c. */
#include "server/request.h"

/* {"name", "arguments"} of one call. */
static void read_call(struct api_request *r, const struct fields *fn, struct slice id,
                      struct chat_message *m)
{
    struct slice name = {0}, args = {"", 0};
    if (!field_str(fn, "name", &name) && fn->e->fault == API_OK) {
        field_fail(fn, "name", "is missing");
        return;
    }
    const struct json *v = field(fn, "arguments");
    if (v && v->type == JSON_STRING) {
        args = (struct slice){v->s, v->n};
    } else if (v) { /* some clients send the object itself */
        args = json_text(r, fn, v);
    }
    if (args.n == 0) {
        args = SLICE("{}");
    }
    if (fn->e->fault == API_OK && !chat_add_call(&r->conv, m, id, name, args)) {
        no_memory(fn);
    }
}

static void read_calls(struct api_request *r, const struct fields *f, struct chat_message *m)
{
    const struct json *calls = field_array(f, "tool_calls");
    for (size_t i = 0; calls && i < calls->n && f->e->fault == API_OK; i++) {
        struct fields c = field_element(f, "tool_calls", calls, i);
        struct fields fn = field_object(&c, field(&c, "custom") ? "custom" : "function");
        struct slice id = {0};
        field_str(&c, "id", &id);
        read_call(r, &fn, id, m);
    }
    struct fields old = field_object(f, "function_call"); /* of the time before tools */
    if (old.obj) {
        read_call(r, &old, (struct slice){0}, m);
    }
}

static void read_assistant(struct api_request *r, const struct fields *f,
                           const struct request_policy *p)
{
    struct slice text = read_text(r, f, "content", p), reasoning = {0}, refusal = {0};
    struct chat_message *m = next_assistant(r, f);
    if (!field_str(f, "reasoning_content", &reasoning)) {
        const struct json *other = field(f, "reasoning"); /* a string in some clients */
        reasoning = json_str(other);
    }
    field_str(f, "refusal", &refusal);
    if (!m) {
        return;
    }
    add_content(r, f, m, text.n ? text : refusal);
    add_reasoning(r, f, m, reasoning);
    read_calls(r, f, m);
}

static void read_message(struct api_request *r, const struct fields *f,
                         const struct request_policy *p)
{
    static const struct {
        const char *name;
        enum chat_role role;
    } roles[] = {{"system", CHAT_SYSTEM}, {"developer", CHAT_SYSTEM},
                 {"user", CHAT_USER},     {"assistant", CHAT_ASSISTANT},
                 {"tool", CHAT_TOOL},     {"function", CHAT_TOOL}};
    struct slice name = {0}, id = {0};
    size_t i = 0;
    field_str(f, "role", &name);
    while (i < ARRAY_LEN(roles) && !(name.p && slice_is(name, roles[i].name))) {
        i++;
    }
    if (i == ARRAY_LEN(roles)) {
        field_fail(f, "role", "must be system, developer, user, assistant or tool");
        return;
    }
    if (roles[i].role == CHAT_ASSISTANT) {
        read_assistant(r, f, p);
        return;
    }
    struct chat_message *m = add_message(r, f, roles[i].role, read_text(r, f, "content", p));
    if (m && roles[i].role == CHAT_TOOL && field_str(f, "tool_call_id", &id) &&
        !chat_set_call_id(&r->conv, m, id)) {
        no_memory(f);
    }
}

static void read_tools(struct api_request *r, const struct fields *f)
{
    const struct json *tools = field_array(f, "tools");
    const struct json *functions = field_array(f, "functions");
    const struct json *list = tools ? tools : functions;
    if (!list || list->n == 0) {
        return;
    }
    alloc_tools(r, f, list->n);
    for (size_t i = 0; i < list->n && f->e->fault == API_OK; i++) {
        struct fields t = field_element(f, tools ? "tools" : "functions", list, i);
        struct fields fn = t;
        struct slice type = SLICE("function"), name = {0};
        field_str(&t, "type", &type);
        if (tools) {
            fn = field_object(&t, "function");
        }
        if (!slice_is(type, "function") || !fn.obj) {
            field_fail(&t, fn.obj ? "type" : "function", "only function tools are supported");
            return;
        }
        field_str(&fn, "name", &name);
        add_tool(r, &fn, fn.obj, (struct api_tool){.shown = name, .name = name});
    }
}

static void read_reasoning(struct api_request *r, const struct fields *f)
{
    struct fields kw = field_object(f, "chat_template_kwargs");
    struct fields think = {.e = f->e}, reasoning = {.e = f->e};
    struct slice type = {0};
    int64_t budget;
    bool on;
    if (json_is(field(f, "thinking"), JSON_OBJECT)) {
        think = field_object(f, "thinking");
    } else if (field_bool(f, "thinking", &on)) {
        r->thinking = on;
    }
    if (json_is(field(f, "reasoning"), JSON_OBJECT)) {
        reasoning = field_object(f, "reasoning");
    }
    if (field_bool(&kw, "thinking", &on) || field_bool(&kw, "enable_thinking", &on) ||
        field_bool(f, "enable_thinking", &on)) {
        r->thinking = on;
    }
    if (json_is(field(f, "think"), JSON_STRING)) {
        field_str(f, "think", &r->effort);
    } else if (field_bool(f, "think", &on)) {
        r->thinking = on;
    }
    if (field_str(&think, "type", &type)) {
        if (slice_is(type, "disabled")) {
            r->thinking = 0;
        } else if (slice_is(type, "enabled") || slice_is(type, "adaptive")) {
            r->thinking = 1;
        } else {
            field_fail(&think, "type", "must be enabled, disabled or adaptive");
        }
    }
    if (field_int(&think, "budget_tokens", 1, UINT32_MAX, &budget)) {
        r->budget = (uint32_t)budget;
    }
    if (!field_str(f, "reasoning_effort", &r->effort) &&
        !field_str(&reasoning, "effort", &r->effort)) {
        field_str(&kw, "reasoning_effort", &r->effort);
    }
}

static void refuse_unsupported(const struct fields *f)
{
    static const char *const refused[] = {"audio", "web_search_options", "grammar"};
    int64_t n = 1;
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        if (field(f, refused[i])) {
            field_fail(f, refused[i], "is not supported");
        }
    }
    field_int(f, "n", 1, 1, &n);
    const struct json *modalities = field_array(f, "modalities");
    for (size_t i = 0; modalities && i < modalities->n; i++) {
        if (!slice_is(json_str(&modalities->items[i]), "text")) {
            field_fail(f, "modalities", "only [\"text\"] is supported");
        }
    }
}

static void read_logprobs(struct api_request *r, const struct fields *f)
{
    int64_t n = 0;
    field_bool(f, "logprobs", &r->logprobs);
    if (field_int(f, "top_logprobs", 0, MAX_LOGPROBS, &n) && !r->logprobs) {
        field_fail(f, "top_logprobs", "needs logprobs: true");
    }
    r->top_logprobs = (uint32_t)n;
    r->sampling.n_logprobs = r->logprobs ? MAX(r->top_logprobs, 1u) : 0;
}

int chat_read(struct api_request *r, const struct fields *f, const struct request_policy *p)
{
    const struct json *messages = field_array(f, "messages");
    bool parallel = true;
    if (!messages || messages->n == 0) {
        field_fail(f, "messages", "must be an array with at least one message");
        return -1;
    }
    refuse_unsupported(f);
    read_tools(r, f);
    for (size_t i = 0; i < messages->n && f->e->fault == API_OK; i++) {
        struct fields m = field_element(f, "messages", messages, i);
        if (m.obj) {
            read_message(r, &m, p);
        }
    }
    read_tool_choice(r, f);
    field_bool(f, "parallel_tool_calls", &parallel);
    r->one_call = !parallel;
    struct fields options = field_object(f, "stream_options");
    field_bool(&options, "include_usage", &r->include_usage);
    read_max_tokens(r, f, "max_completion_tokens");
    read_max_tokens(r, f, "max_tokens");
    read_sampling(r, f, 2);
    read_stop(r, f, "stop");
    read_logprobs(r, f);
    struct fields format = field_object(f, "response_format");
    read_format(r, &format);
    read_reasoning(r, f);
    return f->e->fault == API_OK ? 0 : -1;
}
