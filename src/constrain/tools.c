/* tools.c - see tools.h. The block is a list of calls, a call a group of parameters; both have
 * the shape of objects and arrays, with tags in place of brackets. */
#include "constrain/tools.h"

#include "constrain/regex.h"
#include "constrain/schema.h"
#include "json/keyset.h"

/* The names of the tags are those of chat/template.h, which is not ours to include. */
#define CALLS "tool_calls"
#define INVOKE "invoke"
#define PARAMETER "parameter"

struct tools {
    struct grammar *g;
    const struct tools_spec *spec;
    struct fuel *fuel;
    fathom_err *err;
};

/* "</", the marker and the rest of a closing tag. */
static uint32_t close_tag(struct grammar *g, struct slice before, struct slice word,
                          uint32_t next)
{
    uint32_t mark = grammar_mark(g, grammar_text(g, word, next));
    return grammar_text(g, before, mark);
}

/* Names of parameters that the schema leaves open. */
static uint32_t any_name(struct tools *t, const struct schema_members *p)
{
    struct dfa plain = {0}, d = {0};
    struct slice *name = mem_alloc(p->n + 1, sizeof *name);
    static const struct slice expr = {"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$", 31};
    uint32_t out = NO_DFA;
    for (uint32_t i = 0; i < p->n && name; i++) {
        name[i] = p->member[i].name;
    }
    if (name && regex_compile(&plain, expr, t->fuel, t->err) == 0 &&
        dfa_without(&d, &plain, name, p->n, t->fuel, t->err) == 0) {
        out = grammar_dfa(t->g, &d);
    }
    dfa_free(&plain);
    mem_free(name);
    return out;
}

/* From behind the name: both kinds of value, then the group goes on. */
static uint32_t parameter_value(struct tools *t, struct schema *s, uint32_t list, uint32_t next)
{
    struct grammar *g = t->g;
    uint32_t end = close_tag(g, SLICE("</"), SLICE(PARAMETER ">"), next);
    uint32_t raw = grammar_call(g, schema_member_rule(s, list, SCHEMA_RAW), end);
    uint32_t json = grammar_call(g, schema_member_rule(s, list, SCHEMA_OTHERS), end);
    uint32_t way[2] = {grammar_text(g, SLICE("true\">"), raw),
                       grammar_text(g, SLICE("false\">"), json)};
    return grammar_text(g, SLICE("\" string=\""), grammar_alt(g, way, 2));
}

static uint32_t parameter(struct tools *t, struct slice name, uint32_t value)
{
    struct grammar *g = t->g;
    uint32_t node = grammar_text(g, name, value);
    node = grammar_text(g, SLICE(PARAMETER " name=\""), node);
    return grammar_text(g, SLICE("<"), grammar_mark(g, node));
}

/* The group of parameters; `any` takes the place of each value's schemas if p comes from a free
 * tool (UINT32_MAX: does not). */
static uint32_t parameters(struct tools *t, struct schema *s, const struct schema_members *p,
                           uint32_t any)
{
    struct grammar *g = t->g;
    uint32_t at, d = grammar_group(g, &at);
    struct member *m = arena_alloc(&g->arena, ((size_t)p->n + 1) * sizeof *m);
    if (!m) {
        err_nomem(&g->err, "a grammar", p->n);
    }
    if (g->err.code) {
        return 0;
    }
    uint32_t next = g->group[d].next_node;
    uint32_t leave = grammar_node(g, (struct node){.kind = NODE_LEAVE});
    uint32_t end = close_tag(g, SLICE("\n</"), SLICE(INVOKE ">"), leave);
    for (uint32_t i = 0; i < p->n; i++) {
        uint32_t list = any != UINT32_MAX ? any : p->member[i].list;
        m[i].node = parameter(t, p->member[i].name, parameter_value(t, s, list, next));
        m[i].required = any == UINT32_MAX && p->member[i].required;
    }
    uint32_t extra = NO_NODE;
    if (p->open) {
        uint32_t value = parameter_value(t, s, any != UINT32_MAX ? any : p->others, next);
        uint32_t name = any_name(t, p);
        struct node key = {.kind = NODE_DFA, .next = value, .d = name == NO_DFA ? 0 : name};
        key.max = UINT32_MAX;
        extra = parameter(t, (struct slice){0}, grammar_node(g, key));
    }
    uint32_t sep = grammar_text(g, SLICE("\n"), at);
    if (g->err.code) {
        return 0;
    }
    g->group[d].member = m;
    g->group[d].n = p->n;
    g->group[d].extra = extra;
    g->group[d].end = g->group[d].end_first = end;
    g->group[d].separator = sep;
    return d;
}

