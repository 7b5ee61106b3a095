/* manifest.h - JSON Lines from outside: prompts with continuations, tasks, official answers. A
 * line is one object; the prompt is the first of these that is there:
 *   "prompt_ids": [0, 12, ...]     ids as they are
 *   "messages": [...] ("tools")    OpenAI form, rendered by the chat template
 *   "prompt": "..." ("system")     one user message, rendered by the chat template
 *   "text": "..."                  trusted text without a template, after BOS
 * "thinking": true or false (default) says how a rendered prompt ends. The continuation is
 *   "continuation_ids" or "sample": [...], or "continuation": "..." (trusted text, control strings
 *   such as the end token written out).
 * Thread rule: one thread; contexts are only read. */
#ifndef EVAL_MANIFEST_H
#define EVAL_MANIFEST_H

#include "chat/render.h"
#include "json/json.h"
#include "text/text.h"

struct manifest_ctx {
    const struct tokenizer *tok; /* NULL: only ids can be used */
    enum chat_release release;
    uint32_t n_vocab; /* ids must be below; 0: not checked */
};

enum { MANIFEST_MAX_BYTES = 1 << 30 };

/* Calls fn for every line that is not blank, in order, with the parsed object (it dies after the
 * call). Stops at the first error and prefixes it with "line N". Errors: FATHOM_EFORMAT (not
 * JSON, not an object), what fn returns. */
int manifest_each(struct slice text,
                  int (*fn)(void *user, const struct json *entry, fathom_err *err), void *user,
                  fathom_err *err);

/* Appends the prompt's ids. Errors: FATHOM_EFORMAT (no prompt, ids out of range, a conversation
 * that the template refuses), FATHOM_EUNSUPPORTED (text without a tokenizer), FATHOM_ENOMEM. */
int manifest_prompt(struct ids *out, const struct manifest_ctx *m, const struct json *entry,
                    fathom_err *err);
/* Appends the continuation's ids; *n_added is 0 if the entry has none. */
int manifest_continuation(struct ids *out, size_t *n_added, const struct manifest_ctx *m,
                          const struct json *entry, fathom_err *err);
/* One user message, rendered. */
int manifest_user_prompt(struct ids *out, const struct manifest_ctx *m, struct slice system,
                         struct slice text, bool thinking, fathom_err *err);

#endif
