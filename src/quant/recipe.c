/* recipe.c - the recipe table (see recipe.h). Asymmetric on purpose: only the routed experts go
 * below 8 bits; embedding, router and the other small matrices keep 16 bits (quantization.md 5,
 * model.md 10: low-margin expert choices flip with coarser routers). */
#include "quant/recipe.h"

#include <string.h>

#include "base/mem.h"
#include "quant/formats.h"

#define ALL(t)                                                                            \
    {                                                                                     \
        [ROLE_EMBED] = {t, -1}, [ROLE_HEAD] = {t, -1}, [ROLE_DENSE] = {t, -1},            \
        [ROLE_SMALL] = {t, -1}, [ROLE_EXPERT_UP] = {t, -1}, [ROLE_EXPERT_DOWN] = {t, -1}, \
        [ROLE_VECTOR] = {QT_F32, -1}, [ROLE_TABLE] = {QT_I32, -1},                        \
    }
#define MIXED(up, down)                                                             \
    {                                                                               \
        [ROLE_EMBED] = {QT_F16, -1}, [ROLE_HEAD] = {QT_Q8_0, QT_F16, -1},           \
        [ROLE_DENSE] = {QT_Q8_0, QT_F16, -1}, [ROLE_SMALL] = {QT_F16, -1},          \
        [ROLE_EXPERT_UP] = {up, QT_Q8_0, QT_F16},                                   \
        [ROLE_EXPERT_DOWN] = {down, QT_Q8_0, QT_F16}, [ROLE_VECTOR] = {QT_F32, -1}, \
        [ROLE_TABLE] = {QT_I32, -1},                                                \
    }

static const struct recipe RECIPES[] = {
    {"q2", "routed gate/up IQ2_XXS, down Q2_K; dense Q8_0; small parts F16",
     MIXED(QT_IQ2_XXS, QT_Q2_K)},
    {"q4", "routed experts Q4_K; dense Q8_0; small parts F16", MIXED(QT_Q4_K, QT_Q4_K)},
    {"mxfp4",
     "routed experts MXFP4 (lossless from FP4 checkpoints); dense Q8_0; small parts F16",
     MIXED(QT_MXFP4, QT_MXFP4)},
    {"q8", "all large matrices Q8_0; small parts F16", MIXED(QT_Q8_0, QT_Q8_0)},
    {"bf16", "all matrices BF16: lossless for BF16, FP8 and FP4 checkpoints", ALL(QT_BF16)},
    {"f16", "all matrices F16", ALL(QT_F16)},
    {"f32", "everything F32", ALL(QT_F32)},
};

const struct recipe *recipe_at(unsigned i)
{
    return i < ARRAY_LEN(RECIPES) ? &RECIPES[i] : NULL;
}

const struct recipe *recipe_by_name(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(RECIPES); i++) {
        if (strcmp(RECIPES[i].name, name) == 0) {
            return &RECIPES[i];
        }
    }
    return NULL;
}

uint32_t recipe_type(const struct recipe *r, enum tensor_role role, uint64_t cols,
                     bool *fallback)
{
    uint32_t best = QT_F32;
    for (int i = 0; i < RECIPE_CHOICES && r->type[role][i] >= 0; i++) {
        best = (uint32_t)r->type[role][i];
        if (cols % qformat(best)->block_elems == 0) {
            if (fallback) {
                *fallback = i > 0;
            }
            return best;
        }
    }
    if (fallback) {
        *fallback = true;
    }
    return best;
}
