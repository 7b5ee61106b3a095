/* replay.h - remembers what the model sampled, so that a conversation that a client sends back
 * becomes the same token ids again and its computed prefix stays usable.
 *
 * Two things can differ otherwise. The same text can be cut into other tokens than the sampled
 * ones; and clients reprint the arguments of calls (other blanks, other key order). So an
 * answer is kept in two parts, reasoning and the rest, each under the bytes that the renderer
 * makes of it; and calls are kept by their id, so that arguments that are equal as JSON values
 * are rendered as they were sent. Reasoning that a client leaves out is not put back.
 *
 * Bounded: the oldest records go first. Thread-safe. Records are separated by salt. */
#ifndef SERVER_REPLAY_H
#define SERVER_REPLAY_H

#include "base/siphash.h"
#include "chat/render.h"

struct replay;

struct replay *replay_new(size_t max_bytes); /* NULL: out of memory */
void replay_free(struct replay *r);

/* Remembers an answer. m: the message as it was sent to the client (its calls with the ids that
 * the client knows), complete; output: the sampled ids after the generation prefix, the
 * end-of-text token included; in_reasoning: they begin with reasoning. What does not fit the
 * rules (no end token, another number of markers) is left out silently: it only costs time. */
void replay_note(struct replay *r, const struct tokenizer *t, struct sip_digest salt,
                 const struct chat_message *m, const struct chat_render_opts *o,
                 const struct ids *output, bool in_reasoning);

/* Puts back the arguments of known calls where they are equal as JSON values. */
void replay_calls(struct replay *r, struct sip_digest salt, struct chat_conversation *c);

/* chat_prompt_ids with the sampled ids of known answers. */
int replay_prompt_ids(struct replay *r, struct sip_digest salt, const struct chat_prompt *p,
                      const struct tokenizer *t, struct ids *out, fathom_err *err);

struct replay_stats {
    uint64_t n_records, n_bytes, n_hits;
};
struct replay_stats replay_stats(struct replay *r);

#endif
