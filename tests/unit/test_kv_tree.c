/* The prefix tree alone, with a toy layout: finding by key and ids, partial pages, what is taken
 * over instead of being kept twice, eviction order, pins, frontier limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "kv/tree.h"
#include "unit/kv_toy.h"

enum { S = 8, PAGES = 24, LEN = 64 };

static struct layout layout;
static struct kv_pool pool;
static struct kv_tree tree;
static uint32_t n_pages = PAGES;

static int open_tree(void **state)
{
    static const uint16_t ratio[] = {0, 4};
    fathom_err err = {0};
    layout = toy_layout(2, ratio, 4, S);
    return toy_setup(state) || pool_open(&pool, &backend_ref, dev, &layout, 1, n_pages, &err) ||
           tree_open(&tree, &pool, &err);
}

/* Room for frontiers, which are larger than pages here. */
static int open_large(void **state)
{
    n_pages = 2000;
    int rc = open_tree(state);
    n_pages = PAGES;
    return rc;
}

static int close_tree(void **state)
{
    tree_close(&tree);
    assert_int_equal(pool_used_bytes(&pool, KV_KIND_COUNT), 0);
    pool_close(&pool);
    return toy_teardown(state);
}

/* A prompt and its keys. */
struct prompt {
    uint32_t ids[LEN];
    struct kv_chain chain;
};

static void make(struct prompt *p, const struct prompt *like, uint32_t same, uint32_t seed,
                 const struct kv_id *salt)
{
    struct rng g = {splitmix64(seed)};
    struct kv_id none = {{0}};
    memset(p, 0, sizeof *p);
    for (uint32_t i = 0; i < LEN; i++) {
        p->ids[i] = i < same ? like->ids[i] : rng_below(&g, 97);
    }
    if (like && same < LEN) {
        p->ids[same] = (like->ids[same] + 1) % 97;
    }
    assert_int_equal(kv_chain_init(&p->chain, &none, salt, S, NULL), 0);
    assert_int_equal(kv_chain_extend(&p->chain, p->ids, LEN, NULL), 0);
}

static uint32_t new_page(void)
{
    assert_true(pool_reserve(&pool, 1));
    return pool_page_take(&pool);
}

/* Adds ids[0..n) page by page; the tree alone holds them afterwards. */
static struct tree_node *add(struct prompt *p, uint32_t n)
{
    struct tree_node *at = tree_root(&tree, &p->chain.key[0]);
    for (uint32_t i = 0; i < n && at; i += S) {
        uint32_t page = new_page(), k = MIN((uint32_t)S, n - i);
        at = tree_add(&tree, at, k == S ? &p->chain.key[i / S + 1] : NULL, p->ids + i, k, page);
        pool_page_drop(&pool, page);
    }
    tree_check(&tree);
    return at;
}

static struct tree_match find(const struct prompt *p, uint32_t n)
{
    struct tree_match m;
    tree_find(&tree, p->chain.key, p->ids, n, &m);
    return m;
}

