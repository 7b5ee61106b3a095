/* idlist.c - see idlist.h. */
#include "cmd/idlist.h"

#include "base/mem.h"

int idlist_read(struct ids *out, const char *s, size_t n, fathom_err *err)
{
    size_t i = 0;
    while (i < n) {
        if (s[i] == ',' || s[i] == ' ' || s[i] == '\n' || s[i] == '\t' || s[i] == '\r') {
            i++;
            continue;
        }
        size_t from = i;
        uint64_t v = 0;
        while (i < n && s[i] >= '0' && s[i] <= '9' && v <= UINT32_MAX) {
            v = v * 10 + (uint64_t)(s[i++] - '0');
        }
        bool ended = i == n || strchr(", \n\t\r", s[i]) != NULL;
        if (i == from || !ended || v > INT32_MAX) {
            size_t len = strcspn(s + from, ", \n\t\r");
            return err_set(err, FATHOM_EINVAL, "\"%.*s\" is not a token id", (int)MIN(len, 20u),
                           s + from);
        }
        ids_add(out, (uint32_t)v);
    }
    return out->failed ? err_nomem(err, "ids", out->n * sizeof(uint32_t)) : 0;
}

int idlist_json(struct ids *out, const struct json *obj, const char *key, fathom_err *err)
{
    const struct json *arr = json_get(obj, key);
    if (!json_is(arr, JSON_ARRAY)) {
        return err_set(err, FATHOM_EFORMAT, "no array \"%s\"", key);
    }
    for (size_t i = 0; i < arr->n; i++) {
        int64_t v;
        if (!json_int(json_at(arr, i), &v) || v < 0 || v > INT32_MAX) {
            return err_set(err, FATHOM_EFORMAT, "\"%s\"[%zu] is not a token id", key, i);
        }
        ids_add(out, (uint32_t)v);
    }
    return out->failed ? err_nomem(err, "ids", out->n * sizeof(uint32_t)) : 0;
}

void idlist_write(struct buf *b, const struct ids *v)
{
    buf_addc(b, '[');
    for (size_t i = 0; i < v->n; i++) {
        buf_addf(b, "%s%u", i ? "," : "", v->p[i]);
    }
    buf_addc(b, ']');
}
