/* schema_emit.c - the nodes of a rule: what a list of schemas allows, in the form that is wanted
 * (schema_int.h). */
#include "constrain/schema_int.h"

#include "json/keyset.h"

enum { WAYS_MAX = 8 };

struct ways { /* alternatives of a rule */
    uint32_t node[WAYS_MAX];
    uint32_t n;
};

static void way(struct ways *w, uint32_t node)
{
    w->node[w->n++] = node;
}

/* ---- branches ---- */

/* anyOf and oneOf: every branch together with all the rest. */
static uint32_t emit_branches(struct schema *s, uint32_t list, uint32_t which,
                              enum schema_form form)
{
    struct part part = s->list[list].part[which];
    const char *key = part.what == PART_ANY_OF ? "anyOf" : "oneOf";
    const struct json *branches = json_get(part.v, key);
    uint32_t *node = arena_alloc(&s->arena, (branches->n + 1) * sizeof *node), n = 0;
    for (size_t b = 0; b < branches->n && node && schema_ok(s); b++) {
        struct parts p;
        p.n = 0;
        p.never = s->list[list].never;
        for (uint32_t i = 0; i < s->list[list].n; i++) {
            if (i != which) {
                p.part[p.n++] = s->list[list].part[i];
            }
        }
        parts_add(s, &p, &branches->items[b]);
        node[n++] = grammar_call(s->g, list_rule(s, list_of(s, &p), form), s->g->ret);
    }
    return node ? grammar_alt(s->g, node, n) : 0;
}

/* ---- values ---- */

/* Does a value of an enum keep to the other keywords for strings and numbers? */
static bool value_fits(struct schema *s, const struct view *v, const struct json *x)
{
    bool counted;
    if (x->type == JSON_STRING) {
        size_t n = 0;
        for (size_t i = 0; i < x->n; i++) {
            n += (x->s[i] & 0xC0) != 0x80;
        }
        uint32_t d = string_dfa(s, v, &counted);
        return n >= v->min_length && n <= v->max_length &&
               (d == NO_DFA || !schema_ok(s) ||
                dfa_match(&s->g->dfa[d], (struct slice){x->s, x->n}));
    }
    if (x->type == JSON_NUMBER && (v->number.min.p || v->number.max.p)) {
        uint32_t d = number_dfa(s, v, false);
        return d != NO_DFA && schema_ok(s) &&
               dfa_match(&s->g->dfa[d], (struct slice){x->s, x->n});
    }
    return true;
}

static uint32_t emit_enum(struct schema *s, const struct view *v, enum schema_form form)
{
    uint32_t *node = arena_alloc(&s->arena, (v->n_value + 1) * sizeof *node), n = 0;
    for (size_t i = 0; i < v->n_value && node && schema_ok(s); i++) {
        const struct json *x = v->value[i];
        bool string = x->type == JSON_STRING;
        struct buf text = {0};
        if (form == SCHEMA_RAW ? !string : form == SCHEMA_OTHERS && string) {
            continue;
        }
        if (!value_fits(s, v, x)) {
            continue;
        }
        if (form == SCHEMA_RAW) {
            buf_add(&text, x->s, x->n);
        } else {
            json_write_python(&text, x);
        }
        node[n++] = grammar_text(s->g, buf_slice(&text), s->g->ret);
        buf_free(&text);
    }
    return node ? grammar_alt(s->g, node, n) : 0;
}

static uint32_t emit_string(struct schema *s, const struct view *v, enum schema_form form)
{
    bool counted;
    uint32_t d = string_dfa(s, v, &counted);
    struct node n = {.kind = NODE_STRING,
                     .next = s->g->ret,
                     .d = d,
                     .min = counted ? 0 : v->min_length,
                     .max = counted ? UINT32_MAX : v->max_length};
    if (form == SCHEMA_RAW) {
        n.kind = d == NO_DFA ? NODE_RAW : NODE_DFA;
        return grammar_node(s->g, n);
    }
    return grammar_text(s->g, SLICE("\""), grammar_node(s->g, n));
}

static uint32_t emit_number(struct schema *s, const struct view *v)
{
    uint32_t d = number_dfa(s, v, !(v->types & T_FRACTION));
    return grammar_node(s->g, (struct node){.kind = NODE_DFA,
                                            .next = s->g->ret,
                                            .d = d == NO_DFA ? 0 : d,
                                            .max = UINT32_MAX});
}

/* ---- arrays ---- */

