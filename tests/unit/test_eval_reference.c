/* Reference files: what is read back is what was written, a short row never says more than the full
 * one, and a damaged file is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "eval/reference.h"
#include "eval/stats.h"

enum { VOCAB = 501, ROWS = 20 };

static float ref_rows[ROWS][VOCAB], rows[ROWS][VOCAB];
static char path[128];

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    struct rng r = {11};
    snprintf(path, sizeof path, "%.60s/fathom-ref-%d.bin", tmp ? tmp : "/tmp", (int)getpid());
    for (int i = 0; i < ROWS; i++) {
        for (int k = 0; k < VOCAB; k++) {
            ref_rows[i][k] = 9 * rng_sym(&r);
            rows[i][k] = ref_rows[i][k] + 0.3f * rng_sym(&r);
        }
        ref_rows[i][7] = ref_rows[i][9] = 10; /* a tie for the best */
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static void write_file(uint32_t kept)
{
    struct ref_writer w;
    struct ref_head h = {.n_vocab = VOCAB, .kept = kept, .n_rows = ROWS, .set_hash = 77};
    fathom_err err = {0};
    snprintf(h.name, sizeof h.name, "a model (cpu)");
    assert_int_equal(ref_create(&w, path, &h, &err), 0);
    for (uint32_t i = 0; i < ROWS; i++) {
        assert_int_equal(
            ref_write(&w, ref_rows[i], eval_logsumexp(ref_rows[i], VOCAB), i, &err), 0);
    }
    assert_int_equal(ref_write(&w, ref_rows[0], 0, 0, NULL), FATHOM_EINVAL); /* one too many */
    assert_int_equal(ref_commit(&w, &err), 0);
}

static void test_round_trip(void **state)
{
    (void)state;
    const uint32_t forms[] = {0, 1, 2, 64, 500, 501};
    for (size_t f = 0; f < ARRAY_LEN(forms); f++) {
        struct ref_file r;
        fathom_err err = {0};
        write_file(forms[f]);
        assert_int_equal(ref_open(&r, path, &err), 0);
        assert_string_equal(r.head.name, "a model (cpu)");
        assert_int_equal(r.head.set_hash, 77);
        assert_int_equal(ref_file_bytes(&r.head), r.map.n);
        for (uint32_t i = 0; i < ROWS; i++) {
            struct ref_compare c;
            double lse = eval_logsumexp(rows[i], VOCAB);
            double ref_lse = eval_logsumexp(ref_rows[i], VOCAB);
            double full = eval_kl(ref_rows[i], ref_lse, rows[i], lse, VOCAB);
            assert_int_equal(ref_compare_row(&r, i, rows[i], lse, &c, &err), 0);
            assert_true(c.logprob == (double)ref_rows[i][i] - ref_lse);
            assert_int_equal(c.best, 7); /* ties to the lower id */
            if (forms[f] == 0) {
                assert_true(c.kl == full && c.rest == 0); /* the same bits */
            } else {
                assert_true(c.kl <= full + 1e-6);
                assert_true(forms[f] < VOCAB - 1 || fabs(c.kl - full) < 1e-6);
                assert_true(forms[f] > 2 || c.rest > 0);
            }
        }
        struct ref_compare c;
        assert_int_equal(ref_compare_row(&r, ROWS, rows[0], 0, &c, NULL), FATHOM_EFORMAT);
        ref_close(&r);
    }
}

/* Rest mass by hand: 4 equal logits, 2 kept, against (1/2, 1/6, 1/6, 1/6): the outcomes are 1/4,
 * 1/4, 1/2 against 1/2, 1/6, 1/3. */
static void test_rest(void **state)
{
    (void)state;
    const float ref[] = {1, 1, 1, 1}, v[] = {logf(3), 0, 0, 0};
    struct ref_writer w;
    struct ref_file r;
    struct ref_compare c;
    struct ref_head h = {.n_vocab = 4, .kept = 2, .n_rows = 1};
    fathom_err err = {0};
    assert_int_equal(ref_create(&w, path, &h, &err), 0);
    assert_int_equal(ref_write(&w, ref, eval_logsumexp(ref, 4), 3, &err), 0);
    assert_int_equal(ref_commit(&w, &err), 0);
    assert_int_equal(ref_open(&r, path, &err), 0);
    assert_int_equal(ref_compare_row(&r, 0, v, eval_logsumexp(v, 4), &c, &err), 0);
    double want = 0.25 * log(0.25 / 0.5) + 0.25 * log(0.25 * 6) + 0.5 * log(0.5 * 3);
    assert_true(fabs(c.kl - want) < 1e-6 && fabs(c.rest - 0.5) < 1e-6);
    ref_close(&r);
}

