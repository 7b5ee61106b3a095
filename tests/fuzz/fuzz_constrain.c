/* fuzz_constrain.c - any bytes as a schema or as tools, then as choices: the first byte says
 * what is compiled and how, the bytes up to a NUL are the JSON, the rest choose tokens among
 * those that the masks allow. Masks are never empty, every token that a mask allows is taken,
 * and an answer that ends after JSON content is one JSON value.
 * links: constrain */
#include <assert.h>
#include <stdlib.h>

#include "constrain/constrain.h"
#include "text/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *tok; /* kept for all inputs */
static struct token_trie *trie;
static uint32_t *mask;

static void open_once(void)
{
    fathom_err err = {0};
    if (!tok) {
        if (tokenizer_from_json(&tok, "models/mini/tokenizer.json", &err) != 0 ||
            trie_new(&trie, tok, &err) != 0) {
            abort();
        }
        mask = malloc(trie->n_words * sizeof *mask);
    }
}

static bool allowed(uint32_t id)
{
    return mask[id / 32] >> id % 32 & 1u;
}

/* The first allowed token from a number on. */
static uint32_t choose(uint32_t from)
{
    for (uint32_t i = 0; i < trie->n_vocab; i++) {
        uint32_t id = (from + i) % trie->n_vocab;
        if (allowed(id)) {
            return id;
        }
    }
    assert(!"an empty mask");
    abort();
}

static void walk(struct machine *m, const uint8_t *data, size_t size, bool json)
{
    struct position p;
    struct buf text = {0};
    machine_start(m, &p);
    for (size_t i = 0; i < size && i < 256 && !p.ended; i++) {
        machine_mask(m, &p, mask);
        uint32_t id = choose(data[i] & 1 ? 3 + data[i] : data[i] * 131u);
        bool ok = machine_token(m, &p, id);
        assert(ok);
        (void)ok;
        if (id != trie->eos) {
            buf_add_slice(&text, tokenizer_bytes(tok, id));
        }
    }
    if (p.ended && json) {
        struct arena a = {0};
        struct json v;
        fathom_err err = {0};
        int rc = json_read(&v, &a, text.n ? text.p : "", text.n, &err);
        assert(rc == 0);
        (void)rc;
        arena_fini(&a);
    }
    machine_stop(m, &p);
    buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena a = {0};
    struct json v;
    struct machine *m = NULL;
    fathom_err err = {0};
    open_once();
    if (size < 2) {
        return 0;
    }
    const uint8_t *end = memchr(data + 1, 0, size - 1);
    size_t n = end ? (size_t)(end - data) - 1 : size - 1;
    if (json_read(&v, &a, (const char *)data + 1, n, NULL) == 0) {
        bool tools = data[0] & 1 && v.type == JSON_ARRAY;
        struct constrain_spec spec = {.strict = data[0] & 2, .one_call = data[0] & 4};
        if (tools) {
            spec.tools = &v;
            spec.calls = data[0] & 8 ? CONSTRAIN_CALLS_MUST : CONSTRAIN_CALLS_MAY;
        } else {
            spec.schema = &v;
        }
        int rc = constrain_compile(&m, &spec, trie, &err);
        assert((rc == 0) == (m != NULL) && (rc == 0) == (err.code == 0));
        if (rc == 0 && end) {
            walk(m, end + 1, size - n - 2, !tools);
        }
        machine_unref(m);
    }
    arena_fini(&a);
    return 0;
}
