/* vocab.c - checks a vocabulary and builds struct tokenizer from it.
 * The loaders (vocab_json.c, vocab_gguf.c) hand over texts, types and merges as views; nothing
 * in them is trusted. The order of ids is what the rest of this folder relies on, so it is
 * proven here: 0..2 control strings, 3..258 the 256 bytes, 259 + r the concatenation of merge
 * r's two halves, then added tokens. From that follows that plain text cannot produce a control
 * id. Only the texts of control tokens are fixed (control_text below); their numbers and the
 * size of the vocabulary come from the file.
 * Read next: bpe.c. */
#include "text/vocab.h"

#include "base/mem.h"

enum { TOKEN_MAX_BYTES = 1024 }; /* the longest of the release has 128 */

static const char *const control_text[CT_COUNT] = {
    [CT_BOS] = "<｜begin▁of▁sentence｜>",
    [CT_EOS] = "<｜end▁of▁sentence｜>",
    [CT_USER] = "<｜User｜>",
    [CT_ASSISTANT] = "<｜Assistant｜>",
    [CT_THINK_OPEN] = "<think>",
    [CT_THINK_CLOSE] = "</think>",
    [CT_DSML] = "｜DSML｜",
    [CT_PAD] = "<｜▁pad▁｜>",
    [CT_LATEST_REMINDER] = "<｜latest_reminder｜>",
    [CT_ACTION] = "<｜action｜>",
    [CT_QUERY] = "<｜query｜>",
    [CT_AUTHORITY] = "<｜authority｜>",
    [CT_DOMAIN] = "<｜domain｜>",
    [CT_TASK] = "<｜task｜>",
    [CT_TITLE] = "<｜title｜>",
    [CT_EXTRACTED_URL] = "<｜extracted_url｜>",
    [CT_READ_URL] = "<｜read_url｜>",
};

const char *control_token_text(enum control_token t)
{
    return control_text[t];
}

static bool enclosed(struct slice s, const char *open, const char *close)
{
    size_t a = strlen(open), b = strlen(close);
    return s.n >= a + b && memcmp(s.p, open, a) == 0 && memcmp(s.p + s.n - b, close, b) == 0;
}

uint8_t vocab_added_type(struct slice text, bool special)
{
    return special || enclosed(text, "<|", "|>") || enclosed(text, "<｜", "｜>") ? TOKEN_CONTROL
                                                                                 : TOKEN_USER;
}

/* ---- texts ---- */

static bool id_is_control(const struct tokenizer *t, uint32_t id)
{
    return id < N_FIRST_CONTROL || id >= t->n_base;
}

static int check_sizes(const struct vocab_src *src, fathom_err *err)
{
    if (src->n_vocab > VOCAB_MAX || src->n_merges > VOCAB_MAX) {
        return err_set(err, FATHOM_EFORMAT, "%s: %u tokens, %u merges: more than %d",
                       src->label, src->n_vocab, src->n_merges, VOCAB_MAX);
    }
    if (src->n_vocab < FIRST_MERGE_ID + src->n_merges) {
        return err_set(
            err, FATHOM_EFORMAT,
            "%s: %u tokens are too few for 3 control strings, 256 bytes and %u merges",
            src->label, src->n_vocab, src->n_merges);
    }
    return 0;
}

