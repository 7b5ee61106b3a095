/* render.h - a conversation to the prompt of one of the two releases (docs/chat-format.md).
 * A prompt is a text and the list of its segments: which bytes are control tokens, which are
 * text of the template, which came from outside. Control ids can only come from the first kind,
 * so nothing that a message says can act as a marker. Thread rule: a prompt belongs to one
 * thread; rendering only reads the conversation. */
#ifndef CHAT_RENDER_H
#define CHAT_RENDER_H

#include "chat/message.h"
#include "text/text.h"

enum chat_release { CHAT_PREVIEW, CHAT_0731 };
/* "preview" and "0731", as in --release and the metadata fathom.release. */
bool chat_release_parse(const char *name, enum chat_release *out);

/* How hard to think; which values a release knows is in docs/chat-format.md. */
enum chat_effort { CHAT_EFFORT_NONE, CHAT_EFFORT_LOW, CHAT_EFFORT_HIGH, CHAT_EFFORT_MAX };

struct chat_render_opts {
    enum chat_release release;
    enum chat_effort effort;
    bool thinking;      /* the answer starts with reasoning */
    bool keep_thinking; /* reasoning of earlier turns stays (the release's drop_thinking=False)
                         */
    bool no_bos;        /* do not begin with the BOS token */
    bool api_rules; /* what server and `chat` add to the release (chat-format.md, API rules) */
    size_t n_context; /* the first n messages were rendered before: write only what follows */
};

/* Words of the command line (--think) and of the APIs: off, on, none, minimal, low, medium,
 * high, xhigh, max, ultra; sets thinking and effort for o->release.
 * n_ctx, if not 0, is the context length: below CHAT_MAX_EFFORT_CTX "max" becomes "high".
 * False: unknown word, nothing set. */
enum { CHAT_MAX_EFFORT_CTX = 393216 };
bool chat_think_set(struct chat_render_opts *o, const char *word, uint64_t n_ctx);

enum chat_seg_kind { CHAT_SEG_CONTROL, CHAT_SEG_TEMPLATE, CHAT_SEG_TEXT };
struct chat_seg {
    enum chat_seg_kind kind;
    enum control_token token; /* CHAT_SEG_CONTROL only */
    size_t at, n;             /* bytes of the prompt text; segments follow each other */
};

struct chat_prompt {
    struct buf text; /* the whole prompt, control tokens spelled out */
    struct chat_seg *seg;
    size_t n_seg, cap_seg;
    bool in_reasoning; /* the completion begins inside reasoning: how to start chat_events */
    bool failed;       /* memory ran out while adding */
};

/* Renders into *out (zeroed or used before; emptied first). Errors: FATHOM_EINVAL for an effort
 * that the release does not know, FATHOM_EFORMAT for a conversation that it refuses,
 * FATHOM_ENOMEM. */
int chat_render(struct chat_prompt *out, const struct chat_conversation *c,
                const struct chat_render_opts *o, fathom_err *err);
void chat_prompt_fini(struct chat_prompt *p);

/* Appends the ids to feed to the model: control ids only where the template wrote them; text
 * between two of them is tokenized as one run of untrusted text. FATHOM_EUNSUPPORTED if the
 * vocabulary lacks a control token that the prompt uses. */
int chat_prompt_ids(const struct chat_prompt *p, const struct tokenizer *t, struct ids *out,
                    fathom_err *err);
/* Appends the ids that the release's own code would produce: the whole text tokenized with
 * added tokens recognised anywhere. For comparison only. */
int chat_prompt_release_ids(const struct chat_prompt *p, const struct tokenizer *t,
                            struct ids *out, fathom_err *err);

#endif