static void test_finding(void **state)
{
    (void)state;
    static struct prompt a, b, c, other;
    struct kv_id salt = {{1}};
    make(&a, NULL, 0, 1, NULL);
    make(&b, &a, 20, 2, NULL);
    make(&c, &a, 16, 3, NULL);
    make(&other, &a, LEN, 4, &salt);
    assert_int_equal(find(&a, LEN).n, 0);
    assert_null(find(&a, LEN).full);
    add(&a, 30); /* three pages and a tail of 6 */
    for (uint32_t n = 0; n <= LEN; n++) {
        struct tree_match m = find(&a, n);
        uint32_t pages[8];
        assert_int_equal(m.n, MIN(n, 30u));
        assert_int_equal(tree_match_pages(&tree, &m, pages), (m.n + S - 1) / S);
        assert_false(m.differs);
        m = find(&b, n);
        assert_int_equal(m.n, MIN(n, 20u));
        assert_int_equal(m.differs, n > 20);
        assert_true(!m.differs || (m.other == a.ids[20] && m.other_ids[1] == a.ids[21]));
        assert_int_equal(find(&other, n).n, 0);
    }
    /* A branch in the middle of a page and one at its end; other salts see nothing. */
    add(&b, 40);
    add(&c, 24);
    assert_int_equal(tree.n_nodes, 4 + 3 + 1);
    assert_int_equal(find(&a, LEN).n, 30);
    assert_int_equal(find(&b, LEN).n, 40);
    assert_int_equal(find(&c, LEN).n, 24);
    assert_true(tree_known_elsewhere(&tree, &other.chain.key[0], other.ids, LEN, 29));
    assert_false(tree_known_elsewhere(&tree, &other.chain.key[0], other.ids, LEN, 30));
    assert_false(tree_known_elsewhere(&tree, &a.chain.key[0], a.ids, LEN, 0));
    /* The same again takes nothing; a longer tail replaces the shorter, a full page the tail. */
    uint64_t used = pool_used_bytes(&pool, KV_PAGES);
    add(&a, 30);
    add(&a, 27);
    assert_int_equal(pool_used_bytes(&pool, KV_PAGES), used);
    add(&a, 31);
    assert_int_equal(pool_used_bytes(&pool, KV_PAGES), used);
    add(&a, 48);
    assert_int_equal(find(&a, LEN).n, 48);
    assert_int_equal(pool_used_bytes(&pool, KV_PAGES), used + 2 * layout.page_bytes);
    tree_clear(&tree);
    assert_int_equal(tree.n_nodes, 0);
    assert_null(tree.roots);
    assert_true(tree_was_evicted(&tree, &a.chain.key[1]));
    assert_false(tree_was_evicted(&tree, &other.chain.key[1]));
    kv_chain_fini(&a.chain);
    kv_chain_fini(&b.chain);
    kv_chain_fini(&c.chain);
    kv_chain_fini(&other.chain);
}

/* A key that is another prefix's (as a crafted collision would be) is never believed. */
static void test_collision(void **state)
{
    (void)state;
    static struct prompt a, b;
    make(&a, NULL, 0, 5, NULL);
    make(&b, NULL, 0, 6, NULL);
    add(&a, 16);
    b.chain.key[1] = a.chain.key[1];
    b.chain.key[2] = a.chain.key[2];
    assert_int_equal(find(&b, LEN).n, 0);
    uint32_t page = new_page();
    assert_null(
        tree_add(&tree, tree_root(&tree, &b.chain.key[0]), &b.chain.key[1], b.ids, S, page));
    pool_page_drop(&pool, page);
    assert_int_equal(find(&a, LEN).n, 16);
    tree_check(&tree);
    tree_clear(&tree);
    kv_chain_fini(&a.chain);
    kv_chain_fini(&b.chain);
}

/* Oldest leaves first, never above what somebody holds. */
static void test_eviction(void **state)
{
    (void)state;
    static struct prompt a, b;
    make(&a, NULL, 0, 7, NULL);
    make(&b, &a, 16, 8, NULL);
    struct tree_node *end = add(&a, 32);
    add(&b, 32); /* shares two pages; newer */
    assert_int_equal(tree_evictable(&tree, NULL), 6);
    pool_page_ref(&pool, end->page);
    assert_int_equal(tree_evictable(&tree, NULL), 2);
    uint32_t ignore[PAGES] = {0};
    ignore[end->page] = 1;
    assert_int_equal(tree_evictable(&tree, ignore), 6);
    assert_int_equal(tree_evict(&tree, 1), 1); /* of b, though a is older */
    assert_int_equal(find(&b, LEN).n, 24);
    assert_int_equal(find(&a, LEN).n, 32);
    pool_page_drop(&pool, end->page);
    assert_int_equal(tree_evict(&tree, 1), 1);
    assert_int_equal(find(&a, LEN).n, 24);
    assert_int_equal(find(&b, LEN).n, 24);
    struct tree_match m = find(&a, LEN);
    tree_touch(&tree, m.full, true);
    assert_int_equal(tree_evict(&tree, 1), 1); /* b is the older now */
    assert_int_equal(find(&b, LEN).n, 16);
    tree_check(&tree);
    assert_int_equal(tree_evict(&tree, 100), 3);
    assert_int_equal(tree.n_nodes, 0);
    assert_null(tree.roots);
    assert_int_equal(tree_evict(&tree, 1), 0);
    kv_chain_fini(&a.chain);
    kv_chain_fini(&b.chain);
}

