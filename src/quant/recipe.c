/* recipe.c - the recipe table (see recipe.h). Asymmetric on purpose: only the routed experts go
 * below 8 bits; embedding, router and the other small matrices keep 16 bits (quantization.md 5,
 * model.md 10: low-margin expert choices flip with coarser routers).
 *
 * Vectors are F32 and hash tables I32 in every recipe. bf16 keeps the hyper-connection matrices
 * F32, which makes it lossless for an official checkpoint: FP8 and FP4 codes times a power of
 * two are exact in BF16. Where values exceed F16's range the next type of a list serves. */
#include "quant/recipe.h"

#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "quant/encode.h"
#include "quant/formats.h"

#define T(...)          \
    {                   \
        __VA_ARGS__, -1 \
    }
#define FIXED [ROLE_VECTOR] = T(QT_F32), [ROLE_TABLE] = T(QT_I32)
#define EXPERTS(...)                                                    \
    [ROLE_GATE_EXPS] = T(__VA_ARGS__), [ROLE_UP_EXPS] = T(__VA_ARGS__), \
    [ROLE_DOWN_EXPS] = T(__VA_ARGS__)
#define TWO_BIT_EXPERTS                                \
    [ROLE_GATE_EXPS] = T(QT_IQ2_XXS, QT_Q8_0, QT_F16), \
    [ROLE_UP_EXPS] = T(QT_IQ2_XXS, QT_Q8_0, QT_F16),   \
    [ROLE_DOWN_EXPS] = T(QT_Q2_K, QT_Q8_0, QT_F16)
#define MATRICES(...)                                              \
    [ROLE_EMBED] = T(__VA_ARGS__), [ROLE_HEAD] = T(__VA_ARGS__),   \
    [ROLE_DENSE] = T(__VA_ARGS__), [ROLE_ROUTER] = T(__VA_ARGS__), \
    [ROLE_COMPRESSOR] = T(__VA_ARGS__), [ROLE_INDEXER] = T(__VA_ARGS__), EXPERTS(__VA_ARGS__)
#define REFERENCE_MIX                                                              \
    [ROLE_EMBED] = T(QT_F16, QT_BF16), [ROLE_HEAD] = T(QT_Q8_0, QT_F16, QT_BF16),  \
    [ROLE_DENSE] = T(QT_Q8_0, QT_F16, QT_BF16), [ROLE_ROUTER] = T(QT_F16, QT_F32), \
    [ROLE_HC_FN] = T(QT_F16, QT_F32), [ROLE_COMPRESSOR] = T(QT_F16, QT_F32),       \
    [ROLE_INDEXER] = T(QT_F16, QT_F32)
#define NO_TAIL \
    0,          \
    {           \
        -1      \
    }

/* clang-format off */
static const struct recipe RECIPES[] = {
    {"q2", "routed gate/up IQ2_XXS, down Q2_K; other large matrices Q8_0, small ones F16", 19,
     {FIXED, REFERENCE_MIX, TWO_BIT_EXPERTS}, NO_TAIL},
    {"q2-q4tail", "as q2, but the routed experts of the last six layers Q4_K", 19,
     {FIXED, REFERENCE_MIX, TWO_BIT_EXPERTS},
     6, T(QT_Q4_K, QT_Q8_0, QT_F16)},
    {"q4", "routed experts Q4_K; other large matrices Q8_0, small ones F16", 15,
     {FIXED, REFERENCE_MIX, EXPERTS(QT_Q4_K, QT_Q8_0, QT_F16)}, NO_TAIL},
    {"mxfp4", "routed experts MXFP4 (lossless from FP4); other large matrices Q8_0", 38,
     {FIXED, REFERENCE_MIX, EXPERTS(QT_MXFP4, QT_Q8_0, QT_F16)}, NO_TAIL},
    {"q8", "all large matrices Q8_0, small ones F16", 7,
     {FIXED, REFERENCE_MIX, EXPERTS(QT_Q8_0, QT_F16, QT_BF16)}, NO_TAIL},
    {"bf16", "matrices BF16: lossless for official checkpoints", 32,
     {FIXED, MATRICES(QT_BF16), [ROLE_HC_FN] = T(QT_F32)}, NO_TAIL},
    {"f16", "matrices F16", 1,
     {FIXED, MATRICES(QT_F16, QT_BF16), [ROLE_HC_FN] = T(QT_F16, QT_F32)}, NO_TAIL},
    {"f32", "everything F32", 0,
     {FIXED, MATRICES(QT_F32), [ROLE_HC_FN] = T(QT_F32)}, NO_TAIL},
};
/* clang-format on */

const char *recipe_role_text(enum tensor_role role)
{
    static const char *const text[ROLE_COUNT] = {
        [ROLE_EMBED] = "embedding",
        [ROLE_HEAD] = "output head",
        [ROLE_DENSE] = "attention and shared expert",
        [ROLE_GATE_EXPS] = "routed gate",
        [ROLE_UP_EXPS] = "routed up",
        [ROLE_DOWN_EXPS] = "routed down",
        [ROLE_ROUTER] = "router",
        [ROLE_HC_FN] = "hyper-connections",
        [ROLE_COMPRESSOR] = "compressor",
        [ROLE_INDEXER] = "indexer",
        [ROLE_VECTOR] = "vectors",
        [ROLE_TABLE] = "hash tables",
    };
    return (unsigned)role < ROLE_COUNT ? text[role] : "?";
}

const struct recipe *recipe_at(size_t i)
{
    return i < ARRAY_LEN(RECIPES) ? &RECIPES[i] : NULL;
}

const struct recipe *recipe_find(const char *name, fathom_err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(RECIPES); i++) {
        if (strcmp(RECIPES[i].name, name) == 0) {
            return &RECIPES[i];
        }
    }
    struct buf names = {0};
    for (size_t i = 0; i < ARRAY_LEN(RECIPES); i++) {
        buf_addf(&names, "%s%s", i ? ", " : "", RECIPES[i].name);
    }
    err_set(err, FATHOM_EINVAL, "unknown recipe \"%s\"; there are %s", name, buf_cstr(&names));
    buf_free(&names);
    return NULL;
}

static bool is_routed(enum tensor_role role)
{
    return role == ROLE_GATE_EXPS || role == ROLE_UP_EXPS || role == ROLE_DOWN_EXPS;
}

const int8_t *recipe_choices(const struct recipe *r, enum tensor_role role, int layer,
                             uint32_t n_layer)
{
    bool in_tail = layer >= 0 && (uint64_t)layer + r->n_tail >= n_layer;
    return r->n_tail && in_tail && is_routed(role) ? r->tail : r->type[role];
}

bool recipe_writable(const struct recipe *r)
{
    for (int role = 0; role < ROLE_COUNT; role++) {
        uint32_t first = (uint32_t)r->type[role][0];
        if (role != ROLE_TABLE && !quant_can_encode_weighted(first)) {
            return false;
        }
    }
    return !r->n_tail || quant_can_encode_weighted((uint32_t)r->tail[0]);
}

uint32_t recipe_type(const struct recipe *r, enum tensor_role role, int layer, uint32_t n_layer,
                     uint64_t cols, bool *fallback)
{
    const int8_t *list = recipe_choices(r, role, layer, n_layer);
    uint32_t best = QT_F32;
    int i = 0;
    for (; i < RECIPE_CHOICES && list[i] >= 0; i++) {
        best = (uint32_t)list[i];
        if (cols % qformat(best)->block_elems == 0) {
            break;
        }
    }
    if (fallback) {
        *fallback = i > 0;
    }
    return best;
}
