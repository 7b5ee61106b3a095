/* schema_view.c - the keywords of a list of schemas, taken together (schema_int.h). */
#include "constrain/schema_int.h"

#include <math.h>

enum keyword_kind {
    K_IGNORED, /* says nothing about the value, or is read elsewhere */
    K_TYPE,
    K_ENUM,
    K_CONST,
    K_FORMAT,
    K_PATTERN,
    K_MIN_LENGTH,
    K_MAX_LENGTH,
    K_MINIMUM,
    K_MAXIMUM,
    K_OPEN_MINIMUM,
    K_OPEN_MAXIMUM,
    K_MIN_ITEMS,
    K_MAX_ITEMS,
    K_PROPERTIES, /* only whether it is what it should be */
    K_REQUIRED,
    K_UNSUPPORTED,
};

/* implies: the type of a schema that has this keyword and no "type". */
static const struct keyword {
    const char *name;
    enum keyword_kind kind;
    unsigned implies;
} keywords[] = {
    {"type", K_TYPE, 0},
    {"properties", K_PROPERTIES, T_OBJECT},
    {"required", K_REQUIRED, T_OBJECT},
    {"additionalProperties", K_IGNORED, T_OBJECT},
    {"propertyNames", K_IGNORED, T_OBJECT},
    {"items", K_IGNORED, T_ARRAY},
    {"prefixItems", K_IGNORED, T_ARRAY},
    {"additionalItems", K_IGNORED, 0},
    {"enum", K_ENUM, 0},
    {"const", K_CONST, 0},
    {"format", K_FORMAT, T_STRING},
    {"pattern", K_PATTERN, T_STRING},
    {"minLength", K_MIN_LENGTH, T_STRING},
    {"maxLength", K_MAX_LENGTH, T_STRING},
    {"minimum", K_MINIMUM, T_FRACTION | T_INTEGER},
    {"maximum", K_MAXIMUM, T_FRACTION | T_INTEGER},
    {"exclusiveMinimum", K_OPEN_MINIMUM, T_FRACTION | T_INTEGER},
    {"exclusiveMaximum", K_OPEN_MAXIMUM, T_FRACTION | T_INTEGER},
    {"minItems", K_MIN_ITEMS, T_ARRAY},
    {"maxItems", K_MAX_ITEMS, T_ARRAY},
    {"multipleOf", K_UNSUPPORTED, 0},
    {"uniqueItems", K_UNSUPPORTED, 0},
    {"contains", K_UNSUPPORTED, 0},
    {"minContains", K_UNSUPPORTED, 0},
    {"maxContains", K_UNSUPPORTED, 0},
    {"minProperties", K_UNSUPPORTED, 0},
    {"maxProperties", K_UNSUPPORTED, 0},
    {"patternProperties", K_UNSUPPORTED, 0},
    {"dependencies", K_UNSUPPORTED, 0},
    {"dependentRequired", K_UNSUPPORTED, 0},
    {"dependentSchemas", K_UNSUPPORTED, 0},
    {"unevaluatedItems", K_UNSUPPORTED, 0},
    {"unevaluatedProperties", K_UNSUPPORTED, 0},
    {"not", K_UNSUPPORTED, 0},
    {"if", K_UNSUPPORTED, 0},
    {"then", K_UNSUPPORTED, 0},
    {"else", K_UNSUPPORTED, 0},
    {"$dynamicRef", K_UNSUPPORTED, 0},
    {"$recursiveRef", K_UNSUPPORTED, 0},
    {"extends", K_UNSUPPORTED, 0},
    {"disallow", K_UNSUPPORTED, 0},
};

static unsigned type_named(struct slice s)
{
    static const struct {
        const char *name;
        unsigned type;
    } types[] = {
        {"null", T_NULL},       {"boolean", T_BOOL},  {"number", T_FRACTION | T_INTEGER},
        {"integer", T_INTEGER}, {"string", T_STRING}, {"array", T_ARRAY},
        {"object", T_OBJECT}};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (slice_is(s, types[i].name)) {
            return types[i].type;
        }
    }
    return 0;
}

static unsigned type_of(const struct json *v)
{
    int64_t i;
    switch (v->type) {
    case JSON_NULL: return T_NULL;
    case JSON_FALSE:
    case JSON_TRUE: return T_BOOL;
    case JSON_NUMBER:
        return json_int(v, &i) || !(memchr(v->s, '.', v->n) || memchr(v->s, 'e', v->n) ||
                                    memchr(v->s, 'E', v->n))
                   ? T_INTEGER
                   : T_FRACTION;
    case JSON_STRING: return T_STRING;
    case JSON_ARRAY: return T_ARRAY;
    default: return T_OBJECT;
    }
}

static void read_type(struct schema *s, struct view *v, const struct json *at,
                      const struct json *x)
{
    unsigned types = type_named(json_str(x));
    for (size_t i = 0; json_is(x, JSON_ARRAY) && i < x->n; i++) {
        unsigned one = type_named(json_str(&x->items[i]));
        types = one ? types | one : T_ALL + 1;
    }
    if (types == 0 || types > T_ALL) {
        schema_fail(s, FATHOM_EFORMAT, at, "type",
                    "must be null, boolean, number, integer, string, array, object, or a list "
                    "of them");
    }
    v->types &= types;
}

