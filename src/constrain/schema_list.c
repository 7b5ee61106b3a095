/* schema_list.c - what all files of the schema compiler stand on: errors with their place,
 * references, lists of the parts that a value must satisfy together, and the work list of rules to
 * be made. */
#include "constrain/schema_int.h"

#include <stdlib.h>

enum { PENDING_MAX = 256, LISTS_MAX = 65536, WORK_MAX = 65536 };

/* ---- errors ---- */

/* Appends the JSON pointer of `at` inside root; false if it is not there. */
static bool find_place(const struct json *root, const struct json *at, struct buf *out)
{
    struct {
        const struct json *v;
        size_t i;
    } path[JSON_MAX_DEPTH + 1];
    size_t depth = 0;
    path[0].v = root;
    path[0].i = 0;
    while (path[depth].v != at) {
        const struct json *v = path[depth].v;
        bool inner = v->type == JSON_OBJECT || v->type == JSON_ARRAY;
        if (inner && path[depth].i < v->n && depth < JSON_MAX_DEPTH) {
            size_t i = path[depth].i++;
            path[++depth].v = v->type == JSON_OBJECT ? &v->members[i].value : &v->items[i];
            path[depth].i = 0;
        } else if (depth-- == 0) {
            return false;
        }
    }
    for (size_t d = 0; d < depth; d++) {
        const struct json *v = path[d].v;
        size_t i = path[d].i - 1;
        if (v->type == JSON_ARRAY) {
            buf_addf(out, "/%zu", i);
            continue;
        }
        buf_addc(out, '/');
        for (size_t k = 0; k < v->members[i].key.n; k++) {
            char c = v->members[i].key.p[k];
            buf_adds(out, c == '~' ? "~0" : c == '/' ? "~1" : "");
            if (c != '~' && c != '/') {
                buf_addc(out, c);
            }
        }
    }
    return true;
}

void schema_fail(struct schema *s, int code, const struct json *at, const char *key,
                 const char *why)
{
    struct buf place = {.max_bytes = 4096};
    if (s->err.code) {
        return;
    }
    if (at) {
        find_place(s->root, at, &place);
    }
    err_set(&s->err, code, "schema at \"#%.300s\"%s%.100s%s: %s", buf_cstr(&place),
            key ? ", \"" : "", key ? key : "", key ? "\"" : "", why);
    buf_free(&place);
}

bool schema_ok(const struct schema *s)
{
    return s->err.code == 0 && s->g->err.code == 0;
}

static bool lists_no_memory(struct schema *s)
{
    if (!s->err.code) {
        err_nomem(&s->err, "a schema", sizeof *s);
    }
    return false;
}

/* ---- references ---- */

/* One token of a JSON pointer in a fragment, decoded; moves *at behind it. */
static struct slice pointer_token(struct schema *s, struct slice ref, size_t *at)
{
    struct buf b = {0};
    for (; *at < ref.n && ref.p[*at] != '/'; (*at)++) {
        char c = ref.p[*at];
        if (c == '~' && *at + 1 < ref.n) {
            c = ref.p[++*at] == '0' ? '~' : '/';
        } else if (c == '%' && *at + 2 < ref.n) {
            char hex[3] = {ref.p[*at + 1], ref.p[*at + 2], 0};
            c = (char)strtoul(hex, NULL, 16);
            *at += 2;
        }
        buf_addc(&b, c);
    }
    char *p = arena_strndup(&s->arena, b.n ? b.p : "", b.n);
    struct slice out = {p ? p : "", p ? b.n : 0};
    buf_free(&b);
    return out;
}

static const struct json *resolve(struct schema *s, struct slice ref)
{
    const struct json *v = s->root;
    if (ref.n == 0 || ref.p[0] != '#') {
        return NULL;
    }
    for (size_t at = 1; at < ref.n && v;) {
        if (ref.p[at++] != '/') {
            return NULL;
        }
        struct slice key = pointer_token(s, ref, &at);
        if (v->type == JSON_ARRAY) {
            char *end;
            unsigned long i = strtoul(key.p, &end, 10);
            v = key.n > 0 && *end == 0 ? json_at(v, i) : NULL;
        } else {
            v = strlen(key.p) == key.n ? json_get(v, key.p) : NULL;
        }
    }
    return v;
}

/* ---- lists ---- */

static void add_part(struct schema *s, struct parts *p, const struct json *v, uint64_t what)
{
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->part[i].v == v && p->part[i].what == what) {
            return;
        }
    }
    if (p->n == SCHEMA_MAX_PARTS) {
        schema_fail(s, FATHOM_ELIMIT, v, NULL, "more than 64 schemas for one value");
        return;
    }
    p->part[p->n++] = (struct part){.v = v, .what = what};
}

