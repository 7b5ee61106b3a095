/* logits.c - `fathom logits`: ids in, logits out, for comparison with other implementations.
 * The ids are queued and computed --chunk at a time (default: the engine's own chunk);
 * positions are written as they are computed, so memory does not grow with their number. */
#include "cmd/cmd.h"

#include <stdio.h>

#include "base/mem.h"
#include "cmd/idlist.h"
#include "cmd/model.h"

static uint32_t argmax(const float *v, uint32_t n)
{
    uint32_t best = 0;
    bool any = false;
    for (uint32_t i = 0; i < n; i++) {
        if (v[i] == v[i] && (!any || v[i] > v[best])) {
            best = i; /* NaN never wins, ties to the lower id */
            any = true;
        }
    }
    return best;
}

static int write_position(const struct cli *o, const float *v, uint32_t n, uint32_t pos,
                          bool first)
{
    struct buf b = {0};
    if (!o->json) {
        uint32_t best = argmax(v, n);
        buf_addf(&b, "pos %u argmax %u logit %.9g\n", pos, best, (double)v[best]);
        return cmd_print(&b);
    }
    buf_addf(&b, "%s{\"pos\":%u,\"argmax\":%u,\"logits\":[", first ? "" : ",\n", pos,
             argmax(v, n));
    for (uint32_t i = 0; i < n; i++) {
        buf_adds(&b, i ? "," : "");
        cmd_add_float(&b, v[i]);
    }
    buf_adds(&b, "]}");
    return cmd_print(&b);
}

static int compute(const struct cli *o, fathom_engine *e, fathom_session *s,
                   const struct ids *ids, fathom_err *err)
{
    fathom_info info;
    fathom_engine_info(e, &info);
    uint32_t chunk = o->chunk ? MIN(o->chunk, info.chunk) : info.chunk;
    uint32_t n_ids = (uint32_t)ids->n, pos = 0;
    int rc = fathom_session_set(s, ids->p, n_ids, NULL, err);
    while (rc == 0 && pos < n_ids) {
        uint32_t n = MIN(chunk, n_ids - pos);
        bool last = pos + n == n_ids;
        struct fathom_work w = {
            .session = s,
            .n_tok = n,
            .want = o->all ? FATHOM_WANT_ALL
                    : last ? FATHOM_WANT_LAST
                           : FATHOM_WANT_NONE,
        };
        rc = fathom_step(e, &w, 1, err);
        uint32_t rows = o->all ? n : last;
        for (uint32_t r = 0; r < rows && rc == 0; r++) {
            const float *v = fathom_session_logits(s, r);
            uint32_t at = pos + n - rows + r;
            if (!v || write_position(o, v, info.n_vocab, at, !o->all || at == 0)) {
                rc = err_set(err, FATHOM_ENOMEM, "no logits for position %u", at);
            }
        }
        pos += n;
    }
    return rc;
}

static int check_ids(const struct ids *v, const fathom_info *info, fathom_err *err)
{
    if (v->n == 0) {
        return err_set(err, FATHOM_EINVAL, "no ids: give --ids 1,2,3");
    }
    if (v->n > info->max_ctx) {
        return err_set(err, FATHOM_ELIMIT,
                       "%zu ids, but the context holds %u tokens (see --ctx)", v->n,
                       info->max_ctx);
    }
    for (size_t i = 0; i < v->n; i++) {
        if (v->p[i] >= info->n_vocab) {
            return err_set(err, FATHOM_EINVAL,
                           "id %u at position %zu is outside the vocabulary of %u", v->p[i], i,
                           info->n_vocab);
        }
    }
    return 0;
}

static int run(const struct cli *o, fathom_engine *e, const struct ids *v, fathom_err *err)
{
    fathom_info info;
    fathom_engine_info(e, &info);
    fathom_session *s = NULL;
    int rc = check_ids(v, &info, err);
    rc = rc ? rc : fathom_session_new(&s, e, err);
    if (rc == 0) {
        if (o->json) {
            printf("{\"vocab\":%u,\"positions\":[", info.n_vocab);
        }
        rc = compute(o, e, s, v, err);
        if (o->json && rc == 0) {
            puts("]}");
        }
    }
    fathom_session_free(s);
    return rc;
}

int cmd_logits(struct cli *o)
{
    fathom_err err = {0};
    struct model_ref m;
    struct ids v = {0};
    struct buf in = {0};
    struct progress progress = {0};
    fathom_engine *e = NULL;
    if (!o->ids) {
        return cmd_usage(o, "--ids is needed");
    }
    int rc = strcmp(o->ids, "-") == 0 ? cmd_text(&in, o, &err) : 0;
    struct slice text = in.n ? buf_slice(&in) : slice_of(o->ids);
    rc = rc ? rc : idlist_read(&v, text.p, text.n, &err);
    rc = rc ? rc : model_find(&m, o, &err);
    if (rc == 0 && model_engine(&e, o, &m, &progress, &err)) {
        ids_free(&v);
        buf_free(&in);
        return model_fail(&m, &err);
    }
    rc = rc ? rc : run(o, e, &v, &err);
    int code = rc ? cmd_fail(NULL, &err) : EXIT_DONE;
    fathom_engine_close(e);
    ids_free(&v);
    buf_free(&in);
    return code;
}
