/* format.c - see format.h. The layout of the bytes stands in docs/kv-format.md; the offsets
 * below are its only copy in code. Read next: store.c (what is done with the files). */
#include "kv/format.h"

#include <assert.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/num.h"

enum { /* header offsets */
       AT_MAGIC = 0,
       AT_VERSION = 8,
       AT_KIND = 10,
       AT_FLAGS = 11,
       AT_HEADER_BYTES = 12,
       AT_FILE_BYTES = 16,
       AT_N_SECTIONS = 24,
       AT_PAGE_TOKENS = 28,
       AT_IDENTITY = 32,
       AT_SALT_SHA = 64,
       AT_FROM = 96,
       AT_TO = 116,
       AT_FIRST = 136,
       AT_COUNT = 144,
       AT_N_VOCAB = 148,
       AT_CREATED = 152,
       AT_COST = 160,
       AT_LAYOUT = 164,
       AT_ZERO = 168,
       AT_SUM = 240,
       AT_TABLE = 256,
       SECTION_BYTES = 40,
       KEY_HEX = 2 * SHA1_BYTES
};
static const char magic[8] = {'F', 'A', 'T', 'H', 'O', 'M', 'K', 'V'};

/* ---- names ---- */

static bool parse_hex(const char *s, size_t n_digits, uint32_t *out)
{
    uint32_t v = 0;
    for (size_t i = 0; i < n_digits; i++) {
        char c = s[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) {
            return false;
        }
        v = v << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *out = v;
    return true;
}

/* ".t." digits "." digits */
static bool is_temp(const char *s)
{
    if (strncmp(s, ".t.", 3) != 0) {
        return false;
    }
    size_t a = strspn(s + 3, "0123456789");
    const char *rest = s + 3 + a;
    size_t b = *rest == '.' ? strspn(rest + 1, "0123456789") : 0;
    return a > 0 && b > 0 && rest[1 + b] == 0;
}

bool kv_name_parse(const char *name, struct kv_name *out)
{
    *out = (struct kv_name){0};
    size_t n = strlen(name);
    if (n == 2 * KEY_HEX + 3 && strcmp(name + n - 2, ".s") == 0 && name[KEY_HEX] == '.' &&
        hex_decode(name, SHA1_BYTES, out->from.b) &&
        hex_decode(name + KEY_HEX + 1, SHA1_BYTES, out->to.b)) {
        out->kind = KV_SEGMENT;
    } else if (n == 2 * KEY_HEX + 8 && strcmp(name + n - 2, ".f") == 0 &&
               name[KEY_HEX] == '.' && name[KEY_HEX + 5] == '.' &&
               hex_decode(name, SHA1_BYTES, out->from.b) &&
               parse_hex(name + KEY_HEX + 1, 4, &out->tail) &&
               hex_decode(name + KEY_HEX + 6, SHA1_BYTES, out->to.b)) {
        out->kind = KV_FRONTIER;
    } else if (n == KEY_HEX + 2 && strcmp(name + n - 2, ".r") == 0 &&
               hex_decode(name, SHA1_BYTES, out->to.b)) {
        out->kind = KV_REPLAY;
    } else if (is_temp(name)) {
        out->kind = KV_TEMP;
    }
    return out->kind != KV_NO_KIND;
}

void kv_name_make(const struct kv_name *n, char out[KV_NAME_MAX])
{
    if (n->kind == KV_REPLAY) {
        hex_encode(n->to.b, SHA1_BYTES, out);
        memcpy(out + KEY_HEX, ".r", 3);
        return;
    }
    assert(n->kind == KV_SEGMENT || n->kind == KV_FRONTIER);
    hex_encode(n->from.b, SHA1_BYTES, out);
    char *p = out + KEY_HEX;
    *p++ = '.';
    if (n->kind == KV_FRONTIER) {
        unsigned char t[2] = {(unsigned char)(n->tail >> 8), (unsigned char)n->tail};
        hex_encode(t, sizeof t, p);
        p += 4;
        *p++ = '.';
    }
    hex_encode(n->to.b, SHA1_BYTES, p);
    memcpy(p + KEY_HEX, n->kind == KV_SEGMENT ? ".s" : ".f", 3);
}

void kv_dir_name(const struct kv_id *identity, char out[KV_DIR_DIGITS + 1])
{
    hex_encode(identity->b, KV_DIR_DIGITS / 2, out);
}

bool kv_dir_name_valid(const char *name)
{
    unsigned char b[KV_DIR_DIGITS / 2];
    return strlen(name) == KV_DIR_DIGITS && hex_decode(name, sizeof b, b);
}

/* ---- planning ---- */

static void add_section(struct kv_header *h, enum kv_section_type type, uint32_t layer,
                        uint32_t rows, uint64_t length)
{
    struct kv_section *s = &h->section[h->n_sections++];
    *s = (struct kv_section){.type = (uint16_t)type,
                             .layer = (uint16_t)layer,
                             .rows = rows,
                             .offset = h->file_bytes,
                             .length = length};
    h->file_bytes += align_up(length, KV_ALIGN);
}

void kv_header_plan(struct kv_header *h, const struct kv_geom *g, enum kv_kind_file kind,
                    uint64_t first, uint32_t count)
{
    uint64_t n = first + count;
    *h = (struct kv_header){.kind = kind,
                            .page_tokens = g->page_tokens,
                            .count = count,
                            .n_vocab = g->n_vocab,
                            .layout = g->layout,
                            .file_bytes = KV_HEADER_BYTES,
                            .first = first};
    add_section(h, KV_SEC_IDS, 0, count, (uint64_t)count * 4);
    if (kind == KV_FRONTIER && n % g->align != 0) {
        h->flags |= KV_FLAG_RAGGED;
    }
    for (uint32_t il = 0; il < g->n_layer; il++) {
        uint64_t rows = kv_geom_row_bytes(g, il, count);
        if (kind == KV_FRONTIER) {
            add_section(h, KV_SEC_STATE, il, (uint32_t)MIN((uint64_t)g->window, n),
                        kv_geom_state_bytes_layer(g, il, n) + rows);
        } else if (g->layer[il].ratio != 0) {
            add_section(h, KV_SEC_ROWS, il, count / g->layer[il].ratio, rows);
        }
    }
}

void kv_header_write(const struct kv_header *h, unsigned char out[KV_HEADER_BYTES])
{
    memset(out, 0, KV_HEADER_BYTES);
    memcpy(out + AT_MAGIC, magic, sizeof magic);
    store_le16(out + AT_VERSION, KV_VERSION);
    out[AT_KIND] = (unsigned char)h->kind;
    out[AT_FLAGS] = (unsigned char)h->flags;
    store_le32(out + AT_HEADER_BYTES, KV_HEADER_BYTES);
    store_le64(out + AT_FILE_BYTES, h->file_bytes);
    store_le32(out + AT_N_SECTIONS, h->n_sections);
    store_le32(out + AT_PAGE_TOKENS, h->page_tokens);
    memcpy(out + AT_IDENTITY, h->identity.b, KV_ID_BYTES);
    memcpy(out + AT_SALT_SHA, h->salt_sha, KV_ID_BYTES);
    memcpy(out + AT_FROM, h->from.b, SHA1_BYTES);
    memcpy(out + AT_TO, h->to.b, SHA1_BYTES);
    store_le64(out + AT_FIRST, h->first);
    store_le32(out + AT_COUNT, h->count);
    store_le32(out + AT_N_VOCAB, h->n_vocab);
    store_le64(out + AT_CREATED, h->created);
    store_le32(out + AT_COST, h->cost_ms);
    store_le32(out + AT_LAYOUT, h->layout);
    for (uint32_t i = 0; i < h->n_sections; i++) {
        const struct kv_section *s = &h->section[i];
        unsigned char *p = out + AT_TABLE + i * SECTION_BYTES;
        store_le16(p, s->type);
        store_le16(p + 2, s->layer);
        store_le32(p + 4, s->rows);
        store_le64(p + 8, s->offset);
        store_le64(p + 16, s->length);
        memcpy(p + 24, s->sum, XXH128_BYTES);
    }
    xxh128(out, KV_HEADER_BYTES, out + AT_SUM);
}

/* ---- checking ---- */

static bool all_zero(const unsigned char *p, size_t n)
{
    unsigned char any = 0;
    for (size_t i = 0; i < n; i++) {
        any |= p[i];
    }
    return any == 0;
}

static void read_fields(struct kv_header *h, const unsigned char *b)
{
    *h = (struct kv_header){.kind = (enum kv_kind_file)b[AT_KIND],
                            .flags = b[AT_FLAGS],
                            .n_sections = load_le32(b + AT_N_SECTIONS),
                            .page_tokens = load_le32(b + AT_PAGE_TOKENS),
                            .count = load_le32(b + AT_COUNT),
                            .n_vocab = load_le32(b + AT_N_VOCAB),
                            .cost_ms = load_le32(b + AT_COST),
                            .layout = load_le32(b + AT_LAYOUT),
                            .file_bytes = load_le64(b + AT_FILE_BYTES),
                            .first = load_le64(b + AT_FIRST),
                            .created = load_le64(b + AT_CREATED)};
    memcpy(h->identity.b, b + AT_IDENTITY, KV_ID_BYTES);
    memcpy(h->salt_sha, b + AT_SALT_SHA, KV_ID_BYTES);
    memcpy(h->from.b, b + AT_FROM, SHA1_BYTES);
    memcpy(h->to.b, b + AT_TO, SHA1_BYTES);
}

/* What is wrong with the numbers of a header whose checksum is right; NULL: nothing. */
static const char *check_fields(const struct kv_header *h, uint64_t file_bytes)
{
    uint32_t s = h->page_tokens;
    if (h->file_bytes != file_bytes || file_bytes > KV_MAX_FILE || file_bytes % KV_ALIGN != 0) {
        return "file length";
    }
    if (s < 8 || s > 16384 || (s & (s - 1)) != 0) {
        return "tokens per segment";
    }
    if (h->first % s != 0 || h->first > UINT32_MAX - s) {
        return "first position";
    }
    if (h->kind == KV_SEGMENT ? h->count != s : h->count >= s || h->first + h->count == 0) {
        return "token count";
    }
    if (h->n_vocab == 0) {
        return "vocabulary";
    }
    if (h->kind == KV_SEGMENT && h->flags != 0) {
        return "flags";
    }
    return h->n_sections < 1 || h->n_sections > KV_MAX_SECTIONS ? "section count" : NULL;
}

/* Reads the table; sections must follow each other without a gap and end with the file. */
static const char *check_table(struct kv_header *h, const unsigned char *b)
{
    uint64_t at = KV_HEADER_BYTES;
    enum kv_section_type body = h->kind == KV_SEGMENT ? KV_SEC_ROWS : KV_SEC_STATE;
    for (uint32_t i = 0; i < h->n_sections; i++) {
        const unsigned char *p = b + AT_TABLE + i * SECTION_BYTES;
        struct kv_section *s = &h->section[i];
        *s = (struct kv_section){.type = load_le16(p),
                                 .layer = load_le16(p + 2),
                                 .rows = load_le32(p + 4),
                                 .offset = load_le64(p + 8),
                                 .length = load_le64(p + 16)};
        memcpy(s->sum, p + 24, XXH128_BYTES);
        if (s->type != (i == 0 ? KV_SEC_IDS : body) || s->layer >= KV_MAX_LAYERS ||
            (i > 1 && s->layer <= h->section[i - 1].layer)) {
            return "section type or layer";
        }
        if (s->offset != at || s->length > h->file_bytes - at) {
            return "section place";
        }
        at += align_up(s->length, KV_ALIGN);
        if (i == 0 &&
            (s->layer != 0 || s->rows != h->count || s->length != (uint64_t)h->count * 4)) {
            return "section of ids";
        }
    }
    size_t used = AT_TABLE + (size_t)h->n_sections * SECTION_BYTES;
    if (at != h->file_bytes || !all_zero(b + used, KV_HEADER_BYTES - used)) {
        return "section table";
    }
    return NULL;
}

enum kv_check kv_header_parse(struct kv_header *h, const unsigned char b[KV_HEADER_BYTES],
                              uint64_t file_bytes, const char **why)
{
    const char *dummy;
    why = why ? why : &dummy;
    *why = "magic";
    *h = (struct kv_header){0};
    if (memcmp(b, magic, sizeof magic) != 0) {
        return KV_CHECK_BAD;
    }
    *why = "version";
    if (load_le16(b + AT_VERSION) != KV_VERSION) {
        return KV_CHECK_FOREIGN;
    }
    *why = "header checksum";
    unsigned char copy[KV_HEADER_BYTES], sum[XXH128_BYTES];
    memcpy(copy, b, KV_HEADER_BYTES);
    memset(copy + AT_SUM, 0, XXH128_BYTES);
    xxh128(copy, KV_HEADER_BYTES, sum);
    if (memcmp(sum, b + AT_SUM, XXH128_BYTES) != 0) {
        return KV_CHECK_BAD;
    }
    read_fields(h, b);
    *why = "kind, flags or layout";
    if ((h->kind != KV_SEGMENT && h->kind != KV_FRONTIER) || h->flags > KV_FLAG_RAGGED ||
        h->layout != KV_LAYOUT_NATIVE) {
        return KV_CHECK_FOREIGN;
    }
    *why = "header length or reserved bytes";
    if (load_le32(b + AT_HEADER_BYTES) != KV_HEADER_BYTES ||
        !all_zero(b + AT_ZERO, AT_SUM - AT_ZERO)) {
        return KV_CHECK_BAD;
    }
    *why = check_fields(h, file_bytes);
    if (!*why) {
        *why = check_table(h, b);
    }
    return *why ? KV_CHECK_BAD : KV_CHECK_OK;
}

enum kv_check kv_header_is(const struct kv_header *h, const struct kv_header *plan,
                           const char **why)
{
    const char *dummy;
    why = why ? why : &dummy;
    *why = "identity";
    if (memcmp(&h->identity, &plan->identity, sizeof h->identity) != 0) {
        return KV_CHECK_BAD;
    }
    *why = "salt";
    if (memcmp(h->salt_sha, plan->salt_sha, sizeof h->salt_sha) != 0) {
        return KV_CHECK_BAD;
    }
    *why = "keys";
    if (!kv_key_eq(&h->from, &plan->from) || !kv_key_eq(&h->to, &plan->to)) {
        return KV_CHECK_BAD;
    }
    *why = "kind, position or shape";
    if (h->kind != plan->kind || h->flags != plan->flags || h->first != plan->first ||
        h->count != plan->count || h->page_tokens != plan->page_tokens ||
        h->n_vocab != plan->n_vocab || h->layout != plan->layout ||
        h->file_bytes != plan->file_bytes || h->n_sections != plan->n_sections) {
        return KV_CHECK_BAD;
    }
    *why = "sections";
    for (uint32_t i = 0; i < plan->n_sections; i++) {
        const struct kv_section *a = &h->section[i], *b = &plan->section[i];
        if (a->type != b->type || a->layer != b->layer || a->rows != b->rows ||
            a->offset != b->offset || a->length != b->length) {
            return KV_CHECK_BAD;
        }
    }
    *why = NULL;
    return KV_CHECK_OK;
}

bool kv_section_good(const struct kv_header *h, const struct kv_section *s,
                     const unsigned char *p)
{
    unsigned char sum[XXH128_BYTES];
    uint64_t padded = align_up(s->length, KV_ALIGN);
    xxh128(p, (size_t)padded, sum);
    if (memcmp(sum, s->sum, XXH128_BYTES) != 0 ||
        !all_zero(p + s->length, (size_t)(padded - s->length))) {
        return false;
    }
    for (uint64_t i = 0; s->type == KV_SEC_IDS && i < s->length; i += 4) {
        if (load_le32(p + i) >= h->n_vocab) {
            return false;
        }
    }
    return true;
}

/* ---- sections and memory ---- */

uint64_t kv_rows_walk(const struct kv_geom *g, uint32_t il, uint32_t n_tokens, uint64_t at,
                      void (*fn)(void *user, uint64_t page_at, uint64_t section_at, uint64_t n),
                      void *user)
{
    const struct kv_geom_layer *y = &g->layer[il];
    uint64_t rows = y->ratio ? n_tokens / y->ratio : 0;
    uint64_t from = 0, n = 0; /* the run so far: page bytes [from, from + n) */
    for (int i = 0; i < KV_PLANES && rows > 0; i++) {
        const struct kv_plane *p = &y->plane[i];
        uint64_t bytes = rows * p->row_bytes;
        if (bytes == 0) {
            continue;
        }
        if (n > 0 && p->at == from + n) {
            n += bytes;
            continue;
        }
        if (n > 0) {
            fn(user, from, at, n);
            at += n;
        }
        from = p->at;
        n = bytes;
    }
    if (n > 0) {
        fn(user, from, at, n);
        at += n;
    }
    return at;
}