/* The schemas of item i (any: UINT32_MAX, of those behind the ones with own schemas). */
static uint32_t item_list(struct schema *s, uint32_t list, uint32_t i)
{
    struct parts p;
    p.n = 0;
    p.never = false;
    for (uint32_t k = 0; k < s->list[list].n && schema_ok(s); k++) {
        const struct json *v = s->list[list].part[k].v, *rest = json_get(v, "items");
        const struct json *first = json_get(v, "prefixItems");
        if (s->list[list].part[k].what != PART_BASE) {
            continue;
        }
        if (json_is(rest, JSON_ARRAY)) { /* of older drafts */
            first = rest;
            rest = json_get(v, "additionalItems");
        }
        const struct json *own = json_is(first, JSON_ARRAY) ? json_at(first, i) : NULL;
        const struct json *x = own ? own : rest;
        if (x && x->type != JSON_NULL) {
            parts_add(s, &p, x);
        }
    }
    return list_of(s, &p);
}

/* How many items have schemas of their own. */
static uint32_t n_first(const struct schema *s, uint32_t list)
{
    size_t n = 0;
    for (uint32_t k = 0; k < s->list[list].n; k++) {
        const struct json *v = s->list[list].part[k].v;
        const struct json *items = json_get(v, "items"), *prefix = json_get(v, "prefixItems");
        n = json_is(items, JSON_ARRAY) ? MAX(n, items->n) : n;
        n = json_is(prefix, JSON_ARRAY) ? MAX(n, prefix->n) : n;
    }
    return (uint32_t)MIN(n, (size_t)GRAMMAR_MAX_RULES);
}

/* Ends and separator of a group in JSON. */
static void json_group(struct grammar *g, uint32_t d, uint32_t member, char close)
{
    uint32_t leave = grammar_node(g, (struct node){.kind = NODE_LEAVE});
    uint32_t end = grammar_text(g, (struct slice){&close, 1}, leave);
    uint32_t blank = grammar_blank(g, true, end);
    uint32_t sep = grammar_text(g, SLICE(","), grammar_blank(g, true, member));
    uint32_t first = g->err.code ? 0 : grammar_blank(g, true, g->group[d].first);
    if (!g->err.code) {
        g->group[d].end_first = end;
        g->group[d].end = blank;
        g->group[d].separator = sep;
        g->group[d].first = first;
    }
}

static struct member *new_members(struct grammar *g, uint32_t n)
{
    struct member *m = arena_alloc(&g->arena, ((size_t)n + 1) * sizeof *m);
    if (!m) {
        err_nomem(&g->err, "a grammar", n);
    }
    return m;
}

static uint32_t emit_array(struct schema *s, uint32_t list, const struct view *v)
{
    struct grammar *g = s->g;
    uint32_t at, n = n_first(s, list), d = grammar_group(g, &at);
    struct member *m = new_members(g, n);
    if (!m || g->err.code) {
        return 0;
    }
    json_group(g, d, at, ']');
    for (uint32_t i = 0; i < n && schema_ok(s); i++) {
        uint32_t rule = list_rule(s, item_list(s, list, i), SCHEMA_JSON);
        m[i].node = grammar_call(g, rule, g->group[d].next_node);
    }
    uint32_t rest = list_rule(s, item_list(s, list, UINT32_MAX), SCHEMA_JSON);
    uint32_t extra = grammar_call(g, rest, g->group[d].next_node);
    if (!schema_ok(s)) {
        return 0;
    }
    struct group *p = &g->group[d];
    p->list = true;
    p->member = m;
    p->n = n;
    p->extra = extra;
    p->min = v->min_items;
    p->max = v->max_items;
    return grammar_text(g, SLICE("["), grammar_enter(g, d, g->ret));
}

/* ---- objects ---- */

/* What parts say of a property: its own schema, or that of additional ones. */
static uint32_t property_list(struct schema *s, uint32_t list, const char *name)
{
    struct parts p;
    p.n = 0;
    p.never = false;
    for (uint32_t k = 0; k < s->list[list].n && schema_ok(s); k++) {
        const struct json *v = s->list[list].part[k].v;
        const struct json *x = name ? json_get(json_get(v, "properties"), name) : NULL;
        x = x ? x : json_get(v, "additionalProperties");
        if (s->list[list].part[k].what == PART_BASE && x && x->type != JSON_NULL) {
            parts_add(s, &p, x);
        }
    }
    return list_of(s, &p);
}

struct names {
    struct keyset set;
    struct schema_members *out;
    uint32_t cap;
};

