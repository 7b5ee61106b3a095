/* constraint.c - see constraint.h: where src/constrain will be called. */
#include "server/constraint.h"

int constraint_make(struct constraint **out, const struct constraint_spec *spec,
                    const struct tokenizer *tok, fathom_err *err)
{
    (void)tok;
    *out = NULL;
    switch (spec->kind) {
    case CONSTRAINT_NONE: return 0;
    case CONSTRAINT_JSON_OBJECT:
    case CONSTRAINT_JSON_SCHEMA:
        return err_set(
            err, FATHOM_EUNSUPPORTED,
            "this build cannot constrain an answer to JSON; ask for text, and say in "
            "the prompt what form it should have");
    case CONSTRAINT_CALL_ANY:
    case CONSTRAINT_CALL_NAMED: break;
    }
    return err_set(err, FATHOM_EUNSUPPORTED,
                   "this build cannot force a tool call; use tool_choice auto or none");
}
