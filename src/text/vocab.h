/* vocab.h - inside of struct tokenizer, shared by the files of this folder only.
 * A vocabulary comes from one of two places (vocab_json.c, vocab_gguf.c), which fill a struct
 * vocab_src; vocab_build (vocab.c) checks it and makes the tokenizer. Ids: 0..2 control
 * strings, 3..258 the single bytes in any order, 259 + r the result of merge r, then added
 * tokens. */
#ifndef TEXT_VOCAB_H
#define TEXT_VOCAB_H

#include "text/text.h"

enum {
    VOCAB_MAX = 1 << 20, /* ids; a file with more is refused before anything is allocated */
    N_FIRST_CONTROL = 3,
    FIRST_MERGE_ID = 259,
    TOKEN_NORMAL = 1, /* token types as in GGUF */
    TOKEN_CONTROL = 3,
    TOKEN_USER = 4,
};
#define NO_ID UINT32_MAX
#define PAIR_HASH 0x9E3779B97F4A7C15u

struct merge {
    uint32_t left, right;
};
struct pair_slot {
    uint64_t key; /* left << 32 | right */
    uint32_t id;  /* of the merged token; NO_ID: the slot is free */
};
struct added_token {
    struct slice text; /* view into tokenizer.bytes */
    uint32_t id;
};
struct piece_cache;

struct tokenizer {
    uint32_t n_vocab, n_merges;
    uint32_t n_base; /* FIRST_MERGE_ID + n_merges: ids from here on are added tokens */
    char *bytes;     /* raw bytes of all tokens, id order; owned, as all below */
    uint32_t *off;   /* [n_vocab + 1] into bytes */
    uint8_t *type;   /* [n_vocab] */
    uint32_t byte_id[256];
    struct merge *merges;    /* [n_merges], rank order */
    struct pair_slot *pairs; /* [1 << pair_bits], open addressing */
    unsigned pair_bits;
    struct added_token *added; /* [n_added], ascending by bytes */
    uint32_t n_added;
    bool added_first[256]; /* bytes that an added token may begin with */
    int32_t control[CT_COUNT];
    struct piece_cache *cache; /* the only part that changes after load; has its own locks */
};

/* Id that merging left and right gives, or NO_ID. */
static inline uint32_t pair_find(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << 32 | right;
    size_t mask = ((size_t)1 << t->pair_bits) - 1;
    size_t i = (size_t)(key * PAIR_HASH >> (64 - t->pair_bits));
    while (t->pairs[i].key != key && t->pairs[i].id != NO_ID) {
        i = (i + 1) & mask;
    }
    return t->pairs[i].id; /* a free slot holds NO_ID */
}

/* What a loader found, as views into its own memory. Texts are in stored form: byte alphabet
 * for normal tokens, literal for added ones. */
struct vocab_merge_src {
    struct slice left, right;
};
struct vocab_src {
    const char *label; /* file, for messages */
    uint32_t n_vocab, n_merges;
    const struct slice *text; /* [n_vocab]; .p NULL: the file has no text for this id */
    const uint8_t *type;      /* [n_vocab] */
    const struct vocab_merge_src *merges;
};
/* Errors: FATHOM_EFORMAT naming label and the place, FATHOM_ENOMEM. */
int vocab_build(struct tokenizer **out, const struct vocab_src *src, fathom_err *err);

/* Type that the release's GGUF converter gives an added token: control if flagged special or
 * spelled like one (<| ... |>, with ASCII or fullwidth bars), else user-defined. */
uint8_t vocab_added_type(struct slice text, bool special);

/* ---- alphabet.c: the 256 printable code points that stand for bytes in stored token texts
 * ---- */
/* Appends the byte alphabet form of s. */
void alphabet_encode(struct buf *out, struct slice s);
/* Appends the bytes that s stands for; false if s has a code point outside the alphabet. */
bool alphabet_decode(struct buf *out, struct slice s);

/* ---- xz.c ---- */
bool xz_detect(const char *p, size_t n);
/* Decompresses one .xz file into out, which keeps to out->max_bytes (required). */
int xz_decode(struct buf *out, const char *p, size_t n, const char *label, fathom_err *err);

/* ---- piece_cache.c: piece -> ids, bounded, shared by threads ---- */
/* The cache is a few independent lanes; an encode call takes one for its whole duration, so a
 * lookup costs no lock. NULL from piece_cache_take: all are busy, go without. */
struct cache_lane;
struct piece_cache *piece_cache_new(void); /* NULL when out of memory */
void piece_cache_free(struct piece_cache *c);
struct cache_lane *piece_cache_take(struct piece_cache *c);
void piece_cache_give(struct cache_lane *lane);

enum { CACHE_PIECE_MAX = 31, CACHE_IDS_MAX = 7 };
struct cache_entry { /* one cache line */
    uint64_t key[4]; /* piece, zeros, length in the last byte (0: free) */
    uint32_t n;
    uint32_t ids[CACHE_IDS_MAX];
};
/* Slot for a piece of 1..CACHE_PIECE_MAX bytes, with its key: a hit if the keys are equal;
 * otherwise fill the entry to remember the piece. */
struct cache_entry *piece_cache_slot(struct cache_lane *lane, struct slice piece,
                                     uint64_t key[4]);

/* ---- added.c ---- */
/* Sorts t->added and sets added_first. */
void added_prepare(struct tokenizer *t);
/* First added token at or after p, the longest of those that begin there; NULL if none. *at is
 * where it begins. */
const struct added_token *added_find(const struct tokenizer *t, const char *p, const char *end,
                                     const char **at);

#endif
