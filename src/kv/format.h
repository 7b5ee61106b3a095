/* format.h - the file format of the disk store, version 1 (docs/kv-format.md): names, header,
 * section table. Pure functions on bytes; whoever reads or writes a file goes through here.
 * Nothing in a header is trusted: kv_header_parse checks it against itself, kv_header_is
 * against the geometry, the expected place and the expected keys. Any thread. */
#ifndef KV_FORMAT_H
#define KV_FORMAT_H

#include "kv/geom.h"
#include "kv/key.h"

enum {
    KV_VERSION = 1,
    KV_ALIGN = 4096, /* of every section */
    KV_HEADER_BYTES = 4096,
    KV_MAX_SECTIONS = 96,
    KV_MAX_FILE = 64 << 20,
    KV_NAME_MAX = 96 /* bytes for any name, its NUL included */
};
enum kv_kind_file {
    KV_SEGMENT = 1,
    KV_FRONTIER = 2,
    KV_REPLAY = 3,
    KV_TEMP = 4,
    KV_NO_KIND = 0
};
enum kv_section_type { KV_SEC_IDS = 1, KV_SEC_ROWS = 2, KV_SEC_STATE = 3 };
enum { KV_FLAG_RAGGED = 1 };

/* ---- names ---- */

struct kv_name {
    enum kv_kind_file kind;
    struct kv_key from, to; /* key at the first token (segment, frontier), and at the end */
    uint32_t tail;          /* frontier: t */
};
/* KV_NO_KIND (in out->kind, and false) if the name is not one of ours. */
bool kv_name_parse(const char *name, struct kv_name *out);
/* Any kind but temporaries. */
void kv_name_make(const struct kv_name *n, char out[KV_NAME_MAX]);
/* The folder of an identity: its first 16 hexadecimal digits. */
enum { KV_DIR_DIGITS = 16 };
void kv_dir_name(const struct kv_id *identity, char out[KV_DIR_DIGITS + 1]);
bool kv_dir_name_valid(const char *name);

/* ---- header ---- */

struct kv_section {
    uint16_t type, layer;
    uint32_t rows;           /* ids: tokens; rows: compressed rows; state: window rows */
    uint64_t offset, length; /* length without the padding to KV_ALIGN */
    unsigned char sum[XXH128_BYTES]; /* of the padded section */
};
struct kv_header {
    enum kv_kind_file kind;
    uint32_t flags, n_sections, page_tokens, count, n_vocab, cost_ms, layout;
    uint64_t file_bytes, first, created;
    struct kv_id identity;
    unsigned char salt_sha[KV_ID_BYTES];
    struct kv_key from, to;
    struct kv_section section[KV_MAX_SECTIONS];
};

/* What a file of this kind looks like: everything but identity, salt, keys, created, cost and
 * the sums. Segment: first = kS, count = S. Frontier at n: first = n - n % S, count = n % S. */
void kv_header_plan(struct kv_header *h, const struct kv_geom *g, enum kv_kind_file kind,
                    uint64_t first, uint32_t count);
/* Serialises, with its checksum. */
void kv_header_write(const struct kv_header *h, unsigned char out[KV_HEADER_BYTES]);

enum kv_check {
    KV_CHECK_OK,
    KV_CHECK_BAD,    /* damaged, or it never was one of ours */
    KV_CHECK_FOREIGN /* perhaps good, but of another version, kind or layout */
};
/* file_bytes: the file's real size. *why (may be NULL): a static text that names what failed. */
enum kv_check kv_header_parse(struct kv_header *h, const unsigned char b[KV_HEADER_BYTES],
                              uint64_t file_bytes, const char **why);
/* Does a parsed header describe exactly the planned file, with these keys? */
enum kv_check kv_header_is(const struct kv_header *h, const struct kv_header *plan,
                           const char **why);

/* Does the padded section have the sum, zeros in its padding, and, for ids, only ids below the
 * vocabulary? p: align_up(s->length, KV_ALIGN) bytes. */
bool kv_section_good(const struct kv_header *h, const struct kv_section *s,
                     const unsigned char *p);

/* ---- sections and memory ---- */

/* Calls fn for each run of bytes that a layer's section and a page have in common, in section
 * order: n_tokens of rows, from position 0 of the page, starting at section offset `at`.
 * Adjacent planes are joined. Returns the section offset behind them. */
uint64_t kv_rows_walk(const struct kv_geom *g, uint32_t il, uint32_t n_tokens, uint64_t at,
                      void (*fn)(void *user, uint64_t page_at, uint64_t section_at, uint64_t n),
                      void *user);

#endif
