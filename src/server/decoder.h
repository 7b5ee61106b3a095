/* decoder.h - one answer while it is generated: takes the chosen tokens, writes the job's events,
 * says when to stop and what the next token may be. Engine thread. */
#ifndef SERVER_DECODER_H
#define SERVER_DECODER_H

#include "chat/events.h"
#include "server/jobs.h"

struct decoder_tools { /* what all answers share; borrowed */
    const struct tokenizer *tok;
    uint32_t n_vocab;
    const uint32_t *no_calls_mask; /* all tokens but the call marker */
};

/* Private, except n_output. */
struct decoder {
    const struct decoder_tools *t;
    struct job *job;           /* borrowed */
    struct chat_events events; /* chat only; started */
    struct detok detok;        /* raw text only */
    struct buf clean;
    fathom_stop *stop;
    struct ids output;
    struct chat_result msg; /* what was sent, for the replay records */
    uint32_t n_output, n_reasoning, n_call;
    bool in_reasoning, in_calls;
    bool done; /* finish is decided */
    enum finish finish;
    uint32_t stop_index;
    /* Content tokens whose text is still held back, and the bytes of text they stand for. */
    struct job_logprob *wait;
    size_t *wait_bytes;
    size_t n_wait, cap_wait;
    int64_t credit; /* bytes sent and not yet covered by a token */
    bool failed;
};

/* *a must stay where it is until decoder_fini. */
int decoder_start(struct decoder *a, const struct decoder_tools *t, struct job *job,
                  fathom_err *err);
/* A token that must come next whatever the model says (the end of reasoning that is too long). */
bool decoder_forced(const struct decoder *a, uint32_t *id);
/* Mask for the next choice; NULL: everything is allowed. */
const uint32_t *decoder_mask(struct decoder *a);
/* Sampling parameters for the next choice: penalties count generated tokens only. */
fathom_sampling decoder_sampling_now(const struct decoder *a);
/* The token that was chosen. True: the answer ends with it. */
bool decoder_take(struct decoder *a, const fathom_choice *choice);
/* Sends what was held back, ends the parser. Returns how the answer ended; FINISH_FAULT if
 * `fault` or if memory ran out. The end event is the caller's. Once, before decoder_fini. */
enum finish decoder_close(struct decoder *a, bool fault);
void decoder_fini(struct decoder *a);

#endif
