/* responses.c - OpenAI Responses, the request: input items become messages, nested tools become
 * flat ones. Reasoning, text and calls that follow each other are one assistant message. What
 * comes back is responses_out.c. */
#include "server/request.h"

#include <stdio.h>

#include "base/log.h"

/* ---- tools ---- */

static bool shown_before(const struct api_request *r, struct slice name)
{
    return request_tool(r, name) != NULL;
}

/* "name", or "space__name" where that is taken. */
static struct slice shown_name(struct api_request *r, struct slice space, struct slice name)
{
    if (!space.n || !shown_before(r, name)) {
        return name;
    }
    char *p = arena_alloc(&r->arena, space.n + name.n + 3);
    if (!p) {
        return name;
    }
    memcpy(p, space.p, space.n);
    memcpy(p + space.n, "__", 2);
    memcpy(p + space.n + 2, name.p, name.n);
    return (struct slice){p, space.n + name.n + 2};
}

/* The definition without the fields that only the API knows. */
static struct json *function_of(struct api_request *r, const struct fields *t,
                                struct slice shown)
{
    return make_function(r, shown, field(t, "description"), field(t, "parameters"));
}

/* A free-form tool is shown as one with a single string. */
static struct json *custom_of(struct api_request *r, const struct fields *t, struct slice shown)
{
    static const char schema[] =
        "{\"type\": \"object\", \"properties\": {\"input\": {\"type\": "
        "\"string\"}}, \"required\": [\"input\"]}";
    struct json parameters;
    if (json_read(&parameters, &r->arena, schema, sizeof schema - 1, NULL) != 0) {
        return NULL;
    }
    return make_function(r, shown, field(t, "description"), &parameters);
}

static void read_tool(struct api_request *r, const struct fields *t, struct slice space)
{
    struct slice type = {0}, name = {0};
    field_str(t, "type", &type);
    field_str(t, "name", &name);
    bool custom = type.p && slice_is(type, "custom");
    struct slice shown = shown_name(r, space, name);
    struct json *def = custom ? custom_of(r, t, shown) : function_of(r, t, shown);
    if (!def) {
        no_memory(t);
        return;
    }
    add_tool(r, t, def,
             (struct api_tool){.shown = shown, .name = name, .space = space, .custom = custom});
}

static void read_tools(struct api_request *r, const struct fields *f)
{
    const struct json *list = field_array(f, "tools");
    if (!list || list->n == 0) {
        return;
    }
    alloc_tools(r, f, list->n);
    for (size_t i = 0; i < list->n && f->e->fault == API_OK; i++) {
        struct fields t = field_element(f, "tools", list, i);
        struct slice type = {0}, space = {0};
        field_str(&t, "type", &type);
        if (!type.p) {
            field_fail(&t, "type", "is missing");
        } else if (slice_is(type, "function") || slice_is(type, "custom")) {
            read_tool(r, &t, (struct slice){0});
        } else if (slice_is(type, "namespace")) {
            const struct json *inner = field_array(&t, "tools");
            field_str(&t, "name", &space);
            for (size_t k = 0; inner && k < inner->n && f->e->fault == API_OK; k++) {
                struct fields n = field_element(&t, "tools", inner, k);
                read_tool(r, &n, space);
            }
        } else {
            r->dropped_tools = true; /* tools of the vendor's servers */
            log_debug("tools[%zu]: type %.*s is left out", i, (int)MIN(type.n, (size_t)40),
                      type.p);
        }
    }
}

/* ---- input ---- */

static void read_call(struct api_request *r, const struct fields *f, struct slice name,
                      struct slice arguments)
{
    struct chat_message *m = open_assistant(r, f);
    struct slice id = {0}, space = {0};
    if (!field_str(f, "call_id", &id)) {
        field_str(f, "id", &id);
    }
    if (field_str(f, "namespace", &space)) { /* the name as it stood in the prompt */
        for (size_t i = 0; i < r->n_tool; i++) {
            if (slice_eq(r->tool[i].name, name) && slice_eq(r->tool[i].space, space)) {
                name = r->tool[i].shown;
            }
        }
    }
    if (f->e->fault == API_OK && m && !chat_add_call(&r->conv, m, id, name, arguments)) {
        no_memory(f);
    }
}