/* ---- enum ---- */

static bool same_value(const struct json *a, const struct json *b)
{
    struct buf ta = {0}, tb = {0};
    if (a->type != b->type) {
        return false;
    }
    json_write_compact(&ta, a);
    json_write_compact(&tb, b);
    bool same = slice_eq(buf_slice(&ta), buf_slice(&tb));
    buf_free(&ta);
    buf_free(&tb);
    return same;
}

/* Only values among x[0..n) are allowed. */
static void read_values(struct schema *s, struct view *v, const struct json *x, size_t n)
{
    if (!v->has_enum) {
        v->value = arena_alloc(&s->arena, (n + 1) * sizeof *v->value);
        for (size_t i = 0; v->value && i < n; i++) {
            v->value[v->n_value++] = &x[i];
        }
        v->has_enum = true;
        if (!v->value) {
            err_nomem(&s->err, "a schema", n);
        }
        return;
    }
    size_t k = 0;
    fuel_use(s->fuel, v->n_value * n * 16, &s->err);
    for (size_t i = 0; i < v->n_value && schema_ok(s); i++) {
        bool found = false;
        for (size_t j = 0; j < n && !found; j++) {
            found = same_value(v->value[i], &x[j]);
        }
        if (found) {
            v->value[k++] = v->value[i];
        }
    }
    v->n_value = k;
}

/* ---- bounds ---- */

static bool read_count(struct schema *s, const struct json *at, const char *key,
                       const struct json *x, uint32_t *out)
{
    int64_t n;
    double d = -1;
    bool number = json_double(x, &d), whole = json_int(x, &n);
    if (!number || d < 0 || d != floor(d)) {
        schema_fail(s, FATHOM_EFORMAT, at, key, "must be an integer of at least 0");
        return false;
    }
    *out = whole && n < UINT32_MAX ? (uint32_t)n : UINT32_MAX - 1;
    return true;
}

static void read_min(struct schema *s, const struct json *at, const char *key,
                     const struct json *x, uint32_t *least)
{
    uint32_t n = 0;
    if (read_count(s, at, key, x, &n) && n > SCHEMA_MAX_REPEAT) {
        schema_fail(s, FATHOM_ELIMIT, at, key, "at most 2000 is supported");
    }
    *least = MAX(*least, n);
}

static void read_max(struct schema *s, const struct json *at, const char *key,
                     const struct json *x, uint32_t *most)
{
    uint32_t n = 0;
    if (read_count(s, at, key, x, &n)) {
        *most = MIN(*most, n);
    }
}

static void read_bound(struct schema *s, struct view *v, const struct json *at,
                       const struct keyword *k, const struct json *x)
{
    bool low = k->kind == K_MINIMUM || k->kind == K_OPEN_MINIMUM;
    bool open = k->kind == K_OPEN_MINIMUM || k->kind == K_OPEN_MAXIMUM;
    struct slice *bound = low ? &v->number.min : &v->number.max;
    bool *is_open = low ? &v->number.min_open : &v->number.max_open;
    double d, old;
    if (open && (x->type == JSON_TRUE || x->type == JSON_FALSE)) { /* of draft 4 */
        const struct json *value = json_get(at, low ? "minimum" : "maximum");
        *is_open = *is_open || (x->type == JSON_TRUE && value);
        return;
    }
    if (!json_double(x, &d)) {
        schema_fail(s, FATHOM_EFORMAT, at, k->name, "must be a number");
        return;
    }
    struct json was = {.type = JSON_NUMBER, .n = bound->n, {.s = bound->p}};
    bool tighter = !bound->p || !json_double(&was, &old) || (low ? d > old : d < old);
    if (tighter) {
        bool keep = *is_open && !bound->p; /* the draft 4 flag may have come before */
        *bound = (struct slice){x->s, x->n};
        *is_open = open || keep;
    } else if (d == old) {
        *is_open = *is_open || open;
    }
}

/* ---- text ---- */

static void add_pattern(struct schema *s, struct view *v, const struct json *at,
                        const char *key, struct slice expr)
{
    if (v->n_pattern == VIEW_PATTERNS) {
        schema_fail(s, FATHOM_ELIMIT, at, key, "more than 8 patterns for one value");
        return;
    }
    v->pattern[v->n_pattern] = expr;
    v->pattern_key[v->n_pattern] = key;
    v->pattern_at[v->n_pattern++] = at;
}

static void read_format_word(struct schema *s, struct view *v, const struct json *at,
                             const struct json *x)
{
    struct slice expr = format_expr(json_str(x));
    if (expr.p) {
        add_pattern(s, v, at, "format", expr);
    } else if (s->strict) {
        schema_fail(s, FATHOM_EUNSUPPORTED, at, "format",
                    "only date, time, date-time, duration, uuid, email, hostname, ipv4, ipv6 "
                    "and uri are supported");
    }
}

