/* Pool and ledger: pages and slots are handed out once, counted and given back; admission
 * promises no more than there is; frontiers occupy what pages leave; and the one size
 * formula gives the figures of docs/kv-store.md for Flash and Pro. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "kv/frontier.h"
#include "kv/state.h"
#include "unit/kv_toy.h"

static struct layout tiny_layout(void)
{
    static const uint16_t ratio[] = {0, 4, 16};
    return toy_layout(3, ratio, 8, 32);
}

static void test_sizes(void **state)
{
    (void)state;
    struct layout *l = mem_calloc(1, sizeof *l);
    assert_non_null(l);
    assert_int_equal(layout_make(l, shape_preset("flash"), true, 0, NULL), 0);
    assert_int_equal(l->page_bytes, 7197184);
    assert_int_equal(l->slot_bytes, 22071488);
    assert_int_equal(layout_frontier_bytes(l, 128 * 1000), 3644416);
    uint64_t most = 0;
    for (uint32_t n = 128000; n < 128128; n++) {
        uint64_t b = layout_frontier_bytes(l, n);
        most = b > most ? b : most;
    }
    assert_int_equal(most, 14693376);
    for (uint64_t n = 0; n <= 1048576; n += 128) { /* 3514.25 n at multiples of 128 */
        assert_int_equal(layout_row_bytes(l, n) * 4, n * 14057);
    }
    assert_int_equal(layout_pages(l, 1048576), 512);
    assert_int_equal(layout_sequence_bytes(l, 1048576), 512ull * 7197184 + 22071488);

    /* Pro, from the formula of kv-store.md 2.1 and 2.2: 30 layers of ratio 4, 31 of 128. */
    assert_int_equal(layout_make(l, shape_preset("pro"), true, 0, NULL), 0);
    uint64_t rows4 = 512 * (584 + 68), rows128 = 16 * 584;
    assert_int_equal(l->page_bytes, 30 * rows4 + 31 * rows128);
    uint64_t slot = 61ull * 264 * 584 + 30ull * 2 * 16 * (1024 + 256) * 4 +
                    31ull * 2 * 136 * 512 * 4 + 2ull * 30 * (16384 + 4096);
    assert_int_equal(l->slot_bytes, slot);
    assert_int_equal(layout_frontier_bytes(l, 1280), 61ull * 128 * 584 + 30ull * 4 * 5120);
    mem_free(l);
}

static void test_pages(void **state)
{
    (void)state;
    struct layout l = tiny_layout();
    struct kv_pool p;
    enum { N = 37 };
    assert_int_equal(pool_open(&p, &backend_ref, dev, &l, 2, N, NULL), 0);
    assert_int_equal(pool_budget_bytes(&p), N * l.page_bytes + 2 * l.slot_bytes);
    uint32_t refs[N] = {0};
    struct rng g = {20260101};
    uint32_t promised = 0;
    for (int i = 0; i < 20000; i++) {
        uint32_t page = rng_below(&g, N), in_use = 0;
        for (int k = 0; k < N; k++) {
            in_use += refs[k] > 0;
        }
        switch (rng_below(&g, 5)) {
        case 0: {
            uint32_t want = rng_below(&g, 4);
            bool fits = want <= N - in_use - promised;
            assert_int_equal(pool_available(&p), N - in_use - promised);
            assert_true(pool_reserve(&p, want) == fits);
            promised += fits ? want : 0;
            break;
        }
        case 1:
            if (promised > 0) {
                uint32_t got = pool_page_take(&p);
                promised--;
                assert_true(got < N && refs[got] == 0); /* never a page that someone has */
                refs[got] = 1;
            }
            break;
        case 2:
            if (refs[page] > 0) {
                pool_page_ref(&p, page);
                refs[page]++;
            }
            break;
        case 3:
            if (refs[page] > 0) {
                pool_page_drop(&p, page);
                refs[page]--;
            }
            break;
        default:
            if (promised > 0) {
                pool_unreserve(&p, 1);
                promised--;
            }
        }
        assert_true(pool_page_shared(&p, page) == (refs[page] > 1));
        pool_check(&p);
    }
    for (uint32_t k = 0; k < N; k++) {
        while (refs[k]-- > 0) {
            pool_page_drop(&p, k);
        }
    }
    pool_unreserve(&p, promised);
    assert_int_equal(pool_used_bytes(&p, KV_KIND_COUNT), 0);
    pool_close(&p);
}

static void test_slots(void **state)
{
    (void)state;
    struct layout l = tiny_layout();
    struct kv_pool p;
    assert_int_equal(pool_open(&p, &backend_ref, dev, &l, 3, 4, NULL), 0);
    uint32_t s[3], more;
    bool seen[3] = {false};
    for (int i = 0; i < 3; i++) {
        assert_true(pool_slot_take(&p, &s[i]));
        assert_false(seen[s[i]]);
        seen[s[i]] = true;
    }
    assert_false(pool_slot_take(&p, &more));
    assert_int_equal(pool_used_bytes(&p, KV_SLOTS), 3 * l.slot_bytes);
    pool_slot_drop(&p, s[1]);
    assert_true(pool_slot_take(&p, &more));
    assert_int_equal(more, s[1]);
    for (int i = 0; i < 3; i++) {
        pool_slot_drop(&p, s[i]);
    }
    pool_check(&p);
    pool_close(&p);
}

