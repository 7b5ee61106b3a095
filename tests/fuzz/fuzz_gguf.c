/* fuzz_gguf.c - arbitrary bytes as a GGUF file. Whatever opens is walked completely: every key,
 * array element and string, the first and last byte of every tensor, lookups by name, and the
 * first row decoded where the type can be. Whatever does not open must say why.
 * Seeds: tests/fuzz/corpus/gguf, written by tools/gen_gguf_seeds.py. */
#include <stdint.h>
#include <stdlib.h>

#include "gguf/gguf.h"
#include "quant/formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
    if (!ok) {
        abort();
    }
}

static unsigned walk_key(const struct gguf *g, const struct gguf_kv *kv)
{
    uint64_t u;
    double d;
    bool flag;
    struct slice s;
    size_t at = 0;
    uint64_t n_strings = 0;
    unsigned sum = (unsigned)gguf_u64(kv, &u) + gguf_f64(kv, &d) + gguf_bool(kv, &flag);
    require(gguf_str(kv, &s) == (kv->type == GGUF_STRING));
    for (uint64_t i = 0; kv->type == GGUF_ARRAY && i < kv->n; i++) {
        sum += (unsigned)gguf_u64_at(kv, i, &u) + gguf_f64_at(kv, i, &d);
    }
    require(!gguf_u64_at(kv, kv->n, &u));
    while (gguf_str_next(kv, &at, &s)) {
        sum += s.n > 0 ? (unsigned char)s.p[0] + (unsigned char)s.p[s.n - 1] : 0;
        n_strings++;
    }
    require(n_strings == (kv->type == GGUF_ARRAY && kv->elem == GGUF_STRING ? kv->n : 0));
    if (kv->bytes > 0) {
        sum += kv->p[0] + kv->p[kv->bytes - 1];
    }
    char name[256];
    if (kv->key.n < sizeof name && !memchr(kv->key.p, 0, kv->key.n)) {
        memcpy(name, kv->key.p, kv->key.n);
        name[kv->key.n] = 0;
        require(gguf_find(g, name) == kv);
    }
    return sum;
}

static unsigned walk_tensor(const struct gguf *g, const struct gguf_tensor *t)
{
    static float row[4096];
    const struct qformat *f = qformat(t->type);
    unsigned sum = t->data[0] + t->data[t->bytes - 1];
    require(f->cls != QC_NONE && t->rank >= 1 && t->rank <= 4 && t->part == 0);
    require(t->row_bytes == qformat_row_bytes(t->type, t->ne[0]));
    require(t->offset + t->bytes <= gguf_file_bytes(g));
    if ((f->cls == QC_FLOAT || f->cls == QC_BLOCK) && t->ne[0] <= 4096) {
        quant_decode(t->type, t->data, 0, (size_t)t->ne[0], row);
        bool finite = quant_row_finite(t->type, t->data, (size_t)t->ne[0]);
        for (uint64_t i = 0; i < t->ne[0]; i++) {
            require(!finite || row[i] - row[i] == 0.0f);
        }
    }
    char name[256];
    if (t->name.n < sizeof name && !memchr(t->name.p, 0, t->name.n)) {
        memcpy(name, t->name.p, t->name.n);
        name[t->name.n] = 0;
        require(gguf_find_tensor(g, name) == t);
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static volatile unsigned sink; /* keeps the reads */
    (void)sink;
    struct gguf *g;
    fathom_err err = {0};
    int rc = gguf_open_mem(&g, data, size, "fuzz", &err);
    require((rc == 0) == (g != NULL) && err.code == rc && (rc == 0) == (err.msg[0] == 0));
    if (rc != 0) {
        return 0;
    }
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        sink += walk_key(g, gguf_kv_at(g, i));
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        sink += walk_tensor(g, gguf_tensor_at(g, i));
    }
    gguf_close(g);
    return 0;
}
