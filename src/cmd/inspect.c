/* inspect.c - `fathom inspect`: what a GGUF holds, as text or JSON, and with --check whether an
 * engine could use it (inspect_check.c). Strings of the file are shown with control characters
 * replaced: a file must not be able to write to a terminal. */
#include "cmd/cmd.h"

#include <stdio.h>

#include "base/mem.h"
#include "cmd/inspect.h"
#include "cmd/model.h"
#include "json/json.h"
#include "quant/formats.h"

enum { SHOW_ELEMS = 6, SHOW_BYTES = 100 };

static const char *vtype_name(enum gguf_vtype t)
{
    static const char *const names[GGUF_VTYPE_COUNT] = {"u8",  "i8",  "u16",  "i16", "u32",
                                                        "i32", "f32", "bool", "str", "arr",
                                                        "u64", "i64", "f64"};
    return (unsigned)t < GGUF_VTYPE_COUNT ? names[t] : "?";
}

/* At most n bytes of a string, ended at a character. */
static struct slice cut(struct slice s, size_t n)
{
    if (s.n > n) {
        while (n > 0 && ((unsigned char)s.p[n] & 0xC0) == 0x80) {
            n--;
        }
        s.n = n;
    }
    return s;
}

static void add_scalar(struct buf *b, const struct gguf_kv *kv)
{
    struct slice s;
    uint64_t u;
    double d;
    bool f;
    if (gguf_str(kv, &s)) {
        json_write_str(b, cut(s, SHOW_BYTES));
        buf_adds(b, s.n > SHOW_BYTES ? "..." : "");
    } else if (gguf_bool(kv, &f)) {
        buf_adds(b, f ? "true" : "false");
    } else if (gguf_u64(kv, &u)) {
        buf_addf(b, "%llu", (unsigned long long)u);
    } else if (gguf_f64(kv, &d)) {
        buf_addf(b, kv->type == GGUF_I64 ? "%.0f" : "%.9g", d);
    }
}

static void add_value(struct buf *b, const struct gguf_kv *kv)
{
    if (kv->type != GGUF_ARRAY) {
        add_scalar(b, kv);
        return;
    }
    buf_adds(b, "[");
    size_t cursor = 0;
    uint64_t i;
    for (i = 0; i < kv->n && i < SHOW_ELEMS; i++) {
        struct slice s;
        uint64_t u;
        double d;
        buf_adds(b, i ? ", " : "");
        if (kv->elem == GGUF_STRING && gguf_str_next(kv, &cursor, &s)) {
            json_write_str(b, cut(s, 24));
        } else if (gguf_u64_at(kv, i, &u)) {
            buf_addf(b, "%llu", (unsigned long long)u);
        } else if (gguf_f64_at(kv, i, &d)) {
            buf_addf(b, "%.9g", d);
        }
    }
    buf_adds(b, i < kv->n ? ", ...]" : "]");
}

static void add_name(struct buf *b, struct slice s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        buf_addc(b, c < 0x20 || c == 0x7f ? '?' : (char)c);
    }
}

static void print_text(struct buf *b, const struct gguf *g)
{
    buf_adds(b, "metadata\n");
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        buf_adds(b, "  ");
        add_name(b, kv->key);
        buf_addf(b, "  %s", vtype_name(kv->type));
        if (kv->type == GGUF_ARRAY) {
            buf_addf(b, " %s[%llu]", vtype_name(kv->elem), (unsigned long long)kv->n);
        }
        buf_adds(b, " = ");
        add_value(b, kv);
        buf_addc(b, '\n');
    }
    buf_adds(b, "tensors\n");
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        char dims[96];
        int n = 0;
        for (uint32_t d = 0; d < t->rank; d++) {
            n += snprintf(dims + n, sizeof dims - (size_t)n, "%s%llu", d ? " x " : "",
                          (unsigned long long)t->ne[d]);
        }
        buf_addf(b, "  %-8s %-22s %12llu  ", qformat(t->type)->name, dims,
                 (unsigned long long)t->bytes);
        add_name(b, t->name);
        buf_addc(b, '\n');
    }
}

/* Sums per element type. */
static void totals(const struct gguf *g, uint64_t count[QT_COUNT], uint64_t bytes[QT_COUNT])
{
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        count[t->type]++;
        bytes[t->type] += t->bytes;
    }
}

static void print_totals(struct buf *b, const struct gguf *g)
{
    uint64_t count[QT_COUNT] = {0}, bytes[QT_COUNT] = {0};
    totals(g, count, bytes);
    buf_adds(b, "sizes\n");
    for (uint32_t t = 0; t < QT_COUNT; t++) {
        if (count[t]) {
            buf_addf(b, "  %-8s %5llu tensors %15llu bytes  %s\n", qformat(t)->name,
                     (unsigned long long)count[t], (unsigned long long)bytes[t],
                     cmd_bytes(bytes[t]));
        }
    }
    buf_addf(b, "  file     %5zu tensors %15llu bytes  %s\n", gguf_n_tensors(g),
             (unsigned long long)gguf_file_bytes(g), cmd_bytes(gguf_file_bytes(g)));
}

static void print_json(struct buf *b, const struct gguf *g)
{
    buf_adds(b, "{\"file\":");
    json_write_str(b, slice_of(gguf_label(g)));
    buf_addf(b, ",\"bytes\":%llu,\"metadata\":{", (unsigned long long)gguf_file_bytes(g));
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        buf_adds(b, i ? "," : "");
        json_write_str(b, kv->key);
        buf_addf(b, ":{\"type\":\"%s\",\"n\":%llu,\"text\":", vtype_name(kv->type),
                 (unsigned long long)kv->n);
        struct buf text = {0};
        add_value(&text, kv);
        json_write_str(b, buf_slice(&text));
        b->failed |= text.failed;
        buf_free(&text);
        buf_addc(b, '}');
    }
    buf_adds(b, "},\"tensors\":[");
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        buf_addf(b, "%s{\"name\":", i ? "," : "");
        json_write_str(b, t->name);
        buf_addf(b, ",\"type\":\"%s\",\"ne\":[", qformat(t->type)->name);
        for (uint32_t d = 0; d < t->rank; d++) {
            buf_addf(b, "%s%llu", d ? "," : "", (unsigned long long)t->ne[d]);
        }
        buf_addf(b, "],\"bytes\":%llu,\"offset\":%llu}", (unsigned long long)t->bytes,
                 (unsigned long long)t->offset);
    }
    buf_adds(b, "]}\n");
}

int cmd_inspect(struct cli *o)
{
    fathom_err err = {0};
    struct model_ref m;
    struct gguf *g = NULL;
    if (o->n_args && o->model) {
        return cmd_usage(o, "give either FILE or -m, not both");
    }
    o->model = o->n_args ? o->args[0] : o->model;
    if (model_find(&m, o, &err)) {
        return cmd_fail(NULL, &err);
    }
    if (model_gguf(&g, &m, &err)) {
        return model_fail(&m, &err);
    }
    int code;
    if (o->check) {
        code = inspect_check(g, o->json);
    } else {
        struct buf b = {0};
        if (o->json) {
            print_json(&b, g);
        } else {
            print_text(&b, g);
            print_totals(&b, g);
        }
        code = cmd_print(&b);
    }
    gguf_close(g);
    return code;
}