/* Checks one token's type and appends its raw bytes. */
static int add_token(struct tokenizer *t, const struct vocab_src *src, uint32_t id,
                     struct buf *bytes, fathom_err *err)
{
    struct slice s = src->text[id];
    uint8_t type = src->type[id];
    bool control = id_is_control(t, id);
    if (!s.p || s.n == 0) {
        return err_set(err, FATHOM_EFORMAT, "%s: token %u has no text", src->label, id);
    }
    if (s.n > 2 * TOKEN_MAX_BYTES) { /* stored form takes up to two bytes a byte */
        return err_set(err, FATHOM_EFORMAT, "%s: token %u is longer than %d bytes", src->label,
                       id, TOKEN_MAX_BYTES);
    }
    if (id < N_FIRST_CONTROL && type == TOKEN_NORMAL) {
        type = TOKEN_CONTROL; /* some files call the control strings normal */
    }
    if (control ? type != TOKEN_CONTROL && type != TOKEN_USER : type != TOKEN_NORMAL) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: token %u has type %u, but its place after %u merges makes it %s",
                       src->label, id, type, src->n_merges,
                       control ? "a control or user-defined token (3 or 4)"
                               : "a normal token (1)");
    }
    t->type[id] = type;
    t->off[id] = (uint32_t)bytes->n;
    if (control) {
        if (!utf8_valid(s.p, s.n)) {
            return err_set(err, FATHOM_EFORMAT, "%s: token %u is not valid UTF-8", src->label,
                           id);
        }
        buf_add_slice(bytes, s);
    } else if (!alphabet_decode(bytes, s)) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: token %u has a character outside the byte alphabet", src->label,
                       id);
    }
    return 0;
}

static int build_texts(struct tokenizer *t, const struct vocab_src *src, fathom_err *err)
{
    struct buf bytes = {0};
    t->off = mem_alloc((size_t)t->n_vocab + 1, sizeof *t->off);
    t->type = mem_alloc(t->n_vocab, 1);
    int rc = t->off && t->type ? 0 : err_nomem(err, "vocabulary", t->n_vocab * (size_t)5);
    for (uint32_t id = 0; rc == 0 && id < t->n_vocab; id++) {
        rc = add_token(t, src, id, &bytes, err);
    }
    if (rc == 0 && bytes.failed) {
        rc = err_nomem(err, "vocabulary texts", bytes.n);
    }
    if (rc != 0) {
        buf_free(&bytes);
        return rc;
    }
    t->off[t->n_vocab] = (uint32_t)bytes.n;
    t->bytes = bytes.p;
    return 0;
}

static int build_byte_ids(struct tokenizer *t, const char *label, fathom_err *err)
{
    memset(t->byte_id, 0xFF, sizeof t->byte_id);
    for (uint32_t id = N_FIRST_CONTROL; id < FIRST_MERGE_ID; id++) {
        struct slice s = tokenizer_bytes(t, id);
        if (s.n != 1 || t->byte_id[(unsigned char)s.p[0]] != NO_ID) {
            return err_set(err, FATHOM_EFORMAT,
                           "%s: token %u: ids 3 to 258 must be the 256 single bytes, each once",
                           label, id);
        }
        t->byte_id[(unsigned char)s.p[0]] = id;
    }
    return 0;
}

/* ---- merges ---- */

static unsigned bits_for(uint32_t n) /* a table of 1 << bits slots is at most half full */
{
    unsigned bits = 4;
    while (((size_t)1 << bits) < 2 * (size_t)n) {
        bits++;
    }
    return bits;
}

/* Normal tokens by stored text; exists only during the build. */
struct text_index {
    const struct vocab_src *src;
    uint32_t *slots; /* [1 << bits] ids, NO_ID: free */
    unsigned bits;
};

static uint64_t text_hash(struct slice s)
{
    uint64_t h = s.n;
    while (s.n > 0) {
        uint64_t word = 0;
        size_t k = MIN(s.n, sizeof word);
        memcpy(&word, s.p, k);
        h = (h ^ word) * 0x9E3779B97F4A7C15u;
        h ^= h >> 32;
        s.p += k;
        s.n -= k;
    }
    return h * 0xBF58476D1CE4E5B9u;
}

/* The slot that holds s, or the free one where it belongs. */
static uint32_t *text_slot(const struct text_index *x, struct slice s)
{
    size_t mask = ((size_t)1 << x->bits) - 1, i = (size_t)(text_hash(s) >> (64 - x->bits));
    while (x->slots[i] != NO_ID && !slice_eq(x->src->text[x->slots[i]], s)) {
        i = (i + 1) & mask;
    }
    return &x->slots[i];
}

