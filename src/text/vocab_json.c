/* vocab_json.c - vocabulary from a tokenizer.json (or .xz of one) as the release ships it.
 * The file is outside input, and it can describe many tokenizers that this folder is not: every
 * field that would change the ids is compared with the one value that bpe.c and pretok.c
 * implement, and anything else is refused by name. Only then the texts, added tokens and merges
 * are handed to vocab_build as views into the JSON tree, which lives until that returns.
 * Invariant: n_vocab is never larger than the number of texts in the file, so the file's size
 * bounds every allocation.
 * Read next: vocab.c. */
#include "text/vocab.h"

#include "base/file.h"
#include "base/mem.h"
#include "json/json.h"

enum { JSON_MAX_BYTES = 64 << 20 };

struct loader {
    const char *label;
    struct arena *a;
    fathom_err *err;
    struct slice *text; /* [cap] */
    uint8_t *type;
    uint32_t cap, n_vocab; /* n_vocab: highest id seen + 1 */
};

static int refuse(const struct loader *l, const char *place, const char *why)
{
    return err_set(l->err, FATHOM_EFORMAT, "%s: %s %s", l->label, place, why);
}

/* ---- the parts that must be as in the release ---- */

static bool absent(const struct json *v)
{
    return !v || v->type == JSON_NULL;
}

static bool absent_or_false(const struct json *v)
{
    return absent(v) || v->type == JSON_FALSE;
}

static bool absent_or_empty(const struct json *v)
{
    return absent(v) || (v->type == JSON_STRING && v->n == 0);
}

static bool is_split(const struct json *stage, const char *pattern)
{
    const struct json *regex = json_get(json_get(stage, "pattern"), "Regex");
    return slice_is(json_str(json_get(stage, "type")), "Split") &&
           slice_is(json_str(regex), pattern) &&
           slice_is(json_str(json_get(stage, "behavior")), "Isolated") &&
           absent_or_false(json_get(stage, "invert"));
}

/* The three splitting stages of pretok.c, then bytes. */
static bool is_known_splitter(const struct json *v)
{
    static const char *const patterns[] = {
        "\\p{N}{1,3}",
        "[一-龥\xE3\x81\x80-ゟ゠-ヿ]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
        "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
        "| ?[\\p{P}\\p{S}]+[\r\n]*"
        "|\\s*[\r\n]+"
        "|\\s+(?!\\S)"
        "|\\s+",
    };
    const struct json *stages = json_get(v, "pretokenizers");
    if (!slice_is(json_str(json_get(v, "type")), "Sequence") || !json_is(stages, JSON_ARRAY) ||
        stages->n != ARRAY_LEN(patterns) + 1) {
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(patterns); i++) {
        if (!is_split(json_at(stages, i), patterns[i])) {
            return false;
        }
    }
    const struct json *bytes = json_at(stages, ARRAY_LEN(patterns));
    return slice_is(json_str(json_get(bytes, "type")), "ByteLevel") &&
           absent_or_false(json_get(bytes, "add_prefix_space")) &&
           json_is(json_get(bytes, "use_regex"), JSON_FALSE);
}

static bool is_no_normalizer(const struct json *v)
{
    const struct json *list = json_get(v, "normalizers");
    return absent(v) || (slice_is(json_str(json_get(v, "type")), "Sequence") &&
                         json_is(list, JSON_ARRAY) && list->n == 0);
}

static bool is_no_post_processor(const struct json *v)
{
    return absent(v) || slice_is(json_str(json_get(v, "type")), "ByteLevel");
}

static int check_kind(const struct loader *l, const struct json *root)
{
    const struct json *model = json_get(root, "model");
    if (!json_is(root, JSON_OBJECT) || !json_is(model, JSON_OBJECT)) {
        return refuse(l, "model", "is missing: not a tokenizer.json");
    }
    if (!slice_is(json_str(json_get(model, "type")), "BPE")) {
        return refuse(l, "model.type", "is not BPE");
    }
    if (!is_known_splitter(json_get(root, "pre_tokenizer"))) {
        return refuse(l, "pre_tokenizer", "is not the one of DeepSeek V4 (joyai-llm)");
    }
    if (!is_no_normalizer(json_get(root, "normalizer"))) {
        return refuse(l, "normalizer", "must be absent or empty");
    }
    if (!is_no_post_processor(json_get(root, "post_processor"))) {
        return refuse(l, "post_processor", "must be absent or ByteLevel");
    }
    if (!absent(json_get(model, "dropout")) || !absent(json_get(model, "unk_token")) ||
        !absent_or_false(json_get(model, "byte_fallback")) ||
        !absent_or_false(json_get(model, "ignore_merges")) ||
        !absent_or_empty(json_get(model, "continuing_subword_prefix")) ||
        !absent_or_empty(json_get(model, "end_of_word_suffix"))) {
        return refuse(l, "model",
                      "uses an option that DeepSeek V4 does not (dropout, unk_token, "
                      "byte_fallback, ignore_merges, a prefix or a suffix)");
    }
    return 0;
}

/* ---- tables ---- */

static int put_token(struct loader *l, int64_t id, struct slice text, uint8_t type)
{
    if (id < 0 || id >= (int64_t)l->cap) {
        return err_set(l->err, FATHOM_EFORMAT, "%s: token id %lld is outside 0..%u", l->label,
                       (long long)id, l->cap - 1);
    }
    if (l->text[id].p && !slice_eq(l->text[id], text)) {
        return err_set(l->err, FATHOM_EFORMAT, "%s: two texts for token id %lld", l->label,
                       (long long)id);
    }
    l->text[id] = text;
    l->type[id] = type;
    l->n_vocab = MAX(l->n_vocab, (uint32_t)id + 1);
    return 0;
}

