/* fuzz_tokenizer.c - encodes any bytes as trusted and as plain text with the mini vocabulary:
 * the bytes of the ids must be the text with invalid bytes repaired, plain text must give no
 * control id, and the streaming decoder, fed one id at a time, must give the text back. */
#include <assert.h>
#include <stdlib.h>

#include "text/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct tokenizer *mini(void)
{
    static struct tokenizer *t; /* kept for all inputs */
    fathom_err err = {0};
    if (!t && tokenizer_from_json(&t, "models/mini/tokenizer.json", &err) != 0) {
        abort();
    }
    return t;
}

static void check(const struct tokenizer *t, struct slice input, struct slice text,
                  bool trusted)
{
    struct ids ids = {0};
    struct buf bytes = {0}, streamed = {0};
    struct detok d = {0};
    tokenizer_encode(t, input.p, input.n, trusted, &ids);
    assert(!ids.failed);
    for (size_t i = 0; i < ids.n; i++) {
        struct slice s = tokenizer_bytes(t, ids.p[i]);
        assert(s.n > 0 && (trusted || !tokenizer_is_control(t, ids.p[i])));
        buf_add_slice(&bytes, s);
        detok_feed(&d, s.p, s.n, &streamed);
    }
    detok_flush(&d, &streamed);
    assert(slice_eq(buf_slice(&bytes), text));
    assert(slice_eq(buf_slice(&streamed), text));
    ids_free(&ids);
    buf_free(&bytes);
    buf_free(&streamed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct tokenizer *t = mini();
    struct slice input = {(const char *)data, size};
    struct buf text = {0};
    buf_add_utf8_lossy(&text, input.p, input.n);
    check(t, input, buf_slice(&text), true);
    check(t, input, buf_slice(&text), false);
    buf_free(&text);
    return 0;
}
