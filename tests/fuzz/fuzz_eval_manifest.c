/* fuzz_eval_manifest.c - any bytes as the manifests of `fathom eval`: cases, tasks, answers.
 * The first byte chooses. What is accepted must be usable: ids below the vocabulary, scored ranges
 * inside their sequences. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "eval/official.h"
#include "eval/set.h"
#include "eval/tasks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct manifest_ctx ctx;

static void check_set(const struct eval_set *s)
{
    uint64_t scored = 0;
    for (size_t i = 0; i < s->n; i++) {
        const struct eval_seq *q = &s->seq[i];
        assert(q->from >= 1 && q->from < q->n && q->n <= s->longest);
        assert(q->at <= s->ids.n && q->n <= s->ids.n - q->at);
        scored += q->n - q->from;
        for (uint32_t k = 0; k < q->n; k++) {
            assert(s->ids.p[q->at + k] < ctx.n_vocab);
        }
    }
    assert(scored == s->n_scored);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!ctx.tok) {
        struct tokenizer *t = NULL;
        if (tokenizer_from_json(&t, "models/mini/tokenizer.json", NULL) != 0) {
            abort(); /* run it from the repository's root */
        }
        ctx = (struct manifest_ctx){.tok = t, .n_vocab = tokenizer_n_vocab(t)};
    }
    if (size == 0) {
        return 0;
    }
    struct slice text = {(const char *)data + 1, size - 1};
    struct eval_set s = {0};
    struct eval_tasks t = {0};
    struct official o = {0};
    fathom_err err = {0};
    int rc = 0;
    switch (data[0] % 4) {
    case 0: rc = eval_set_cases(&s, &ctx, text, false, &err); break;
    case 1: rc = eval_set_cases(&s, &ctx, text, true, &err); break;
    case 2: rc = eval_tasks_load(&t, &ctx, text, 1, &err); break;
    default: rc = official_load(&o, &ctx, text, &err); break;
    }
    assert((rc == 0) == (err.msg[0] == 0));
    if (rc == 0) {
        check_set(&s);
        check_set(&o.set);
    }
    for (size_t i = 0; rc == 0 && i < t.n; i++) {
        assert(t.v[i].n > 0 && t.v[i].n_expected > 0 && t.v[i].longest > 0);
    }
    eval_set_fini(&s);
    eval_tasks_fini(&t);
    official_fini(&o);
    return 0;
}
