/* jsonl.h - one line in, one line out: the work behind `fathom render --jsonl` and `fathom
 * parse
 * --jsonl` (forms: `fathom help render`; entries: tests/data/chat-vectors/README.md).
 * Thread-safe; the tokenizer is only read. */
#ifndef CHAT_JSONL_H
#define CHAT_JSONL_H

#include "chat/render.h"

/* `entry` has messages and options (and may have tools, put on its first message). Appends
 * {"prompt","ids","safe_ids"} or {"error"}, without a newline. Returns 0 also for a bad
 * entry; only FATHOM_ENOMEM is an error of the call. */
int chat_render_line(struct buf *out, const struct tokenizer *t, enum chat_release release,
                     struct slice entry, fathom_err *err);

/* `entry` has completion and thinking_mode ("thinking" or "chat"). Appends
 * {"reasoning_content","content","tool_calls":[{"name","arguments"}]}, or {"error"} if the
 * completion is cut off or breaks the format. strict: the release's own grammar, else what
 * docs/chat-format.md tolerates. */
int chat_parse_line(struct buf *out, bool strict, struct slice entry, fathom_err *err);

/* The options object of an entry (thinking_mode, reasoning_effort, drop_thinking,
 * add_default_bos_token) into *o, whose release is kept. FATHOM_EFORMAT or FATHOM_EINVAL. */
int chat_options_load(struct chat_render_opts *o, const struct json *options, fathom_err *err);
/* Messages and context of an entry into a conversation, sets o->n_context. */
int chat_entry_load(struct chat_conversation *c, struct chat_render_opts *o,
                    const struct json *entry, fathom_err *err);

#endif
