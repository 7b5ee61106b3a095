/* model.c - see model.h. The kind of a tokenizer source is decided by its first bytes, not by
 * its name: "GGUF", the xz magic, or else JSON. */
#include "cmd/model.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cache.h"
#include "cmd/cmd.h"
#include "cmd/embedded/embedded.h"
#include "model/shape.h"

int model_find(struct model_ref *m, const struct cli *o, fathom_err *err)
{
    *m = (struct model_ref){.path = o->model};
    const char *env = getenv("FATHOM_MODEL");
    if (!m->path && env && *env) {
        m->path = env;
    }
    if (m->path) {
        return 0;
    }
    m->data = embedded_model(&m->n_bytes);
    if (!m->data) {
        return err_set(
            err, FATHOM_EINVAL,
            "no model: give -m PATH or set FATHOM_MODEL (this program carries none)");
    }
    cmd_note("no -m and no FATHOM_MODEL: using the embedded mini model (a toy)");
    return 0;
}

const char *model_label(const struct model_ref *m)
{
    return m->path ? m->path : "embedded mini model";
}

/* Removes a prefix that repeats what will be said before it. */
static void drop_prefix(fathom_err *err, const char *prefix)
{
    size_t n = strlen(prefix);
    if (strncmp(err->msg, prefix, n) == 0 && strncmp(err->msg + n, ": ", 2) == 0) {
        memmove(err->msg, err->msg + n + 2, strlen(err->msg + n + 2) + 1);
    }
}

int model_fail(const struct model_ref *m, fathom_err *err)
{
    char place[512];
    snprintf(place, sizeof place, "cannot load %s", model_label(m));
    drop_prefix(err, place);
    drop_prefix(err, "cannot load the model");
    drop_prefix(err, model_label(m));
    return cmd_fail(place, err);
}

int model_gguf(struct gguf **out, const struct model_ref *m, fathom_err *err)
{
    return m->path ? gguf_open(out, m->path, err)
                   : gguf_open_mem(out, m->data, m->n_bytes, model_label(m), err);
}

static bool starts_with_gguf(const char *path)
{
    char magic[4] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool yes = fd >= 0 && read(fd, magic, 4) == 4 && memcmp(magic, "GGUF", 4) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return yes;
}

int model_tokenizer(struct tokenizer **out, const char **release, const struct model_ref *m,
                    fathom_err *err)
{
    if (release) {
        *release = NULL;
    }
    if (m->path && !starts_with_gguf(m->path)) {
        return tokenizer_from_json(out, m->path, err);
    }
    struct gguf *g;
    int rc = model_gguf(&g, m, err);
    if (rc) {
        return rc;
    }
    rc = tokenizer_from_gguf(out, g, err);
    struct shape *s = calloc(1, sizeof *s);
    fathom_err ignored = {0}; /* a tokenizer-only GGUF has no shape, and needs none */
    if (rc == 0 && release && s && shape_from_gguf(s, g, &ignored) == 0) {
        *release = s->release_0731 ? "0731" : "preview";
    }
    free(s);
    gguf_close(g);
    return rc;
}

void model_engine_options(fathom_engine_options *e, const struct cli *o,
                          const struct model_ref *m, struct progress *progress)
{
    *e = (fathom_engine_options){
        .model_path = m->path,
        .model_data = m->data,
        .model_bytes = m->n_bytes,
        .backend = o->backend,
        .n_threads = o->threads,
        .max_ctx = o->ctx,
        .max_seq = 1,
        .chunk = o->chunk,
        .sim_off = o->sim && strcmp(o->sim, "off") == 0,
        .act_f32 = o->act && strcmp(o->act, "f32") == 0,
        .cpu_mask = o->cpu_mask,
        .pin = o->pin,
        .debug = o->debug,
        .progress = progress_report,
        .progress_user = progress,
        .kv_no_share = (o->cmd->bit & (CMD_ANSWER | CMD_SERVE)) == 0,
        .kv_disk_bytes = o->kv_disk,
        .kv_flush_seconds = o->kv_flush > 0 ? o->kv_flush : -1,
    };
}

bool model_kv_dir(struct buf *dir, const struct cli *o)
{
    bool none = o->kv_dir && strcmp(o->kv_dir, "none") == 0;
    if (none || (o->cmd->bit & (CMD_ANSWER | CMD_SERVE)) == 0) {
        return false;
    }
    if (o->kv_dir) {
        buf_adds(dir, o->kv_dir);
    } else if (o->cmd->bit == CMD_CHAT || o->cmd->bit == CMD_SERVE) {
        cache_path(dir, "kv");
    }
    return dir->n > 0;
}

int model_engine(fathom_engine **out, const struct cli *o, const struct model_ref *m,
                 struct progress *progress, fathom_err *err)
{
    fathom_engine_options opt;
    struct buf dir = {0};
    model_engine_options(&opt, o, m, progress);
    if (model_kv_dir(&dir, o)) {
        opt.kv_dir = buf_cstr(&dir);
    }
    int rc = dir.failed ? err_nomem(err, "path", 0) : fathom_engine_open(out, &opt, err);
    progress_end(progress);
    buf_free(&dir);
    return rc;
}
