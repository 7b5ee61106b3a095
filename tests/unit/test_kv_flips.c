/* test_kv_flips.c - damaged files of the disk store: every bit of header, table and ids, bits all
 * over the payload and the padding, every truncation, bytes behind the end, and files with
 * changed contents whose checksums were made right again. Each must be a miss, and the rest of
 * the conversation must still be right. Counts are printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"
#include "kv/format.h"
#include "kv_tiny.h"

enum { LEN = 29 }; /* three segments; frontiers at 16 (t = 0) and at 29 (ragged, with rows) */

static struct memfs fs;
static struct tiny w;
static uint32_t ids[LEN];
static int file[5]; /* nodes: segments 0..2, frontier at 16, frontier at 29 */

static int by_name(const struct kv_key *from, const struct kv_key *to, char end)
{
    for (int i = 0; i < fs.n_nodes; i++) {
        struct kv_name n;
        if (fs.node[i].used && kv_name_parse(fs.node[i].name, &n) && kv_key_eq(&n.from, from) &&
            kv_key_eq(&n.to, to) && fs.node[i].name[strlen(fs.node[i].name) - 1] == end) {
            return i;
        }
    }
    return -1;
}

static int setup(void **state)
{
    (void)state;
    struct rng r = {3};
    memfs_init(&fs, 1, &w.wall);
    tiny_init(&w, &fs);
    tiny_ids(&r, ids, 0, LEN);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 16, true, false), KV_WHY_NONE);
    assert_int_equal(tiny_save(&w, NULL, ids, LEN, true, false), KV_WHY_NONE);
    struct kv_chain c;
    struct kv_key end;
    assert_int_equal(kv_chain_init(&c, &w.cfg.identity, NULL, TINY_S, NULL), 0);
    assert_int_equal(kv_chain_key(&c, ids, LEN, &end, NULL), 0);
    for (int k = 0; k < 3; k++) {
        file[k] = by_name(&c.key[k], &c.key[k + 1], 's');
    }
    file[3] = by_name(&c.key[2], &c.key[2], 'f');
    file[4] = by_name(&c.key[3], &end, 'f');
    kv_chain_fini(&c);
    for (int i = 0; i < 5; i++) {
        assert_true(file[i] > 0);
    }
    tiny_close(&w);
    w.cfg.read_only = true; /* damaged files stay where they are */
    return 0;
}
static int teardown(void **state)
{
    (void)state;
    w.cfg.read_only = false;
    memfs_fini(&fs);
    return 0;
}

/* Restores with file `which` as it is now; it must not be used, all else is right. */
static void assert_miss(int which)
{
    assert_true(tiny_open(&w));
    struct tiny_got got = tiny_restore(&w, NULL, ids, LEN);
    assert_false(got.wrong);
    if (which < 3) {
        assert_int_equal(got.n_segments, which);
        assert_int_equal(got.frontier_pos, 0);
    } else {
        assert_int_equal(got.n_segments, 3);
        assert_int_equal(got.frontier_pos, which == 4 ? 0 : 29);
    }
    tiny_close(&w);
}
/* The frontier at 16 is only looked at by a prompt that ends before 29. */
static void assert_miss_16(void)
{
    assert_true(tiny_open(&w));
    struct tiny_got got = tiny_restore(&w, NULL, ids, LEN - 1);
    assert_true(!got.wrong && got.n_segments == 3 && got.frontier_pos == 0);
    tiny_close(&w);
}
static void assert_file_missed(int which)
{
    if (which == 3) {
        assert_miss_16();
    } else {
        assert_miss(which);
    }
}

static void intact(void **state)
{
    (void)state;
    assert_true(tiny_open(&w));
    struct tiny_got got = tiny_restore(&w, NULL, ids, LEN);
    assert_true(!got.wrong && got.n_segments == 3 && got.frontier_pos == 29);
    got = tiny_restore(&w, NULL, ids, LEN - 1);
    assert_true(!got.wrong && got.n_segments == 3 && got.frontier_pos == 16);
    tiny_close(&w);
}

