/* turns.h - from messages to turns: what the release does before it renders (merging, sorting
 * tool results, dropping). Used by render.c only. */
#ifndef CHAT_TURNS_H
#define CHAT_TURNS_H

#include "chat/message.h"

/* One block of a user turn, or one text of joined system messages. */
struct chat_part {
    struct slice text;
    struct slice call_id;
    bool result; /* a tool result */
};

/* Consecutive messages that are rendered as one. */
struct chat_turn {
    enum chat_role role;             /* never CHAT_TOOL: results are blocks of a user turn */
    struct chat_message *const *msg; /* borrowed from the conversation, n_msg of them */
    struct chat_part *part;          /* n_part of them */
    size_t n_msg, n_part;
    struct slice task; /* p NULL = none */
};

struct chat_turns {
    struct chat_turn *turn; /* in the arena given to chat_turns_make */
    size_t n;
    size_t n_context; /* turns that lie before the messages to render */
    size_t last_user; /* index of the last user or developer turn; SIZE_MAX if there is none */
    bool keep_reasoning;
};

struct chat_turns_opts {
    size_t n_context; /* messages */
    bool thinking, keep_thinking;
    bool api_rules; /* developer means system; leading systems joined; empty later ones dropped
                     */
};

/* Allocates in `a`. FATHOM_ENOMEM is the only error. */
int chat_turns_make(struct chat_turns *out, struct arena *a, const struct chat_conversation *c,
                    const struct chat_turns_opts *o, fathom_err *err);

#endif