/* Frontiers live in what pages leave; a reservation asks for it back. */
static struct frontier *held[3];
static void relieve(void *user, uint32_t pages, uint64_t bytes, bool must)
{
    (void)must;
    uint32_t *calls = user;
    assert_int_equal(pages, 0);
    (*calls)++;
    for (int i = 0; i < 3 && bytes > 0; i++) {
        if (held[i]) {
            bytes -= held[i]->bytes < bytes ? held[i]->bytes : bytes;
            frontier_drop(held[i]);
            held[i] = NULL;
        }
    }
}

static void test_frontier_budget(void **state)
{
    (void)state;
    struct layout l = tiny_layout();
    struct kv_pool p;
    uint64_t size = layout_frontier_bytes(&l, 64);
    uint32_t n_pages = (uint32_t)(3 * size / l.page_bytes) + 1, calls = 0; /* room for 3 */
    assert_int_equal(pool_open(&p, &backend_ref, dev, &l, 1, n_pages, NULL), 0);
    p.relieve = relieve;
    p.relieve_user = &calls;
    for (int i = 0; i < 3; i++) {
        held[i] = frontier_new(&p, 64);
        assert_non_null(held[i]);
    }
    assert_int_equal(pool_used_bytes(&p, KV_FRONTIERS), 3 * size);
    frontier_ref(held[2]);
    frontier_drop(held[2]);
    calls = 0;
    assert_true(pool_reserve(&p, n_pages)); /* everything: all frontiers must go */
    assert_int_equal(calls, 1);
    assert_int_equal(pool_used_bytes(&p, KV_FRONTIERS), 0);
    assert_int_equal(pool_room_bytes(&p), 0);
    assert_null(frontier_new(&p, 64)); /* asked again, nothing to drop */
    assert_int_equal(calls, 2);
    pool_unreserve(&p, n_pages);
    pool_close(&p);
}

/* Sequences: admission counts before anything changes, forks share, shared pages are copied. */
static void test_admission(void **state)
{
    (void)state;
    struct layout l = tiny_layout(); /* pages of 32 tokens */
    struct kv_pool p;
    fathom_err err = {0};
    assert_int_equal(pool_open(&p, &backend_ref, dev, &l, 3, 6, NULL), 0);
    struct kv_state a, b, c;
    assert_int_equal(state_init(&a, &p, 1024, &err), 0);
    assert_int_equal(state_reserve(&a, 193, &err), FATHOM_ELIMIT);
    assert_true(strstr(err.msg, "pages") != NULL);
    assert_int_equal(a.reserved, 0);
    assert_int_equal(state_reserve(&a, 100, NULL), 0);
    assert_int_equal(a.reserved, 4);
    assert_int_equal(state_reserve(&a, 64, NULL), 0);
    assert_int_equal(a.reserved, 2);
    assert_int_equal(state_reserve(&a, 72, NULL), 0);
    state_begin(&a, 72);
    state_commit(&a, 72);
    assert_int_equal(a.n_pages, 3);
    /* Two full pages shared, the third copied. */
    assert_int_equal(state_fork(&b, &a, 70, NULL, 0, 1024, &err), 0);
    assert_int_equal(b.n, 70);
    assert_int_equal(p.ref[a.pages[0]], 2);
    assert_int_equal(b.pages[1], a.pages[1]);
    assert_true(b.pages[2] != a.pages[2]);
    assert_int_equal(pool_used_bytes(&p, KV_PAGES), 4 * l.page_bytes);
    /* Back into a shared page: writing there takes a new one. */
    state_rewind(&b, 40, NULL, 0);
    assert_int_equal(b.keep, 40);
    assert_int_equal(b.n_pages, 2);
    assert_int_equal(state_reserve(&b, 64, &err), 0);
    assert_int_equal(b.reserved, 1);
    uint32_t old = b.pages[1];
    state_begin(&b, 64 - b.n);
    assert_true(b.pages[1] != old && b.pages[1] != a.pages[1]);
    assert_int_equal(p.ref[a.pages[1]], 1);
    state_commit(&b, 64 - b.n);
    /* Six pages: a has three, b one and a half shared; a fork with a partial page must be
     * refused when none is free, and leave no trace. */
    assert_int_equal(state_reserve(&a, 160, &err), 0);
    uint32_t free_slots = p.n_free_slot;
    err = (fathom_err){0};
    assert_int_equal(state_fork(&c, &a, 50, NULL, 0, 1024, &err), FATHOM_ELIMIT);
    assert_int_equal(p.n_free_slot, free_slots);
    pool_check(&p);
    state_fini(&a);
    state_fini(&b);
    pool_check(&p);
    assert_int_equal(pool_used_bytes(&p, KV_KIND_COUNT), 0);
    pool_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),     cmocka_unit_test(test_pages),
        cmocka_unit_test(test_slots),     cmocka_unit_test(test_frontier_budget),
        cmocka_unit_test(test_admission),
    };
    return cmocka_run_group_tests(tests, toy_setup, toy_teardown);
}
