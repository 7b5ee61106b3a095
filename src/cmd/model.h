/* model.h - which model a command works on (-m PATH, else $FATHOM_MODEL, else the embedded mini
 * model), and how it is opened: as an engine, as a GGUF, or as a tokenizer alone. */
#ifndef CMD_MODEL_H
#define CMD_MODEL_H

#include "base/err.h"
#include "cmd/options.h"
#include "cmd/progress.h"
#include "gguf/gguf.h"
#include "text/text.h"

/* Either a path, or bytes inside this program. */
struct model_ref {
    const char *path;
    const void *data;
    size_t n_bytes;
};
/* FATHOM_EINVAL if nothing is named and nothing embedded. Says on stderr when the embedded
 * model is taken. */
int model_find(struct model_ref *m, const struct cli *o, fathom_err *err);
const char *model_label(const struct model_ref *m); /* for messages */

/* "cannot load PATH: reason", with the label said once; returns the exit code. */
int model_fail(const struct model_ref *m, fathom_err *err);

int model_gguf(struct gguf **out, const struct model_ref *m, fathom_err *err);
/* A GGUF or a tokenizer.json, also .xz, told apart by content. *release (may be NULL) is set to
 * what the file says: "preview" or "0731"; NULL for a bare tokenizer. */
int model_tokenizer(struct tokenizer **out, const char **release, const struct model_ref *m,
                    fathom_err *err);

/* Engine options of the command line; progress and its state are set too. */
void model_engine_options(fathom_engine_options *e, const struct cli *o,
                          const struct model_ref *m, struct progress *progress);
/* The KV directory that a command uses (--kv-dir, else its default), appended to dir; false: no
 * disk store. */
bool model_kv_dir(struct buf *dir, const struct cli *o);
int model_engine(fathom_engine **out, const struct cli *o, const struct model_ref *m,
                 struct progress *progress, fathom_err *err);

#endif
