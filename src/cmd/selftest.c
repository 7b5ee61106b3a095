/* selftest.c - `fathom selftest`: the golden model through every backend of this machine, by
 * the same engine calls that an application makes. Per backend: published logits with
 * simulations off and with native rows, and the same bits for several chunk sizes, thread
 * counts and a rewind; and every op beside the same op of another backend (selftest_ops.h). The
 * report says what the machine is, so that it can be pasted into a bug report. */
#include "cmd/cmd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cmd/embedded/embedded.h"
#include "cmd/golden.h"
#include "cmd/selftest_ops.h"
#include "json/json.h"
#include "quant/formats.h"

enum { N = 300 };

struct selftest {
    const struct cli *o;
    unsigned char *file;
    size_t n_bytes;
    uint32_t ids[N];
    float *first, *again; /* [N][GOLDEN_VOCAB] */
    struct buf b;
    unsigned n_ok, n_failed, n_backends;
};

/* Queues the golden sequence (what the session holds already is kept) and computes it, `chunk`
 * tokens a step; logits to out, by position. */
static int feed(fathom_engine *e, fathom_session *s, const struct selftest *t, uint32_t chunk,
                float *out, fathom_err *err)
{
    int rc = fathom_session_set(s, t->ids, N, NULL, err);
    uint32_t left;
    while (rc == 0 && (left = fathom_session_pending(s)) > 0) {
        struct fathom_work w = {
            .session = s, .n_tok = MIN(chunk, left), .want = FATHOM_WANT_ALL};
        rc = fathom_step(e, &w, 1, err);
        uint32_t end = fathom_session_len(s), n = 0;
        while (rc == 0 && n < w.n_tok && fathom_session_logits(s, n)) {
            n++; /* tokens that are computed again after a rewind have none */
        }
        for (uint32_t k = 0; k < n; k++) {
            memcpy(out + (size_t)(end - n + k) * GOLDEN_VOCAB, fathom_session_logits(s, k),
                   GOLDEN_VOCAB * sizeof *out);
        }
    }
    return rc;
}

/* Opens the engine and feeds; rewind_to: afterwards forget the tokens from there on and feed
 * the rest again. */
static int compute(struct selftest *t, const char *backend, bool sim, uint32_t chunk,
                   uint32_t threads, uint32_t rewind_to, float *out, fathom_err *err)
{
    fathom_engine_options opt = {.model_data = t->file,
                                 .model_bytes = t->n_bytes,
                                 .backend = backend,
                                 .n_threads = threads,
                                 .max_ctx = 512,
                                 .max_seq = 1,
                                 .chunk = 64,
                                 .page_tokens = 128,
                                 .sim_off = !sim,
                                 .cpu_mask = t->o->cpu_mask,
                                 .debug = t->o->debug,
                                 .kv_no_share = true};
    fathom_engine *e = NULL;
    fathom_session *s = NULL;
    int rc = fathom_engine_open(&e, &opt, err);
    rc = rc ? rc : fathom_session_new(&s, e, err);
    rc = rc ? rc : feed(e, s, t, chunk, out, err);
    if (rc == 0 && rewind_to) {
        memset(out + (size_t)rewind_to * GOLDEN_VOCAB, 0,
               (size_t)(N - rewind_to) * GOLDEN_VOCAB * sizeof *out);
        rc = fathom_session_rewind(s, rewind_to, NULL, err);
        rc = rc ? rc : feed(e, s, t, chunk, out, err);
    }
    fathom_session_free(s);
    fathom_engine_close(e);
    return rc;
}

static void report(struct selftest *t, const char *backend, const char *what, bool ok,
                   const char *note)
{
    if (t->o->json) {
        buf_addf(&t->b, "%s{\"backend\":\"%s\",\"check\":\"%s\",\"ok\":%s,\"note\":",
                 t->n_ok + t->n_failed ? "," : "", backend, what, ok ? "true" : "false");
        json_write_str(&t->b, slice_of(note));
        buf_addc(&t->b, '}');
    } else {
        buf_addf(&t->b, "  %-36s %s  %s\n", what, ok ? "ok    " : "FAILED", note);
    }
    t->n_ok += ok;
    t->n_failed += !ok;
}

static void check_published(struct selftest *t, const char *backend, bool sim)
{
    const char *what = sim ? "published logits, native rows" : "published logits, F32 rows";
    fathom_err err = {0};
    char note[1100];
    if (compute(t, backend, sim, 64, t->o->threads, 0, t->first, &err)) {
        report(t, backend, what, false, err.msg);
        return;
    }
    size_t n;
    const struct golden_row *rows = golden_rows(sim, &n);
    double worst = 0, tolerance = sim ? 1e-3 : 1e-4;
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        const float *l = t->first + (size_t)rows[i].p * GOLDEN_VOCAB;
        uint32_t best = 0;
        double sum = 0;
        for (uint32_t k = 0; k < GOLDEN_VOCAB; k++) {
            best = l[k] > l[best] ? k : best;
            sum += fabs((double)l[k]);
        }
        for (int k = 0; k < 4; k++) {
            double d = fabs((double)l[k] - rows[i].logits[k]);
            worst = d <= worst ? worst : d; /* a NaN sticks */
        }
        ok = ok && best == rows[i].argmax && fabs(sum - rows[i].sum_abs) <= 20 * tolerance;
    }
    ok = ok && worst <= tolerance;
    snprintf(note, sizeof note, "largest difference %.1e, allowed %.0e", worst, tolerance);
    report(t, backend, what, ok, note);
}

