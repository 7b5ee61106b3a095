/* plan.c - see plan.h. Binding goes from the table of names to the checkpoint, so a missing
 * tensor is found here and not after an hour of writing; tensors left over afterwards are
 * counted. Drafting blocks (mtp.*) have a plan of their own, for a file of their own.
 *
 * A type is passed over, and the reason noted, when its block does not divide the row or when a
 * value would become infinite. The second question needs data only for stored floats that
 * become F16 (embedding, router, ... : some GB of a real checkpoint); FP8 and FP4 are bounded
 * by their scales. */
#include "factory/plan.h"

#include <stdio.h>

#include "factory/importance.h"
#include "quant/encode.h"
#include "quant/formats.h"

double type_max_value(uint32_t type)
{
    switch (type) {
    case QT_F16: return 65504.0;
    case QT_Q8_0: return 127.0 * 65504.0; /* 127 codes of the largest scale */
    case QT_BF16: return 0x1.FEp127;
    case QT_F32:
    case QT_MXFP4: return 0x1.FFFFFEp127;
    default: return 65504.0; /* searching types: more than their smallest code needs */
    }
}

bool name_matches(const char *pattern, const char *name)
{
    const char *star = NULL, *resume = NULL;
    while (*name) {
        if (*pattern == '*') {
            star = pattern++; /* try the empty match first */
            resume = name;
        } else if (*pattern == *name) {
            pattern++;
            name++;
        } else if (star) {
            pattern = star + 1;
            name = ++resume;
        } else {
            return false;
        }
    }
    while (*pattern == '*') {
        pattern++;
    }
    return *pattern == 0;
}

struct binder {
    struct plan *p;
    const struct convert_options *opt;
    bool *used;      /* per tensor of the set */
    bool *rule_used; /* per rule */
    int8_t dense;    /* type of attention and shared expert; -1: the recipe's */
};

/* Some exports put "model." before every name. */
static const struct st_tensor *find(struct binder *b, const char *name)
{
    const struct st_tensor *t = st_find(b->p->set, name);
    if (!t) {
        char longer[NAME_BYTES + 8];
        snprintf(longer, sizeof longer, "model.%s", name);
        t = st_find(b->p->set, longer);
    }
    if (t) {
        b->used[t - st_at(b->p->set, 0)] = true;
    }
    return t;
}

static int bind_mat(struct binder *b, struct plan_tensor *t, uint32_t mat, fathom_err *err)
{
    char name[NAME_BYTES], scale[NAME_BYTES];
    names_source(&t->def, mat, false, name);
    names_source(&t->def, mat, true, scale);
    const struct st_tensor *w = find(b, name);
    if (!w) {
        return err_set(err, FATHOM_EFORMAT, "%s: tensor %s is missing (needed for %s)",
                       b->opt->dir, name, t->def.gguf);
    }
    struct source *s = &t->mats[mat];
    if (t->def.role == ROLE_TABLE) {
        return source_table_bind(s, b->p->set, w, t->def.rows, t->def.cols, err);
    }
    return source_bind(s, b->p->set, w, find(b, scale), t->def.rows, t->def.cols,
                       t->def.rank == 1, err);
}

/* Does any value exceed what the type holds? Only F16 is near the range of real weights; for
 * the other types the writer refuses what does not fit. */
static int find_max(struct binder *b, const struct plan_tensor *t, uint32_t type, double *top,
                    fathom_err *err)
{
    *top = 0;
    for (uint32_t m = 0; type == QT_F16 && m < t->def.n_mats; m++) {
        double v;
        int rc = source_max(&t->mats[m], b->opt->slice_bytes, &v, err);
        if (rc) {
            return rc;
        }
        *top = MAX(*top, v);
    }
    return 0;
}

/* Sets t->type to `type` if rows and values allow it, else writes the reason. */
static int try_type(struct binder *b, struct plan_tensor *t, uint32_t type, bool *fits,
                    char *why, size_t why_size, fathom_err *err)
{
    const struct qformat *f = qformat(type);
    double top;
    *fits = false;
    if (t->def.cols % f->block_elems) {
        snprintf(why, why_size, "rows of %llu are no multiple of %u",
                 (unsigned long long)t->def.cols, f->block_elems);
        return 0;
    }
    int rc = find_max(b, t, type, &top, err);
    if (rc == 0 && top > type_max_value(type)) {
        snprintf(why, why_size, "values up to %g do not fit", top);
    } else if (rc == 0) {
        t->type = type;
        *fits = true;
    }
    return rc;
}

