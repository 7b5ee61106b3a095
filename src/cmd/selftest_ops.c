/* selftest_ops.c - see selftest_ops.h. The tape holds, for each op in the order in which they ran,
 * its kind and then the rows that it wrote: of tensors the rows in use, of the sequence's state
 * and pages whole planes, which are zeroed before the first step. */
#include "cmd/selftest_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "quant/act.h"

struct walk {
    fathom_engine *e;
    const struct backend *be;
    struct device *dev;
    const struct program *p; /* of the step that runs */
    struct buf *tape;
    size_t at;        /* read so far */
    bool replay;      /* compare with the tape and put it in place; else record */
    void *row, *want; /* one row of the backend's and of the tape's, [cap] bytes each */
    size_t cap;
    struct op_result *out;
    fathom_err err; /* the first error inside a trace */
};

/* ---- comparing one row ---- */

static void compare_floats(struct op_result *r, const float *want, const float *got, uint32_t n)
{
    double most = 0;
    for (uint32_t i = 0; i < n; i++) {
        double v = fabs((double)want[i]);
        most = v > most && v < INFINITY ? v : most;
    }
    for (uint32_t i = 0; i < n; i++) {
        bool same = want[i] == got[i] || (want[i] != want[i] && got[i] != got[i]);
        double d = same ? 0 : fabs((double)want[i] - (double)got[i]) / (most > 0 ? most : 1);
        r->worst = d <= r->worst ? r->worst : d; /* a NaN sticks */
    }
}

static void compare_codes(struct op_result *r, const unsigned char *want,
                          const unsigned char *got, size_t n, int step)
{
    for (size_t i = 0; i < n; i++) {
        int d = abs((int)(signed char)want[i] - (int)(signed char)got[i]);
        r->differ += d != 0;
        r->far = r->far || (step > 0 && d > step);
    }
    r->codes += n;
}

static void compare_ints(struct op_result *r, const uint32_t *want, const uint32_t *got,
                         size_t n)
{
    for (size_t i = 0; i < n; i++) {
        r->differ += want[i] != got[i];
    }
    r->codes += n;
}

static void compare(struct op_result *r, const struct opnd *o, uint32_t cols, void *want,
                    void *got)
{
    if (o->form == FORM_F32) {
        compare_floats(r, want, got, cols);
    } else if (o->form == FORM_A8) {
        compare_floats(r, act8_d(want, cols), act8_d(got, cols), cols / 32);
        compare_codes(r, (unsigned char *)act8_q(want), (unsigned char *)act8_q(got), cols, 1);
    } else if (o->form == FORM_I32) {
        compare_ints(r, want, got, cols);
    } else {
        compare_codes(r, want, got, cols, 0); /* stored rows: codes of several kinds */
    }
}

/* ---- one op ---- */

static size_t form_bytes(const struct opnd *o)
{
    return o->form == FORM_A8      ? act8_row_bytes(o->cols)
           : o->form == FORM_BYTES ? o->cols
                                   : o->cols * sizeof(float);
}

/* One row of the op's results, `cols` of its elements in use. */
static void take_row(struct walk *w, struct op_result *r, const struct opnd *o,
                     struct buffer *b, uint64_t at, uint32_t cols)
{
    size_t n = form_bytes(o);
    if (w->err.code) {
        return;
    }
    if (n > w->cap) {
        mem_free(w->row);
        mem_free(w->want);
        w->row = mem_alloc(n, 1);
        w->want = mem_alloc(n, 1);
        w->cap = n;
    }
    if (!w->row || !w->want) {
        err_nomem(&w->err, "selftest", n);
        return;
    }
    w->be->buf_read(w->dev, b, at, w->row, n);
    if (!w->replay) {
        buf_add(w->tape, w->row, n);
    } else if (w->at + n > w->tape->n) {
        err_set(&w->err, FATHOM_EFORMAT, "the backends run different programs");
    } else {
        memcpy(w->want, w->tape->p + w->at, n);
        compare(r, o, cols, w->want, w->row);
        w->be->buf_write(w->dev, b, at, w->want, n);
        w->at += n;
    }
}

/* Rows of a tensor that a step of this size uses. */
static uint32_t rows_in_use(const struct program *p, const struct opnd *o, const struct step *s)
{
    const struct tensor *t = &p->tensors[o->id];
    switch (t->rows) {
    case ROWS_TOK: return s->n_tok;
    case ROWS_OUT: return s->n_out;
    case ROWS_PAIR: return (uint32_t)(t->bytes / t->row_bytes / p->lim.t_max * s->n_tok);
    default: return 1;
    }
}

/* Elements in use of row r: lists are filled as far as the step needs them. */
static uint32_t cols_in_use(struct walk *w, const struct op *op, const struct opnd *o,
                            const struct step *s, uint32_t r)
{
    uint32_t n = o->cols;
    if (op->kind == OP_INDEX_SELECT && o->id == op->index_select.sel.id) {
        const struct opnd *c = &op->index_select.n_sel;
        w->be->buf_read(w->dev, engine_arena(w->e), c->offset + r * c->row_bytes, &n, sizeof n);
    } else if (op->kind == OP_ROUTE && o->id == op->route.pair.id) {
        n = n / w->p->lim.t_max * s->n_tok;
    }
    return MIN(n, o->cols);
}