static void flips(void **state)
{
    (void)state;
    static const int which[] = {1, 3, 4};
    unsigned long n = 0, n_seen = 0;
    for (size_t f = 0; f < ARRAY_LEN(which); f++) {
        struct memfs_node *d = &fs.node[file[which[f]]];
        uint64_t dense = 2 * KV_ALIGN; /* header, table, ids and their padding */
        dense = which[f] == 3 ? KV_ALIGN : dense;
        for (uint64_t byte = 0; byte < d->n; byte++) {
            for (int bit = 0; bit < 8; bit++) {
                if ((n_seen++ % TINY_FEWER) != 0) {
                    continue;
                }
                if (byte >= dense && (byte % 64 != byte / 64 % 64 || bit != (int)(byte % 8))) {
                    continue;
                }
                d->data[byte] ^= (unsigned char)(1u << bit);
                assert_file_missed(which[f]);
                d->data[byte] ^= (unsigned char)(1u << bit);
                n++;
            }
        }
    }
    intact(NULL);
    print_message("%lu bit flips, all misses\n", n);
    assert_true(n >= 100000 / TINY_FEWER);
}

static void lengths(void **state)
{
    (void)state;
    unsigned long n = 0;
    for (int f = 0; f < 5; f++) {
        struct memfs_node *d = &fs.node[file[f]];
        size_t full = d->n;
        for (size_t len = 0; len <= full + 3 * KV_ALIGN; len++) {
            bool edge = len % KV_ALIGN <= 1 || len % KV_ALIGN == KV_ALIGN - 1;
            if (len == full || (len > KV_ALIGN && !edge)) {
                continue;
            }
            unsigned char *keep = d->data;
            d->data = NULL;
            d->n = 0;
            assert_int_equal(memfs_resize(&fs, d, len), 0);
            memcpy(d->data, keep, MIN(len, full));
            assert_file_missed(f);
            n++;
            free(d->data);
            d->data = keep;
            d->n = full;
        }
    }
    intact(NULL);
    print_message("%lu wrong lengths, all misses\n", n);
}

/* The header of a file, changed and made consistent again. */
static void seal(struct memfs_node *d)
{
    memset(d->data + 240, 0, 16);
    xxh128(d->data, KV_HEADER_BYTES, d->data + 240);
}
static void seal_section(struct memfs_node *d, uint32_t i)
{
    unsigned char *t = d->data + 256 + 40 * i;
    uint64_t at = load_le64(t + 8), n = align_up(load_le64(t + 16), KV_ALIGN);
    xxh128(d->data + at, (size_t)n, t + 24);
    seal(d);
}

/* Another owner's file, another position, another vocabulary ...: right by itself, wrong here. */
static void sealed_changes(void **state)
{
    (void)state;
    struct rng r = {5};
    static const int which[] = {1, 3, 4};
    unsigned long n = 0;
    for (size_t f = 0; f < ARRAY_LEN(which); f++) {
        struct memfs_node *d = &fs.node[file[which[f]]];
        unsigned char *keep = malloc(d->n);
        assert_non_null(keep);
        memcpy(keep, d->data, d->n);
        for (int i = 0; i < 6000; i++) {
            /* any field but what is informational (created, cost) and the sums */
            uint32_t at = rng_below(&r, 256 + 40 * 4);
            bool sum = (at >= 240 && at < 256) || (at >= 256 && (at - 256) % 40 >= 24);
            if (sum || (at >= 152 && at < 164)) {
                continue;
            }
            unsigned char v = (unsigned char)rng_below(&r, 256);
            if (d->data[at] == v) {
                continue;
            }
            d->data[at] = v;
            seal(d);
            assert_file_missed(which[f]);
            memcpy(d->data, keep, d->n);
            n++;
        }
        for (uint32_t i = 0; which[f] != 3 && i < TINY_S * 4; i++) { /* other ids */
            if (i / 4 >= load_le32(keep + 144)) {
                break;
            }
            d->data[KV_HEADER_BYTES + i] ^= 1;
            seal_section(d, 0);
            assert_file_missed(which[f]);
            memcpy(d->data, keep, d->n);
            n++;
        }
        for (uint32_t i = 0; i < 4; i++) { /* something in the padding */
            const unsigned char *t = keep + 256 + 40 * i;
            uint64_t len = load_le64(t + 16);
            if (load_le16(t) == 0 || len % KV_ALIGN == 0) {
                continue;
            }
            d->data[load_le64(t + 8) + len] = 1;
            seal_section(d, i);
            assert_file_missed(which[f]);
            memcpy(d->data, keep, d->n);
            n++;
        }
        free(keep);
    }
    intact(NULL);
    print_message("%lu changes with right checksums, all misses\n", n);
}

int main(void)
{
    log_set_level(LOG_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {T(intact), T(flips), T(lengths), T(sealed_changes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
