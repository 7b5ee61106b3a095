/* trie.h - the vocabulary's bytes as a trie, so that a mask is found by one walk over what is
 * possible instead of a test of every token. Control tokens are not in it: text can never spell
 * them. Nodes stand in preorder, eight bytes each; a node knows where its subtree ends, so a
 * subtree that is refused costs one step.
 *
 * Beside the trie of all tokens there are masks of "clean" tokens, by length in code points: whole
 * code points that may stand inside a JSON string (no quote, no backslash, no control character),
 * or inside free text. Where any such text is allowed those masks are or-ed word by word, and only
 * the remaining tokens (a much smaller trie) are walked.
 *
 * Memory for 129,280 tokens: about 7 MB. Immutable after trie_new: all threads may read it. */
#ifndef CONSTRAIN_TRIE_H
#define CONSTRAIN_TRIE_H

#include "base/err.h"
#include "base/str.h"

struct tokenizer;

#define TRIE_NONE 0xFFFFFFu
enum {
    TRIE_CLEAN_MAX = 64, /* code points of a clean token; longer ones are walked */
    TRIE_DEPTH_MAX = 255 /* bytes of a token; longer ones are never allowed */
};

struct trie_node {
    uint32_t token_byte; /* token << 8 | byte; TRIE_NONE as token: none ends here */
    uint32_t end;        /* index behind the subtree */
};

struct trie_part {
    struct trie_node *node; /* owned: n of them */
    uint32_t n;
};

enum trie_text { TRIE_JSON, TRIE_TEXT, TRIE_TEXTS };

struct token_trie {
    const struct tokenizer *tok; /* borrowed */
    uint32_t n_vocab, n_words;   /* words of a mask */
    uint32_t mark, eos;          /* the call marker, end of text */
    uint32_t think_close;
    struct trie_part all, rest[TRIE_TEXTS]; /* rest: without the clean ones */
    /* [TRIE_CLEAN_MAX + 1][n_words]: tokens of at most k code points; owned */
    uint32_t *clean[TRIE_TEXTS];
    uint32_t *same; /* pairs (token in the trie, token of equal bytes); owned: 2 * n_same */
    uint32_t n_same;
    size_t bytes; /* memory of all this */
};

/* Errors: FATHOM_EUNSUPPORTED (a vocabulary without the control tokens), FATHOM_ENOMEM. */
int trie_new(struct token_trie **out, const struct tokenizer *tok, fathom_err *err);
void trie_free(struct token_trie *t);

static inline const uint32_t *trie_clean(const struct token_trie *t, enum trie_text which,
                                         uint32_t code_points)
{
    uint32_t k = code_points < TRIE_CLEAN_MAX ? code_points : TRIE_CLEAN_MAX;
    return t->clean[which] + (size_t)k * t->n_words;
}

#endif