static int read_vocab(struct loader *l, const struct json *vocab)
{
    for (size_t i = 0; i < vocab->n; i++) {
        const struct json_member *m = &vocab->members[i];
        int64_t id;
        if (!json_int(&m->value, &id)) {
            return err_set(l->err, FATHOM_EFORMAT,
                           "%s: model.vocab: entry %zu has no integer id", l->label, i);
        }
        int rc = put_token(l, id, m->key, TOKEN_NORMAL);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

static int read_added(struct loader *l, const struct json *added)
{
    for (size_t i = 0; i < added->n; i++) {
        const struct json *v = &added->items[i];
        struct slice text = json_str(json_get(v, "content"));
        int64_t id;
        if (!json_int(json_get(v, "id"), &id) || text.n == 0) {
            return err_set(l->err, FATHOM_EFORMAT,
                           "%s: added_tokens[%zu] needs an integer id and a content", l->label,
                           i);
        }
        if (!absent_or_false(json_get(v, "single_word")) ||
            !absent_or_false(json_get(v, "lstrip")) ||
            !absent_or_false(json_get(v, "rstrip"))) {
            return err_set(
                l->err, FATHOM_EFORMAT,
                "%s: added_tokens[%zu]: single_word, lstrip and rstrip must be false", l->label,
                i);
        }
        bool special = json_is(json_get(v, "special"), JSON_TRUE);
        int rc = put_token(l, id, text, vocab_added_type(text, special));
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

/* A merge is "left right", or ["left", "right"] in files of newer libraries. */
static bool read_merge(const struct json *v, struct vocab_merge_src *out)
{
    if (json_is(v, JSON_ARRAY)) {
        *out = (struct vocab_merge_src){json_str(json_at(v, 0)), json_str(json_at(v, 1))};
        return v->n == 2 && out->left.n > 0 && out->right.n > 0;
    }
    struct slice s = json_str(v);
    const char *space = s.n > 0 ? memchr(s.p, ' ', s.n) : NULL;
    if (!space) {
        return false;
    }
    out->left = (struct slice){s.p, (size_t)(space - s.p)};
    out->right = (struct slice){space + 1, s.n - out->left.n - 1};
    return out->left.n > 0 && out->right.n > 0;
}

static int read_merges(const struct loader *l, const struct json *merges,
                       struct vocab_merge_src *out)
{
    for (size_t r = 0; r < merges->n; r++) {
        if (!read_merge(&merges->items[r], &out[r])) {
            return err_set(l->err, FATHOM_EFORMAT,
                           "%s: model.merges[%zu] is not a pair of texts", l->label, r);
        }
    }
    return 0;
}

static int load_tree(struct tokenizer **out, struct loader *l, const struct json *root)
{
    const struct json *model = json_get(root, "model"), *added = json_get(root, "added_tokens");
    const struct json *vocab = json_get(model, "vocab"), *merges = json_get(model, "merges");
    int rc = check_kind(l, root);
    if (rc != 0) {
        return rc;
    }
    if (!json_is(vocab, JSON_OBJECT) || !json_is(merges, JSON_ARRAY) ||
        !json_is(added, JSON_ARRAY)) {
        return refuse(l, "model.vocab, model.merges or added_tokens", "is missing");
    }
    if (vocab->n + added->n > VOCAB_MAX || merges->n > VOCAB_MAX) {
        return refuse(l, "model.vocab or model.merges", "is larger than any known vocabulary");
    }
    l->cap = (uint32_t)(vocab->n + added->n);
    l->text = arena_alloc(l->a, l->cap * sizeof *l->text);
    l->type = arena_alloc(l->a, l->cap);
    struct vocab_merge_src *pairs = arena_alloc(l->a, merges->n * sizeof *pairs);
    if (!l->text || !l->type || !pairs) {
        return err_nomem(l->err, l->label, l->cap * sizeof *l->text);
    }
    if ((rc = read_vocab(l, vocab)) != 0 || (rc = read_added(l, added)) != 0 ||
        (rc = read_merges(l, merges, pairs)) != 0) {
        return rc;
    }
    struct vocab_src src = {.label = l->label, .n_vocab = l->n_vocab, .text = l->text};
    src.type = l->type;
    src.merges = pairs;
    src.n_merges = (uint32_t)merges->n;
    return vocab_build(out, &src, l->err);
}

int tokenizer_from_json_mem(struct tokenizer **out, const char *p, size_t n, const char *label,
                            fathom_err *err)
{
    struct arena a = {0};
    struct json root;
    *out = NULL;
    int rc = json_read(&root, &a, p, n, err);
    if (rc != 0) {
        err_prefix(err, "%s", label);
    } else {
        struct loader l = {.label = label, .a = &a, .err = err};
        rc = load_tree(out, &l, &root);
    }
    arena_fini(&a);
    return rc;
}

int tokenizer_from_json(struct tokenizer **out, const char *path, fathom_err *err)
{
    struct buf file = {0}, text = {.max_bytes = JSON_MAX_BYTES};
    *out = NULL;
    int rc = file_read_all(&file, path, JSON_MAX_BYTES, err);
    if (rc == 0 && xz_detect(file.p, file.n)) {
        rc = xz_decode(&text, file.p, file.n, path, err);
    }
    if (rc == 0) {
        struct slice s = text.p ? buf_slice(&text) : buf_slice(&file);
        rc = tokenizer_from_json_mem(out, s.p, s.n, path, err);
    }
    buf_free(&text);
    buf_free(&file);
    return rc;
}
