/* jsonl.h - the line functions behind `fathom tokens --jsonl`: one JSON object in, one line
 * out. Each appends exactly one JSON object and a line end to `out`; a line that cannot be used
 * gives
 * {"error":"..."} there, so that answers stay in step with questions. Check out->failed for
 * memory. Thread-safe like the tokenizer. */
#ifndef TEXT_JSONL_H
#define TEXT_JSONL_H

#include "text/text.h"

/* {"text":"..."} -> {"ids":[...]}; trusted: control strings are recognised. */
void jsonl_encode(const struct tokenizer *t, bool trusted, struct slice line, struct buf *out);

/* {"ids":[...]} -> {"deltas":["..."],"flush":"..."}: the text that a streaming decoder releases
 * after each id and at the end. */
void jsonl_decode(const struct tokenizer *t, struct slice line, struct buf *out);

#endif