static void test_unfinished(void **state)
{
    (void)state;
    struct ref_writer w;
    struct ref_head h = {.n_vocab = VOCAB, .n_rows = 2};
    unlink(path);
    assert_int_equal(ref_create(&w, path, &h, NULL), 0);
    assert_int_equal(ref_write(&w, ref_rows[0], eval_logsumexp(ref_rows[0], VOCAB), 0, NULL),
                     0);
    assert_int_equal(ref_commit(&w, NULL), FATHOM_EINVAL);
    assert_int_equal(access(path, F_OK), -1);
}

/* ---- damage ---- */

static int open_damaged(const struct buf *good, size_t n, size_t at, const void *p, size_t k)
{
    static unsigned char copy[1 << 20];
    struct ref_file r;
    struct ref_compare c;
    fathom_err err = {0};
    memcpy(copy, good->p, good->n);
    memcpy(copy + at, p, k);
    int rc = ref_open_mem(&r, copy, n, "damaged", &err);
    for (uint64_t i = 0; rc == 0 && i < r.head.n_rows; i++) {
        rc = ref_compare_row(&r, i, rows[i], eval_logsumexp(rows[i], VOCAB), &c, &err);
    }
    assert_true(rc == 0 || err.msg[0]);
    ref_close(&r);
    return rc;
}

static void test_damage(void **state)
{
    (void)state;
    struct buf b = {0};
    write_file(4);
    assert_int_equal(file_read_all(&b, path, 1 << 20, NULL), 0);
    assert_int_equal(open_damaged(&b, b.n, 0, "F", 1), 0);
    const size_t cuts[] = {0, 7, 39, 40, 55, 56, b.n - 1, b.n - 48};
    for (size_t i = 0; i < ARRAY_LEN(cuts); i++) {
        assert_int_equal(open_damaged(&b, cuts[i], 0, "F", 1), FATHOM_EFORMAT);
    }
    const uint32_t big = 0xFFFFFFFFu, two = 2, zero = 0, huge_vocab = 1u << 25;
    const uint64_t many = UINT64_MAX / 48, none = 0;
    const float nan_f = NAN, plus = 1;
    const double nan_d = (double)NAN;
    size_t row = b.n - (size_t)ROWS * 48;
    assert_int_equal(open_damaged(&b, b.n, 8, &two, 4), FATHOM_EUNSUPPORTED);
    assert_int_equal(open_damaged(&b, b.n, 12, &zero, 4), FATHOM_EFORMAT);
    assert_int_equal(open_damaged(&b, b.n, 12, &huge_vocab, 4), FATHOM_EFORMAT);
    assert_int_equal(open_damaged(&b, b.n, 16, &big, 4), FATHOM_EFORMAT);
    assert_int_equal(open_damaged(&b, b.n, 20, &big, 4), FATHOM_EFORMAT);
    assert_int_equal(open_damaged(&b, b.n, 24, &many, 8), FATHOM_EFORMAT);
    assert_int_equal(open_damaged(&b, b.n, 24, &none, 8), FATHOM_EFORMAT);
    assert_int_equal(open_damaged(&b, b.n, 40, "\xff", 1), FATHOM_EFORMAT);  /* name */
    assert_int_equal(open_damaged(&b, b.n, row, &nan_d, 8), FATHOM_EFORMAT); /* log-prob */
    assert_int_equal(open_damaged(&b, b.n, row + 8, &big, 4), FATHOM_EFORMAT);
    assert_int_equal(open_damaged(&b, b.n, row + 12, &nan_f, 4), FATHOM_EFORMAT);
    assert_int_equal(open_damaged(&b, b.n, row + 16, &big, 4), FATHOM_EFORMAT); /* id */
    assert_int_equal(open_damaged(&b, b.n, row + 24, b.p + row + 16, 4), FATHOM_EFORMAT);
    assert_int_equal(open_damaged(&b, b.n, row + 20, &plus, 4), FATHOM_EFORMAT);
    assert_int_equal(open_damaged(&b, b.n, row + 20, &nan_f, 4), FATHOM_EFORMAT);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_rest),
        cmocka_unit_test(test_unfinished),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
