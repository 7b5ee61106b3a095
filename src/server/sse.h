/* sse.h - from a job's events to the wire: what the writers of the protocols share. A writer
 * (chat_out.c, responses_out.c, messages_out.c) turns events into server-sent events as they
 * come, or the collected answer into one body at the end; both are made from the same events, so
 * the pieces of a stream add up to the body. Connection thread. */
#ifndef SERVER_SSE_H
#define SERVER_SSE_H

#include "server/request.h"

/* Signatures of thinking blocks and encrypted content of reasoning items: nothing is in it, and
 * it is not looked at when it comes back, but clients want one. */
#define SSE_OPAQUE "ZmF0aG9t"

/* A call of the answer as the client sees it. */
struct out_call {
    char id[48];                 /* what the client sends back */
    struct buf name, args;       /* args: a JSON object, complete if ended */
    const struct api_tool *tool; /* NULL: a name that was not offered */
    bool ended;
};

/* The answer so far. */
struct out_message {
    struct buf reasoning, content;
    struct out_call *call; /* owned: n_call */
    size_t n_call, cap_call;
    struct job_logprob *logprob; /* owned: of the content's tokens */
    size_t n_logprob, cap_logprob;
    enum finish finish;
    uint32_t stop_index;
    bool started, ended, failed; /* failed: out of memory */
    uint32_t cached;
    struct buf why; /* of a fault */
    struct job_usage usage;
};

struct writer;
struct writer_ops {
    void (*begin)(struct writer *w, struct buf *out); /* may write nothing yet */
    /* text: of the event; the message has been brought up to date before. */
    void (*event)(struct writer *w, const struct job_event *ev, struct slice text,
                  const struct job_logprob *logprob, struct buf *out);
    void (*keepalive)(struct writer *w, struct buf *out);
    void (*end)(struct writer *w, struct buf *out);
    void (*error)(struct writer *w, const struct api_error *e, struct buf *out);
    void (*body)(struct writer *w, struct buf *out);
};

/* State of a writer; the protocols use what they need. */
struct writer {
    const struct writer_ops *ops;
    const struct api_request *req;
    const struct tokenizer *tok;
    struct out_message msg;
    char id[48];     /* of the response */
    int64_t created; /* seconds since 1970 */
    const char *fingerprint;
    uint32_t n_prompt;
    bool thinks; /* the answer begins with reasoning */
    bool begun;  /* first event written */
    /* the item or block that is open */
    int open;
    uint32_t index; /* of it */
    char item[48];
    uint32_t sequence;
    struct buf prefix;  /* chat: the constant begin of a chunk */
    struct buf items;   /* Responses: finished items, comma separated */
    struct buf pending; /* custom tools: the unescaped input so far */
    int unescape;       /* custom tools: where in the arguments text it is */
    size_t part_at;     /* begin of the open part within its text */
};

void writer_init(struct writer *w, const struct api_request *req, const struct tokenizer *tok,
                 uint32_t n_prompt, bool thinks);
void writer_fini(struct writer *w);
/* Brings the message up to date with one event. */
void writer_note(struct writer *w, const struct job_event *ev, struct slice text,
                 const struct job_logprob *logprob);

extern const struct writer_ops chat_writer, completions_writer, responses_writer,
    messages_writer;

/* "PREFIX" and 32 random hexadecimal digits: unique for all time. */
void random_id(char out[48], const char *prefix);

/* Server-sent events. "data: JSON\n\n" with the JSON appended in between. */
void sse_begin(struct buf *out, const char *event); /* event NULL: data only */
void sse_end(struct buf *out);
/* ,"name":"value" pieces */
void add_str(struct buf *out, const char *key, struct slice value); /* "key":"value" */
void add_logprob(struct buf *out, const struct writer *w, const struct job_logprob *l);
void add_logprobs(struct buf *out, const struct writer *w, const struct job_logprob *l,
                  size_t n);
const char *chat_finish_word(const struct writer *w);
/* What a fault is to the client. */
void writer_fault(const struct writer *w, struct api_error *e);

#endif
