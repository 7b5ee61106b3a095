/* fuzz_kv_format.c - hostile files of the disk store. The input patches a good file (offset,
 * value pairs), may make all its checksums right again and change its length, and the store
 * restores the conversation from it: nothing but a miss, or exactly the conversation; rows may
 * differ only where the input changed rows and sealed them (fuzz_kv_header.c: bare headers). */
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!good[0].p) {
        setup();
    }
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
