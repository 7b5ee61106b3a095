/* message.h - a conversation as every front end sees it: the command line, `fathom render` and
 * the HTTP APIs build this tree, the renderer turns it into a prompt. Everything lives in the
 * arena given to chat_init and dies with it; texts are valid UTF-8 (what is not is repaired
 * when it is added). A conversation belongs to one thread; once built it is only read. */
#ifndef CHAT_MESSAGE_H
#define CHAT_MESSAGE_H

#include "json/json.h"

enum chat_role {
    CHAT_SYSTEM,
    CHAT_USER,
    CHAT_ASSISTANT,
    CHAT_TOOL,
    CHAT_DEVELOPER,
    CHAT_LATEST_REMINDER
};

/* One tool call of an assistant message. */
struct chat_call {
    struct slice id; /* empty if the client gave none */
    struct slice name;
    struct slice arguments; /* JSON text as the client sent it; need not be valid */
};

struct chat_message {
    enum chat_role role;
    struct slice content;   /* text; lists of parts are already joined by blank lines */
    struct slice reasoning; /* assistant */
    struct chat_call *call; /* assistant; n_call of them */
    size_t n_call, cap_call;
    struct slice call_id;               /* tool: the call it answers; empty if unknown */
    const struct json *tools;           /* NULL or a non-empty array of {"function": ...} */
    const struct json *response_format; /* NULL or the value to print */
    struct slice task;                  /* p NULL = none; checked when rendering */
    bool wo_eos;                        /* assistant: leave out the end marker */
};

struct chat_conversation {
    struct arena *arena;       /* borrowed */
    struct chat_message **msg; /* n messages; each stays where it is */
    size_t n, cap;
};

void chat_init(struct chat_conversation *c, struct arena *arena);

/* Appends a message with a copy of `content`; NULL when memory is out. */
struct chat_message *chat_add(struct chat_conversation *c, enum chat_role role,
                              struct slice content);
/* These copy their texts too; false when memory is out. */
bool chat_set_reasoning(struct chat_conversation *c, struct chat_message *m, struct slice text);
bool chat_set_call_id(struct chat_conversation *c, struct chat_message *m, struct slice id);
bool chat_add_call(struct chat_conversation *c, struct chat_message *m, struct slice id,
                   struct slice name, struct slice arguments);

/* Puts request-level tool definitions (a JSON array, borrowed: it must outlive the
 * conversation) on the first message if that is a system or developer message, else on an empty
 * system message inserted before it. An empty array or NULL does nothing. FATHOM_EFORMAT if a
 * definition has no "function". */
int chat_attach_tools(struct chat_conversation *c, const struct json *tools, fathom_err *err);

/* Appends the messages of an OpenAI-like array: role, content (string, null or list of parts),
 * reasoning_content, tool_calls, tool_call_id, and the release's own tools, response_format,
 * task and wo_eos. Borrows from the JSON tree, which must outlive the conversation. Errors:
 * FATHOM_EFORMAT naming the message, FATHOM_ENOMEM. */
int chat_load_messages(struct chat_conversation *c, const struct json *messages,
                       fathom_err *err);

#endif
