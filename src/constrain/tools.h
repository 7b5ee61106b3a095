/* tools.h - tool calls as the model writes them (the syntax of chat/dsml.c) as grammar rules:
 * blocks of calls to known tools, with known parameter names, and values that fit the tool's
 * schema. String values are raw text there (string="true"), all others JSON.
 *
 * A free tool is one whose values are not held to its schema: names are known, the value of a
 * string="false" parameter is any JSON value, and none is required. */
#ifndef CONSTRAIN_TOOLS_H
#define CONSTRAIN_TOOLS_H

#include "constrain/grammar.h"
#include "json/json.h"

struct tools_spec {
    const struct json *tools; /* array of {"function": {name, parameters}, "strict"};
                                 strict may stand in the function, too */
    struct slice only;        /* the one tool that may be called; p NULL: all */
    bool one_call;
    bool hold; /* hold all tools to their schemas, not only those that are strict */
};

/* The rule of a calls block from behind its first marker to the end of the answer; *any: is there
 * a tool to call. Errors as of schema_run. */
int tools_rule(struct grammar *g, const struct tools_spec *spec, uint32_t *rule,
               struct fuel *fuel, fathom_err *err);

#endif
