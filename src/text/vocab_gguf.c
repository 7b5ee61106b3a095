/* vocab_gguf.c - vocabulary from the tokenizer.ggml.* keys of a GGUF file.
 * A file without any of them is legal (ids in, logits out) and gives FATHOM_ENOENT, so that the
 * caller can tell it from a damaged one. The splitter is known by its name only, so an unknown
 * name is refused. The bos and eos numbers of the file are not used: control tokens are looked
 * up by text, and a file that contradicts its own texts is worth a warning. gguf.h has checked
 * that strings and arrays lie inside the file; vocab_build checks the rest.
 * Read next: vocab.c. */
#include "text/vocab.h"

#include "base/log.h"
#include "base/mem.h"
#include "gguf/gguf.h"

#define KEY(name) "tokenizer.ggml." name

struct keys {
    const struct gguf_kv *tokens, *merges, *types;
};

static bool is_string_array(const struct gguf_kv *kv)
{
    return kv && kv->type == GGUF_ARRAY && kv->elem == GGUF_STRING;
}

/* The value of a string key must be `want`. */
static int check_name(const struct gguf *g, const char *key, const char *want, fathom_err *err)
{
    struct slice s;
    if (!gguf_str(gguf_find(g, key), &s)) {
        return err_set(err, FATHOM_EFORMAT, "%s: key %s is missing or not a string",
                       gguf_label(g), key);
    }
    if (!slice_is(s, want)) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: %s is \"%.*s\"; this program implements only \"%s\"", gguf_label(g),
                       key, (int)MIN(s.n, (size_t)64), s.p, want);
    }
    return 0;
}

static int find_keys(struct keys *k, const struct gguf *g, fathom_err *err)
{
    *k = (struct keys){gguf_find(g, KEY("tokens")), gguf_find(g, KEY("merges")),
                       gguf_find(g, KEY("token_type"))};
    if (!k->tokens && !k->merges && !gguf_find(g, KEY("model")) && !gguf_find(g, KEY("pre"))) {
        return err_set(err, FATHOM_ENOENT, "%s: has no tokenizer (no tokenizer.ggml.* keys)",
                       gguf_label(g));
    }
    int rc = check_name(g, KEY("model"), "gpt2", err);
    if (rc != 0 || (rc = check_name(g, KEY("pre"), "joyai-llm", err)) != 0) {
        return rc;
    }
    if (!is_string_array(k->tokens) || !is_string_array(k->merges)) {
        return err_set(err, FATHOM_EFORMAT, "%s: key %s is missing or not an array of strings",
                       gguf_label(g),
                       is_string_array(k->tokens) ? KEY("merges") : KEY("tokens"));
    }
    if (k->tokens->n > VOCAB_MAX || k->merges->n > VOCAB_MAX) {
        return err_set(err, FATHOM_EFORMAT, "%s: %s or %s has more than %d entries",
                       gguf_label(g), KEY("tokens"), KEY("merges"), VOCAB_MAX);
    }
    if (k->types && (k->types->type != GGUF_ARRAY || k->types->n != k->tokens->n)) {
        return err_set(err, FATHOM_EFORMAT, "%s: %s is not an array as long as %s",
                       gguf_label(g), KEY("token_type"), KEY("tokens"));
    }
    return 0;
}

static int read_tokens(const struct gguf *g, const struct keys *k, struct slice *text,
                       uint8_t *type, fathom_err *err)
{
    size_t cursor = 0;
    for (uint64_t i = 0; i < k->tokens->n; i++) {
        if (!gguf_str_next(k->tokens, &cursor, &text[i])) {
            return err_set(err, FATHOM_EFORMAT, "%s: %s ends at entry %llu", gguf_label(g),
                           KEY("tokens"), (unsigned long long)i);
        }
        uint64_t v = 0;
        if (k->types && (!gguf_u64_at(k->types, i, &v) || v > UINT8_MAX)) {
            return err_set(err, FATHOM_EFORMAT, "%s: %s: entry %llu is not a token type",
                           gguf_label(g), KEY("token_type"), (unsigned long long)i);
        }
        bool normal = i >= N_FIRST_CONTROL && i < FIRST_MERGE_ID + k->merges->n;
        type[i] = k->types ? (uint8_t)v
                  : normal ? (uint8_t)TOKEN_NORMAL
                           : vocab_added_type(text[i], false);
    }
    return 0;
}

static int read_merges(const struct gguf *g, const struct keys *k, struct vocab_merge_src *out,
                       fathom_err *err)
{
    size_t cursor = 0;
    for (uint64_t r = 0; r < k->merges->n; r++) {
        struct slice s;
        const char *space = NULL;
        if (gguf_str_next(k->merges, &cursor, &s) && s.n > 0) {
            space = memchr(s.p, ' ', s.n);
        }
        if (!space) {
            return err_set(err, FATHOM_EFORMAT, "%s: %s: entry %llu is not \"left right\"",
                           gguf_label(g), KEY("merges"), (unsigned long long)r);
        }
        out[r].left = (struct slice){s.p, (size_t)(space - s.p)};
        out[r].right = (struct slice){space + 1, s.n - out[r].left.n - 1};
    }
    return 0;
}

static void compare_id(const struct gguf *g, const char *key, int32_t found)
{
    uint64_t v;
    if (gguf_u64(gguf_find(g, key), &v) && v != (uint64_t)found) {
        log_warn("%s: %s is %llu, but the control string has id %d; using %d", gguf_label(g),
                 key, (unsigned long long)v, (int)found, (int)found);
    }
}

int tokenizer_from_gguf(struct tokenizer **out, const struct gguf *g, fathom_err *err)
{
    struct keys k;
    *out = NULL;
    int rc = find_keys(&k, g, err);
    if (rc != 0) {
        return rc;
    }
    size_t n = (size_t)k.tokens->n, n_merges = (size_t)k.merges->n;
    struct slice *text = mem_alloc(n, sizeof *text);
    uint8_t *type = mem_alloc(n, 1);
    struct vocab_merge_src *merges = mem_alloc(n_merges, sizeof *merges);
    if (!text || !type || !merges) {
        rc = err_nomem(err, "vocabulary", n * sizeof *text + n_merges * sizeof *merges);
    }
    if (rc == 0 && (rc = read_tokens(g, &k, text, type, err)) == 0 &&
        (rc = read_merges(g, &k, merges, err)) == 0) {
        struct vocab_src src = {.label = gguf_label(g), .text = text, .type = type};
        src.merges = merges;
        src.n_vocab = (uint32_t)n;
        src.n_merges = (uint32_t)n_merges;
        rc = vocab_build(out, &src, err);
    }
    mem_free(text);
    mem_free(type);
    mem_free(merges);
    if (rc == 0) {
        compare_id(g, KEY("bos_token_id"), tokenizer_control(*out, CT_BOS));
        compare_id(g, KEY("eos_token_id"), tokenizer_control(*out, CT_EOS));
    }
    return rc;
}