/* The arguments of a free-form tool: {"input": text}. */
static struct slice input_text(struct api_request *r, const struct fields *f,
                               const struct json *v)
{
    struct json *o = json_new_object(&r->arena);
    struct json text = {.type = JSON_STRING, .s = ""};
    if (!o || !json_set(&r->arena, o, "input", v ? *v : text)) {
        no_memory(f);
        return SLICE("{}");
    }
    return json_text(r, f, o);
}

static void read_output(struct api_request *r, const struct fields *f, const char *name,
                        const struct request_policy *p)
{
    struct slice id = {0}, text;
    const struct json *v = field(f, name);
    bool plain = !v || v->type == JSON_STRING || v->type == JSON_ARRAY;
    text = plain ? read_text(r, f, name, p) : json_text(r, f, v);
    struct chat_message *m = add_message(r, f, CHAT_TOOL, text);
    if (!field_str(f, "call_id", &id)) {
        field_str(f, "id", &id);
    }
    if (m && id.n && !chat_set_call_id(&r->conv, m, id)) {
        no_memory(f);
    }
}

static void read_reasoning_item(struct api_request *r, const struct fields *f,
                                const struct request_policy *p)
{
    struct chat_message *m = open_assistant(r, f);
    struct slice text = read_text(r, f, "content", p);
    if (text.n == 0) {
        text = read_text(r, f, "summary", p);
    }
    if (m && m->n_call == 0) {
        add_reasoning(r, f, m, text);
    } else if (m && text.n) { /* after calls whose results are missing: a message of its own */
        m = add_message(r, f, CHAT_ASSISTANT, (struct slice){0});
        if (m) {
            add_reasoning(r, f, m, text);
        }
    }
}

static void read_message(struct api_request *r, const struct fields *f,
                         const struct request_policy *p)
{
    struct slice role = {0};
    field_str(f, "role", &role);
    struct slice text = read_text(r, f, "content", p);
    if (!role.p) {
        field_fail(f, "role", "is missing");
    } else if (slice_is(role, "assistant")) {
        struct chat_message *m = open_assistant(r, f);
        if (m) {
            add_content(r, f, m, text);
        }
    } else if (slice_is(role, "user")) {
        add_message(r, f, CHAT_USER, text);
    } else if (slice_is(role, "system") || slice_is(role, "developer")) {
        add_message(r, f, CHAT_SYSTEM, text);
    } else {
        field_fail(f, "role", "must be user, assistant, system or developer");
    }
}

static void read_named_call(struct api_request *r, const struct fields *f, const char *args,
                            bool custom)
{
    struct slice name = {0}, text = {0};
    if (!field_str(f, "name", &name)) {
        field_fail(f, "name", "is missing");
        return;
    }
    const struct json *v = field(f, args);
    if (custom || (v && v->type != JSON_STRING)) {
        text = custom ? input_text(r, f, v) : json_text(r, f, v);
    } else if (v) {
        text = (struct slice){v->s, v->n};
    }
    read_call(r, f, name, text.n ? text : SLICE("{}"));
}

