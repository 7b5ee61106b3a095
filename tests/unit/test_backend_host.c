/* test_backend_host.c - host memory as the ref and cpu backends use it: buffers, binding, and
 * the checks that every step passes before a kernel sees it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "backend/host/host.h"

static void test_buffers(void **state)
{
    (void)state;
    struct buffer *a = NULL, *b = NULL, *empty = NULL;
    /* A KV pool for a long context: only what is touched is committed. */
    assert_int_equal(host_buf_alloc(NULL, &a, (uint64_t)1 << 36, BUF_PAGE, NULL), 0);
    assert_int_equal(host_buf_alloc(NULL, &b, 100, BUF_IO, NULL), 0);
    assert_int_equal(host_buf_alloc(NULL, &empty, 0, BUF_STATE, NULL), 0);
    char got[8] = "xxxxxxx";
    uint64_t far = ((uint64_t)1 << 36) - 8;
    host_buf_read(NULL, a, far, got, 8);
    assert_memory_equal(got, "\0\0\0\0\0\0\0", 8);
    host_buf_write(NULL, a, far, "fathom!", 8);
    host_buf_copy(NULL, b, 92, a, far, 8);
    host_buf_read(NULL, b, 92, got, 8);
    assert_string_equal(got, "fathom!");
    assert_ptr_equal((char *)host_buf_map(NULL, b) + 92, b->base + 92);
    fathom_err err = {0};
    struct buffer *none = NULL;
    assert_int_equal(host_buf_alloc(NULL, &none, UINT64_MAX, BUF_PAGE, &err), FATHOM_ENOMEM);
    assert_null(none);
    host_buf_free(NULL, a);
    host_buf_free(NULL, b);
    host_buf_free(NULL, empty);
    host_buf_free(NULL, NULL);
}

static struct program prog(void)
{
    return (struct program){
        .lim = {.t_max = 8, .out_max = 4, .seq_max = 2, .n_slots = 3, .max_ctx = 64},
        .arena_bytes = 10,
        .io_bytes = 20,
        .slot_bytes = 32,
        .page_bytes = 48,
        .page_tokens = 16};
}

static void test_bind(void **state)
{
    (void)state;
    struct program p = prog();
    struct buffer *b[4];
    const uint64_t bytes[4] = {10, 96, 48 * 5 + 47, 20};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(host_buf_alloc(NULL, &b[i], bytes[i], BUF_IO, NULL), 0);
    }
    struct exec_bind bind = {b[0], b[1], b[2], b[3]};
    struct host_bind h;
    assert_int_equal(host_bind_make(&h, &p, &bind, NULL), 0);
    assert_int_equal(h.n_pages, 5);
    p.lim.n_slots = 4;
    assert_int_equal(host_bind_make(&h, &p, &bind, NULL), FATHOM_EINVAL);
    p.slot_bytes = UINT64_MAX / 2;
    assert_int_equal(host_bind_make(&h, &p, &bind, NULL), FATHOM_EINVAL);
    p = prog();
    bind.arena = NULL;
    assert_int_equal(host_bind_make(&h, &p, &bind, NULL), FATHOM_EINVAL);
    for (int i = 0; i < 4; i++) {
        host_buf_free(NULL, b[i]);
    }
}

/* A valid step of two sequences, and one wrong field at a time. */
struct fixture {
    struct step s;
    struct step_seq seq[3];
    uint32_t tok[9], tok_seq[9], pages[9], out[5];
};

static void valid_step(struct fixture *f)
{
    *f = (struct fixture){.seq = {{.state = 2, .n0 = 30, .n_tok = 3, .n_page = 3, .n_out = 2},
                                  {.state = 0,
                                   .n_tok = 5,
                                   .tok0 = 3,
                                   .page0 = 3,
                                   .n_page = 1,
                                   .out0 = 2,
                                   .n_out = 1}},
                          .tok = {0, 1, 2, 3, 4, 5, 6, 6},
                          .tok_seq = {0, 0, 0, 1, 1, 1, 1, 1},
                          .pages = {4, 0, 1, 3},
                          .out = {0, 2, 7}};
    f->s = (struct step){8, 2, 3, 4, f->seq, f->tok, f->tok_seq, f->pages, f->out, 0};
}

static void test_step_checks(void **state)
{
    (void)state;
    struct program p = prog();
    struct op embed = {.kind = OP_EMBED, .embed = {.table = {.rows = 7}}};
    p.ops = &embed;
    p.n_ops = 1;
    struct host_bind h = {.page_bytes = 48, .slot_bytes = 32, .n_pages = 5};
    struct host_step hs;
    assert_int_equal(host_step_init(&hs, &p, NULL), 0);
    struct fixture f;
    valid_step(&f);
    assert_int_equal(host_step_load(&hs, &h, &f.s, NULL), 0);
    f.tok[0] = f.pages[0] = f.out[1] = f.seq[0].n0 = 0; /* the copy is independent */
    assert_int_equal(hs.s.pages[0], 4);
    assert_int_equal(hs.s.out[1], 2);
    assert_int_equal(hs.s.seq[0].n0, 30);

#define WRONG(change)                                                    \
    do {                                                                 \
        valid_step(&f);                                                  \
        change;                                                          \
        fathom_err err = {0};                                            \
        if (host_step_load(&hs, &h, &f.s, &err) >= 0 || err.code == 0) { \
            fail_msg("accepted: %s", #change);                           \
        }                                                                \
    } while (0)
    WRONG(f.s.n_tok = 0);
    WRONG(f.s.n_tok = 9);
    WRONG(f.s.n_tok = 7);
    WRONG(f.s.n_seq = 0);
    WRONG(f.s.n_seq = 3);
    WRONG(f.s.n_seq = 1);
    WRONG(f.s.n_out = 5);
    WRONG(f.s.n_out = 2);
    WRONG(f.s.n_page = 9);
    WRONG(f.s.n_page = 3);
    WRONG(f.seq[0].n_tok = 0);
    WRONG(f.seq[1].tok0 = 2);
    WRONG(f.seq[1].n_tok = UINT32_MAX);
    WRONG(f.seq[0].state = 3);
    WRONG(f.seq[0].state = 0);
    WRONG(f.seq[0].n0 = 62);
    WRONG(f.seq[0].n0 = UINT32_MAX);
    WRONG(f.seq[0].start = 31);
    WRONG(f.seq[0].n_page = 2);
    WRONG(f.seq[1].page0 = 4);
    WRONG(f.seq[1].page0 = UINT32_MAX);
    WRONG(f.seq[1].out0 = 1);
    WRONG(f.seq[0].n_out = UINT32_MAX);
    WRONG(f.tok_seq[3] = 0);
    WRONG(f.tok[5] = 7);
    WRONG(f.tok[5] = TOK_PICKED); /* this program has no picks */
    WRONG(f.pages[3] = 5);
    WRONG(f.out[1] = 0);
    WRONG(f.out[2] = 1);
    WRONG(f.out[2] = 8);
    valid_step(&f);
    assert_int_equal(host_step_load(&hs, &h, &f.s, NULL), 0);
    host_step_fini(&hs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buffers),
        cmocka_unit_test(test_bind),
        cmocka_unit_test(test_step_checks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