/* At most 8 on a path, thinned towards powers of two; the two newest of a branch are given up
 * last. */
static void test_frontiers(void **state)
{
    (void)state;
    static struct prompt a;
    make(&a, NULL, 0, 9, NULL);
    struct tree_node *end = add(&a, 60);
    for (uint32_t i = 4; i <= 60; i += 4) {
        struct frontier *f = frontier_new(&pool, i);
        assert_non_null(f);
        f->serial = i;
        tree_add_front(&tree, end, f);
        tree_add_front(&tree, end, f); /* once is enough */
        frontier_drop(f);
        tree_check(&tree);
    }
    struct frontier *all[16];
    struct tree_match m = find(&a, LEN);
    uint32_t n = tree_match_fronts(&m, all, 16);
    assert_int_equal(n, TREE_BRANCH_FRONTS);
    assert_int_equal(all[0]->pos, 4);
    assert_int_equal(all[n - 1]->pos, 60);
    assert_int_equal(all[n - 2]->pos, 56);
    for (uint32_t i = 1; i + 2 < n; i++) { /* gaps grow with the distance from the head */
        assert_true(all[i]->pos - all[i - 1]->pos >= all[i + 1]->pos - all[i]->pos ||
                    all[i + 1]->pos - all[i]->pos <= 8);
    }
    m.n = 30;
    assert_true(tree_match_fronts(&m, all, 16) < n);
    uint32_t given = 0;
    for (struct frontier *f; (f = tree_spare_front(&tree, false)); given++) {
        assert_true(f->pos < 56);
        tree_drop_front(&tree, f);
    }
    assert_int_equal(given, TREE_BRANCH_FRONTS - 2);
    assert_int_equal(tree_spare_front(&tree, true)->pos, 56);
    tree_clear(&tree);
    assert_int_equal(pool_used_bytes(&pool, KV_FRONTIERS), 0);
    kv_chain_fini(&a.chain);
}

/* Random additions and evictions keep the invariants and find exactly what is there. */
static void test_random(void **state)
{
    (void)state;
    enum { PROMPTS = 12 };
    static struct prompt p[PROMPTS];
    struct rng g = {99};
    for (uint32_t i = 0; i < PROMPTS; i++) {
        make(&p[i], i ? &p[rng_below(&g, i)] : NULL, i ? rng_below(&g, LEN) : 0, 100 + i, NULL);
    }
    for (int op = 0; op < 4000; op++) {
        struct prompt *x = &p[rng_below(&g, PROMPTS)];
        uint32_t n = 1 + rng_below(&g, LEN);
        if (pool_available(&pool) < LEN / S) {
            tree_evict(&tree, LEN / S + rng_below(&g, 4));
        }
        add(x, n);
        assert_true(find(x, LEN).n >= n);
        struct prompt *y = &p[rng_below(&g, PROMPTS)];
        struct tree_match m = find(y, LEN);
        uint32_t pages[LEN / S], k = tree_match_pages(&tree, &m, pages);
        assert_int_equal(k, (m.n + S - 1) / S);
        for (uint32_t i = 0; i < k; i++) {
            assert_true(pool.ref[pages[i]] == 1);
        }
        tree_touch(&tree, m.part ? m.part : m.full, true);
        pool_check(&pool);
    }
    tree_clear(&tree);
    for (uint32_t i = 0; i < PROMPTS; i++) {
        kv_chain_fini(&p[i].chain);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_finding, open_tree, close_tree),
        cmocka_unit_test_setup_teardown(test_collision, open_tree, close_tree),
        cmocka_unit_test_setup_teardown(test_eviction, open_tree, close_tree),
        cmocka_unit_test_setup_teardown(test_frontiers, open_large, close_tree),
        cmocka_unit_test_setup_teardown(test_random, open_tree, close_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