static int choose_by_rule(struct binder *b, struct plan_tensor *t, size_t i, fathom_err *err)
{
    const struct convert_rule *r = &b->opt->rules[i];
    int type = qformat_by_name(r->type);
    if (type < 0 || !quant_can_encode_weighted((uint32_t)type)) {
        return err_set(err, FATHOM_EINVAL, "rule %s=%s: %s", r->pattern, r->type,
                       type < 0 ? "no such type" : "this build cannot write that type");
    }
    char why[96] = "";
    bool fits;
    int rc = try_type(b, t, (uint32_t)type, &fits, why, sizeof why, err);
    if (rc == 0 && !fits) {
        rc = err_set(err, FATHOM_EINVAL, "rule %s=%s: %s: %s", r->pattern, r->type, t->def.gguf,
                     why);
    }
    return rc;
}

/* Drafts that miss cost more time than small drafting experts save: not below four bits. */
static const int8_t DRAFT_EXPERTS[] = {QT_Q4_K, QT_Q8_0, QT_F16, -1};

/* First type that fits of the recipe's list for this role, or of --dense with what follows. */
static int choose_by_recipe(struct binder *b, struct plan_tensor *t, fathom_err *err)
{
    const int8_t *list =
        recipe_choices(b->p->recipe, t->def.role, t->def.layer, b->p->shape.n_layer);
    const int8_t dense[] = {b->dense, QT_Q8_0, QT_F16, QT_BF16, -1};
    if (t->def.role == ROLE_DENSE && b->dense >= 0) {
        list = dense;
    }
    if (b->p->is_draft && (list[0] == QT_IQ2_XXS || list[0] == QT_Q2_K)) {
        list = DRAFT_EXPERTS;
    }
    size_t used = 0;
    for (int i = 0; list[i] >= 0; i++) {
        char why[96] = "";
        bool fits;
        int rc = try_type(b, t, (uint32_t)list[i], &fits, why, sizeof why, err);
        if (rc || fits) {
            return rc;
        }
        int k = snprintf(t->note + used, sizeof t->note - used, "%snot %s: %s",
                         used ? "; " : "", qformat((uint32_t)list[i])->name, why);
        used = MIN(used + (size_t)MAX(k, 0), sizeof t->note - 1);
    }
    return err_set(err, FATHOM_EFORMAT, "%s: no type of recipe %s fits: %s", t->def.gguf,
                   b->p->recipe->name, t->note);
}

static int choose_type(struct binder *b, struct plan_tensor *t, fathom_err *err)
{
    bool fixed = t->def.role == ROLE_VECTOR || t->def.role == ROLE_TABLE;
    if (t->def.role == ROLE_TABLE) {
        t->type = QT_I32;
        return 0;
    }
    for (size_t i = 0; !fixed && i < b->opt->n_rules; i++) {
        if (name_matches(b->opt->rules[i].pattern, t->def.gguf)) {
            b->rule_used[i] = true;
            return choose_by_rule(b, t, i, err);
        }
    }
    return choose_by_recipe(b, t, err);
}

/* Binds the tensors of one file and chooses their types. */
static int bind_all(struct binder *b, const struct tensor_def *defs, size_t n, fathom_err *err)
{
    struct plan *p = b->p;
    p->n = n;
    p->t = arena_alloc(&p->arena, p->n * sizeof *p->t);
    if (!p->t) {
        return err_nomem(err, "the plan", p->n * sizeof *p->t);
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < p->n; i++) {
        struct plan_tensor *t = &p->t[i];
        t->def = defs[i];
        t->mats = arena_alloc(&p->arena, t->def.n_mats * sizeof *t->mats);
        if (!t->mats) {
            rc = err_nomem(err, "the plan", t->def.n_mats * sizeof *t->mats);
        }
        for (uint32_t m = 0; rc == 0 && m < t->def.n_mats; m++) {
            rc = bind_mat(b, t, m, err);
        }
    }
    /* Types after all bindings: a missing tensor is found before any data is scanned. */
    for (size_t i = 0; rc == 0 && i < p->n; i++) {
        rc = choose_type(b, &p->t[i], err);
    }
    return rc;
}