static void read_item(struct api_request *r, const struct fields *f,
                      const struct request_policy *p)
{
    struct slice type = SLICE("message");
    field_str(f, "type", &type);
    if (slice_is(type, "message")) {
        read_message(r, f, p);
    } else if (slice_is(type, "reasoning")) {
        read_reasoning_item(r, f, p);
    } else if (slice_is(type, "function_call")) {
        read_named_call(r, f, "arguments", false);
    } else if (slice_is(type, "custom_tool_call")) {
        read_named_call(r, f, "input", true);
    } else if (slice_is(type, "local_shell_call")) {
        read_call(r, f, SLICE("local_shell"), json_text(r, f, field(f, "action")));
    } else if (slice_is(type, "tool_search_call")) {
        read_call(r, f, SLICE("tool_search"), json_text(r, f, field(f, "arguments")));
    } else if (slice_is(type, "tool_search_output")) {
        read_output(r, f, field(f, "output") ? "output" : "tools", p);
    } else if (slice_is(type, "function_call_output") ||
               slice_is(type, "custom_tool_call_output") ||
               slice_is(type, "local_shell_call_output") ||
               slice_is(type, "tool_search_call_output")) {
        read_output(r, f, "output", p);
    } else if (slice_is(type, "item_reference")) {
        field_fail(f, "type",
                   "item_reference: responses are not stored here; send the whole history as "
                   "items (in the AI SDK: providerOptions.openai.store = false)");
    } else {
        field_fail(f, "type", "\"%.*s\" is not an input item that this server knows",
                   (int)MIN(type.n, (size_t)64), type.p);
    }
}

static void read_input(struct api_request *r, const struct fields *f,
                       const struct request_policy *p)
{
    struct slice instructions = {0};
    const struct json *input = field(f, "input");
    if (field_str(f, "instructions", &instructions) && instructions.n) {
        add_message(r, f, CHAT_SYSTEM, instructions);
    }
    if (json_is(input, JSON_STRING)) {
        add_message(r, f, CHAT_USER, (struct slice){input->s, input->n});
        return;
    }
    if (!json_is(input, JSON_ARRAY) || input->n == 0) {
        field_fail(f, "input", "must be a string or an array of items");
        return;
    }
    for (size_t i = 0; i < input->n && f->e->fault == API_OK; i++) {
        struct fields item = field_element(f, "input", input, i);
        if (item.obj) {
            read_item(r, &item, p);
        }
    }
}

static void refuse_unsupported(const struct fields *f)
{
    bool background = false;
    struct slice truncation = {0};
    if (field(f, "previous_response_id")) {
        field_fail(
            f, "previous_response_id",
            "responses are not stored by this server: send the full history in input, and "
            "previous_response_id null");
    }
    if (field(f, "conversation")) {
        field_fail(f, "conversation",
                   "conversations are not stored by this server: send the full history in "
                   "input");
    }
    field_bool(f, "background", &background);
    if (background) {
        field_fail(f, "background", "is not supported");
    }
    if (field(f, "prompt")) {
        field_fail(f, "prompt", "stored prompts are not supported");
    }
    field_str(f, "truncation", &truncation);
    if (truncation.p && !slice_is(truncation, "disabled")) {
        field_fail(f, "truncation", "only \"disabled\" is supported");
    }
}

static void read_include(struct api_request *r, const struct fields *f)
{
    const struct json *include = field_array(f, "include");
    int64_t n = 0;
    for (size_t i = 0; include && i < include->n; i++) {
        struct slice s = json_str(&include->items[i]);
        r->logprobs = r->logprobs || (s.p && slice_is(s, "message.output_text.logprobs"));
        r->seal_reasoning =
            r->seal_reasoning || (s.p && slice_is(s, "reasoning.encrypted_content"));
    }
    field_int(f, "top_logprobs", 0, MAX_LOGPROBS, &n);
    r->top_logprobs = (uint32_t)n;
    r->sampling.n_logprobs = r->logprobs ? MAX(r->top_logprobs, 1u) : 0;
}

int responses_read(struct api_request *r, const struct fields *f,
                   const struct request_policy *p)
{
    bool parallel = true;
    refuse_unsupported(f);
    read_tools(r, f);
    read_input(r, f, p);
    read_tool_choice(r, f);
    field_bool(f, "parallel_tool_calls", &parallel);
    r->one_call = !parallel;
    read_max_tokens(r, f, "max_output_tokens");
    read_sampling(r, f, 2);
    struct fields reasoning = field_object(f, "reasoning");
    field_str(&reasoning, "effort", &r->effort);
    struct fields text = field_object(f, "text");
    struct fields format = field_object(&text, "format");
    read_format(r, &format);
    read_include(r, f);
    return f->e->fault == API_OK ? 0 : -1;
}
