/* events_int.h - what events.c and dsml.c share: the states of struct chat_events. */
#ifndef CHAT_EVENTS_INT_H
#define CHAT_EVENTS_INT_H

#include "chat/events.h"

enum {
    ST_REASONING, /* before </think> */
    ST_CONTENT,   /* before the end or the calls; hold: what may belong to the opening tag */
    ST_OPENING,   /* "<｜DSML｜" read, tag: what matches "tool_calls" so far */
    ST_DSML,      /* from here to ST_DEAD: inside the calls, see dsml.c */
    ST_BRACKET = ST_DSML, /* '>' must come next */
    ST_BLANK,             /* between tags: blanks, then '<' */
    ST_LESS,              /* '<' read */
    ST_SLASH,             /* "</" read */
    ST_WORD,              /* tag: what matches the expected word so far */
    ST_INVOKE,            /* in the opening tag of a call; tag: its text so far */
    ST_PARAMETER,         /* in the opening tag of a parameter; tag: its text so far */
    ST_VALUE,             /* hold: what may belong to the closing tag */
    ST_VALUE_WORD,        /* hold and the marker read; tag: what matches "parameter" so far */
    ST_CLOSED,            /* the calls are closed */
    ST_DEAD,              /* a fault among the calls: the rest is ignored */
    ST_DONE               /* the end marker was read */
};

/* The control tokens that mean something in a completion. */
enum chat_marker {
    MARK_BOS,
    MARK_EOS,
    MARK_THINK_OPEN,
    MARK_THINK_CLOSE,
    MARK_DSML,
    MARK_COUNT
};
extern const enum control_token marker_tokens[MARK_COUNT];
const char *marker_text(enum chat_marker m);

void events_emit(struct chat_events *e, enum chat_event_kind kind, struct slice text);
/* Notes the first fault. */
void events_fault(struct chat_events *e, const char *why);

/* dsml.c: starts after "<｜DSML｜tool_calls"; takes text (returns the bytes consumed, at least
 * one, or changes the state) and markers. */
void dsml_start(struct chat_events *e);
size_t dsml_text(struct chat_events *e, const char *s, size_t n);
void dsml_marker(struct chat_events *e, enum chat_marker m);

#endif