/* The same bits as the first run (chunk 64). */
static void check_same(struct selftest *t, const char *backend, const char *what,
                       uint32_t chunk, uint32_t threads, uint32_t rewind_to)
{
    fathom_err err = {0};
    if (compute(t, backend, true, chunk, threads, rewind_to, t->again, &err)) {
        report(t, backend, what, false, err.msg);
        return;
    }
    bool same = memcmp(t->first, t->again, sizeof(float) * N * GOLDEN_VOCAB) == 0;
    report(t, backend, what, same, same ? "same bits" : "different bits");
}

static double rms(const float *a, const float *b)
{
    double sum = 0;
    for (size_t i = 0; i < (size_t)N * GOLDEN_VOCAB; i++) {
        double d = (double)a[i] - (double)b[i];
        sum += d * d;
    }
    return sqrt(sum / ((double)N * GOLDEN_VOCAB));
}

/* Quantised weights on a GPU: no logits are published; as near to `ref` as the cpu backend is. */
static int near_cpu(struct selftest *t, const char *backend, double *gpu, double *cpu,
                    fathom_err *err)
{
    float *ref = mem_alloc((size_t)N * GOLDEN_VOCAB, sizeof *ref);
    int rc = ref ? 0 : err_nomem(err, "selftest", (size_t)N * GOLDEN_VOCAB * 4);
    rc = rc ? rc : compute(t, "ref", true, 64, t->o->threads, 0, ref, err);
    rc = rc ? rc : compute(t, "cpu", true, 64, t->o->threads, 0, t->again, err);
    rc = rc ? rc : compute(t, backend, true, 64, t->o->threads, 0, t->first, err);
    if (rc == 0) {
        *cpu = rms(ref, t->again);
        *gpu = rms(ref, t->first);
    }
    mem_free(ref);
    return rc;
}

static void check_quantised(struct selftest *t, const char *backend, const char *name,
                            uint32_t type)
{
    fathom_err err = {0};
    char what[64], note[1100];
    unsigned char *plain = t->file;
    size_t n_plain = t->n_bytes;
    double gpu = 0, cpu = 0;
    snprintf(what, sizeof what, "%s weights, beside cpu", name);
    int rc = golden_build(&t->file, &t->n_bytes, type, &err);
    rc = rc ? rc : near_cpu(t, backend, &gpu, &cpu, &err);
    if (rc) {
        report(t, backend, what, false, err.msg);
    } else {
        snprintf(note, sizeof note, "rms difference to ref %.1e, cpu has %.1e", gpu, cpu);
        report(t, backend, what, gpu <= 2 * cpu + 1e-3, note);
        check_same(t, backend, "the same, one token a step", 1, t->o->threads, 0);
        check_same(t, backend, "the same, 7 tokens a step", 7, t->o->threads, 0);
    }
    mem_free(t->file);
    t->file = plain;
    t->n_bytes = n_plain;
}

/* Every op beside the same op of another backend, on this model. */
static void check_ops(struct selftest *t, const char *backend, const char *model,
                      const unsigned char *file, size_t n_bytes, const struct ops_sequence *seq)
{
    struct op_result r[OP_KIND_COUNT];
    const char *reference = strcmp(backend, "cpu") == 0 ? "ref" : "cpu";
    fathom_engine_options opt = {.model_data = file,
                                 .model_bytes = n_bytes,
                                 .n_threads = t->o->threads,
                                 .max_ctx = 512,
                                 .max_seq = 1,
                                 .chunk = 64,
                                 .page_tokens = 128,
                                 .cpu_mask = t->o->cpu_mask,
                                 .debug = t->o->debug,
                                 .kv_no_share = true};
    fathom_err err = {0};
    char what[64], note[1100];
    int rc = selftest_ops(r, &opt, reference, backend, seq, &err);
    if (rc) {
        snprintf(what, sizeof what, "kernels, %s", model);
        report(t, backend, what, false, err.msg);
    }
    for (int k = 0; k < OP_KIND_COUNT && rc == 0; k++) {
        if (r[k].runs == 0) {
            continue;
        }
        int n = snprintf(note, sizeof note, "floats %.1e", r[k].worst);
        if (r[k].codes) {
            n += snprintf(note + n, sizeof note - (size_t)n, ", %llu of %llu codes%s",
                          (unsigned long long)r[k].differ, (unsigned long long)r[k].codes,
                          r[k].far ? ", some by more than a step" : "");
        }
        snprintf(note + n, sizeof note - (size_t)n, ", %.0f us (%s %.0f)",
                 r[k].seconds * 1e6 / (double)r[k].runs, reference,
                 r[k].reference_seconds * 1e6 / (double)r[k].runs);
        snprintf(what, sizeof what, "%s, %s", op_name((enum op_kind)k), model);
        report(t, backend, what, op_result_ok(&r[k]), note);
    }
}

