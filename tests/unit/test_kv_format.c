/* test_kv_format.c - hashes, keys, names, headers and sizes of the disk store's files: the
 * published vectors, the sizes of V4 Flash, and that no damaged header passes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "kv/format.h"
#include "kv_tiny.h"
#include "model/layout.h"

static void assert_hex(const unsigned char *p, size_t n, const char *want)
{
    char text[2 * 64 + 1];
    hex_encode(p, n, text);
    assert_string_equal(text, want);
}

static void hashes(void **state)
{
    (void)state;
    unsigned char out[32];
    struct hash h, copy;
    assert_true(hash_open(&h, HASH_SHA1));
    hash_add(&h, "ab", 2);
    assert_true(hash_copy(&copy, &h));
    hash_add(&h, "c", 1);
    assert_true(hash_digest(&h, out));
    assert_hex(out, 20, "a9993e364706816aba3e25717850c26c9cd0d89d");
    hash_add(&copy, "c", 1);
    assert_true(hash_digest(&copy, out));
    assert_hex(out, 20, "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_true(hash_digest(&copy, out)); /* a digest does not end the hash */
    assert_hex(out, 20, "a9993e364706816aba3e25717850c26c9cd0d89d");
    hash_close(&h);
    hash_close(&copy);
    assert_true(hash_open(&h, HASH_SHA256));
    hash_add(&h, "abc", 3);
    assert_true(hash_digest(&h, out));
    assert_hex(out, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hash_close(&h);
    xxh128("", 0, out);
    assert_hex(out, 16, "99aa06d3014798d86001c324468d497f");
    assert_true(hex_decode("00ff7a", 3, out));
    assert_hex(out, 3, "00ff7a");
    assert_false(hex_decode("00Ff7a", 3, out));
    assert_false(hex_decode("0g", 1, out));
}