static struct schema_member *add_name(struct schema *s, struct names *n, struct slice name)
{
    size_t i = keyset_add(&n->set, name);
    if (i == KEYSET_NONE || !fuel_use(s->fuel, 16 * s->n_list / 16 + 16, &s->err)) {
        err_nomem(&s->err, "a schema", name.n);
        return NULL;
    }
    if (i < n->out->n) {
        return &n->out->member[i];
    }
    if (n->out->n == n->cap) { /* the old array stays in the arena */
        uint32_t cap = n->cap ? n->cap * 2 : 16;
        struct schema_member *p = arena_alloc(&s->g->arena, cap * sizeof *p);
        if (!p) {
            err_nomem(&s->err, "a schema", cap);
            return NULL;
        }
        if (n->out->n) {
            memcpy(p, n->out->member, n->out->n * sizeof *p);
        }
        n->out->member = p;
        n->cap = cap;
    }
    n->out->member[n->out->n] = (struct schema_member){.name = name};
    return &n->out->member[n->out->n++];
}

static void read_names(struct schema *s, uint32_t list, struct names *n)
{
    for (uint32_t k = 0; k < s->list[list].n && schema_ok(s); k++) {
        const struct json *v = s->list[list].part[k].v, *p = json_get(v, "properties");
        for (size_t i = 0; json_is(p, JSON_OBJECT) && i < p->n && schema_ok(s); i++) {
            add_name(s, n, p->members[i].key);
        }
        if (p && p->type != JSON_OBJECT && p->type != JSON_NULL) {
            schema_fail(s, FATHOM_EFORMAT, v, "properties", "must be an object");
        }
    }
    for (uint32_t k = 0; k < s->list[list].n && schema_ok(s); k++) {
        const struct json *v = s->list[list].part[k].v, *r = json_get(v, "required");
        for (size_t i = 0; json_is(r, JSON_ARRAY) && i < r->n && schema_ok(s); i++) {
            struct slice name = json_str(&r->items[i]);
            struct schema_member *m = name.p ? add_name(s, n, name) : NULL;
            if (m) {
                m->required = true;
            } else if (!name.p) {
                schema_fail(s, FATHOM_EFORMAT, v, "required", "must be a list of strings");
            }
        }
    }
}

/* May properties follow that no part names? */
static bool is_open(const struct schema *s, uint32_t list, bool named)
{
    bool said = false;
    for (uint32_t k = 0; k < s->list[list].n; k++) {
        const struct json *x = json_get(s->list[list].part[k].v, "additionalProperties");
        said = said || (x && x->type != JSON_NULL);
        if (x && x->type == JSON_FALSE) {
            return false;
        }
    }
    return said || !named;
}

static bool name_fits(const struct schema *s, const struct view *v, uint32_t d,
                      struct slice name)
{
    size_t n = 0;
    bool found = !v->has_enum;
    for (size_t i = 0; i < name.n; i++) {
        n += (name.p[i] & 0xC0) != 0x80;
    }
    for (size_t i = 0; i < v->n_value && !found; i++) {
        found = slice_eq(json_str(v->value[i]), name);
    }
    return found && n >= v->min_length && n <= v->max_length &&
           (d == NO_DFA || dfa_match(&s->g->dfa[d], name));
}

/* propertyNames: which of the names may be, and the automaton of others. */
static bool read_key_rules(struct schema *s, uint32_t list, struct names *n, struct view *v)
{
    struct schema_members *out = n->out;
    struct parts p;
    bool counted;
    p.n = 0;
    p.never = false;
    for (uint32_t k = 0; k < s->list[list].n && schema_ok(s); k++) {
        const struct json *x = json_get(s->list[list].part[k].v, "propertyNames");
        if (x && x->type != JSON_NULL) {
            parts_add(s, &p, x);
        }
    }
    if (!list_read(s, list_of(s, &p), v)) {
        out->open = false;
        return p.never && schema_ok(s);
    }
    out->key = string_dfa(s, v, &counted);
    for (size_t i = 0; out->open && i < v->n_value && schema_ok(s); i++) {
        struct slice name =
            json_str(v->value[i]); /* the names that are listed become members */
        if (name.p) {
            add_name(s, n, name);
        }
    }
    out->open = out->open && !v->has_enum;
    if (out->open && out->key == NO_DFA && (v->min_length || v->max_length != UINT32_MAX)) {
        struct view any = *v;
        any.n_pattern = 1;
        any.pattern[0] = SLICE("");
        out->key = string_dfa(s, &any, &counted);
    }
    return schema_ok(s);
}

