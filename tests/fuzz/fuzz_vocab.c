/* fuzz_vocab.c - reads any bytes as a tokenizer.json. What is refused must leave a message and
 * no object; what is accepted must have the order of ids that the encoder relies on, and must
 * encode.
 * links: text */
#include <assert.h>

#include "text/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct tokenizer *t)
{
    static const char text[] =
        "<think>All 256 bytes exist, so any text can be encoded.</think>";
    uint32_t n_base = 259 + tokenizer_n_merges(t);
    assert(n_base <= tokenizer_n_vocab(t));
    for (uint32_t id = 0; id < tokenizer_n_vocab(t); id++) {
        assert(tokenizer_bytes(t, id).n > 0);
        assert(tokenizer_is_control(t, id) == (id < 3 || id >= n_base));
    }
    for (int trusted = 0; trusted < 2; trusted++) {
        struct ids ids = {0};
        struct buf bytes = {0};
        tokenizer_encode(t, text, sizeof text - 1, trusted != 0, &ids);
        for (size_t i = 0; i < ids.n; i++) {
            buf_add_slice(&bytes, tokenizer_bytes(t, ids.p[i]));
        }
        assert(!ids.failed && slice_is(buf_slice(&bytes), text));
        ids_free(&ids);
        buf_free(&bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *t = NULL;
    fathom_err err = {0};
    int rc = tokenizer_from_json_mem(&t, (const char *)data, size, "fuzz", &err);
    assert(rc == 0 ? t != NULL : t == NULL && err.msg[0] != 0);
    if (t) {
        check(t);
    }
    tokenizer_free(t);
    return 0;
}
