/* fuzz_kv_format.c - hostile files of the disk store. The input patches a good file (offset,
 * value pairs), may make all its checksums right again and change its length, and the store
 * restores the conversation from it: nothing but a miss, or exactly the conversation; rows may
 * differ only where the input changed rows and sealed them. The input is also read as a bare
 * header, with and without a right checksum, and as a file name. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"
#include "kv/format.h"
#include "kv_tiny.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LEN = 29, FILES = 4, SEAL_SECTIONS = 1, SEAL_HEADER = 2 };

static struct memfs fs;
static struct tiny w;
static uint32_t ids[LEN];
static struct good {
    int node;
    unsigned char *p;
    size_t n;
} good[FILES]; /* three segments and a ragged frontier */

static void setup(void)
{
    struct rng r = {3};
    log_set_level(LOG_ERROR);
    memfs_init(&fs, 1, &w.wall);
    tiny_init(&w, &fs);
    tiny_ids(&r, ids, 0, LEN);
    if (!tiny_open(&w) || tiny_save(&w, NULL, ids, LEN, true, false) != KV_WHY_NONE) {
        abort();
    }
    tiny_close(&w);
    w.cfg.read_only = true;
    int n = 0;
    for (int i = 0; i < fs.n_nodes && n < FILES; i++) {
        struct kv_name name;
        if (fs.node[i].used && kv_name_parse(fs.node[i].name, &name)) {
            good[n].node = i;
            good[n].n = fs.node[i].n;
            good[n].p = malloc(good[n].n);
            if (!good[n].p) {
                abort();
            }
            memcpy(good[n].p, fs.node[i].data, good[n].n);
            n++;
        }
    }
    if (n != FILES) {
        abort();
    }
}

static void seal_header(unsigned char *p)
{
    memset(p + 240, 0, 16);
    xxh128(p, KV_HEADER_BYTES, p + 240);
}

/* Right sums for what the (possibly hostile) table says, where it lies inside the file. */
static void seal(struct memfs_node *d, unsigned how)
{
    if (d->n < KV_HEADER_BYTES) {
        return;
    }
    uint32_t n = load_le32(d->data + 24);
    for (uint32_t i = 0; (how & SEAL_SECTIONS) && i < n && i < KV_MAX_SECTIONS; i++) {
        unsigned char *t = d->data + 256 + 40 * i;
        uint64_t at = load_le64(t + 8), len = load_le64(t + 16);
        if (at <= d->n && len <= d->n - at && align_up(len, KV_ALIGN) <= d->n - at) {
            xxh128(d->data + at, (size_t)align_up(len, KV_ALIGN), t + 24);
        }
    }
    if (how & SEAL_HEADER) {
        seal_header(d->data);
    }
}

/* What a parsed header promises must hold. */
static void check_header(const unsigned char *b, uint64_t bytes)
{
    static struct kv_header h, plan;
    const char *why = NULL;
    if (kv_header_parse(&h, b, bytes, &why) != KV_CHECK_OK) {
        assert(why);
        return;
    }
    assert(h.file_bytes == bytes && bytes <= KV_MAX_FILE && h.n_sections <= KV_MAX_SECTIONS);
    uint64_t at = KV_HEADER_BYTES;
    for (uint32_t i = 0; i < h.n_sections; i++) {
        assert(h.section[i].offset == at && h.section[i].layer < KV_MAX_LAYERS);
        at += align_up(h.section[i].length, KV_ALIGN);
        assert(at <= bytes);
    }
    assert(at == bytes);
    unsigned char again[KV_HEADER_BYTES];
    kv_header_write(&h, again);
    assert(memcmp(again, b, sizeof again) == 0);
    kv_header_plan(&plan, &w.g, h.kind, h.first, h.count % (TINY_S + 1));
    kv_header_is(&h, &plan, NULL);
}

static void bare_header(const uint8_t *data, size_t size)
{
    unsigned char b[KV_HEADER_BYTES] = {0};
    memcpy(b, data, MIN(size, sizeof b));
    check_header(b, load_le64(b + 16));
    seal_header(b);
    check_header(b, load_le64(b + 16));
    char text[128];
    size_t n = MIN(size, sizeof text - 1);
    memcpy(text, data, n);
    text[n] = 0;
    struct kv_name name;
    char again[KV_NAME_MAX];
    if (kv_name_parse(text, &name) && name.kind != KV_TEMP) {
        kv_name_make(&name, again);
        assert(strcmp(again, text) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!good[0].p) {
        setup();
    }
    bare_header(data, size);
    if (size < 4) {
        return 0;
    }
    const struct good *g = &good[data[0] % FILES];
    struct memfs_node *d = &fs.node[g->node];
    size_t n = data[2] == 0 ? g->n : (size_t)data[2] * 256 + data[3]; /* another length */
    if (memfs_resize(&fs, d, n) != 0) {
        return 0;
    }
    memcpy(d->data, g->p, MIN(n, g->n));
    bool rows_changed = false;
    for (size_t i = 4; i + 2 < size; i += 3) {
        size_t at = (size_t)data[i] << 8 | data[i + 1];
        if (at < n) {
            d->data[at] = data[i + 2];
            rows_changed = rows_changed || at >= (size_t)2 * KV_ALIGN;
        }
    }
    seal(d, data[1]);
    if (n >= KV_HEADER_BYTES) {
        check_header(d->data, n);
    }
    if (!tiny_open(&w)) {
        abort();
    }
    struct tiny_got got = tiny_restore(&w, NULL, ids, LEN);
    assert(got.n_segments <= 3 && (got.frontier_pos == 0 || got.frontier_pos == LEN));
    assert(!got.wrong || (rows_changed && (data[1] & SEAL_SECTIONS)));
    tiny_close(&w);
    memfs_resize(&fs, d, g->n);
    memcpy(d->data, g->p, g->n);
    return 0;
}