static void read_pattern(struct schema *s, struct view *v, const struct json *at,
                         const struct json *x)
{
    if (!json_is(x, JSON_STRING)) {
        schema_fail(s, FATHOM_EFORMAT, at, "pattern", "must be a string");
        return;
    }
    add_pattern(s, v, at, "pattern", json_str(x));
}

/* ---- all keywords ---- */

/* Keywords that change nothing with this value. */
static bool harmless(const struct keyword *k, const struct json *x)
{
    static const char *const empty[] = {"patternProperties", "dependencies",
                                        "dependentRequired", "dependentSchemas"};
    int64_t n;
    if (x->type == JSON_FALSE) {
        return strcmp(k->name, "uniqueItems") == 0 || strcmp(k->name, "not") == 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(empty); i++) {
        if (x->type == JSON_OBJECT && x->n == 0 && strcmp(k->name, empty[i]) == 0) {
            return true;
        }
    }
    return strcmp(k->name, "minProperties") == 0 && json_int(x, &n) && n == 0;
}

static bool all_strings(const struct json *list)
{
    bool ok = list->type == JSON_ARRAY;
    for (size_t i = 0; ok && i < list->n; i++) {
        ok = list->items[i].type == JSON_STRING;
    }
    return ok;
}

static void read_keyword(struct schema *s, struct view *v, const struct json *at,
                         const struct keyword *k, const struct json *x)
{
    switch (k->kind) {
    case K_TYPE: read_type(s, v, at, x); break;
    case K_ENUM:
        if (json_is(x, JSON_ARRAY)) {
            read_values(s, v, x->items, x->n);
        } else {
            schema_fail(s, FATHOM_EFORMAT, at, k->name, "must be a list");
        }
        break;
    case K_CONST: read_values(s, v, x, 1); break;
    case K_FORMAT: read_format_word(s, v, at, x); break;
    case K_PATTERN: read_pattern(s, v, at, x); break;
    case K_MIN_LENGTH: read_min(s, at, k->name, x, &v->min_length); break;
    case K_MAX_LENGTH: read_max(s, at, k->name, x, &v->max_length); break;
    case K_MIN_ITEMS: read_min(s, at, k->name, x, &v->min_items); break;
    case K_MAX_ITEMS: read_max(s, at, k->name, x, &v->max_items); break;
    case K_MINIMUM:
    case K_MAXIMUM:
    case K_OPEN_MINIMUM:
    case K_OPEN_MAXIMUM: read_bound(s, v, at, k, x); break;
    case K_PROPERTIES:
        if (s->strict && x->type != JSON_OBJECT) {
            schema_fail(s, FATHOM_EFORMAT, at, k->name, "must be an object");
        }
        break;
    case K_REQUIRED:
        if (s->strict && !all_strings(x)) {
            schema_fail(s, FATHOM_EFORMAT, at, k->name, "must be a list of names");
        }
        break;
    case K_UNSUPPORTED:
        if (s->strict && !harmless(k, x)) {
            schema_fail(s, FATHOM_EUNSUPPORTED, at, k->name,
                        "this keyword is not supported; leave it out, or ask without "
                        "\"strict\"");
        }
        break;
    default: break;
    }
}

static const struct keyword *keyword_named(struct slice name)
{
    for (size_t k = 0; k < ARRAY_LEN(keywords); k++) {
        if (slice_is(name, keywords[k].name)) {
            return &keywords[k];
        }
    }
    return NULL;
}

/* Values of enum and const that are of another type than the schema says. */
static void drop_values(struct view *v)
{
    size_t n = 0;
    for (size_t i = 0; i < v->n_value; i++) {
        if (v->types & type_of(v->value[i])) {
            v->value[n++] = v->value[i];
        }
    }
    v->n_value = n;
}

bool list_read(struct schema *s, uint32_t list, struct view *v)
{
    const struct list *l = &s->list[list];
    unsigned implied = 0;
    bool typed = false;
    *v = (struct view){
        .types = l->never ? 0 : T_ALL, .max_length = UINT32_MAX, .max_items = UINT32_MAX};
    for (uint32_t p = 0; p < l->n && schema_ok(s); p++) {
        const struct json *at = l->part[p].v;
        for (size_t i = 0; l->part[p].what == PART_BASE && i < at->n && schema_ok(s); i++) {
            const struct json *x = &at->members[i].value;
            const struct keyword *k = keyword_named(at->members[i].key);
            fuel_use(s->fuel, ARRAY_LEN(keywords), &s->err);
            if (k && (x->type != JSON_NULL || k->kind == K_CONST)) {
                typed = typed || k->kind == K_TYPE;
                implied |= k->implies;
                read_keyword(s, v, at, k, x);
            }
        }
    }
    if (!typed && implied && !v->has_enum) {
        v->types &= implied;
    }
    drop_values(v);
    return schema_ok(s) && !l->never;
}
