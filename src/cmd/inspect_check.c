/* inspect_check.c - `fathom inspect --check`: what loading checks (structure, keys, tensors,
 * hash tables) and what loading leaves out because it reads every byte: that all values are
 * finite. Goes on after a failed check, so that one run shows all kinds of damage. A file
 * without tokenizer keys is usable for ids; that is reported, not failed. */
#include "cmd/inspect.h"

#include <stdio.h>
#include <stdlib.h>

#include "cmd/cmd.h"
#include "cmd/progress.h"
#include "factory/imatrix.h"
#include "gguf/gguf.h"
#include "json/json.h"
#include "model/weights.h"
#include "quant/formats.h"
#include "text/text.h"

struct report {
    struct buf b;
    bool as_json, failed;
    unsigned n;
};

static void result(struct report *r, const char *what, bool ok, const char *note)
{
    if (r->as_json) {
        buf_addf(&r->b, "%s{\"check\":\"%s\",\"ok\":%s,\"note\":", r->n ? "," : "", what,
                 ok ? "true" : "false");
        json_write_str(&r->b, slice_of(note));
        buf_addc(&r->b, '}');
    } else {
        buf_addf(&r->b, "%-10s %s%s%s\n", what, ok ? "ok" : "FAILED", *note ? ": " : "", note);
    }
    r->n++;
    r->failed |= !ok;
}

static bool tensor_finite(const struct gguf_tensor *t, uint64_t *bad_row)
{
    enum qclass cls = qformat(t->type)->cls;
    if ((cls != QC_FLOAT && cls != QC_BLOCK) || t->row_bytes == 0) {
        return true;
    }
    uint64_t n_rows = t->bytes / t->row_bytes;
    for (uint64_t i = 0; i < n_rows; i++) {
        if (!quant_row_finite(t->type, t->data + i * t->row_bytes, t->ne[0])) {
            *bad_row = i;
            return false;
        }
    }
    return true;
}

static void check_values(struct report *r, const struct gguf *g)
{
    struct progress progress = {0};
    uint64_t done = 0, total = gguf_file_bytes(g), row = 0;
    size_t n_bad = 0;
    fathom_err first = {0};
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        if (!tensor_finite(t, &row) && n_bad++ == 0) {
            err_set(&first, FATHOM_EFORMAT, "tensor %.*s, row %llu: a value is not finite",
                    (int)t->name.n, t->name.p, (unsigned long long)row);
        }
        done += t->bytes;
        progress_report(&progress, "check", done, total);
    }
    progress_end(&progress);
    char note[1200];
    snprintf(note, sizeof note, "%s%s", first.msg, n_bad > 1 ? " (and other tensors)" : "");
    result(r, "values", n_bad == 0, note);
}

static void check_model(struct report *r, const struct gguf *g)
{
    fathom_err err = {0};
    struct shape *s = calloc(1, sizeof *s);
    struct weights w = {0};
    if (!s) {
        result(r, "keys", false, "out of memory");
        return;
    }
    bool keys =
        shape_from_gguf(s, g, &err) == 0 && shape_check(s, true, gguf_label(g), &err) == 0;
    result(r, "keys", keys, err.msg);
    if (keys) {
        bool tensors = weights_bind(&w, g, s, &err) == 0;
        result(r, "tensors", tensors, err.msg);
    }
    weights_free(&w);
    free(s);
}

/* The blocks have no model around them here; their tensors are checked when both meet. */
static void check_draft(struct report *r, const struct gguf *g)
{
    fathom_err err = {0};
    struct shape *s = calloc(1, sizeof *s);
    bool keys = s && shape_from_gguf(s, g, &err) == 0;
    result(r, "keys", keys, keys ? "drafting blocks, for use beside their model" : err.msg);
    free(s);
}

static void check_imatrix(struct report *r, const struct gguf *g)
{
    fathom_err err = {0};
    struct imatrix *im;
    const struct file_map *map = gguf_part_map(g, 0);
    int rc = imatrix_open_mem(&im, map->p, map->n, gguf_label(g), &err);
    result(r, "imatrix", rc == 0, err.msg);
    imatrix_close(im);
}

static void check_tokenizer(struct report *r, const struct gguf *g)
{
    fathom_err err = {0};
    struct tokenizer *t = NULL;
    int rc = tokenizer_from_gguf(&t, g, &err);
    if (rc == FATHOM_ENOENT) {
        result(r, "tokenizer", true, "none: usable with ids only");
    } else {
        result(r, "tokenizer", rc == 0, err.msg);
    }
    tokenizer_free(t);
}

int inspect_check(const struct gguf *g, bool as_json)
{
    struct report r = {.as_json = as_json};
    if (as_json) {
        buf_adds(&r.b, "{\"checks\":[");
    }
    result(&r, "structure", true, "");
    struct slice type;
    if (gguf_str(gguf_find(g, "general.type"), &type) && slice_is(type, "imatrix")) {
        check_imatrix(&r, g);
    } else if (gguf_find(g, "fathom.draft.kind")) {
        check_draft(&r, g);
    } else {
        check_model(&r, g);
        check_tokenizer(&r, g);
    }
    check_values(&r, g);
    if (as_json) {
        buf_addf(&r.b, "],\"ok\":%s}\n", r.failed ? "false" : "true");
    } else {
        buf_addf(&r.b, "%s\n", r.failed ? "not usable" : "all checks passed");
    }
    bool failed = r.failed;
    int code = cmd_print(&r.b);
    return code ? code : failed ? EXIT_INPUT : EXIT_DONE;
}
