/* fuzz_chat_events.c - a completion fed whole and fed in pieces must give the same message, strict
 * and lenient; no control token may be left in its text; what strict parsing accepts, lenient
 * parsing gives the same content for. The first byte chooses mode and seed of the cuts. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/rng.h"
#include "chat/events.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(struct chat_result *r, bool thinking, bool strict, const char *s, size_t n,
                  struct rng *cuts)
{
    struct chat_events e;
    struct chat_events_opts o = {thinking, strict, chat_result_sink, r};
    *r = (struct chat_result){0};
    chat_events_start(&e, &o, NULL);
    for (size_t at = 0, len; at < n; at += len) {
        len = cuts ? 1 + rng_below(cuts, 7) : n;
        len = len < n - at ? len : n - at;
        chat_events_text(&e, s + at, len);
    }
    int rc = chat_events_finish(&e, NULL);
    assert(rc == 0 && !r->failed);
    (void)rc;
}

static void check_same(const struct chat_result *a, const struct chat_result *b)
{
    assert(slice_eq(buf_slice(&a->reasoning), buf_slice(&b->reasoning)));
    assert(slice_eq(buf_slice(&a->content), buf_slice(&b->content)));
    assert(a->end == b->end && a->why == b->why && a->n_call == b->n_call);
    for (size_t i = 0; i < a->n_call; i++) {
        assert(slice_eq(buf_slice(&a->call[i].name), buf_slice(&b->call[i].name)));
        assert(slice_eq(buf_slice(&a->call[i].arguments), buf_slice(&b->call[i].arguments)));
    }
}

static void check_text(const struct buf *b)
{
    static const enum control_token markers[] = {CT_BOS, CT_EOS, CT_THINK_OPEN, CT_THINK_CLOSE,
                                                 CT_DSML};
    assert(b->n == 0 || utf8_valid(b->p, b->n));
    for (size_t i = 0; b->n && i < sizeof markers / sizeof markers[0]; i++) {
        const char *text = control_token_text(markers[i]);
        for (size_t k = 0; k + strlen(text) <= b->n; k++) {
            assert(b->p[k] != text[0] || memcmp(b->p + k, text, strlen(text)) != 0);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    bool thinking = data[0] & 1;
    const char *s = (const char *)data + 1;
    struct chat_result whole[2];
    for (int strict = 0; strict < 2; strict++) {
        struct rng cuts = {data[0]};
        struct chat_result pieces;
        parse(&whole[strict], thinking, strict != 0, s, size - 1, NULL);
        parse(&pieces, thinking, strict != 0, s, size - 1, &cuts);
        check_same(&whole[strict], &pieces);
        if (whole[strict].end == CHAT_END_STOP) {
            check_text(&whole[strict].content);
            check_text(&whole[strict].reasoning);
        }
        chat_result_fini(&pieces);
    }
    if (whole[1].end == CHAT_END_STOP) {
        assert(slice_eq(buf_slice(&whole[0].content), buf_slice(&whole[1].content)));
        assert(slice_eq(buf_slice(&whole[0].reasoning), buf_slice(&whole[1].reasoning)));
    }
    chat_result_fini(&whole[0]);
    chat_result_fini(&whole[1]);
    return 0;
}
