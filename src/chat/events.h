/* events.h - a completion, as it is generated, to events: reasoning, content, tool calls.
 * Start, feed, finish. Feed sampled tokens (control tokens are known by id, so spelled-out
 * look-alikes are plain text) or text (scripted completions, `fathom parse`: control tokens
 * are known by spelling). However the input is cut, the concatenated texts of the events are
 * the same; they are valid UTF-8 and hold no byte of a control token or call tag. A parser
 * belongs to one thread and must not move while in use. */
#ifndef CHAT_EVENTS_H
#define CHAT_EVENTS_H

#include "base/mem.h"
#include "json/keyset.h"
#include "text/text.h"

enum chat_event_kind {
    CHAT_EV_REASONING, /* text */
    CHAT_EV_CONTENT,   /* text */
    CHAT_EV_CALL,      /* text = name; a new call begins */
    CHAT_EV_ARGUMENTS, /* text = next piece of its arguments, a JSON object as text */
    CHAT_EV_CALL_END,  /* the call is complete; a call without this event must not be run */
    CHAT_EV_END        /* last event: end, why */
};

enum chat_end {
    CHAT_END_STOP,     /* complete and well formed */
    CHAT_END_LENGTH,   /* cut off: the input ended in the middle */
    CHAT_END_MALFORMED /* broke the format; what was good has been sent, `why` names the fault */
};

struct chat_event {
    enum chat_event_kind kind;
    size_t call;       /* number of the call, from 0 */
    struct slice text; /* valid during the callback */
    enum chat_end end;
    const char *why; /* static; NULL for CHAT_END_STOP */
};

struct chat_events_opts {
    bool thinking; /* the prompt ended inside reasoning (chat_prompt.in_reasoning) */
    bool strict; /* only what the release's parser accepts; else extra or missing blanks around
                      tags, and a missing blank line before the calls, are tolerated */
    void (*sink)(void *user, const struct chat_event *ev);
    void *user;
};

/* All fields private. */
struct chat_events {
    struct chat_events_opts o;
    const struct tokenizer *tok; /* borrowed; NULL if only text is fed */
    int state;
    struct detok detok;
    struct buf clean; /* text mode: valid UTF-8 that may still begin a control token */
    struct buf hold;  /* text that may still turn out to be part of a tag */
    struct buf tag;   /* the word or tag being read */
    struct buf args;  /* scratch for one arguments event */
    /* tags of the calls block */
    const char *word; /* name of the tag being read */
    bool closing;     /* it is a closing tag */
    size_t n_blank;   /* blanks read between tags */
    bool only_newlines, after_line;
    /* the call being read */
    size_t n_call, n_param;
    bool in_call, string_value;
    struct keyset keys;
    struct arena key_arena;
    const char *why; /* the first fault */
    bool failed;     /* memory ran out */
};

/* tok may be NULL if only text will be fed; it outlives the parser. */
void chat_events_start(struct chat_events *e, const struct chat_events_opts *o,
                       const struct tokenizer *tok);
void chat_events_token(struct chat_events *e, uint32_t id);
void chat_events_text(struct chat_events *e, const char *s, size_t n);
/* True once the end-of-text token was seen: nothing more should be fed. */
bool chat_events_done(const struct chat_events *e);
/* Sends what was held back and the end event, and frees the parser's memory. FATHOM_ENOMEM if
 * memory ran out on the way (the end event then says malformed). */
int chat_events_finish(struct chat_events *e, fathom_err *err);

/* A sink that collects the whole message. Calls that were not completed are not in it. */
struct chat_result_call {
    struct buf name, arguments;
};
struct chat_result {
    struct buf reasoning, content;
    struct chat_result_call *call; /* n_call complete calls */
    size_t n_call, cap_call;
    bool open; /* call[n_call] is being read */
    enum chat_end end;
    const char *why;
    bool failed; /* memory ran out */
};
void chat_result_sink(void *result, const struct chat_event *ev);
void chat_result_fini(struct chat_result *r);

#endif
