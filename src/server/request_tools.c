/* request_tools.c - the tools of a request (as each protocol's parser hands them over) and which
 * of them the answer may or must call. What the choice does to the answer: hold_calls of
 * request.c. */
#include "server/request.h"

/* ---- tools ---- */

void alloc_tools(struct api_request *r, const struct fields *f, size_t n)
{
    if (n > MAX_TOOLS) {
        field_fail(f, "tools", "at most %d tools", MAX_TOOLS);
        return;
    }
    r->tools = r->tools ? r->tools : json_new_array(&r->arena);
    r->tool = r->tool ? r->tool : arena_alloc(&r->arena, MAX_TOOLS * sizeof *r->tool);
    if (!r->tools || !r->tool) {
        no_memory(f);
    }
}

void add_tool(struct api_request *r, const struct fields *at, const struct json *def,
              struct api_tool tool)
{
    struct json *o = json_new_object(&r->arena);
    if (r->n_tool >= MAX_TOOLS) {
        field_fail(at, "", "more than %d tools", MAX_TOOLS);
        return;
    }
    if (tool.shown.n == 0) {
        field_fail(at, "name", "is missing or empty");
        return;
    }
    bool strict = false; /* kept beside the definition: only that is shown to the model */
    field_bool(at, "strict", &strict);
    if (!o || !json_set(&r->arena, o, "type", json_make_str(&r->arena, SLICE("function"))) ||
        !json_set(&r->arena, o, "strict",
                  (struct json){.type = strict ? JSON_TRUE : JSON_FALSE}) ||
        !json_set(&r->arena, o, "function", *def) || !json_push(&r->arena, r->tools, *o)) {
        no_memory(at);
        return;
    }
    r->tool[r->n_tool++] = tool;
}

struct json *make_function(struct api_request *r, struct slice name, const struct json *text,
                           const struct json *parameters)
{
    struct json *o = json_new_object(&r->arena);
    bool ok = o && json_set(&r->arena, o, "name", json_make_str(&r->arena, name));
    ok = ok && (!text || json_set(&r->arena, o, "description", *text));
    ok = ok && (!parameters || json_set(&r->arena, o, "parameters", *parameters));
    return ok ? o : NULL;
}

const struct api_tool *request_tool(const struct api_request *r, struct slice shown)
{
    for (size_t i = 0; i < r->n_tool; i++) {
        if (slice_eq(r->tool[i].shown, shown)) {
            return &r->tool[i];
        }
    }
    return NULL;
}

/* ---- tool_choice ---- */

/* The place in r->tool of the tool that a client means by this name; n_tool: none. */
static size_t tool_index(const struct api_request *r, struct slice name)
{
    size_t i = 0;
    while (i < r->n_tool &&
           !(slice_eq(r->tool[i].name, name) || slice_eq(r->tool[i].shown, name))) {
        i++;
    }
    return i;
}

static void no_such_tool(const struct fields *f, struct slice name)
{
    field_fail(f, "name", "there is no tool \"%.*s\" in this request",
               (int)MIN(name.n, (size_t)64), name.p ? name.p : "");
}

/* {"type":"function","function":{"name":...}} or flat {"type":"function","name":...}. */
static struct slice name_of(const struct fields *f, struct slice type)
{
    struct slice name = {0};
    struct fields inner = field_object(f, slice_is(type, "custom") ? "custom" : "function");
    if (!field_str(f, "name", &name) && inner.obj) {
        field_str(&inner, "name", &name);
    }
    return name;
}

void choose_tool(struct api_request *r, const struct fields *f, struct slice name)
{
    size_t i = tool_index(r, name);
    if (i == r->n_tool) {
        no_such_tool(f, name);
        return;
    }
    r->choice = CHOICE_NAMED;
    r->choice_name = r->tool[i].shown;
}

/* Marks the tools that a list of {"type", "name"} names. Tools of the vendor's servers, which were
 * left out of the request's own list, are passed over. */
