/* dfa.h - deterministic automata over bytes: the text of numbers, patterns, formats and keys.
 * They are made by exploring a rule for one state and one byte (struct dfa_source), then trimmed:
 * from every state that is left an accepting one can be reached, so a text that is accepted so
 * far can always be finished. Languages over text hold whole UTF-8 code points only.
 * Thread rule: immutable once made. */
#ifndef CONSTRAIN_DFA_H
#define CONSTRAIN_DFA_H

#include "base/err.h"
#include "base/str.h"

enum {
    DFA_DEAD = 0,
    DFA_START = 1,
    DFA_MAX_STATES = 4096,
    DFA_KEY_MAX = 16, /* bytes that name a state of a source */
    DFA_ACCEPT = 1,
    DFA_ANY = 2, /* every text is accepted from here, and leads back here */
};

struct dfa {
    uint32_t n; /* states with DFA_DEAD; 1: nothing is accepted */
    uint32_t n_class;
    uint8_t class_of[256];
    uint16_t *next; /* [n][n_class]; owned, as flags */
    uint8_t *flags; /* [n] */
};

static inline uint32_t dfa_step(const struct dfa *d, uint32_t s, unsigned char c)
{
    return d->next[(size_t)s * d->n_class + d->class_of[c]];
}

/* Work that a compilation may still do: about one unit a visited state and byte. Counting work
 * and not time makes the same schema succeed or fail everywhere. */
struct fuel {
    uint64_t left;
};
/* False (and err: FATHOM_ELIMIT) when it is spent. */
bool fuel_use(struct fuel *f, uint64_t n, fathom_err *err);

/* A rule to explore. A key is key_bytes bytes, equal bytes being the same state. Bytes of one
 * class are never told apart. */
struct dfa_source {
    void *user;
    size_t key_bytes;
    const uint8_t *class_of; /* [256] */
    uint32_t n_class;
    void (*start)(void *user, void *key);
    /* False: refused. `to` is zeroed before. */
    bool (*step)(void *user, const void *key, unsigned char c, void *to);
    bool (*accept)(void *user, const void *key);
};

/* Errors: FATHOM_ELIMIT (states, fuel), FATHOM_ENOMEM. */
int dfa_explore(struct dfa *out, const struct dfa_source *src, struct fuel *fuel,
                fathom_err *err);
void dfa_free(struct dfa *d);
size_t dfa_bytes(const struct dfa *d);
bool dfa_match(const struct dfa *d, struct slice s);

/* The texts of both. */
int dfa_both(struct dfa *out, const struct dfa *a, const struct dfa *b, struct fuel *fuel,
             fathom_err *err);
/* The texts of d of min..max code points (max UINT32_MAX: no bound). */
int dfa_length(struct dfa *out, const struct dfa *d, uint32_t min, uint32_t max,
               struct fuel *fuel, fathom_err *err);
/* Any text (d NULL) or the texts of d, without the n names. */
int dfa_without(struct dfa *out, const struct dfa *d, const struct slice *name, size_t n,
                struct fuel *fuel, fathom_err *err);

/* Classes from cuts: cut[c] is true if c and c - 1 may differ. Returns n_class. */
uint32_t dfa_classes(uint8_t class_of[256], const bool cut[256]);
/* Cuts where the bytes of UTF-8 differ. */
void dfa_cut_utf8(bool cut[256]);

/* States of a UTF-8 reader: 0 between code points, else inside of one. UTF8_REFUSED: invalid. */
enum { UTF8_BETWEEN = 0, UTF8_STATES = 8, UTF8_REFUSED = 0xFF };
uint8_t utf8_next(uint8_t state, unsigned char c);

/* JSON numbers of at most 40 digits; with bounds, those without exponent that lie in them.
 * minimum, maximum: number texts as in JSON, p NULL: none. */
struct number_bounds {
    struct slice min, max;
    bool min_open, max_open; /* the bound itself is refused */
    bool integer;
};
int dfa_number(struct dfa *out, const struct number_bounds *b, struct fuel *fuel,
               fathom_err *err);

#endif