static void key_vectors(void **state)
{
    (void)state;
    static uint32_t ids[4224];
    for (uint32_t i = 0; i < ARRAY_LEN(ids); i++) {
        ids[i] = (7919 * i + 13) % 129280;
    }
    struct kv_id identity;
    for (int i = 0; i < KV_ID_BYTES; i++) {
        identity.b[i] = (unsigned char)i;
    }
    static const struct {
        uint32_t n;
        const char *key;
    } want[] = {{4224, "45fa56e424aabe4bb1381a759b8b6469e1deba8a"},
                {0, "21d5a2e2ebf9b237e34528eb374938f16e267c96"},
                {128, "e524368b6859954faad0bbdbd3d9cfff0deca456"},
                {2048, "5bdf7c325da5dda74ae73c813496d08f05c2cd9e"},
                {4096, "c7649e41d85a71d52e76c4b1dae14a179d2f6177"}};
    struct kv_chain c;
    assert_int_equal(kv_chain_init(&c, &identity, NULL, 2048, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        struct kv_key k;
        assert_int_equal(kv_chain_key(&c, ids, want[i].n, &k, NULL), 0);
        assert_hex(k.b, sizeof k.b, want[i].key);
    }
    assert_int_equal(c.n, 2);
    kv_chain_cut(&c, 4095); /* forgets the second boundary, then finds it again */
    assert_int_equal(c.n, 1);
    assert_int_equal(kv_chain_extend(&c, ids, 4096, NULL), 0);
    assert_hex(c.key[2].b, sizeof c.key[2].b, want[4].key);
    kv_chain_fini(&c);
}

static void salts(void **state)
{
    (void)state;
    struct kv_id a, b, c, zero = {{0}};
    assert_true(kv_salt_make(SLICE(""), SLICE(""), &a));
    assert_memory_equal(&a, &zero, sizeof a);
    assert_true(kv_salt_make(SLICE("key"), SLICE(""), &a));
    assert_true(kv_salt_make(SLICE(""), SLICE("key"), &b));
    assert_true(kv_salt_make(SLICE("ke"), SLICE("y"), &c)); /* lengths are hashed */
    assert_memory_not_equal(&a, &b, sizeof a);
    assert_memory_not_equal(&a, &c, sizeof a);
    assert_memory_not_equal(&b, &c, sizeof a);
    uint32_t id = 5;
    struct kv_chain p, q;
    struct kv_key kp, kq;
    assert_int_equal(kv_chain_init(&p, &zero, NULL, 8, NULL), 0);
    assert_int_equal(kv_chain_init(&q, &zero, &a, 8, NULL), 0);
    assert_int_equal(kv_chain_key(&p, &id, 1, &kp, NULL), 0);
    assert_int_equal(kv_chain_key(&q, &id, 1, &kq, NULL), 0);
    assert_false(kv_key_eq(&kp, &kq));
    assert_memory_not_equal(p.salt_sha, q.salt_sha, sizeof p.salt_sha);
    kv_chain_fini(&p);
    kv_chain_fini(&q);
}

/* Fields are told apart by tag, length and order. */
static void identities(void **state)
{
    (void)state;
    static const struct {
        const char *tag, *value;
    } field[][2] = {{{"a", "xy"}, {"b", "z"}},
                    {{"a", "x"}, {"b", "yz"}},
                    {{"b", "z"}, {"a", "xy"}},
                    {{"ax", "y"}, {"b", "z"}},
                    {{"a", "xy"}, {"c", "z"}}};
    struct kv_id id[ARRAY_LEN(field)];
    for (size_t i = 0; i < ARRAY_LEN(field); i++) {
        struct kv_identity d;
        assert_true(kv_identity_open(&d));
        for (int k = 0; k < 2; k++) {
            kv_identity_add(&d, field[i][k].tag, field[i][k].value, strlen(field[i][k].value));
        }
        assert_true(kv_identity_close(&d, &id[i]));
        for (size_t k = 0; k < i; k++) {
            assert_memory_not_equal(&id[i], &id[k], sizeof id[i]);
        }
    }
}

static void names(void **state)
{
    (void)state;
    struct kv_name n = {.kind = KV_FRONTIER, .tail = 0x7a0}, m;
    for (int i = 0; i < SHA1_BYTES; i++) {
        n.from.b[i] = (unsigned char)(i * 7);
        n.to.b[i] = (unsigned char)(255 - i);
    }
    char text[KV_NAME_MAX];
    kv_name_make(&n, text);
    assert_true(kv_name_parse(text, &m));
    assert_memory_equal(&n, &m, sizeof n);
    assert_string_equal(text + 40, ".07a0.fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0efeeedec.f");
    n.kind = KV_SEGMENT;
    n.tail = 0;
    kv_name_make(&n, text);
    assert_true(kv_name_parse(text, &m));
    assert_memory_equal(&n, &m, sizeof n);
    /* one character changed anywhere: another name of ours, or none */
    for (size_t i = 0; text[i]; i++) {
        char was = text[i];
        text[i] = was == '.' ? 'a' : 'G';
        assert_false(kv_name_parse(text, &m));
        text[i] = was;
    }
    static const char *const bad[] = {"",      ".",     "..",      "LOCK",   ".t.1",
                                      ".t.1.", ".t..1", ".t.1.2x", ".t.x.2", "CACHEDIR.TAG",
                                      "0123.s"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(kv_name_parse(bad[i], &m));
    }
    assert_true(kv_name_parse(".t.12.345", &m));
    assert_int_equal(m.kind, KV_TEMP);
    assert_true(kv_dir_name_valid("0123456789abcdef"));
    assert_false(kv_dir_name_valid("0123456789abcdeF"));
    assert_false(kv_dir_name_valid("0123456789abcdef0"));
}

/* Sizes of V4 Flash (kv-store.md 2.1, 2.2, 3.3), and that the geometry agrees with the engine's
 * layout for every shape. */
static void flash_sizes(void **state)
{
    (void)state;
    static struct layout l;
    static struct kv_geom g;
    static struct kv_header h;
    fathom_err err = {0};
    const struct shape *flash = shape_preset("flash");
    assert_int_equal(layout_make(&l, flash, true, 0, &err), 0);
    assert_int_equal(kv_geom_from_layout(&g, &l, flash->n_vocab, &err), 0);
    assert_int_equal(kv_geom_segment_file_bytes(&g), 7311360);
    assert_int_equal(kv_geom_state_bytes(&g, 4096), 3644416);
    assert_int_equal(kv_geom_state_bytes(&g, 4096 + 127), 14693376);
    kv_header_plan(&h, &g, KV_FRONTIER, 4096, 0);
    assert_int_equal(h.file_bytes, 3780608);
    assert_int_equal(h.file_bytes, kv_geom_frontier_file_bytes(&g, 4096));
    kv_header_plan(&h, &g, KV_SEGMENT, 4096, 2048);
    assert_int_equal(h.file_bytes, 7311360);
    assert_int_equal(h.n_sections, 1 + 21 + 20);
    assert_int_equal(h.section[1].length, 333824);
    assert_int_equal(h.section[2].length, 9344);
    assert_int_equal(h.section[1].rows, 512);
    /* bytes per token at 32K: segments and one frontier */
    double per_token = (16.0 * 7311360 + 3780608) / 32768;
    assert_true(per_token <= 3700);
    static const char *const names[] = {"flash", "pro"};
    for (int i = 0; i < 2; i++) {
        const struct shape *s = shape_preset(names[i]);
        assert_int_equal(layout_make(&l, s, true, 0, &err), 0);
        assert_int_equal(kv_geom_from_layout(&g, &l, s->n_vocab, &err), 0);
        for (uint32_t n = 1; n < 5000; n += 61) {
            assert_int_equal(kv_geom_state_bytes(&g, n), layout_frontier_bytes(&l, n));
            kv_header_plan(&h, &g, KV_FRONTIER, n - n % 2048, n % 2048);
            assert_int_equal(h.file_bytes, kv_geom_frontier_file_bytes(&g, n));
            assert_int_equal(h.flags, n % 128 ? KV_FLAG_RAGGED : 0);
        }
        uint64_t rows = 0;
        for (uint32_t il = 0; il < g.n_layer; il++) {
            rows += kv_geom_row_bytes(&g, il, 2048);
        }
        assert_int_equal(rows, layout_row_bytes(&l, 2048));
        assert_int_equal(rows, l.page_bytes);
    }
    assert_int_equal(layout_make(&l, flash, false, 0, &err), 0);
    assert_int_equal(kv_geom_from_layout(&g, &l, flash->n_vocab, &err), FATHOM_EUNSUPPORTED);
}

static void make_header(struct kv_header *h, const struct kv_geom *g, bool frontier)
{
    kv_header_plan(h, g, frontier ? KV_FRONTIER : KV_SEGMENT, 16, frontier ? 5 : TINY_S);
    for (int i = 0; i < KV_ID_BYTES; i++) {
        h->identity.b[i] = (unsigned char)i;
        h->salt_sha[i] = (unsigned char)(3 * i);
    }
    memset(&h->from, 0x11, sizeof h->from);
    memset(&h->to, 0x22, sizeof h->to);
    h->created = 1700000000;
    h->cost_ms = 77;
    for (uint32_t i = 0; i < h->n_sections; i++) {
        memset(h->section[i].sum, (int)(i + 1), XXH128_BYTES);
    }
}

/* Any changed bit of a header is noticed; and with a right checksum (as a hostile writer would
 * make it) nothing but what was planned is accepted. */
static void header_flips(void **state)
{
    (void)state;
    static struct kv_header h, back, plan;
    static unsigned char b[KV_HEADER_BYTES];
    struct kv_geom g;
    tiny_geom(&g);
    unsigned long n = 0, n_hostile = 0;
    for (int frontier = 0; frontier < 2; frontier++) {
        make_header(&h, &g, frontier);
        kv_header_write(&h, b);
        assert_int_equal(kv_header_parse(&back, b, h.file_bytes, NULL), KV_CHECK_OK);
        assert_memory_equal(&h, &back, sizeof h);
        plan = h;
        assert_int_equal(kv_header_is(&back, &plan, NULL), KV_CHECK_OK);
        for (uint32_t bit = 0; bit < KV_HEADER_BYTES * 8; bit++) {
            b[bit / 8] ^= (unsigned char)(1u << bit % 8);
            assert_int_not_equal(kv_header_parse(&back, b, h.file_bytes, NULL), KV_CHECK_OK);
            n++;
            unsigned char good[KV_HEADER_BYTES];
            memcpy(good, b, sizeof good);
            memset(good + 240, 0, 16);
            xxh128(good, sizeof good, good + 240);
            enum kv_check c = kv_header_parse(&back, good, h.file_bytes, NULL);
            bool sums = bit >= 256 * 8 && bit < (256 + h.n_sections * 40) * 8 &&
                        (bit / 8 - 256) % 40 >= 24;
            bool informational = bit >= 152 * 8 && bit < 164 * 8;
            bool accepted = c == KV_CHECK_OK && kv_header_is(&back, &plan, NULL) == KV_CHECK_OK;
            bool own_sum = bit >= 240 * 8 && bit < 256 * 8;
            assert_true(accepted == (sums || informational || own_sum));
            n_hostile++;
            b[bit / 8] ^= (unsigned char)(1u << bit % 8);
        }
        for (uint64_t bytes = 0; bytes <= h.file_bytes + 8192; bytes += 512) {
            assert_true((kv_header_parse(&back, b, bytes, NULL) == KV_CHECK_OK) ==
                        (bytes == h.file_bytes));
        }
    }
    print_message("%lu header flips, %lu with a right checksum\n", n, n_hostile);
}

/* Ids beyond the vocabulary, and bytes in the padding, are refused whatever the sum says. */
static void sections(void **state)
{
    (void)state;
    static struct kv_header h;
    static unsigned char p[KV_ALIGN];
    struct kv_geom g;
    tiny_geom(&g);
    make_header(&h, &g, false);
    struct kv_section *s = &h.section[0];
    store_le32(p + 4, TINY_VOCAB - 1);
    xxh128(p, sizeof p, s->sum);
    assert_true(kv_section_good(&h, s, p));
    store_le32(p + 4, TINY_VOCAB);
    assert_false(kv_section_good(&h, s, p));
    xxh128(p, sizeof p, s->sum);
    assert_false(kv_section_good(&h, s, p));
    store_le32(p + 4, 0);
    p[KV_ALIGN - 1] = 1;
    xxh128(p, sizeof p, s->sum);
    assert_false(kv_section_good(&h, s, p));
}

struct walk {
    uint64_t page_at[8], section_at[8], n[8];
    int count;
};
static void note_walk(void *user, uint64_t page_at, uint64_t section_at, uint64_t n)
{
    struct walk *w = user;
    w->page_at[w->count] = page_at;
    w->section_at[w->count] = section_at;
    w->n[w->count++] = n;
}

static void walks(void **state)
{
    (void)state;
    struct kv_geom g;
    tiny_geom(&g);
    struct walk w = {0};
    /* codes and scales are adjacent, a hole, index codes and scales are adjacent */
    assert_int_equal(kv_rows_walk(&g, 1, TINY_S, 100, note_walk, &w), 160);
    assert_int_equal(w.count, 2);
    assert_true(w.page_at[0] == 0 && w.section_at[0] == 100 && w.n[0] == 40);
    assert_true(w.page_at[1] == 64 && w.section_at[1] == 140 && w.n[1] == 20);
    w.count = 0; /* one row of two: the planes no longer touch */
    assert_int_equal(kv_rows_walk(&g, 1, 7, 0, note_walk, &w), 30);
    assert_int_equal(w.count, 4);
    w.count = 0;
    assert_int_equal(kv_rows_walk(&g, 1, 3, 0, note_walk, &w), 0);
    assert_int_equal(kv_rows_walk(&g, 0, 8, 0, note_walk, &w), 0);
    assert_int_equal(w.count, 0);
}

static void bad_geometry(void **state)
{
    (void)state;
    struct kv_geom g, good;
    tiny_geom(&good);
    fathom_err err = {0};
    assert_int_equal(kv_geom_check(&good, &err), 0);
#define REFUSED(change)                                                 \
    do {                                                                \
        g = good;                                                       \
        change;                                                         \
        assert_int_equal(kv_geom_check(&g, NULL), FATHOM_EUNSUPPORTED); \
    } while (0)
    REFUSED(g.page_tokens = 12);
    REFUSED(g.page_tokens = 4);
    REFUSED(g.page_tokens = 32768);
    REFUSED(g.align = 3);
    REFUSED(g.n_layer = 0);
    REFUSED(g.n_layer = 95);
    REFUSED(g.layer[1].ratio = 3);
    REFUSED(g.layer[1].plane[3].at = 126);
    REFUSED(g.layer[2].plane[0].row_bytes = 0);
    REFUSED(g.layer[0].window_row_bytes = 0);
    REFUSED(g.layer[0].window_row_bytes = 32 << 20);
    REFUSED(g.n_vocab = 0);
#undef REFUSED
}

/* The worked example of docs/kv-format.md: a segment of V4 Flash, tokens [2048, 4096) of the
 * vectors' ids, all rows zero. Its header stands there byte by byte. */
static void documented_example(void **state)
{
    (void)state;
    static struct layout l;
    static struct kv_geom g;
    static struct kv_header h;
    static uint32_t ids[4096];
    static unsigned char section[352256], b[KV_HEADER_BYTES];
    const struct shape *flash = shape_preset("flash");
    assert_int_equal(layout_make(&l, flash, true, 0, NULL), 0);
    assert_int_equal(kv_geom_from_layout(&g, &l, flash->n_vocab, NULL), 0);
    for (uint32_t i = 0; i < ARRAY_LEN(ids); i++) {
        ids[i] = (7919 * i + 13) % 129280;
    }
    kv_header_plan(&h, &g, KV_SEGMENT, 2048, 2048);
    for (int i = 0; i < KV_ID_BYTES; i++) {
        h.identity.b[i] = (unsigned char)i;
    }
    struct kv_chain c;
    assert_int_equal(kv_chain_init(&c, &h.identity, NULL, 2048, NULL), 0);
    assert_int_equal(kv_chain_extend(&c, ids, 4096, NULL), 0);
    h.from = c.key[1];
    h.to = c.key[2];
    kv_chain_fini(&c);
    h.created = 1767225600;
    h.cost_ms = 256;
    for (uint32_t i = 0; i < h.n_sections; i++) {
        memset(section, 0, sizeof section);
        for (uint32_t k = 0; i == 0 && k < 2048; k++) {
            store_le32(section + (size_t)k * 4, ids[2048 + k]);
        }
        xxh128(section, (size_t)align_up(h.section[i].length, KV_ALIGN), h.section[i].sum);
    }
    kv_header_write(&h, b);
    struct buf doc = {0};
    assert_int_equal(file_read_all(&doc, FATHOM_SOURCE_DIR "/docs/kv-format.md", 1 << 20, NULL),
                     0);
    bool all = true;
    for (uint32_t at = 0; at < 256 + 4 * 40; at += 16) {
        char hex[33], line[128];
        hex_encode(b + at, 16, hex);
        int n = snprintf(line, sizeof line, "%04x ", at);
        for (int i = 0; i < 32; i += 8) {
            n += snprintf(line + n, sizeof line - (size_t)n, " %.8s", hex + i);
        }
        if (!strstr(buf_cstr(&doc), line)) {
            print_error("%s\n", line);
            all = false;
        }
    }
    buf_free(&doc);
    assert_true(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hashes),
        cmocka_unit_test(key_vectors),
        cmocka_unit_test(salts),
        cmocka_unit_test(identities),
        cmocka_unit_test(names),
        cmocka_unit_test(flash_sizes),
        cmocka_unit_test(header_flips),
        cmocka_unit_test(walks),
        cmocka_unit_test(sections),
        cmocka_unit_test(bad_geometry),
        cmocka_unit_test(documented_example),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
