/* engine.h - what an open engine consists of, for the program's own tools (explain, logits,
 * selftest, imatrix, eval) and tests. Everything an application needs is in fathom/fathom.h.
 * All pointers are borrowed from the engine. Thread rule: engine thread. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "fathom/fathom.h"

#include "kv/state.h"
#include "model/forward.h"

struct gguf;
struct kv_store;
struct kv_tree;
struct tokenizer;

const struct shape *engine_shape(const fathom_engine *e);
const struct layout *engine_layout(const fathom_engine *e);
const struct weights *engine_weights(const fathom_engine *e);
const struct gguf *engine_gguf(const fathom_engine *e);
const struct tokenizer *engine_tokenizer(const fathom_engine *e); /* NULL: file has none */
const struct kv_pool *engine_pool(const fathom_engine *e);
const struct kv_tree *engine_tree(const fathom_engine *e);
struct kv_store *engine_store(const fathom_engine *e); /* NULL: none */
/* Asserts every invariant of pool, prefix tree and sessions, and that memory in use is within
 * the budget: O(everything), for tests. */
void engine_check(const fathom_engine *e);

/* Size classes in ascending order; the recorded program of class i < engine_n_classes. */
uint32_t engine_n_classes(const fathom_engine *e);
const struct program *engine_program(const fathom_engine *e, uint32_t i);
/* The class that a step of n_tok tokens uses. */
uint32_t engine_class_of(const fathom_engine *e, uint32_t n_tok);

/* The backend and its open device; the buffers of SPACE_ARENA and SPACE_IO operands, for reading
 * in a trace. */
const struct backend *engine_backend(const fathom_engine *e, struct device **dev);
struct buffer *engine_arena(const fathom_engine *e);
struct buffer *engine_io(const fathom_engine *e);
/* Traces the following steps; NULL or kinds 0 switches it off. */
void engine_trace(fathom_engine *e, const struct backend_trace *t);

/* The sequence state of a session. */
const struct kv_state *session_state(const fathom_session *s);

/* For measurements at depth without a prefill: makes s, which must be empty, a sequence of n
 * random tokens (n a multiple of the largest ratio) with random rows of sane size.
 * Deterministic by seed; what it then computes means nothing. FATHOM_ELIMIT as
 * fathom_session_set. */
int session_fill(fathom_session *s, uint32_t n, uint64_t seed, fathom_err *err);

#endif
