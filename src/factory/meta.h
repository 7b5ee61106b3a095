/* meta.h - the metadata keys of a converted file (gguf.md 2.2, 2.4). */
#ifndef FACTORY_META_H
#define FACTORY_META_H

#include "base/str.h"
#include "factory/plan.h"

struct gguf_writer;
struct tokenizer;

/* Everything about the model: architecture, sizes, constants, release. name: general.name. */
void meta_write_model(struct gguf_writer *w, const struct plan *p, struct slice name);
/* The tokenizer keys. The vocabulary must have exactly n_vocab entries. */
int meta_write_tokenizer(struct gguf_writer *w, const struct tokenizer *t, uint32_t n_vocab,
                         fathom_err *err);

#endif