static int index_texts(struct text_index *x, uint32_t n_base, fathom_err *err)
{
    x->bits = bits_for(n_base);
    x->slots = mem_alloc((size_t)1 << x->bits, sizeof *x->slots);
    if (!x->slots) {
        return err_nomem(err, "vocabulary index", sizeof *x->slots << x->bits);
    }
    memset(x->slots, 0xFF, sizeof *x->slots << x->bits);
    for (uint32_t id = N_FIRST_CONTROL; id < n_base; id++) {
        uint32_t *slot = text_slot(x, x->src->text[id]);
        if (*slot != NO_ID) {
            return err_set(err, FATHOM_EFORMAT, "%s: tokens %u and %u have the same text",
                           x->src->label, *slot, id);
        }
        *slot = id;
    }
    return 0;
}

static void pair_insert(struct tokenizer *t, struct merge m, uint32_t id)
{
    uint64_t key = (uint64_t)m.left << 32 | m.right;
    size_t mask = ((size_t)1 << t->pair_bits) - 1;
    size_t i = (size_t)(key * PAIR_HASH >> (64 - t->pair_bits));
    while (t->pairs[i].id != NO_ID) {
        i = (i + 1) & mask;
    }
    t->pairs[i] = (struct pair_slot){key, id};
}

/* Merge r must join two normal tokens to the text of token 259 + r. Texts are distinct, so no
 * pair can occur twice. */
static int add_merge(struct tokenizer *t, const struct text_index *x, uint32_t r,
                     fathom_err *err)
{
    const struct vocab_merge_src *m = &x->src->merges[r];
    struct slice joined = x->src->text[FIRST_MERGE_ID + r];
    t->merges[r] = (struct merge){*text_slot(x, m->left), *text_slot(x, m->right)};
    if (t->merges[r].left == NO_ID || t->merges[r].right == NO_ID) {
        return err_set(err, FATHOM_EFORMAT, "%s: merge %u: its %s half is not a token",
                       x->src->label, r, t->merges[r].left == NO_ID ? "left" : "right");
    }
    if (m->left.n + m->right.n != joined.n || memcmp(joined.p, m->left.p, m->left.n) != 0 ||
        memcmp(joined.p + m->left.n, m->right.p, m->right.n) != 0) {
        return err_set(
            err, FATHOM_EFORMAT,
            "%s: merge %u does not produce token %u (259 + rank): merges and tokens of "
            "different vocabularies?",
            x->src->label, r, FIRST_MERGE_ID + r);
    }
    pair_insert(t, t->merges[r], FIRST_MERGE_ID + r);
    return 0;
}

static int build_merges(struct tokenizer *t, const struct vocab_src *src, fathom_err *err)
{
    t->pair_bits = bits_for(t->n_merges);
    size_t n_slots = (size_t)1 << t->pair_bits;
    t->merges = mem_alloc(t->n_merges, sizeof *t->merges);
    t->pairs = mem_alloc(n_slots, sizeof *t->pairs);
    if (!t->merges || !t->pairs) {
        return err_nomem(err, "merge table", n_slots * sizeof *t->pairs);
    }
    for (size_t i = 0; i < n_slots; i++) {
        t->pairs[i] = (struct pair_slot){UINT64_MAX, NO_ID};
    }
    struct text_index x = {.src = src};
    int rc = index_texts(&x, t->n_base, err);
    for (uint32_t r = 0; rc == 0 && r < t->n_merges; r++) {
        rc = add_merge(t, &x, r, err);
    }
    mem_free(x.slots);
    return rc;
}

/* ---- added tokens ---- */

