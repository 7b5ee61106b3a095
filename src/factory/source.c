/* source.c - see source.h. Decoding is exact: every stored form is a float32 value, so nothing
 * is lost before the encoder of the target type rounds.
 *
 * E4M3: value(row, col) = code * 2^(s[row / 128][col / 128] - 127), tiles cut at the edges.
 * FP4: byte c of a row holds column 2 c in the low nibble and 2 c + 1 in the high one; scale
 * s[row][col / 32].
 *
 * Not-a-number codes are errors here, at the first place that can name tensor, row and column:
 * a silent zero or a NaN in a model file would only show as nonsense much later. */
#include "factory/source.h"

#include <math.h>

#include "base/mem.h"
#include "base/num.h"
#include "quant/encode.h"

enum { TILE = 128, GROUP = 32, SLICE_BYTES = 4 << 20 };

static uint64_t div_up(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

uint64_t source_slice_rows(uint64_t cols, uint64_t slice_bytes)
{
    uint64_t bytes = slice_bytes ? slice_bytes : SLICE_BYTES;
    return MAX((uint64_t)1, bytes / sizeof(float) / MAX(cols, (uint64_t)1));
}

static bool has_shape(const struct st_tensor *t, uint64_t rows, uint64_t cols)
{
    return t->rank == 2 && t->shape[0] == rows && t->shape[1] == cols;
}

static int wrong_shape(const struct st_set *set, const struct st_tensor *t, uint64_t rows,
                       uint64_t cols, bool is_vector, fathom_err *err)
{
    struct buf have = {0}, want = {0};
    for (uint32_t i = 0; i < t->rank; i++) {
        buf_addf(&have, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    }
    if (!is_vector) {
        buf_addf(&want, "%llu, ", (unsigned long long)rows);
    }
    buf_addf(&want, "%llu", (unsigned long long)cols);
    int rc = err_set(err, FATHOM_EFORMAT, "%s: tensor %s (%s) has shape [%s], expected [%s]",
                     st_file(set, t), t->name.p, st_dtype_name(t->dtype), buf_cstr(&have),
                     buf_cstr(&want));
    buf_free(&have);
    buf_free(&want);
    return rc;
}

static int check_scale(const struct source *s, bool is_vector, fathom_err *err)
{
    const struct st_tensor *w = s->w;
    bool fp8 = w->dtype == ST_E4M3, fp4 = w->dtype == ST_I8;
    const char *file = st_file(s->set, w);
    if (!fp8 && !fp4) {
        return s->scale ? err_set(err, FATHOM_EFORMAT,
                                  "%s: tensor %s is %s but has a scale tensor %s", file,
                                  w->name.p, st_dtype_name(w->dtype), s->scale->name.p)
                        : 0;
    }
    if (is_vector) {
        return err_set(err, FATHOM_EFORMAT, "%s: tensor %s: %s is not expected in a vector",
                       file, w->name.p, st_dtype_name(w->dtype));
    }
    if (!s->scale) {
        return err_set(err, FATHOM_EFORMAT, "%s: tensor %s is %s but has no scale tensor", file,
                       w->name.p, st_dtype_name(w->dtype));
    }
    if (s->scale->dtype != ST_E8M0) {
        return err_set(err, FATHOM_EFORMAT, "%s: tensor %s is %s, expected F8_E8M0",
                       st_file(s->set, s->scale), s->scale->name.p,
                       st_dtype_name(s->scale->dtype));
    }
    if (fp4 && s->cols % GROUP) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: tensor %s: FP4 rows of %llu are no multiple of %d", file, w->name.p,
                       (unsigned long long)s->cols, GROUP);
    }
    uint64_t rows = fp8 ? div_up(s->rows, TILE) : s->rows;
    uint64_t cols = fp8 ? div_up(s->cols, TILE) : s->cols / GROUP;
    return has_shape(s->scale, rows, cols)
               ? 0
               : wrong_shape(s->set, s->scale, rows, cols, false, err);
}

int source_bind(struct source *s, const struct st_set *set, const struct st_tensor *w,
                const struct st_tensor *scale, uint64_t rows, uint64_t cols, bool is_vector,
                fathom_err *err)
{
    *s = (struct source){.set = set, .w = w, .scale = scale, .rows = rows, .cols = cols};
    if (w->dtype != ST_F32 && w->dtype != ST_F16 && w->dtype != ST_BF16 &&
        w->dtype != ST_E4M3 && w->dtype != ST_I8) {
        return err_set(err, FATHOM_EFORMAT, "%s: tensor %s: %s is no dtype of a weight",
                       st_file(set, w), w->name.p, st_dtype_name(w->dtype));
    }
    int rc = check_scale(s, is_vector, err);
    if (rc) {
        return rc;
    }
    uint64_t stored = w->dtype == ST_I8 ? cols / 2 : cols;
    bool ok = is_vector ? w->rank == 1 && w->shape[0] == stored : has_shape(w, rows, stored);
    return ok ? 0 : wrong_shape(set, w, rows, stored, is_vector, err);
}

