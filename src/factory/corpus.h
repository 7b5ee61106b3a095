/* corpus.h - texts to calibrate on, as token sequences (docs/factory.md). Two forms of file:
 * plain text, cut into pieces of equal length; and, if the name ends in .jsonl, one JSON object
 * a line, each a sequence of its own: {"messages": [...]} is rendered with the chat template
 * (with "options", "tools" and "context" as in `fathom render`), {"prompt": "..."} is rendered
 * text, in which control strings are control tokens, {"text": "..."} is ordinary text. */
#ifndef FACTORY_CORPUS_H
#define FACTORY_CORPUS_H

#include "chat/render.h"

struct corpus_options {
    enum chat_release release;
    uint32_t window; /* tokens of a piece of plain text, BOS included; 0: 2048 */
    uint32_t limit;  /* longest sequence; longer ones are cut and counted; 0: none */
    bool trusted;    /* plain text: control strings are control tokens, and no BOS is added */
};

struct corpus {
    struct ids ids;   /* all sequences, one behind the other */
    struct ids start; /* [n] where each begins */
    size_t n;         /* sequences, none empty */
    size_t n_cut;     /* sequences that were longer than the limit */
};

/* Reads a whole file ("-": plain text from stdin), at most 1 GiB. FATHOM_EFORMAT names the line
 * that is not usable; a file without a token is FATHOM_EFORMAT, too. */
int corpus_load(struct corpus *c, const struct tokenizer *t, const char *path,
                const struct corpus_options *opt, fathom_err *err);
/* The same over bytes (tests); label is for messages. */
int corpus_parse(struct corpus *c, const struct tokenizer *t, struct slice text, bool jsonl,
                 const char *label, const struct corpus_options *opt, fathom_err *err);
void corpus_free(struct corpus *c); /* also safe after a failed load */

/* Sequence i. */
const uint32_t *corpus_ids(const struct corpus *c, size_t i, uint32_t *n);

#endif
