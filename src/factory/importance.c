/* importance.c - see importance.h. */
#include "factory/importance.h"

#include <stdio.h>

#include "gguf/gguf.h"
#include "quant/encode.h"
#include "quant/formats.h"

/* Is this type made by a search that weighs columns? */
static bool searched(uint32_t type)
{
    return quant_can_encode_weighted(type) && !quant_can_encode(type);
}

/* What a searched type does without importance. */
static const char *fallback(uint32_t type)
{
    return quant_needs_importance(type) ? "the energy of the weights" : "equal columns";
}

static int bind_tensor(struct plan *p, struct plan_tensor *t, bool strict, fathom_err *err)
{
    int rc = imatrix_bind(&t->use, p->imatrix, t->def.gguf, t->def.cols, t->def.n_mats,
                          p->shrink, &p->arena, err);
    if (rc == 0 && strict && !t->use.e) {
        rc = err_set(err, FATHOM_EFORMAT,
                     "%s: no importance for %s, which is to be %s; without the strict option "
                     "it would be made with %s",
                     imatrix_label(p->imatrix), t->def.gguf, qformat(t->type)->name,
                     fallback(t->type));
    }
    return rc;
}

int importance_bind(struct plan *p, const struct convert_options *opt, fathom_err *err)
{
    if (!opt->imatrix) {
        return opt->imatrix_strict
                   ? err_set(err, FATHOM_EINVAL, "strict importance needs an importance matrix")
                   : 0;
    }
    p->shrink = opt->shrink;
    int rc = imatrix_open(&p->imatrix, opt->imatrix, err);
    for (size_t i = 0; rc == 0 && i < p->n; i++) {
        if (searched(p->t[i].type)) {
            rc = bind_tensor(p, &p->t[i], opt->imatrix_strict, err);
        }
    }
    return rc;
}

/* The searched tensors of one role and type. */
struct tally {
    size_t n, n_bound;
    uint64_t n_mats, n_few, n_none;
};

static struct tally count(const struct plan *p, int role, uint32_t type)
{
    struct tally c = {0};
    for (size_t i = 0; i < p->n; i++) {
        const struct plan_tensor *t = &p->t[i];
        if ((int)t->def.role == role && t->type == type) {
            c.n++;
            c.n_bound += t->use.e != NULL;
            c.n_mats += t->use.e ? t->def.n_mats : 0;
            c.n_few += t->use.n_few;
            c.n_none += t->use.n_none;
        }
    }
    return c;
}

static void say(const struct convert_options *opt, int role, uint32_t type,
                const struct tally *c, double shrink)
{
    char line[256];
    const char *what = recipe_role_text((enum tensor_role)role);
    if (c->n_bound) {
        int k = snprintf(line, sizeof line, "importance: %zu of %zu tensors %s, %s", c->n_bound,
                         c->n, what, qformat(type)->name);
        if (c->n_few || c->n_none) {
            snprintf(line + k, sizeof line - (size_t)k,
                     "; of %llu experts %llu were chosen less than %g times, %llu never",
                     (unsigned long long)c->n_mats, (unsigned long long)c->n_few, shrink,
                     (unsigned long long)c->n_none);
        }
        opt->report(opt->user, line);
    }
    if (c->n_bound < c->n) {
        snprintf(line, sizeof line, "%s%zu tensors %s, %s, have no importance: made with %s",
                 opt->imatrix ? "warning: " : "", c->n - c->n_bound, what, qformat(type)->name,
                 fallback(type));
        opt->report(opt->user, line);
    }
}

void importance_report(const struct plan *p, const struct convert_options *opt)
{
    for (int role = 0; opt->report && role < ROLE_COUNT; role++) {
        for (uint32_t type = 0; type < QT_COUNT; type++) {
            struct tally c = searched(type) ? count(p, role, type) : (struct tally){0};
            if (c.n) {
                say(opt, role, type, &c, p->shrink);
            }
        }
    }
}

/* The file's own name, so that the same matrix in another folder gives the same bytes. */
static struct slice base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slice_of(slash ? slash + 1 : path);
}

void importance_meta(const struct plan *p, struct gguf_writer *w)
{
    const struct imatrix *im = p->imatrix;
    if (!im) {
        return;
    }
    struct buf names = {0};
    for (size_t i = 0; i < imatrix_n_datasets(im); i++) {
        struct slice s = imatrix_dataset(im, i);
        buf_adds(&names, i ? ", " : "");
        buf_add_utf8_lossy(&names, s.p, s.n);
    }
    char digest[17];
    snprintf(digest, sizeof digest, "%016llx", (unsigned long long)imatrix_digest(im));
    gguf_writer_str(w, "quantize.imatrix.file", base_name(imatrix_label(im)));
    gguf_writer_str(w, "quantize.imatrix.dataset", buf_slice(&names));
    gguf_writer_u32(w, "quantize.imatrix.entries_count", (uint32_t)imatrix_n(im));
    gguf_writer_u32(w, "quantize.imatrix.chunks_count", imatrix_chunk_count(im));
    gguf_writer_str(w, "fathom.imatrix.digest", slice_of(digest));
    gguf_writer_f32(w, "fathom.imatrix.shrink", (float)p->shrink);
    buf_free(&names);
}