static int build_added(struct tokenizer *t, const char *label, fathom_err *err)
{
    t->added = mem_alloc(N_FIRST_CONTROL + (size_t)(t->n_vocab - t->n_base), sizeof *t->added);
    if (!t->added) {
        return err_nomem(err, "added tokens", (t->n_vocab - t->n_base) * sizeof *t->added);
    }
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        if (id_is_control(t, id)) {
            t->added[t->n_added++] = (struct added_token){tokenizer_bytes(t, id), id};
        }
    }
    added_prepare(t);
    for (uint32_t i = 1; i < t->n_added; i++) {
        if (slice_eq(t->added[i - 1].text, t->added[i].text)) {
            return err_set(err, FATHOM_EFORMAT, "%s: added tokens %u and %u have the same text",
                           label, t->added[i - 1].id, t->added[i].id);
        }
    }
    for (int c = 0; c < CT_COUNT; c++) {
        struct slice want = slice_of(control_text[c]);
        const char *at;
        const struct added_token *a = added_find(t, want.p, want.p + want.n, &at);
        t->control[c] = a && slice_eq(a->text, want) ? (int32_t)a->id : -1;
        if (t->control[c] < 0 && c <= CT_DSML) {
            return err_set(err, FATHOM_EFORMAT,
                           "%s: the control token %s is missing: not a DeepSeek V4 vocabulary",
                           label, control_text[c]);
        }
    }
    return 0;
}

int vocab_build(struct tokenizer **out, const struct vocab_src *src, fathom_err *err)
{
    *out = NULL;
    int rc = check_sizes(src, err);
    if (rc != 0) {
        return rc;
    }
    struct tokenizer *t = mem_calloc(1, sizeof *t);
    if (!t) {
        return err_nomem(err, "tokenizer", sizeof *t);
    }
    t->n_vocab = src->n_vocab;
    t->n_merges = src->n_merges;
    t->n_base = FIRST_MERGE_ID + src->n_merges;
    if ((rc = build_texts(t, src, err)) != 0 ||
        (rc = build_byte_ids(t, src->label, err)) != 0 ||
        (rc = build_merges(t, src, err)) != 0 || (rc = build_added(t, src->label, err)) != 0) {
        tokenizer_free(t);
        return rc;
    }
    if (!(t->cache = piece_cache_new())) {
        tokenizer_free(t);
        return err_nomem(err, "piece cache", 0);
    }
    *out = t;
    return 0;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t) {
        return;
    }
    mem_free(t->bytes);
    mem_free(t->off);
    mem_free(t->type);
    mem_free(t->merges);
    mem_free(t->pairs);
    mem_free(t->added);
    piece_cache_free(t->cache);
    mem_free(t);
}

/* ---- queries ---- */

uint32_t tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->n_vocab;
}

int32_t tokenizer_control(const struct tokenizer *t, enum control_token which)
{
    return t->control[which];
}

bool tokenizer_is_control(const struct tokenizer *t, uint32_t id)
{
    return id < t->n_vocab && id_is_control(t, id);
}

struct slice tokenizer_bytes(const struct tokenizer *t, uint32_t id)
{
    if (id >= t->n_vocab) {
        return (struct slice){"", 0};
    }
    return (struct slice){t->bytes + t->off[id], t->off[id + 1] - t->off[id]};
}

int tokenizer_type(const struct tokenizer *t, uint32_t id)
{
    return id < t->n_vocab ? t->type[id] : 0;
}

void tokenizer_stored_text(const struct tokenizer *t, uint32_t id, struct buf *out)
{
    struct slice s = tokenizer_bytes(t, id);
    if (tokenizer_is_control(t, id)) {
        buf_add_slice(out, s);
    } else {
        alphabet_encode(out, s);
    }
}

uint32_t tokenizer_n_merges(const struct tokenizer *t)
{
    return t->n_merges;
}

void tokenizer_stored_merge(const struct tokenizer *t, uint32_t rank, struct buf *out)
{
    if (rank < t->n_merges) {
        tokenizer_stored_text(t, t->merges[rank].left, out);
        buf_addc(out, ' ');
        tokenizer_stored_text(t, t->merges[rank].right, out);
    }
}
