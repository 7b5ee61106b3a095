/* engine_model.c - the engine's sessions behind the scheduler's interface (model.h): thin
 * calls of fathom/fathom.h, and the sizes that admission needs, taken from the memory plan.
 * Read next: sched.c. */
#include <stdio.h>

#include "base/mem.h"
#include "server/model.h"

static int seq_new(void *impl, void **seq, struct sip_digest salt, fathom_err *err)
{
    fathom_session *s = NULL;
    bool own = (salt.h[0] | salt.h[1]) != 0;
    fathom_session_options o = {.salt = own ? &salt : NULL,
                                .salt_bytes = own ? sizeof salt : 0};
    int rc = fathom_session_open(&s, impl, &o, err);
    *seq = s;
    return rc;
}

static void seq_free(void *impl, void *seq)
{
    (void)impl;
    fathom_session_free(seq);
}

static int seq_fork(void *impl, void **out, void *seq, uint32_t n, fathom_err *err)
{
    (void)impl;
    fathom_session *s = NULL;
    int rc = fathom_session_fork(&s, seq, n, err);
    *out = s;
    return rc;
}

static int set(void *impl, void *seq, const uint32_t *ids, uint32_t n, fathom_reuse *reuse,
               fathom_err *err)
{
    (void)impl;
    return fathom_session_set(seq, ids, n, reuse, err);
}

static int append(void *impl, void *seq, uint32_t id, fathom_err *err)
{
    (void)impl;
    return fathom_session_append(seq, &id, 1, err);
}

static uint32_t pending(void *impl, void *seq)
{
    (void)impl;
    return fathom_session_pending(seq);
}

static size_t explain(void *impl, void *seq, char *out, size_t n)
{
    (void)impl;
    return fathom_session_explain(seq, out, n);
}

static void checkpoint(void *impl, void *seq)
{
    (void)impl;
    fathom_session_checkpoint(seq, NULL); /* a copy that cannot be made only costs time */
}

static void idle(void *impl, void *seq)
{
    (void)impl;
    fathom_session_save(seq);
}

static const uint32_t *ids(void *impl, void *seq, uint32_t *n)
{
    (void)impl;
    *n = fathom_session_len(seq);
    return fathom_session_ids(seq);
}

enum { MAX_WORK = 256 };

static int step(void *impl, const struct model_work *work, uint32_t n, fathom_err *err)
{
    fathom_work w[MAX_WORK];
    if (n > MAX_WORK) {
        return err_set(err, FATHOM_EINVAL, "a step of %u sequences; at most %d", n, MAX_WORK);
    }
    for (uint32_t i = 0; i < n; i++) {
        w[i] = (fathom_work){.session = work[i].seq,
                             .n_tok = work[i].n_tok,
                             .want = work[i].want ? FATHOM_WANT_LAST : FATHOM_WANT_NONE};
    }
    return fathom_step(impl, w, n, err);
}

static int sample(void *impl, void *seq, const fathom_sampling *p, const uint32_t *mask,
                  fathom_choice *out, fathom_err *err)
{
    (void)impl;
    return fathom_session_sample(seq, p, mask, out, err);
}

static void memory(void *impl, struct model_memory *out)
{
    fathom_info i;
    fathom_kv_info kv;
    fathom_engine_info(impl, &i);
    fathom_engine_kv(impl, &kv);
    *out = (struct model_memory){.used_bytes = i.kv_used_bytes,
                                 .budget_bytes = i.kv_budget_bytes,
                                 .idle_pages = kv.idle_pages,
                                 .disk_bytes = kv.disk_used_bytes,
                                 .disk_evicted = kv.disk_evicted_files};
}

static const struct model_ops engine_ops = {
    .seq_new = seq_new,
    .seq_free = seq_free,
    .seq_fork = seq_fork,
    .set = set,
    .append = append,
    .pending = pending,
    .explain = explain,
    .checkpoint = checkpoint,
    .idle = idle,
    .ids = ids,
    .step = step,
    .sample = sample,
    .memory = memory,
};

int engine_model_init(struct model *m, fathom_engine *e, const struct tokenizer *tok,
                      const fathom_engine_options *opt, const char *label, fathom_err *err)
{
    fathom_info i;
    fathom_plan plan;
    fathom_engine_info(e, &i);
    int rc = fathom_plan_make(&plan, opt, NULL, NULL, i.max_ctx, err);
    if (rc) {
        return rc;
    }
    *m = (struct model){.ops = &engine_ops, .impl = e, .tok = tok, .eos = fathom_token_eos(e)};
    struct model_info *o = &m->info;
    snprintf(o->name, sizeof o->name, "%s", i.model_name);
    snprintf(o->file, sizeof o->file, "%s", label);
    snprintf(o->backend, sizeof o->backend, "%s", i.backend);
    snprintf(o->arith_class, sizeof o->arith_class, "%s", i.arith_class);
    snprintf(o->weights, sizeof o->weights, "%s", i.weight_format);
    snprintf(o->release, sizeof o->release, "%s", i.release ? i.release : "preview");
    o->n_vocab = i.n_vocab;
    o->n_layer = i.n_layer;
    o->max_ctx = i.max_ctx;
    o->max_seq = MIN(i.max_seq, (uint32_t)MAX_WORK);
    o->chunk = i.chunk;
    o->weight_bytes = i.weight_bytes;
    o->scratch_bytes = i.scratch_bytes;
    o->page_bytes = plan.page_bytes;
    o->page_tokens = opt->page_tokens ? opt->page_tokens : 2048;
    return 0;
}