static int bind_model(struct binder *b, fathom_err *err)
{
    size_t n = names_count(&b->p->shape);
    struct tensor_def *defs = mem_alloc(n, sizeof *defs);
    if (!defs) {
        return err_nomem(err, "the plan", n * sizeof *defs);
    }
    names_fill(&b->p->shape, defs);
    int rc = bind_all(b, defs, n, err);
    mem_free(defs);
    return rc;
}

/* The plan of the drafting blocks, if there are any and they are wanted. */
static int bind_draft(struct binder *b, struct plan *model, fathom_err *err)
{
    struct tensor_def *defs;
    size_t n;
    model->draft_kind = draft_find(model->set, &model->n_stages);
    if (model->draft_kind == DRAFT_NONE || b->opt->no_draft) {
        return 0;
    }
    struct plan *p = model->draft = mem_calloc(1, sizeof *p);
    if (!p) {
        return err_nomem(err, "the plan", sizeof *p);
    }
    p->is_draft = true;
    p->shape = model->shape;
    p->recipe = model->recipe;
    p->set = model->set;
    p->draft_kind = model->draft_kind;
    p->n_stages = model->n_stages;
    b->p = p;
    int rc =
        draft_names(&defs, &n, &p->shape, p->set, p->draft_kind, p->n_stages, &p->arena, err);
    rc = rc ? rc : bind_all(b, defs, n, err);
    b->p = model;
    return rc;
}

static void count_unused(struct binder *b)
{
    struct plan *p = b->p;
    for (size_t i = 0; i < st_n_tensors(p->set); i++) {
        const char *name = st_at(p->set, i)->name.p;
        if (b->used[i]) {
            continue;
        }
        if (strncmp(name, "mtp.", 4) == 0 || strncmp(name, "model.mtp.", 10) == 0) {
            p->n_mtp++;
        } else if (p->n_unused++ == 0) {
            p->unused = name;
        }
    }
}

static int find_dense(struct binder *b, fathom_err *err)
{
    int type = qformat_by_name(b->opt->dense);
    if (type < 0 || !quant_can_encode_weighted((uint32_t)type)) {
        return err_set(err, FATHOM_EINVAL, "dense type %s: %s", b->opt->dense,
                       type < 0 ? "no such type" : "this build cannot write that type");
    }
    b->dense = (int8_t)type;
    return 0;
}

int plan_make(struct plan *p, const struct convert_options *opt, fathom_err *err)
{
    *p = (struct plan){0};
    p->recipe = recipe_find(opt->recipe, err);
    if (!p->recipe) {
        return err && err->code ? err->code : FATHOM_EINVAL;
    }
    if (!recipe_writable(p->recipe)) {
        return err_set(
            err, FATHOM_EUNSUPPORTED,
            "recipe %s: this build has no quantiser for its expert formats; mxfp4 keeps "
            "the experts of an official checkpoint at 4.25 bits without loss",
            opt->recipe);
    }
    int rc = config_read(&p->shape, opt->dir, err);
    if (rc || (rc = st_open(&p->set, opt->dir, err)) != 0) {
        return rc;
    }
    struct binder b = {.p = p, .opt = opt, .dense = -1};
    if (opt->dense && (rc = find_dense(&b, err)) != 0) {
        return rc;
    }
    b.used = mem_calloc(st_n_tensors(p->set) + 1, sizeof *b.used);
    b.rule_used = mem_calloc(opt->n_rules + 1, sizeof *b.rule_used);
    rc = b.used && b.rule_used ? bind_model(&b, err) : err_nomem(err, "the plan", opt->n_rules);
    rc = rc ? rc : bind_draft(&b, p, err);
    for (size_t i = 0; rc == 0 && i < opt->n_rules; i++) {
        if (!b.rule_used[i]) {
            rc = err_set(err, FATHOM_EINVAL, "rule %s=%s matches no matrix",
                         opt->rules[i].pattern, opt->rules[i].type);
        }
    }
    if (rc == 0) {
        count_unused(&b);
    }
    rc = rc ? rc : importance_bind(p, opt, err);
    mem_free(b.used);
    mem_free(b.rule_used);
    return rc;
}

void plan_free(struct plan *p)
{
    if (p->draft) {
        arena_fini(&p->draft->arena);
        mem_free(p->draft);
    }
    st_close(p->set);
    imatrix_close(p->imatrix);
    arena_fini(&p->arena);
    *p = (struct plan){0};
}

void plan_dims(const struct plan_tensor *t, uint64_t ne[3])
{
    ne[0] = t->def.cols;
    ne[1] = t->def.rows;
    ne[2] = t->def.n_mats;
}