/* The golden model in three weight types, and the embedded one for those of its file. */
static void check_kernels(struct selftest *t, const char *backend)
{
    static const struct {
        const char *name;
        uint32_t type;
    } golden[] = {{"F32", QT_F32}, {"Q8_0", QT_Q8_0}, {"MXFP4", QT_MXFP4}};
    static const uint32_t steps[] = {60, 60, 13, 5, 1, 1, 0}, mini_steps[] = {24, 5, 1, 1, 0};
    struct ops_sequence seq = {t->ids, N, steps};
    for (size_t i = 0; i < ARRAY_LEN(golden); i++) {
        unsigned char *file = NULL;
        size_t n = 0;
        fathom_err err = {0};
        if (golden_build(&file, &n, golden[i].type, &err) == 0) {
            check_ops(t, backend, golden[i].name, file, n, &seq);
        } else {
            report(t, backend, golden[i].name, false, err.msg);
        }
        mem_free(file);
    }
    size_t n = 0;
    const void *mini = embedded_model(&n);
    if (mini) {
        seq.steps = mini_steps;
        check_ops(t, backend, "embedded model", mini, n, &seq);
    }
}

static void one_backend(struct selftest *t, const struct backend *b)
{
    struct backend_info info = {0};
    fathom_err err = {0};
    int rc = b->probe(&info, &err);
    if (rc || !info.available) {
        cmd_note("backend %s is not available here: %s", b->name, err.msg);
        return;
    }
    t->n_backends++;
    double start = clock_now();
    if (!t->o->json) {
        buf_addf(&t->b, "backend %s: %s, %u units, %s, %s\n", b->name, info.device_name,
                 info.n_units, cmd_bytes(info.memory_bytes), info.features);
    }
    check_published(t, b->name, false);
    check_published(t, b->name, true);
    check_same(t, b->name, "one token a step", 1, t->o->threads, 0);
    check_same(t, b->name, "7 tokens a step, 1 thread", 7, 1, 0);
    check_same(t, b->name, "13 tokens a step, 3 threads", 13, 3, 0);
    check_same(t, b->name, "rewind to 150 and again", 64, t->o->threads, 150);
    if (strcmp(b->name, "cpu") != 0 && strcmp(b->name, "ref") != 0) {
        check_quantised(t, b->name, "Q8_0", QT_Q8_0);
        check_quantised(t, b->name, "MXFP4", QT_MXFP4);
    }
    if (strcmp(b->name, "ref") != 0) {
        if (!t->o->json) {
            buf_addf(
                &t->b,
                "  each op from the inputs of the same op of %s: largest difference of floats\n"
                "  (allowed %.0e of the row's largest), codes that round another way (allowed\n"
                "  %.0f %%), time of an op run alone\n",
                strcmp(b->name, "cpu") ? "cpu" : "ref", OPS_FLOAT_LIMIT, 100 * OPS_CODE_LIMIT);
        }
        check_kernels(t, b->name);
    }
    if (!t->o->json) {
        buf_addf(&t->b, "  %.1f s\n", clock_now() - start);
    }
}

static void run_backends(struct selftest *t)
{
    struct utsname u;
    if (!t->o->json && uname(&u) == 0) {
        buf_addf(&t->b, "fathom %s, %s %s %s\n", fathom_version(), u.sysname, u.release,
                 u.machine);
    } else if (t->o->json) {
        buf_addf(&t->b, "{\"version\":\"%s\",\"checks\":[", fathom_version());
    }
    const struct backend *b;
    for (size_t i = 0; (b = backend_at(i)) != NULL; i++) {
        if (!t->o->backend || strcmp(t->o->backend, b->name) == 0) {
            one_backend(t, b);
        }
    }
    if (t->o->json) {
        buf_addf(&t->b, "],\"passed\":%u,\"failed\":%u}\n", t->n_ok, t->n_failed);
    } else {
        buf_addf(&t->b, "%u passed, %u failed\n", t->n_ok, t->n_failed);
    }
}

int cmd_selftest(struct cli *o)
{
    struct selftest t = {.o = o};
    fathom_err err = {0};
    t.first = mem_alloc((size_t)N * GOLDEN_VOCAB, sizeof(float));
    t.again = mem_alloc((size_t)N * GOLDEN_VOCAB, sizeof(float));
    int rc = t.first && t.again ? golden_build(&t.file, &t.n_bytes, QT_F32, &err)
                                : err_nomem(&err, "selftest", N * GOLDEN_VOCAB * 8);
    int code;
    if (rc) {
        code = cmd_fail("selftest", &err);
    } else {
        for (uint32_t i = 0; i < N; i++) {
            t.ids[i] = golden_id(i);
        }
        run_backends(&t);
        bool ok = t.n_failed == 0 && t.n_backends > 0;
        code = cmd_print(&t.b);
        code = code ? code : ok ? EXIT_DONE : EXIT_RUNTIME;
    }
    mem_free(t.file);
    mem_free(t.first);
    mem_free(t.again);
    return code;
}
