/* fields.c - see fields.h. */
#include "server/fields.h"

#include <stdarg.h>
#include <stdio.h>

static void path_of(const struct fields *f, const char *name, char out[160])
{
    snprintf(out, 160, "%s%s%s", f->path, f->path[0] && name[0] ? "." : "", name);
}

int field_fail(const struct fields *f, const char *name, const char *fmt, ...)
{
    char path[160], text[640];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    path_of(f, name, path);
    return api_fail(f->e, API_BAD, path, "%s%s%s", path, path[0] ? ": " : "", text);
}

const struct json *field(const struct fields *f, const char *name)
{
    const struct json *v = json_get(f->obj, name);
    return v && v->type != JSON_NULL ? v : NULL;
}

bool field_bool(const struct fields *f, const char *name, bool *out)
{
    const struct json *v = field(f, name);
    if (v && !json_bool(v, out)) {
        field_fail(f, name, "must be true or false");
        return false;
    }
    return v != NULL;
}

bool field_int(const struct fields *f, const char *name, int64_t lo, int64_t hi, int64_t *out)
{
    const struct json *v = field(f, name);
    int64_t x;
    if (v && (!json_int(v, &x) || x < lo || x > hi)) {
        field_fail(f, name, "must be a whole number from %lld to %lld", (long long)lo,
                   (long long)hi);
        return false;
    }
    if (v) {
        *out = x;
    }
    return v != NULL;
}

bool field_num(const struct fields *f, const char *name, double lo, double hi, double *out)
{
    const struct json *v = field(f, name);
    double x;
    if (v && (!json_double(v, &x) || !(x >= lo && x <= hi))) {
        field_fail(f, name, "must be a number from %g to %g", lo, hi);
        return false;
    }
    if (v) {
        *out = x;
    }
    return v != NULL;
}

bool field_str(const struct fields *f, const char *name, struct slice *out)
{
    const struct json *v = field(f, name);
    if (v && v->type != JSON_STRING) {
        field_fail(f, name, "must be a string");
        return false;
    }
    if (v) {
        *out = (struct slice){v->s, v->n};
    }
    return v != NULL;
}

const struct json *field_array(const struct fields *f, const char *name)
{
    const struct json *v = field(f, name);
    if (v && v->type != JSON_ARRAY) {
        field_fail(f, name, "must be an array");
        return NULL;
    }
    return v;
}

struct fields field_object(const struct fields *f, const char *name)
{
    struct fields o = {.e = f->e};
    const struct json *v = field(f, name);
    char path[160];
    path_of(f, name, path);
    snprintf(o.path, sizeof o.path, "%.*s", (int)sizeof o.path - 1, path);
    if (v && v->type != JSON_OBJECT) {
        field_fail(f, name, "must be an object");
        v = NULL;
    }
    o.obj = v;
    return o;
}

struct fields field_element(const struct fields *f, const char *name, const struct json *array,
                            size_t i)
{
    struct fields o = {.obj = json_at(array, i), .e = f->e};
    char path[160];
    path_of(f, name, path);
    snprintf(o.path, sizeof o.path, "%.100s[%zu]", path, i);
    if (!json_is(o.obj, JSON_OBJECT)) {
        field_fail(&o, "", "must be an object");
        o.obj = NULL;
    }
    return o;
}
