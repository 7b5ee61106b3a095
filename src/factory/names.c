/* names.c - see names.h. File order is the order of the model's table: the tensors outside the
 * layers, then layer by layer. In the checkpoint a layer's tensors start with "layers.N."; '*'
 * in an official name stands for the number of a routed expert, and the scale of X.weight is
 * X.scale. What a tensor's values are stored in is source.c's business, what they become
 * plan.c's. */
#include "factory/names.h"

#include <stdio.h>
#include <string.h>

/* il -1: outside the layers. */
static void fill(struct tensor_def *d, const struct shape *s, const struct tensor_role_def *r,
                 int il)
{
    uint64_t ne[3];
    role_dims(s, il < 0 ? 0 : (uint32_t)il, r, ne);
    *d = (struct tensor_def){.role = (enum tensor_role)r->role,
                             .layer = il,
                             .rank = role_rank(r),
                             .cols = ne[0],
                             .rows = ne[1],
                             .n_mats = (uint32_t)ne[2]};
    role_name(r, il, d->gguf, sizeof d->gguf);
    if (il < 0) {
        snprintf(d->official, sizeof d->official, "%s", r->official);
    } else {
        snprintf(d->official, sizeof d->official, "layers.%d.%s", il, r->official);
    }
}

/* Walks the list; defs NULL only counts. */
static size_t walk(const struct shape *s, struct tensor_def *defs)
{
    size_t n = 0, n_global, n_layer;
    const struct tensor_role_def *global = roles_global(&n_global);
    const struct tensor_role_def *layer = roles_layer(&n_layer);
    for (size_t i = 0; i < n_global; i++, n++) {
        if (defs) {
            fill(&defs[n], s, &global[i], -1);
        }
    }
    for (uint32_t il = 0; il < s->n_layer; il++) {
        for (size_t i = 0; i < n_layer; i++) {
            if (!role_in_layer(s, il, &layer[i])) {
                continue;
            }
            if (defs) {
                fill(&defs[n], s, &layer[i], (int)il);
            }
            n++;
        }
    }
    return n;
}

size_t names_count(const struct shape *s)
{
    return walk(s, NULL);
}

void names_fill(const struct shape *s, struct tensor_def *defs)
{
    walk(s, defs);
}

void names_source(const struct tensor_def *d, uint32_t mat, bool scale, char *out)
{
    static const char weight[] = ".weight";
    size_t n = strlen(d->official);
    if (scale && n > sizeof weight &&
        strcmp(d->official + n - (sizeof weight - 1), weight) == 0) {
        n -= sizeof weight - 1;
    }
    const char *star = strchr(d->official, '*');
    const char *suffix = scale ? ".scale" : "";
    if (star) {
        int head = (int)(star - d->official);
        snprintf(out, NAME_BYTES, "%.*s%u%.*s%s", head, d->official, mat, (int)n - head - 1,
                 star + 1, suffix);
    } else {
        snprintf(out, NAME_BYTES, "%.*s%s", (int)n, d->official, suffix);
    }
}
