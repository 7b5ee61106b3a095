/* recipe.c - see recipe.h. The table is the whole definition of the recipes.
 *
 * Vectors are F32 and hash tables I32 in every recipe. ape is F32 everywhere: it is F32 in the
 * checkpoint and tiny. bf16 keeps the hyper-connection matrices F32 as well, which makes it
 * lossless for an official checkpoint: FP8 and FP4 codes times a power of two are exact in
 * BF16. q8 and mxfp4 follow the mix of the reference files: embedding, router,
 * hyper-connections, compressor and indexer in F16, the other dense matrices in Q8_0. Where
 * values exceed F16's range the next type of the list serves. */
#include "factory/recipe.h"

#include "base/mem.h"
#include "quant/formats.h"

#define T(...)          \
    {                   \
        __VA_ARGS__, -1 \
    }
#define FIXED [ROLE_APE] = T(QT_F32), [ROLE_VECTOR] = T(QT_F32), [ROLE_TABLE] = T(QT_I32)
#define MATRICES(...)                                                   \
    [ROLE_EMBED] = T(__VA_ARGS__), [ROLE_HEAD] = T(__VA_ARGS__),        \
    [ROLE_DENSE] = T(__VA_ARGS__), [ROLE_GATE_EXPS] = T(__VA_ARGS__),   \
    [ROLE_UP_EXPS] = T(__VA_ARGS__), [ROLE_DOWN_EXPS] = T(__VA_ARGS__), \
    [ROLE_ROUTER] = T(__VA_ARGS__), [ROLE_COMPRESSOR] = T(__VA_ARGS__), \
    [ROLE_INDEXER] = T(__VA_ARGS__)
#define REFERENCE_MIX                                                              \
    [ROLE_EMBED] = T(QT_F16, QT_BF16), [ROLE_HEAD] = T(QT_Q8_0, QT_F16, QT_BF16),  \
    [ROLE_DENSE] = T(QT_Q8_0, QT_F16, QT_BF16), [ROLE_ROUTER] = T(QT_F16, QT_F32), \
    [ROLE_HC_FN] = T(QT_F16, QT_F32), [ROLE_COMPRESSOR] = T(QT_F16, QT_F32),       \
    [ROLE_INDEXER] = T(QT_F16, QT_F32)
#define EXPERTS(...)                                                    \
    [ROLE_GATE_EXPS] = T(__VA_ARGS__), [ROLE_UP_EXPS] = T(__VA_ARGS__), \
    [ROLE_DOWN_EXPS] = T(__VA_ARGS__)

/* clang-format off */
static const struct recipe recipes[] = {
    {"f32", "everything F32", 0,
     {FIXED, MATRICES(QT_F32), [ROLE_HC_FN] = T(QT_F32)}},
    {"f16", "matrices F16", 1,
     {FIXED, MATRICES(QT_F16, QT_BF16), [ROLE_HC_FN] = T(QT_F16, QT_F32)}},
    {"bf16", "matrices BF16: lossless for official checkpoints", 32,
     {FIXED, MATRICES(QT_BF16), [ROLE_HC_FN] = T(QT_F32)}},
    {"q8", "experts and dense matrices Q8_0", 7,
     {FIXED, REFERENCE_MIX, EXPERTS(QT_Q8_0, QT_F16, QT_BF16)}},
    {"mxfp4", "experts MXFP4 (lossless from FP4), dense matrices Q8_0", 38,
     {FIXED, REFERENCE_MIX, EXPERTS(QT_MXFP4, QT_Q8_0, QT_F16)}},
};
/* clang-format on */

const struct recipe *recipe_find(const char *name, fathom_err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(recipes); i++) {
        if (strcmp(recipes[i].name, name) == 0) {
            return &recipes[i];
        }
    }
    if (strcmp(name, "q2") == 0 || strcmp(name, "q4") == 0) {
        err_set(
            err, FATHOM_EUNSUPPORTED,
            "recipe %s: this build has no quantiser for its expert formats; mxfp4 keeps the "
            "experts of an official checkpoint at 4.25 bits without loss",
            name);
        return NULL;
    }
    struct buf names = {0};
    for (size_t i = 0; i < ARRAY_LEN(recipes); i++) {
        buf_addf(&names, "%s%s", i ? ", " : "", recipes[i].name);
    }
    err_set(err, FATHOM_EINVAL, "unknown recipe %s; there are %s", name, buf_cstr(&names));
    buf_free(&names);
    return NULL;
}

const struct recipe *recipe_at(size_t i)
{
    return i < ARRAY_LEN(recipes) ? &recipes[i] : NULL;
}

double type_max_value(uint32_t type)
{
    switch (type) {
    case QT_F16: return 65504.0;
    case QT_Q8_0: return 127.0 * 65504.0; /* 127 codes of the largest scale */
    case QT_BF16: return 0x1.FEp127;
    default: return 0x1.FFFFFEp127;
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
