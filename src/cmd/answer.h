/* answer.h - one answer of the model on the terminal: ids in, reasoning and content streamed
 * out, the whole message collected. Shared by `run` and `chat`. */
#ifndef CMD_ANSWER_H
#define CMD_ANSWER_H

#include "chat/events.h"
#include "chat/render.h"
#include "cmd/options.h"
#include "cmd/progress.h"

struct answer_setup {
    const struct cli *o;
    fathom_engine *engine;
    fathom_session *session;
    const struct tokenizer *tok;
    struct progress *progress;
    bool quiet; /* nothing is streamed; the caller prints the collected message */
};

struct answer {
    struct chat_result msg; /* reasoning, content, complete calls, how it ended */
    fathom_result gen;
    bool stopped;     /* by a stop string */
    bool interrupted; /* by Ctrl-C; what came before is in msg */
};

/* Sampling options of the command line; a seed is drawn if none was given. */
void answer_sampling(fathom_sampling *p, const struct cli *o);
/* Render options: release, thinking and effort. n_ctx: the context length. */
int answer_render_opts(struct chat_render_opts *r, const struct cli *o, const fathom_info *info,
                       fathom_err *err);
/* Generates the answer to the prompt. *a must be zeroed, and ended with answer_fini also after
 * an error. */
int answer_run(struct answer *a, const struct answer_setup *s, const struct ids *prompt,
               bool in_reasoning, fathom_err *err);
void answer_fini(struct answer *a);
/* "stop", "length", "tool_calls", "malformed" or "interrupted". */
const char *answer_finish(const struct answer *a);

#endif
