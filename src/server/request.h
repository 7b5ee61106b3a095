/* request.h - a request for an answer, whatever the protocol: what the parsers of the four
 * protocols (openai_chat.c, completions.c, responses.c, messages.c) make of a body, and how it
 * becomes a prompt and a job. Belongs to the connection's thread. */
#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H

#include "chat/render.h"
#include "server/constraint.h"
#include "server/fields.h"
#include "server/jobs.h"
#include "server/model.h"
#include "server/replay.h"

enum protocol { PROTO_CHAT, PROTO_COMPLETIONS, PROTO_RESPONSES, PROTO_MESSAGES };
enum tool_choice { CHOICE_AUTO, CHOICE_NONE, CHOICE_REQUIRED, CHOICE_NAMED };

enum { MAX_TOOLS = 1024, MAX_MESSAGES = 100000, MAX_LOGPROBS = 20 };

/* A tool as the client named it. */
struct api_tool {
    struct slice shown;       /* its name in the prompt */
    struct slice name, space; /* Responses: of a tool in a namespace; else name = shown */
    bool custom;              /* Responses: one free-form string argument */
};

struct api_request {
    struct arena arena;
    struct json body;
    enum protocol proto;
    struct slice model;
    bool stream, include_usage;

    struct chat_conversation conv;
    struct json *tools;    /* array of {"type":"function","function":...}; NULL: none */
    struct api_tool *tool; /* n_tool, same order */
    size_t n_tool;
    enum tool_choice choice;
    struct slice choice_name; /* as shown in the prompt */
    struct json *allowed;     /* the tools that may be called, of `tools`; NULL: all */
    bool one_call;
    enum constraint_kind format; /* of the content */
    const struct json *schema;
    bool strict;

    fathom_sampling sampling;
    bool seed_given;
    uint32_t max_tokens; /* 0: not given */
    struct slice stop[JOB_MAX_STOP];
    size_t n_stop;
    bool logprobs;
    uint32_t top_logprobs; /* alternatives to print */

    /* reasoning */
    struct slice effort; /* n 0: not given */
    int thinking;        /* -1 not given, 0 off, 1 on */
    uint32_t budget;     /* 0: none */
    bool omit_thinking;  /* Messages: blocks without text */
    bool seal_reasoning; /* Responses: items with encrypted_content, which some clients demand
                            before they send reasoning back */

    struct slice cache_salt;
    bool dropped_tools; /* some server-side tools were left out */

    /* Completions */
    bool raw, echo;
    struct slice raw_text;
    struct ids raw_ids; /* owned; used if raw_text.p is NULL */
};

/* What the parsers need to know of the server. */
struct request_policy {
    const struct model *model; /* open */
    enum chat_release release;
    const char *think;       /* default: a word of chat_think_set */
    uint32_t max_tokens;     /* default; 0: what the context leaves */
    uint32_t max_reasoning;  /* cap; 0: none */
    bool image_placeholder;  /* "[Unsupported image]" instead of an error */
    bool special_tokens;     /* raw prompts may contain control tokens */
    bool strict_model;       /* other names than the model's are 404 */
    struct slice model_name; /* for strict_model */
    double temperature;      /* default */
    struct constraint_cache *constraints;
};

/* Reads a body. Errors: -1 and *e. r is zeroed first and needs request_fini in any case. */
int request_read(struct api_request *r, enum protocol proto, struct slice body,
                 const struct request_policy *p, struct api_error *e);
void request_fini(struct api_request *r);

/* The prompt's ids. text, if not NULL, gets the rendered prompt (for traces). */
int request_prompt(struct api_request *r, const struct request_policy *p, struct replay *replay,
                   struct sip_digest salt, struct ids *ids, bool *in_reasoning,
                   struct buf *text, struct api_error *e);
/* The job; takes the ids over. */
int request_job(struct job_spec *out, struct api_request *r, const struct request_policy *p,
                struct ids *ids, bool in_reasoning, struct api_error *e);

const struct api_tool *request_tool(const struct api_request *r, struct slice shown);

/* ---- for the parsers ---- */
int chat_read(struct api_request *r, const struct fields *f, const struct request_policy *p);
int completions_read(struct api_request *r, const struct fields *f,
                     const struct request_policy *p);
int responses_read(struct api_request *r, const struct fields *f,
                   const struct request_policy *p);
int messages_read(struct api_request *r, const struct fields *f,
                  const struct request_policy *p);

/* Fields that mean the same everywhere; each notes errors in f->e. */
void read_sampling(struct api_request *r, const struct fields *f, double max_temperature);
void read_stop(struct api_request *r, const struct fields *f, const char *name);
void read_max_tokens(struct api_request *r, const struct fields *f, const char *name);
/* OpenAI form, nested (function: {...}) or flat (Responses). */
void read_tool_choice(struct api_request *r, const struct fields *f);
/* The answer must call the tool of this name; f: where the name stands. */
void choose_tool(struct api_request *r, const struct fields *f, struct slice name);
/* Some call is required; `field` is what asks for it, and is at fault if there are no tools. */
void require_call(struct api_request *r, const struct fields *f, const char *field);
void read_format(struct api_request *r,
                 const struct fields *f); /* {type, json_schema|schema} */
/* Adds {"type":"function","function":def} as number n_tool. */
void add_tool(struct api_request *r, const struct fields *at, const struct json *def,
              struct api_tool tool);
struct json *make_function(struct api_request *r, struct slice name, const struct json *text,
                           const struct json *parameters);
void alloc_tools(struct api_request *r, const struct fields *f, size_t n);
/* Text of a content field: string, null (empty) or list of text parts, joined by a blank line;
 * parts of other types are refused or become a placeholder. */
struct slice read_text(struct api_request *r, const struct fields *f, const char *name,
                       const struct request_policy *p);
/* The assistant message at the end of the conversation, to which an assistant text, reasoning or
 * call belongs; a new one if the last is of another role. NULL: out of memory, noted. */
struct chat_message *open_assistant(struct api_request *r, const struct fields *f);
/* The same for protocols whose messages are whole: two assistant messages in a row are one, unless
 * calls stand between them. */
struct chat_message *next_assistant(struct api_request *r, const struct fields *f);
/* The JSON text of a value, "{}" for NULL, in the arena. */
struct slice json_text(struct api_request *r, const struct fields *f, const struct json *v);
/* Joins text to what m has: a blank line between two texts. */
void add_content(struct api_request *r, const struct fields *f, struct chat_message *m,
                 struct slice text);
void add_reasoning(struct api_request *r, const struct fields *f, struct chat_message *m,
                   struct slice text);
struct chat_message *add_message(struct api_request *r, const struct fields *f,
                                 enum chat_role role, struct slice text);
void no_memory(const struct fields *f);

#endif