/* A plane of the state slot or page that begins at `base`. */
static void take_plane(struct walk *w, struct op_result *r, const struct opnd *o,
                       struct buffer *b, uint64_t base)
{
    uint64_t rows = w->p->tensors[o->id].bytes / o->row_bytes;
    for (uint64_t i = 0; i < rows; i++) {
        take_row(w, r, o, b, base + o->offset + i * o->row_bytes, o->cols);
    }
}

static void take_operand(struct walk *w, const struct op *op, const struct opnd *o,
                         const struct step *s)
{
    const struct kv_pool *pool = engine_pool(w->e);
    struct op_result *r = &w->out[op->kind];
    uint32_t rows = rows_in_use(w->p, o, s);
    switch (o->space) {
    case SPACE_ARENA:
    case SPACE_IO:
        for (uint32_t i = 0; i < rows; i++) {
            take_row(w, r, o, o->space == SPACE_IO ? engine_io(w->e) : engine_arena(w->e),
                     o->offset + i * o->row_bytes, cols_in_use(w, op, o, s, i));
        }
        break;
    case SPACE_STATE:
        for (uint32_t i = 0; i < s->n_seq; i++) {
            take_plane(w, r, o, pool->state, s->seq[i].state * w->p->slot_bytes);
        }
        break;
    case SPACE_PAGE:
        for (uint32_t i = 0; i < s->n_page; i++) {
            take_plane(w, r, o, pool->page, s->pages[i] * w->p->page_bytes);
        }
        break;
    default: break;
    }
}

static void on_op(void *user, const struct op *op, const struct step *s, double seconds)
{
    struct walk *w = user;
    size_t n;
    const struct op_field *f = op_fields(op->kind, &n);
    unsigned char kind = (unsigned char)op->kind;
    if (w->err.code) {
        return;
    }
    w->p = engine_program(w->e, engine_class_of(w->e, s->n_tok));
    if (w->replay && (w->at >= w->tape->n || (unsigned char)w->tape->p[w->at++] != kind)) {
        err_set(&w->err, FATHOM_EFORMAT, "the backends run different programs");
    } else if (!w->replay) {
        buf_addc(w->tape, (char)kind);
    }
    struct op_result *r = &w->out[op->kind];
    r->runs += w->replay;
    *(w->replay ? &r->seconds : &r->reference_seconds) += seconds;
    /* From the last field to the first: how far a list is filled stands behind the list. */
    for (size_t i = n; i-- > 0 && !w->err.code;) {
        if (f[i].type == FIELD_OPND && (f[i].access & ACCESS_W)) {
            take_operand(w, op, op_field_opnd(op, &f[i]), s);
        }
    }
}

/* ---- a run ---- */

static void zero(struct walk *w, struct buffer *b, uint64_t n)
{
    static const unsigned char none[64 << 10];
    for (uint64_t at = 0; at < n; at += sizeof none) {
        w->be->buf_write(w->dev, b, at, none, MIN(n - at, sizeof none));
    }
}

static int run_steps(struct walk *w, const struct ops_sequence *q, fathom_err *err)
{
    fathom_session *s = NULL;
    int rc = fathom_session_new(&s, w->e, err);
    uint32_t at = 0;
    for (const uint32_t *n = q->steps; *n && rc == 0; n++) {
        rc = fathom_session_append(s, q->ids + at, *n, err);
        fathom_work work = {s, *n, FATHOM_WANT_LAST};
        rc = rc ? rc : fathom_step(w->e, &work, 1, err);
        at += *n;
    }
    fathom_session_free(s);
    return rc;
}

static int run_backend(struct walk *w, const fathom_engine_options *base, const char *backend,
                       const struct ops_sequence *seq, fathom_err *err)
{
    fathom_engine_options o = *base;
    o.backend = backend;
    int rc = fathom_engine_open(&w->e, &o, err);
    if (rc) {
        return rc;
    }
    w->be = engine_backend(w->e, &w->dev);
    const struct kv_pool *pool = engine_pool(w->e);
    const struct program *p = engine_program(w->e, 0);
    zero(w, pool->state, pool->n_slots * p->slot_bytes);
    zero(w, pool->page, pool->n_pages * p->page_bytes);
    engine_trace(w->e, &(struct backend_trace){.kinds = UINT64_MAX, .fn = on_op, .user = w});
    rc = run_steps(w, seq, err);
    engine_trace(w->e, NULL);
    fathom_engine_close(w->e);
    if (rc == 0 && w->err.code) {
        *err = w->err;
        rc = err->code;
    }
    return rc;
}

int selftest_ops(struct op_result out[OP_KIND_COUNT], const fathom_engine_options *base,
                 const char *reference, const char *backend, const struct ops_sequence *seq,
                 fathom_err *err)
{
    struct buf tape = {0};
    struct walk w = {.tape = &tape, .out = out};
    memset(out, 0, OP_KIND_COUNT * sizeof *out);
    int rc = run_backend(&w, base, reference, seq, err);
    w.replay = true;
    rc = rc            ? rc
         : tape.failed ? err_nomem(err, "selftest", tape.n)
                       : run_backend(&w, base, backend, seq, err);
    if (rc == 0 && w.at != tape.n) {
        rc = err_set(err, FATHOM_EFORMAT, "the backends run different programs");
    }
    buf_free(&tape);
    mem_free(w.row);
    mem_free(w.want);
    return rc;
}
