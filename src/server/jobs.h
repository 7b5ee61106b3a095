/* jobs.h - a job: one answer to be generated. It is the only thing that the connection threads
 * and the engine thread share. What is asked (struct job_spec) never changes after submission;
 * what comes out is a log of events that only grows, so that several readers (an identical
 * request that was joined) can each read it from the beginning, at their own pace, and a slow
 * reader holds up nobody.
 *
 * References: one for each reader, one for the scheduler while it knows the job. When the last
 * reader lets go before the end, the job is cancelled. Locks: each job has its own; the log and
 * `readers` are under it. */
#ifndef SERVER_JOBS_H
#define SERVER_JOBS_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"
#include "base/siphash.h"
#include "base/str.h"
#include "server/constraint.h"
#include "text/text.h"

enum { JOB_MAX_STOP = 16, JOB_LOG_BYTES = 256 << 20 };

/* What to generate. Owned by the job. */
struct job_spec {
    char id[48]; /* of the request, for log lines */
    struct ids prompt;
    bool chat; /* the answer is parsed (reasoning, content, calls); else it is raw text */
    bool in_reasoning; /* the prompt ends inside reasoning */
    bool one_call;     /* stop after the first tool call */
    bool no_calls;     /* the call marker is masked (tool_choice none) */
    bool seeded;       /* the caller chose the seed, or the temperature is 0 */
    fathom_sampling sampling;
    uint32_t max_tokens;       /* >= 1, already within the context */
    bool context_bound;        /* max_tokens is what the context leaves, not what was asked */
    uint32_t reasoning_tokens; /* most tokens of reasoning; 0: no limit */
    char *stop[JOB_MAX_STOP];  /* owned */
    size_t n_stop;
    struct constraint *constraint; /* owned; NULL: free text */
    uint32_t key;                  /* number of the API key: the queue is fair between keys */
    struct sip_digest salt; /* only prompts of the same salt may share computed prefixes */
};

enum job_event_kind {
    JOB_EV_START, /* the prompt is being computed: n = tokens that came from the cache */
    JOB_EV_REASONING,
    JOB_EV_CONTENT,
    JOB_EV_CALL,      /* text = name */
    JOB_EV_ARGUMENTS, /* text = the next piece of a JSON object */
    JOB_EV_CALL_END,
    JOB_EV_END, /* last: finish; or failed */
};

enum finish {
    FINISH_STOP,    /* end of text */
    FINISH_LENGTH,  /* max_tokens */
    FINISH_CONTEXT, /* the context is full */
    FINISH_CALLS,   /* at least one complete call */
    FINISH_STRING,  /* a stop string: n = its number */
    FINISH_FAULT,   /* text = why */
    FINISH_SHUTDOWN,
};

/* A token of the content, for log probabilities. */
struct job_logprob {
    uint32_t id;
    float logprob;
    uint32_t n_top;
    fathom_logprob top[20];
};

struct job_event {
    enum job_event_kind kind;
    enum finish finish;
    uint32_t call, n;
    size_t text_at, text_n;
    size_t logprob_at, logprob_n; /* of the tokens whose text this is (content only) */
};

struct job_usage {
    uint32_t prompt, cached, output, reasoning;
    uint32_t cached_disk; /* of cached, those that came from files */
    uint32_t matched;     /* where the known beginning of the prompt ends ... */
    const char *end;      /* ... and why: fathom_reuse_end_name; NULL: it did not start */
    double queued_s, prefill_s, decode_s, first_token_s; /* first_token: since submission */
};

struct job {
    struct job_spec spec;
    atomic_bool cancel; /* nobody wants it any more */
    double submitted;   /* clock_now() */
    struct job *next;   /* scheduler's queue */
    bool later;         /* scheduler: passed over in this round */

    pthread_mutex_t lock;
    pthread_cond_t more;
    uint32_t refs, readers;
    struct job_event *event; /* owned: n_event of them */
    size_t n_event, cap_event;
    struct buf text;
    struct job_logprob *logprob; /* owned */
    size_t n_logprob, cap_logprob;
    struct job_usage usage; /* final with the end event */
    bool ended, failed;     /* failed: memory ran out while writing the log */
    struct ids output;      /* all tokens that were chosen; final with the end event */
};

/* Takes over what spec owns. One reader, one reference. NULL: out of memory (spec freed). */
struct job *job_new(struct job_spec *spec);
void job_spec_fini(struct job_spec *s);
void job_ref(struct job *j);
void job_unref(struct job *j);
/* Becomes a reader (with a reference) unless the last one has gone already. */
bool job_join(struct job *j);
/* Gives up reading (and the reader's reference). */
void job_leave(struct job *j);
/* Do the two ask for the same tokens, so that one answer serves both? Only if the result is
 * determined: a seed, or temperature 0. */
bool job_same(const struct job_spec *a, const struct job_spec *b);

/* ---- writing (engine thread) ---- */
void job_put(struct job *j, struct job_event ev, struct slice text,
             const struct job_logprob *logprob, size_t n_logprob);
/* The end event; wakes the readers. */
void job_end(struct job *j, enum finish finish, uint32_t n, struct slice why,
             const struct job_usage *usage, const struct ids *output);

/* ---- reading ---- */
struct job_reader {
    struct job *job;
    size_t at;               /* next event */
    struct buf text;         /* of the last batch */
    struct job_event *event; /* owned copies, offsets into text and logprob above */
    size_t n, cap;
    struct job_logprob *logprob;
    size_t n_logprob, cap_logprob;
    bool failed;
};
/* Waits at most `seconds` for more events and copies them; r->n may be 0 after that. */
void job_read(struct job_reader *r, double seconds);
struct slice job_text(const struct job_reader *r, const struct job_event *ev);
void job_reader_fini(struct job_reader *r); /* does not leave the job */
/* After the end event. */
struct job_usage job_usage(struct job *j);

#endif
