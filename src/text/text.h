/* text.h - the tokenizer: byte-level BPE of DeepSeek V4 (docs/tokenizer.md).
 * vocab.c loads it (GGUF keys, tokenizer.json, tokenizer.json.xz), pretok.c splits, bpe.c
 * merges, detok.c streams bytes back. A struct tokenizer is immutable after load except for its
 * piece cache, which has its own lock: all functions are thread-safe; a struct detok belongs to
 * one thread. */
#ifndef TEXT_TEXT_H
#define TEXT_TEXT_H

#include "base/err.h"
#include "base/str.h"

struct gguf;
struct tokenizer; /* opaque */

/* The control tokens of the chat format, looked up by text at load. Absent ones are -1; the
 * first group (up to CT_DSML) must be present, or loading fails. */
enum control_token {
    CT_BOS,
    CT_EOS,
    CT_USER,
    CT_ASSISTANT,
    CT_THINK_OPEN,
    CT_THINK_CLOSE,
    CT_DSML, /* up to here: required */
    CT_PAD,
    CT_LATEST_REMINDER,
    CT_ACTION,
    CT_QUERY,
    CT_AUTHORITY,
    CT_DOMAIN,
    CT_TASK,
    CT_TITLE,
    CT_EXTRACTED_URL,
    CT_READ_URL,
    CT_COUNT
};
const char *control_token_text(enum control_token t); /* "<｜User｜>" ...; static */

/* From GGUF keys. Returns FATHOM_ENOENT (message says so) if the file has no tokenizer keys. */
int tokenizer_from_gguf(struct tokenizer **out, const struct gguf *g, fathom_err *err);
/* From a tokenizer.json, or .xz of one. */
int tokenizer_from_json(struct tokenizer **out, const char *path, fathom_err *err);
/* From bytes of a tokenizer.json (fuzzing, converter); label is for messages. */
int tokenizer_from_json_mem(struct tokenizer **out, const char *p, size_t n, const char *label,
                            fathom_err *err);
void tokenizer_free(struct tokenizer *t);

uint32_t tokenizer_n_vocab(const struct tokenizer *t);
int32_t tokenizer_control(const struct tokenizer *t, enum control_token which); /* id or -1 */
/* ids 0, 1, 2 and every added token: only templates may produce them. */
bool tokenizer_is_control(const struct tokenizer *t, uint32_t id);
/* Raw bytes of a token (control tokens: their literal text); empty for ids out of range. */
struct slice tokenizer_bytes(const struct tokenizer *t, uint32_t id);
/* Token type as in GGUF: 1 normal, 3 control, 4 user-defined; and the stored (byte-alphabet)
 * string; merges in rank order as "left right". Used by the converter to write GGUF keys. */
int tokenizer_type(const struct tokenizer *t, uint32_t id);
void tokenizer_stored_text(const struct tokenizer *t, uint32_t id, struct buf *out);
uint32_t tokenizer_n_merges(const struct tokenizer *t);
void tokenizer_stored_merge(const struct tokenizer *t, uint32_t rank, struct buf *out);

/* Growing id list. */
struct ids {
    uint32_t *p; /* owned */
    size_t n, cap;
    bool failed;
};
void ids_add(struct ids *v, uint32_t id);
void ids_add_all(struct ids *v, const uint32_t *p, size_t n);
void ids_free(struct ids *v);

/* Appends the ids of a text to `out`. Untrusted: no control id can result (message content,
 * tool results, anything from outside). Trusted: added tokens are recognised, leftmost longest.
 * Invalid bytes are first replaced by U+FFFD per maximal subpart. O(n log n) at worst. Only
 * fails for memory, or a single piece of 4 GiB (out->failed). */
void tokenizer_encode(const struct tokenizer *t, const char *s, size_t n, bool trusted,
                      struct ids *out);

/* Pre-tokeniser alone (tests): calls fn for each piece in order. */
void pretok_split(const char *s, size_t n, void (*fn)(void *user, const char *p, size_t n),
                  void *user);

/* Streaming detokeniser: bytes of ids to valid UTF-8. An incomplete but possible sequence is
 * held back (at most 3 bytes); each maximal invalid subpart gives one U+FFFD. */
struct detok {
    unsigned char pend[4];
    uint8_t n;
};
void detok_feed(struct detok *d, const char *bytes, size_t n, struct buf *out);
void detok_flush(struct detok *d, struct buf *out); /* end of stream; resets */

#endif