struct pending { /* v[at, n): to be read; before them: what was read */
    const struct json *v[PENDING_MAX];
    size_t n, at;
};

static void pend(struct schema *s, struct pending *p, const struct json *v)
{
    for (size_t i = 0; i < p->n; i++) {
        if (p->v[i] == v) { /* also what ends a reference to itself */
            return;
        }
    }
    if (p->n == PENDING_MAX) {
        schema_fail(s, FATHOM_ELIMIT, v, NULL, "more than 256 schemas for one value");
        return;
    }
    p->v[p->n++] = v;
}

static void expand(struct schema *s, struct parts *p, struct pending *todo,
                   const struct json *v)
{
    const struct json *ref = json_get(v, "$ref"), *all = json_get(v, "allOf");
    add_part(s, p, v, PART_BASE);
    if (ref) {
        const struct json *to = json_is(ref, JSON_STRING) ? resolve(s, json_str(ref)) : NULL;
        if (to) {
            pend(s, todo, to);
        } else if (s->strict) {
            schema_fail(s, FATHOM_EFORMAT, v, "$ref",
                        "refers to nothing in this schema (\"#/...\" is understood)");
        }
    }
    for (size_t i = 0; json_is(all, JSON_ARRAY) && i < all->n; i++) {
        pend(s, todo, &all->items[i]);
    }
    if (json_is(json_get(v, "anyOf"), JSON_ARRAY)) {
        add_part(s, p, v, PART_ANY_OF);
    }
    if (json_is(json_get(v, "oneOf"), JSON_ARRAY)) {
        add_part(s, p, v, PART_ONE_OF);
    }
}

void parts_add(struct schema *s, struct parts *p, const struct json *v)
{
    struct pending todo;
    todo.n = todo.at = 0;
    pend(s, &todo, v);
    while (todo.at < todo.n && schema_ok(s)) {
        v = todo.v[todo.at++];
        if (v->type == JSON_OBJECT) {
            expand(s, p, &todo, v);
        } else if (v->type == JSON_FALSE) {
            p->never = true;
        } else if (v->type != JSON_TRUE) {
            schema_fail(s, FATHOM_EFORMAT, v, NULL, "a schema is an object or a boolean");
        }
        if (!fuel_use(s->fuel, 64, &s->err)) {
            return;
        }
    }
}

static bool grow(struct schema *s, void **p, uint32_t n, uint32_t *cap, size_t bytes)
{
    if (n < *cap) {
        return true;
    }
    uint32_t want = *cap ? *cap * 2 : 64;
    void *q = want <= 2 * LISTS_MAX ? mem_realloc(*p, want, bytes) : NULL;
    if (!q) {
        return lists_no_memory(s);
    }
    *p = q;
    *cap = want;
    return true;
}

uint32_t list_of(struct schema *s, const struct parts *p)
{
    void *lists = s->list;
    if (!schema_ok(s) || !fuel_use(s->fuel, s->n_list / 16 + 1, &s->err)) {
        return 0;
    }
    for (uint32_t i = 0; i < s->n_list; i++) {
        const struct list *l = &s->list[i];
        if (l->never == p->never && l->n == p->n &&
            (p->n == 0 || memcmp(l->part, p->part, p->n * sizeof *p->part) == 0)) {
            return i;
        }
    }
    if (s->depth >= SCHEMA_MAX_DEPTH) {
        schema_fail(s, FATHOM_ELIMIT, p->n ? p->part[0].v : NULL, NULL,
                    "schemas nested deeper than 32");
        return 0;
    }
    struct part *own = arena_alloc(&s->arena, (p->n + 1) * sizeof *own);
    if (!own || !grow(s, &lists, s->n_list, &s->cap_list, sizeof *s->list)) {
        lists_no_memory(s);
        return 0;
    }
    s->list = lists;
    memcpy(own, p->part, p->n * sizeof *own);
    s->list[s->n_list] = (struct list){.part = own,
                                       .n = p->n,
                                       .depth = s->depth + 1,
                                       .never = p->never,
                                       .rule = {NO_NODE, NO_NODE, NO_NODE}};
    return s->n_list++;
}

uint32_t list_rule(struct schema *s, uint32_t list, enum schema_form form)
{
    void *work = s->work;
    if (!schema_ok(s)) {
        return 0;
    }
    if (s->list[list].rule[form] != NO_NODE) {
        return s->list[list].rule[form];
    }
    if (!grow(s, &work, s->n_work, &s->cap_work, sizeof *s->work)) {
        return 0;
    }
    s->work = work;
    s->work[s->n_work++] = (struct schema_work){list, form};
    return s->list[list].rule[form] = grammar_rule(s->g);
}