bool list_members(struct schema *s, uint32_t list, struct schema_members *out)
{
    struct names n = {.out = out};
    struct view keys = {0};
    *out = (struct schema_members){.key = NO_DFA};
    read_names(s, list, &n);
    out->open = is_open(s, list, out->n > 0);
    bool ok = schema_ok(s) && read_key_rules(s, list, &n, &keys);
    uint32_t k = 0;
    for (uint32_t i = 0; i < out->n && ok && schema_ok(s); i++) {
        struct schema_member m = out->member[i];
        bool fits = name_fits(s, &keys, out->key, m.name);
        ok = fits || !m.required;
        if (fits) {
            m.list = property_list(s, list, m.name.p);
            out->member[k++] = m;
        }
    }
    struct slice *name = arena_alloc(&s->arena, ((size_t)out->n + 1) * sizeof *name);
    for (uint32_t i = 0; i < k && name; i++) {
        name[i] = out->member[i].name;
    }
    out->n = k;
    if (ok && schema_ok(s) && out->open) {
        out->others = property_list(s, list, NULL);
    }
    if (ok && schema_ok(s) && out->open && k > 0 && name) {
        fathom_err err = {0};
        struct dfa d = {0};
        const struct dfa *own = out->key == NO_DFA ? NULL : &s->g->dfa[out->key];
        if (dfa_without(&d, own, name, k, s->fuel, &err) == 0) {
            out->key = grammar_dfa(s->g, &d);
        } else {
            schema_fail(s, err.code, s->list[list].n ? s->list[list].part[0].v : NULL,
                        "properties", err.msg);
        }
    }
    keyset_free(&n.set);
    return ok && schema_ok(s);
}

/* "name": value, then the group goes on. */
static uint32_t json_member(struct schema *s, uint32_t d, struct slice name, uint32_t list)
{
    struct grammar *g = s->g;
    struct buf text = {0};
    uint32_t next = g->err.code ? 0 : g->group[d].next_node;
    uint32_t value = grammar_call(g, list_rule(s, list, SCHEMA_JSON), next);
    json_write_python_str(&text, name);
    buf_addc(&text, ':');
    uint32_t node = grammar_text(g, buf_slice(&text), grammar_blank(g, false, value));
    buf_free(&text);
    return node;
}

static uint32_t json_other(struct schema *s, uint32_t d, const struct schema_members *p)
{
    struct grammar *g = s->g;
    uint32_t next = g->err.code ? 0 : g->group[d].next_node;
    uint32_t value = grammar_call(g, list_rule(s, p->others, SCHEMA_JSON), next);
    uint32_t colon = grammar_text(g, SLICE(":"), grammar_blank(g, false, value));
    struct node key = {.kind = NODE_STRING, .next = colon, .d = p->key, .max = UINT32_MAX};
    return grammar_text(g, SLICE("\""), grammar_node(g, key));
}

static uint32_t emit_object(struct schema *s, uint32_t list)
{
    struct grammar *g = s->g;
    struct schema_members p;
    uint32_t at;
    if (!list_members(s, list, &p)) {
        return grammar_alt(g, NULL, 0);
    }
    uint32_t d = grammar_group(g, &at);
    struct member *m = new_members(g, p.n);
    if (!m || g->err.code) {
        return 0;
    }
    json_group(g, d, at, '}');
    for (uint32_t i = 0; i < p.n && schema_ok(s); i++) {
        m[i].node = json_member(s, d, p.member[i].name, p.member[i].list);
        m[i].required = p.member[i].required;
    }
    uint32_t extra = p.open ? json_other(s, d, &p) : NO_NODE;
    if (!schema_ok(s)) {
        return 0;
    }
    g->group[d].member = m;
    g->group[d].n = p.n;
    g->group[d].extra = extra;
    return grammar_text(g, SLICE("{"), grammar_enter(g, d, g->ret));
}

/* ---- all ---- */

uint32_t emit_list(struct schema *s, uint32_t list, enum schema_form form)
{
    struct grammar *g = s->g;
    struct ways w = {.n = 0};
    struct view v;
    for (uint32_t i = 0; i < s->list[list].n; i++) {
        if (s->list[list].part[i].what != PART_BASE) {
            return emit_branches(s, list, i, form);
        }
    }
    if (!list_read(s, list, &v)) {
        return grammar_alt(g, NULL, 0);
    }
    if (v.has_enum) {
        return emit_enum(s, &v, form);
    }
    if ((v.types & T_STRING) && form != SCHEMA_OTHERS) {
        way(&w, emit_string(s, &v, form));
    }
    if (form == SCHEMA_RAW) {
        return grammar_alt(g, w.node, w.n);
    }
    if (v.types & T_NULL) {
        way(&w, grammar_text(g, SLICE("null"), g->ret));
    }
    if (v.types & T_BOOL) {
        way(&w, grammar_text(g, SLICE("true"), g->ret));
        way(&w, grammar_text(g, SLICE("false"), g->ret));
    }
    if (v.types & (T_FRACTION | T_INTEGER)) {
        way(&w, emit_number(s, &v));
    }
    if (v.types & T_ARRAY) {
        way(&w, emit_array(s, list, &v));
    }
    if (v.types & T_OBJECT) {
        way(&w, emit_object(s, list));
    }
    return grammar_alt(g, w.node, w.n);
}
