/* constrain.c - see constrain.h: the grammar of a whole answer. */
#include "constrain/constrain.h"

#include "constrain/schema.h"
#include "constrain/tools.h"

/* The rule of JSON content, then the end. */
static int content_rule(struct grammar *g, const struct constrain_spec *spec, uint32_t *node,
                        struct fuel *fuel, fathom_err *err)
{
    static const struct json_member object[] = {
        {{"type", 4}, {.type = JSON_STRING, .n = 6, {.s = "object"}}}};
    static const struct json any = {
        .type = JSON_OBJECT, .n = 1, {.members = (struct json_member *)object}};
    const struct json *root = spec->schema ? spec->schema : &any;
    struct schema *s = NULL;
    int rc = schema_check_size(root, err);
    rc = rc ? rc : schema_open(&s, g, root, spec->strict, fuel, err);
    if (rc) {
        return rc;
    }
    uint32_t rule = schema_rule(s, root, SCHEMA_JSON);
    rc = schema_run(s, err);
    schema_close(s);
    *node = grammar_call(g, rule, grammar_end(g));
    return rc;
}

static int build(struct grammar *g, const struct constrain_spec *spec, struct fuel *fuel,
                 fathom_err *err)
{
    bool json = spec->calls != CONSTRAIN_CALLS_MUST && (spec->schema || spec->object);
    uint32_t way[2], n = 0, rule = 0;
    int rc = json ? content_rule(g, spec, &way[n++], fuel, err) : 0;
    if (!rc && spec->calls != CONSTRAIN_CALLS_NONE && spec->tools) {
        struct tools_spec t = {.tools = spec->tools,
                               .only = spec->only,
                               .one_call = spec->one_call,
                               .hold = spec->calls == CONSTRAIN_CALLS_MUST};
        rc = tools_rule(g, &t, &rule, fuel, err);
        uint32_t block = grammar_call(g, rule, g->ret);
        if (json || spec->calls == CONSTRAIN_CALLS_MUST) {
            block = grammar_text(g, SLICE("\n\n<"), grammar_mark(g, block));
        }
        way[n++] = block;
    }
    if (rc) {
        return rc;
    }
    uint32_t root = grammar_rule(g), node = grammar_alt(g, way, n);
    if (!g->err.code) {
        g->rule[root] = node;
    }
    return grammar_finish(g, root, fuel, err);
}

int constrain_compile(struct machine **out, const struct constrain_spec *spec,
                      const struct token_trie *trie, fathom_err *err)
{
    struct fuel fuel = {CONSTRAIN_FUEL};
    struct grammar *g = grammar_new();
    *out = NULL;
    if (!g) {
        return err_nomem(err, "a grammar", sizeof *g);
    }
    int rc = build(g, spec, &fuel, err);
    if (rc) {
        grammar_unref(g);
        return rc;
    }
    *out = machine_new(g, trie);
    return *out ? 0 : err_nomem(err, "a grammar", sizeof *g);
}