bool source_is_fp4(const struct source *s)
{
    return s->w->dtype == ST_I8;
}

const char *source_kind(const struct source *s)
{
    return s->w->dtype == ST_I8     ? "FP4"
           : s->w->dtype == ST_E4M3 ? "FP8"
                                    : st_dtype_name(s->w->dtype);
}

static int read_scales(const struct source *s, uint8_t **out, fathom_err *err)
{
    const struct st_tensor *t = s->scale;
    uint8_t *p = mem_alloc(MAX((size_t)t->bytes, (size_t)1), 1);
    if (!p) {
        return err_nomem(err, t->name.p, (size_t)t->bytes);
    }
    *out = p;
    int rc = st_read(s->set, t, 0, (size_t)t->bytes, p, err);
    const uint8_t *nan = rc ? NULL : memchr(p, 255, (size_t)t->bytes);
    if (nan) {
        rc =
            err_set(err, FATHOM_EFORMAT, "%s: tensor %s: scale %llu is not a number (code 255)",
                    st_file(s->set, t), t->name.p, (unsigned long long)(nan - p));
    }
    return rc;
}

int source_open(struct source_reader *r, const struct source *s, uint64_t max_rows,
                fathom_err *err)
{
    *r = (struct source_reader){.s = *s, .max_rows = max_rows};
    uint64_t row_elems = s->w->dtype == ST_I8 ? s->cols / 2 : s->cols;
    r->raw_row_bytes = row_elems * st_dtype_bytes(s->w->dtype);
    r->raw = mem_alloc(max_rows, r->raw_row_bytes);
    if (!r->raw) {
        return err_nomem(err, s->w->name.p, max_rows * r->raw_row_bytes);
    }
    for (int c = 0; s->w->dtype == ST_E4M3 && c < 256; c++) {
        r->value[c] = e4m3_to_f32((uint8_t)c);
    }
    return s->scale ? read_scales(s, &r->scale, err) : 0;
}

void source_close(struct source_reader *r)
{
    mem_free(r->raw);
    mem_free(r->scale);
    r->raw = r->scale = NULL;
}

static int read_raw(struct source_reader *r, uint64_t row, uint64_t n, fathom_err *err)
{
    if (n > r->max_rows || row > r->s.rows || n > r->s.rows - row) {
        return err_set(err, FATHOM_EINVAL, "tensor %s: rows outside of it", r->s.w->name.p);
    }
    return st_read(r->s.set, r->s.w, row * r->raw_row_bytes, n * r->raw_row_bytes, r->raw, err);
}

static void decode_e4m3(const float *value, const uint8_t *p, const uint8_t *scale,
                        uint64_t cols, float *out)
{
    for (uint64_t t = 0; t < cols; t += TILE) {
        float s = e8m0_to_f32(scale[t / TILE]);
        uint64_t end = MIN(t + TILE, cols);
        for (uint64_t c = t; c < end; c++) {
            out[c] = value[p[c]] * s;
        }
    }
}

static void decode_fp4(const uint8_t *p, const uint8_t *scale, uint64_t cols, float *out)
{
    for (uint64_t g = 0; g < cols; g += GROUP) {
        float s = e8m0_to_f32(scale[g / GROUP]);
        for (uint64_t c = g; c < g + GROUP; c += 2) {
            uint8_t b = p[c / 2];
            out[c] = e2m1_to_f32(b & 15) * s;
            out[c + 1] = e2m1_to_f32(b >> 4) * s;
        }
    }
}

static void decode_row(const struct source_reader *r, uint64_t row, const uint8_t *p,
                       float *out)
{
    uint64_t cols = r->s.cols;
    switch (r->s.w->dtype) {
    case ST_E4M3:
        decode_e4m3(r->value, p, r->scale + row / TILE * div_up(cols, TILE), cols, out);
        break;
    case ST_I8: decode_fp4(p, r->scale + row * (cols / GROUP), cols, out); break;
    case ST_BF16:
        for (uint64_t c = 0; c < cols; c++) {
            out[c] = bf16_to_f32(load_le16(p + 2 * c));
        }
        break;
    case ST_F16:
        for (uint64_t c = 0; c < cols; c++) {
            out[c] = f16_to_f32(load_le16(p + 2 * c));
        }
        break;
    default:
        for (uint64_t c = 0; c < cols; c++) {
            out[c] = f32_from_bits(load_le32(p + 4 * c));
        }
        break;
    }
}

