/* fuzz_chat_messages.c - any JSON as an entry of `fathom render`: both releases, with and without
 * the API rules. What renders must be valid UTF-8 covered by segments, with control tokens spelled
 * right. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "chat/jsonl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct chat_prompt *p)
{
    size_t at = 0;
    for (size_t i = 0; i < p->n_seg; i++) {
        const struct chat_seg *s = &p->seg[i];
        assert(s->at == at && s->n > 0 && s->n <= p->text.n - at);
        if (s->kind == CHAT_SEG_CONTROL) {
            const char *text = control_token_text(s->token);
            assert(s->n == strlen(text) && memcmp(p->text.p + at, text, s->n) == 0);
        }
        at += s->n;
    }
    assert(at == p->text.n);
    assert(at == 0 || utf8_valid(p->text.p, at));
}

static void render(const struct json *entry, enum chat_release release, bool api_rules)
{
    struct arena a = {0};
    struct chat_conversation c;
    struct chat_render_opts o = {.release = release};
    struct chat_prompt p = {0};
    fathom_err err = {0};
    chat_init(&c, &a);
    int rc = chat_entry_load(&c, &o, entry, &err);
    o.api_rules = api_rules;
    rc = rc ? rc : chat_render(&p, &c, &o, &err);
    assert((rc != 0) == (err.code != 0));
    if (rc == 0) {
        check(&p);
        assert(!p.in_reasoning || o.thinking);
    }
    chat_prompt_fini(&p);
    arena_fini(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena a = {0};
    struct json entry;
    if (json_read(&entry, &a, (const char *)data, size, NULL) == 0) {
        for (int i = 0; i < 4; i++) {
            render(&entry, i & 1 ? CHAT_0731 : CHAT_PREVIEW, i & 2);
        }
    }
    arena_fini(&a);
    return 0;
}