static void mark_allowed(const struct api_request *r, const struct fields *f, bool *marked)
{
    const struct json *list = field_array(f, "tools");
    if (!list && f->e->fault == API_OK) {
        field_fail(f, "tools", "is missing");
    }
    for (size_t i = 0; list && i < list->n && f->e->fault == API_OK; i++) {
        struct fields t = field_element(f, "tools", list, i);
        struct slice type = {0};
        if (!t.obj || !field_str(&t, "type", &type)) {
            field_fail(t.obj ? &t : f, t.obj ? "type" : "tools", "is missing");
        } else if (slice_is(type, "function") || slice_is(type, "custom")) {
            struct slice name = name_of(&t, type);
            size_t k = tool_index(r, name);
            if (k == r->n_tool) {
                no_such_tool(&t, name);
            } else {
                marked[k] = true;
            }
        }
    }
}

/* A part of the tools that may be called now. All stay in the prompt, so that it is the same from
 * turn to turn: that is what clients use this for. */
static void choose_allowed(struct api_request *r, const struct fields *f)
{
    bool marked[MAX_TOOLS] = {false};
    struct slice mode = {0};
    field_str(f, "mode", &mode);
    mark_allowed(r, f, marked);
    r->allowed = json_new_array(&r->arena);
    bool room = r->allowed != NULL;
    for (size_t i = 0; i < r->n_tool && room; i++) {
        room = !marked[i] || json_push(&r->arena, r->allowed, r->tools->items[i]);
    }
    if (!room) {
        no_memory(f);
    } else if (slice_is(mode, "required")) {
        r->choice = CHOICE_REQUIRED;
        if (r->allowed->n == 0) {
            field_fail(f, "tools", "a call is required, but none of these tools is there");
        }
    } else if (slice_is(mode, "auto")) {
        r->choice = r->allowed->n ? CHOICE_AUTO : CHOICE_NONE;
    } else {
        field_fail(f, "mode", "must be auto or required");
    }
}

static void read_choice_object(struct api_request *r, const struct fields *f)
{
    struct slice type = {0};
    field_str(f, "type", &type);
    if (slice_is(type, "function") || slice_is(type, "custom") || slice_is(type, "tool")) {
        choose_tool(r, f, name_of(f, type));
    } else if (slice_is(type, "allowed_tools")) {
        struct fields inner = field_object(f, "allowed_tools");
        choose_allowed(r, inner.obj ? &inner : f);
    } else {
        field_fail(f, "type", "\"%.*s\" is not a choice that this server can force",
                   (int)MIN(type.n, (size_t)64), type.p ? type.p : "");
    }
}

void require_call(struct api_request *r, const struct fields *f, const char *field)
{
    r->choice = CHOICE_REQUIRED;
    if (r->n_tool == 0) {
        field_fail(f, field, "a call is required, but there are no tools");
    }
}

void read_tool_choice(struct api_request *r, const struct fields *f)
{
    static const struct {
        const char *word;
        enum tool_choice choice;
    } words[] = {{"auto", CHOICE_AUTO},
                 {"none", CHOICE_NONE},
                 {"required", CHOICE_REQUIRED},
                 {"any", CHOICE_REQUIRED}};
    bool old =
        r->proto == PROTO_CHAT && !field(f, "tool_choice"); /* of the time of functions */
    const char *name = old ? "function_call" : "tool_choice";
    const struct json *v = field(f, name);
    struct slice word = json_str(v);
    if (!v) {
        return;
    }
    if (v->type == JSON_OBJECT) {
        struct fields o = field_object(f, name);
        if (old) {
            choose_tool(r, &o, name_of(&o, SLICE("function")));
        } else {
            read_choice_object(r, &o);
        }
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (word.p && slice_is(word, words[i].word)) {
            if (words[i].choice == CHOICE_REQUIRED) {
                require_call(r, f, name);
            } else {
                r->choice = words[i].choice;
            }
            return;
        }
    }
    field_fail(f, name, "must be auto, none, required, or name a tool");
}