/* Largest magnitude as float bits; at least 0x7F800000 if anything is not finite. */
static uint32_t max_bits(const float *x, size_t n)
{
    uint32_t max = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t a = f32_bits(x[i]) & 0x7FFFFFFFu;
        max = a > max ? a : max;
    }
    return max;
}

int source_rows(struct source_reader *r, uint64_t row, uint64_t n, float *out, fathom_err *err)
{
    int rc = read_raw(r, row, n, err);
    for (uint64_t i = 0; rc == 0 && i < n; i++) {
        float *x = out + i * r->s.cols;
        decode_row(r, row + i, r->raw + i * r->raw_row_bytes, x);
        if (max_bits(x, r->s.cols) >= 0x7F800000u) {
            uint64_t c = 0;
            while (isfinite(x[c])) {
                c++;
            }
            rc = err_set(err, FATHOM_EFORMAT,
                         "%s: tensor %s: the value at row %llu, column %llu is not finite",
                         st_file(r->s.set, r->s.w), r->s.w->name.p,
                         (unsigned long long)(row + i), (unsigned long long)c);
        }
    }
    return rc;
}

int source_rows_mxfp4(struct source_reader *r, uint64_t row, uint64_t n, uint8_t *out,
                      fathom_err *err)
{
    int rc = read_raw(r, row, n, err);
    uint64_t groups = r->s.cols / GROUP;
    for (uint64_t i = 0; rc == 0 && i < n; i++) {
        quant_mxfp4_repack(r->raw + i * r->raw_row_bytes, r->scale + (row + i) * groups,
                           r->s.cols, out + i * groups * 17);
    }
    return rc;
}

static int max_of_scales(const struct source *s, double *out, fathom_err *err)
{
    uint8_t *scale = NULL, top = 0;
    int rc = read_scales(s, &scale, err);
    for (uint64_t i = 0; rc == 0 && i < s->scale->bytes; i++) {
        top = MAX(top, scale[i]);
    }
    mem_free(scale);
    *out = ldexp(source_is_fp4(s) ? 6 : 448, top - 127);
    return rc;
}

int source_max(const struct source *s, uint64_t slice_bytes, double *out, fathom_err *err)
{
    if (s->scale) {
        return max_of_scales(s, out, err);
    }
    uint64_t step = MIN(source_slice_rows(s->cols, slice_bytes), MAX(s->rows, (uint64_t)1));
    struct source_reader r;
    int rc = source_open(&r, s, step, err);
    float *x = rc ? NULL : mem_alloc(step * s->cols, sizeof *x);
    if (rc == 0 && !x) {
        rc = err_nomem(err, s->w->name.p, step * s->cols * sizeof *x);
    }
    uint32_t top = 0;
    for (uint64_t row = 0; rc == 0 && row < s->rows; row += step) {
        uint64_t n = MIN(step, s->rows - row);
        if ((rc = source_rows(&r, row, n, x, err)) == 0) {
            top = MAX(top, max_bits(x, n * s->cols));
        }
    }
    mem_free(x);
    source_close(&r);
    *out = f32_from_bits(top);
    return rc;
}

int source_table_bind(struct source *s, const struct st_set *set, const struct st_tensor *w,
                      uint64_t rows, uint64_t cols, fathom_err *err)
{
    *s = (struct source){.set = set, .w = w, .rows = rows, .cols = cols};
    if (w->dtype != ST_I64 && w->dtype != ST_I32) {
        return err_set(err, FATHOM_EFORMAT, "%s: tensor %s is %s, expected I64",
                       st_file(set, w), w->name.p, st_dtype_name(w->dtype));
    }
    return has_shape(w, rows, cols) ? 0 : wrong_shape(set, w, rows, cols, false, err);
}

int source_table_rows(const struct source *s, uint64_t row, uint64_t n, uint64_t n_ids,
                      int32_t *out, fathom_err *err)
{
    uint32_t size = st_dtype_bytes(s->w->dtype);
    uint8_t *raw = mem_alloc(n * s->cols, size);
    if (!raw) {
        return err_nomem(err, s->w->name.p, n * s->cols * size);
    }
    int rc = st_read(s->set, s->w, row * s->cols * size, n * s->cols * size, raw, err);
    for (uint64_t i = 0; rc == 0 && i < n * s->cols; i++) {
        uint64_t id = size == 8 ? load_le64(raw + 8 * i) : load_le32(raw + 4 * i);
        if (id >= n_ids) { /* negative ones are huge here */
            rc = err_set(
                err, FATHOM_EFORMAT, "%s: tensor %s: id %lld at row %llu is outside 0..%llu",
                st_file(s->set, s->w), s->w->name.p,
                size == 8 ? (long long)id : (long long)(int32_t)id,
                (unsigned long long)(row + i / s->cols), (unsigned long long)n_ids - 1);
        }
        out[i] = (int32_t)id;
    }
    mem_free(raw);
    return rc;
}
