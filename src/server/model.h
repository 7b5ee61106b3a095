/* model.h - what the scheduler needs of a model: sequences, steps over several of them, and the
 * choice of the next token. Two implementations: engine_model.c (fathom sessions) and script.c
 * (scripted completions, for protocol tests). Thread rule: engine thread, except info, which is
 * constant after open. */
#ifndef SERVER_MODEL_H
#define SERVER_MODEL_H

#include "base/err.h"
#include "base/siphash.h"
#include "base/str.h"

struct tokenizer;

struct model_info {
    char name[128], file[128], backend[32], arith_class[64], release[16], weights[16];
    uint32_t n_vocab, n_layer, max_ctx, max_seq, chunk;
    uint64_t weight_bytes, scratch_bytes;
    uint64_t page_bytes; /* KV memory is given out in pages of page_tokens tokens */
    uint32_t page_tokens;
};

/* KV memory and what of it is kept on disk. */
struct model_memory {
    uint64_t used_bytes, budget_bytes;
    uint32_t idle_pages;               /* held by no sequence, given up when memory is needed */
    uint64_t disk_bytes, disk_evicted; /* of all files; files that had to make room */
};

/* One sequence's part of a step. */
struct model_work {
    void *seq;
    uint32_t n_tok; /* of its pending tokens */
    bool want;      /* logits of the last of them, for sample */
};

struct model_ops {
    /* Sequences of different salts never use each other's state. */
    int (*seq_new)(void *impl, void **seq, struct sip_digest salt, fathom_err *err);
    void (*seq_free)(void *impl, void *seq);
    /* A copy of the first n computed tokens. */
    int (*seq_fork)(void *impl, void **out, void *seq, uint32_t n, fathom_err *err);
    /* As fathom_session_set, _append (of one token), _pending, _checkpoint. */
    int (*set)(void *impl, void *seq, const uint32_t *ids, uint32_t n, fathom_reuse *reuse,
               fathom_err *err);
    int (*append)(void *impl, void *seq, uint32_t id, fathom_err *err);
    uint32_t (*pending)(void *impl, void *seq);
    /* As fathom_session_explain, of the last set. NULL: the model has nothing to say. */
    size_t (*explain)(void *impl, void *seq, char *out, size_t n);
    void (*checkpoint)(void *impl, void *seq);
    /* The sequence will not be used for a while: what is worth it may go to the disk. */
    void (*idle)(void *impl, void *seq);
    /* The ids that are computed, *n of them. */
    const uint32_t *(*ids)(void *impl, void *seq, uint32_t *n);
    int (*step)(void *impl, const struct model_work *work, uint32_t n, fathom_err *err);
    int (*sample)(void *impl, void *seq, const fathom_sampling *p, const uint32_t *mask,
                  fathom_choice *out, fathom_err *err);
    void (*memory)(void *impl, struct model_memory *out);
};

struct model {
    const struct model_ops *ops;
    void *impl;
    struct model_info info;
    const struct tokenizer *tok; /* borrowed; outlives the model */
    int32_t eos;                 /* id, or -1 */
};

/* An open engine as a model; both must outlive it. opt: as the engine was opened; label: the
 * file's name as shown to clients. */
int engine_model_init(struct model *m, fathom_engine *e, const struct tokenizer *tok,
                      const fathom_engine_options *opt, const char *label, fathom_err *err);

/* ---- scripted completions ---- */

/* A file of JSON objects, one a line, used in turn (the first again after the last):
 *   {"completion": "text after the generation prefix"}
 * The text is cut into the tokens of `tok`, control tokens recognised, and ends in the
 * end-of-text token. Optional: "pieces": [texts, each cut into tokens by itself] or "ids" in
 * its place; "eos": false (the last token is repeated instead, for ever); "match": used only,
 * and before all others, for a prompt that contains this text; "delay_ms" of each token;
 * "prefill_ms" of the whole prompt; "fault_after": the step after so many tokens fails. */
struct script;
struct script_options {
    uint32_t max_ctx, max_seq, chunk; /* 0: 65536, 4, 256 */
    const char *release;              /* "preview" if NULL */
};
/* Errors: FATHOM_ENOENT, FATHOM_EFORMAT naming the line. */
int script_open(struct script **out, const char *path, const struct tokenizer *tok,
                const struct script_options *o, fathom_err *err);
int script_open_mem(struct script **out, const char *text, size_t n,
                    const struct tokenizer *tok, const struct script_options *o,
                    fathom_err *err);
void script_model_init(struct model *m, struct script *s);
void script_close(struct script *s);

#endif