/* The names of a free tool. What cannot be read as an object schema leaves the names open. */
static void free_members(struct grammar *g, const struct json *parameters,
                         struct schema_members *out)
{
    const struct json *p = json_get(parameters, "properties");
    const struct json *more = json_get(parameters, "additionalProperties");
    size_t n = json_is(p, JSON_OBJECT) ? MIN(p->n, (size_t)GRAMMAR_MAX_RULES) : 0;
    *out = (struct schema_members){.key = NO_DFA};
    out->open = n == 0 ? !json_is(more, JSON_FALSE)
                       : more && more->type != JSON_FALSE && more->type != JSON_NULL;
    out->member = arena_alloc(&g->arena, (n + 1) * sizeof *out->member);
    for (size_t i = 0; i < n && out->member; i++) {
        out->member[out->n++] = (struct schema_member){.name = p->members[i].key};
    }
    for (const char *const *k = (const char *const[]){"$ref", "allOf", "anyOf", "oneOf", NULL};
         *k; k++) {
        out->open = out->open || json_get(parameters, *k); /* may name more */
    }
}

/* One tool's call from behind the marker. */
static uint32_t invoke(struct tools *t, struct schema *s, const struct json *def, uint32_t any,
                       uint32_t next)
{
    struct grammar *g = t->g;
    struct schema_members p;
    const struct json *schema = json_get(def, "parameters");
    if (any != UINT32_MAX) {
        free_members(g, schema, &p);
    } else if (!schema_read_members(s, schema, &p)) {
        return grammar_alt(g, NULL, 0);
    }
    uint32_t d = parameters(t, s, &p, any);
    uint32_t node = grammar_text(g, SLICE("\">\n"), grammar_enter(g, d, next));
    node = grammar_text(g, json_str(json_get(def, "name")), node);
    return grammar_text(g, SLICE(INVOKE " name=\""), node);
}

/* The call of one tool, held to its schema, or (loose not NULL) free. */
static int one_tool(struct tools *t, const struct json *def, struct schema *loose,
                    uint32_t next, uint32_t *node)
{
    struct schema *s = NULL;
    const struct json *root = json_get(def, "parameters");
    if (loose) {
        *node = invoke(t, loose, def, schema_any(loose), next);
        return 0;
    }
    int rc = schema_check_size(root, t->err);
    rc = rc ? rc : schema_open(&s, t->g, root, false, t->fuel, t->err);
    if (!rc) {
        *node = invoke(t, s, def, UINT32_MAX, next);
        rc = schema_run(s, t->err);
    }
    if (rc) {
        struct slice name = json_str(json_get(def, "name"));
        err_prefix(t->err, "tool \"%.*s\"", (int)MIN(name.n, (size_t)64), name.p);
    }
    schema_close(s);
    return rc;
}

/* Calls of all tools, as alternatives that lead to `next`. */
static int invokes(struct tools *t, uint32_t next, uint32_t *out)
{
    const struct json *tools = t->spec->tools;
    uint32_t *way = mem_alloc(tools->n + 1, sizeof *way), n = 0;
    struct keyset seen = {0};
    struct schema *loose = NULL;
    int rc = way ? schema_open(&loose, t->g, NULL, false, t->fuel, t->err)
                 : err_nomem(t->err, "tools", tools->n);
    for (size_t i = 0; i < tools->n && !rc; i++) {
        const struct json *def = json_get(&tools->items[i], "function");
        struct slice name = json_str(json_get(def, "name"));
        bool other = t->spec->only.p && !slice_eq(name, t->spec->only);
        size_t known = seen.n;
        if (!name.p || other || keyset_add(&seen, name) != known) {
            continue;
        }
        bool hold = t->spec->hold || json_is(json_get(&tools->items[i], "strict"), JSON_TRUE) ||
                    json_is(json_get(def, "strict"), JSON_TRUE);
        hold = hold && json_is(json_get(def, "parameters"), JSON_OBJECT);
        rc = one_tool(t, def, hold ? NULL : loose, next, &way[n++]);
    }
    rc = rc ? rc : schema_run(loose, t->err);
    *out = rc ? 0 : grammar_alt(t->g, way, n);
    schema_close(loose);
    keyset_free(&seen);
    mem_free(way);
    return rc;
}

int tools_rule(struct grammar *g, const struct tools_spec *spec, uint32_t *rule,
               struct fuel *fuel, fathom_err *err)
{
    struct tools t = {g, spec, fuel, err};
    uint32_t at, calls = 0, d = grammar_group(g, &at);
    *rule = grammar_rule(g);
    if (g->err.code) {
        return err_set(err, g->err.code, "%s", g->err.msg);
    }
    int rc = invokes(&t, g->group[d].next_node, &calls);
    if (rc) {
        return rc;
    }
    uint32_t leave = grammar_node(g, (struct node){.kind = NODE_LEAVE});
    uint32_t end = close_tag(g, SLICE("\n</"), SLICE(CALLS ">"), leave);
    uint32_t call = grammar_text(g, SLICE("<"), grammar_mark(g, calls));
    uint32_t sep = grammar_text(g, SLICE("\n"), at);
    uint32_t enter = grammar_enter(g, d, grammar_end(g));
    uint32_t start = grammar_text(g, SLICE(CALLS ">\n"), enter);
    if (g->err.code) {
        return err_set(err, g->err.code, "%s", g->err.msg);
    }
    struct group *p = &g->group[d];
    p->list = true;
    p->min = 1;
    p->max = spec->one_call ? 1 : UINT32_MAX;
    p->extra = call;
    p->end = p->end_first = end;
    p->separator = sep;
    g->rule[*rule] = start;
    return 0;
}
