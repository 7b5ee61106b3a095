/* tree.c - looking things up in a JSON tree, and building one by hand.
 *
 * Lookups take NULL for "not there", so that they can be chained. Building keeps containers in
 * blocks of the arena: a block that is full is copied to one of twice the size (the old one is
 * not reused; it dies with the arena). Blocks made by the reader have no room to spare: cap is
 * 0. */
#include "json/json.h"

const struct json *json_get(const struct json *obj, const char *key)
{
    struct slice k = slice_of(key);
    for (size_t i = 0; json_is(obj, JSON_OBJECT) && i < obj->n; i++) {
        if (slice_eq(obj->members[i].key, k)) {
            return &obj->members[i].value;
        }
    }
    return NULL;
}

const struct json *json_at(const struct json *arr, size_t i)
{
    return json_is(arr, JSON_ARRAY) && i < arr->n ? &arr->items[i] : NULL;
}

struct slice json_str(const struct json *v)
{
    return json_is(v, JSON_STRING) ? (struct slice){v->s, v->n} : (struct slice){0};
}

bool json_bool(const struct json *v, bool *out)
{
    if (!json_is(v, JSON_TRUE) && !json_is(v, JSON_FALSE)) {
        return false;
    }
    *out = v->type == JSON_TRUE;
    return true;
}

static struct json *new_node(struct arena *a, enum json_type type)
{
    struct json *v = arena_alloc(a, sizeof *v);
    if (v) {
        v->type = type;
    }
    return v;
}

struct json *json_new_object(struct arena *a)
{
    return new_node(a, JSON_OBJECT);
}

struct json *json_new_array(struct arena *a)
{
    return new_node(a, JSON_ARRAY);
}

struct json json_make_str(struct arena *a, struct slice s)
{
    char *p = arena_strndup(a, s.n ? s.p : "", s.n);
    return p ? (struct json){.type = JSON_STRING, .n = s.n, .s = p} : (struct json){0};
}

/* Makes room for one more element of elem_bytes in the block *block of container v. */
static bool make_room(struct arena *a, struct json *v, void **block, size_t elem_bytes)
{
    size_t cap = v->n < 2 ? 4 : v->n * 2, bytes;
    if (v->n < v->cap) {
        return true;
    }
    void *p =
        cap <= UINT32_MAX && size_mul(cap, elem_bytes, &bytes) ? arena_alloc(a, bytes) : NULL;
    if (!p) {
        return false;
    }
    if (v->n) {
        memcpy(p, *block, v->n * elem_bytes);
    }
    *block = p;
    v->cap = (uint32_t)cap;
    return true;
}

bool json_set(struct arena *a, struct json *obj, const char *key, struct json value)
{
    struct slice k = slice_of(key);
    for (size_t i = 0; i < obj->n; i++) {
        if (slice_eq(obj->members[i].key, k)) {
            obj->members[i].value = value;
            return true;
        }
    }
    void *block = obj->members;
    char *copy = arena_strndup(a, k.p, k.n);
    if (!copy || !make_room(a, obj, &block, sizeof *obj->members)) {
        return false;
    }
    obj->members = block;
    obj->members[obj->n++] = (struct json_member){{copy, k.n}, value};
    return true;
}

bool json_push(struct arena *a, struct json *arr, struct json value)
{
    void *block = arr->items;
    if (!make_room(a, arr, &block, sizeof *arr->items)) {
        return false;
    }
    arr->items = block;
    arr->items[arr->n++] = value;
    return true;
}
