/* serve.c - `fathom serve`: options to a server, the model loaded while it already listens, and
 * signals. The main thread becomes the engine thread. The first SIGINT or SIGTERM lets running
 * answers end, the second ends them. */
#include "cmd/cmd.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/model.h"
#include "engine/engine.h"
#include "server/server.h"

enum { MAX_NAMES = 64, KEY_FILE_MAX = 1 << 20, GRACE_SECONDS = 30, PARALLEL = 4 };

struct serve {
    struct cli *o;
    struct server *server;
    struct progress progress;
    struct buf key_file, hosts, origins; /* texts that the lists point into */
    struct buf kv_dir;
    const char *key[MAX_NAMES], *host[MAX_NAMES], *origin[MAX_NAMES];
    size_t n_key, n_host, n_origin;
    pthread_t signals;
    atomic_bool stop, over;
    fathom_engine *engine;
    struct tokenizer *own_tok; /* with --script */
    struct script *script;
    struct model model;
};

/* ---- lists ---- */

static int add_name(const char **list, size_t *n, const char *s, fathom_err *err)
{
    if (*n == MAX_NAMES) {
        return err_set(err, FATHOM_EINVAL, "at most %d names in a list", MAX_NAMES);
    }
    list[(*n)++] = s;
    return 0;
}

/* Cuts text, in place, at any of `cuts`. */
static int split(struct buf *text, const char *cuts, const char **list, size_t *n,
                 fathom_err *err)
{
    int rc = text->failed ? err_nomem(err, "a list", text->n) : 0;
    char *p = text->p;
    while (p && *p && !rc) {
        size_t len = strcspn(p, cuts);
        bool last = p[len] == 0;
        p[len] = 0;
        if (len > 0) {
            rc = add_name(list, n, p, err);
        }
        p += len + !last;
    }
    return rc;
}

static int read_lists(struct serve *s, fathom_err *err)
{
    const struct cli *o = s->o;
    const char *env = getenv("FATHOM_API_KEY");
    int rc = 0;
    for (uint32_t i = 0; i < o->api_keys.n && !rc; i++) {
        rc = add_name(s->key, &s->n_key, o->api_keys.v[i], err);
    }
    if (!rc && env && *env) {
        rc = add_name(s->key, &s->n_key, env, err);
    }
    if (!rc && o->api_key_file) {
        rc = file_read_all(&s->key_file, o->api_key_file, KEY_FILE_MAX, err);
        rc = rc ? rc : split(&s->key_file, "\r\n", s->key, &s->n_key, err);
        if (!rc && s->n_key == 0) {
            rc = err_set(err, FATHOM_EFORMAT, "%s holds no key", o->api_key_file);
        }
    }
    buf_adds(&s->hosts, o->allowed_hosts ? o->allowed_hosts : "");
    buf_adds(&s->origins, o->cors_origin ? o->cors_origin : "");
    rc = rc ? rc : split(&s->hosts, ", ", s->host, &s->n_host, err);
    return rc ? rc : split(&s->origins, ", ", s->origin, &s->n_origin, err);
}

/* ---- signals ---- */

static void *signal_main(void *user)
{
    struct serve *s = user;
    sigset_t set;
    int sig;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    while (sigwait(&set, &sig) == 0 && !atomic_load(&s->over)) {
        bool again = atomic_exchange(&s->stop, true);
        cmd_note(again ? "stopping now"
                       : "no new requests; running answers may end (again: stop)");
        server_stop(s->server, again ? 0 : GRACE_SECONDS);
    }
    return NULL;
}

/* Before any thread is started: all inherit the mask, so only signal_main gets the signals. */
static void signals_block(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static int signals_on(struct serve *s, fathom_err *err)
{
    return pthread_create(&s->signals, NULL, signal_main, s) == 0
               ? 0
               : err_set(err, FATHOM_EIO, "cannot start a thread");
}

static void signals_off(struct serve *s)
{
    atomic_store(&s->over, true);
    pthread_kill(s->signals, SIGTERM);
    pthread_join(s->signals, NULL);
}

/* ---- the model ---- */

static bool on_progress(void *user, const char *stage, uint64_t done, uint64_t total)
{
    struct serve *s = user;
    server_progress(s->server, total ? (double)done / (double)total : 0);
    return progress_report(&s->progress, stage, done, total) && !atomic_load(&s->stop);
}

static int open_script(struct serve *s, const struct model_ref *m, fathom_err *err)
{
    const char *release = NULL;
    const struct cli *o = s->o;
    int rc = model_tokenizer(&s->own_tok, &release, m, err);
    struct script_options so = {.max_ctx = o->ctx,
                                .max_seq = o->parallel ? o->parallel : PARALLEL,
                                .chunk = o->chunk,
                                .release = release};
    rc = rc ? rc : script_open(&s->script, o->script, s->own_tok, &so, err);
    if (!rc) {
        script_model_init(&s->model, s->script);
    }
    return rc;
}

static int open_engine(struct serve *s, const struct model_ref *m, fathom_err *err)
{
    fathom_engine_options opt;
    const char *slash = m->path ? strrchr(m->path, '/') : NULL;
    const char *label = slash ? slash + 1 : model_label(m);
    model_engine_options(&opt, s->o, m, NULL);
    opt.max_seq = s->o->parallel ? s->o->parallel : PARALLEL;
    opt.progress = on_progress;
    opt.progress_user = s;
    if (model_kv_dir(&s->kv_dir, s->o)) {
        opt.kv_dir = buf_cstr(&s->kv_dir);
    }
    int rc = fathom_engine_open(&s->engine, &opt, err);
    progress_end(&s->progress);
    const struct tokenizer *tok = rc ? NULL : engine_tokenizer(s->engine);
    if (!rc && !tok) {
        rc = err_set(err, FATHOM_EFORMAT, "it has no tokenizer: serve needs one");
    }
    return rc ? rc : engine_model_init(&s->model, s->engine, tok, &opt, label, err);
}

static void close_model(struct serve *s)
{
    fathom_engine_close(s->engine);
    script_close(s->script);
    tokenizer_free(s->own_tok);
}

/* ---- the command ---- */

static void config_of(const struct serve *s, struct server_config *c)
{
    const struct cli *o = s->o;
    bool own = o->host && strcmp(o->host, "localhost") == 0; /* names are not looked up */
    *c = (struct server_config){.address = own ? "127.0.0.1" : o->host,
                                .port = (uint16_t)o->port,
                                .unix_path = o->socket,
                                .keys = s->key,
                                .n_keys = s->n_key,
                                .insecure_no_auth = o->insecure_no_auth,
                                .allowed_hosts = s->host,
                                .n_allowed_hosts = s->n_host,
                                .cors_origins = s->origin,
                                .n_cors_origins = s->n_origin,
                                .metrics = o->metrics,
                                .max_queue = o->queue,
                                .max_connections = o->connections,
                                .max_body_bytes = (size_t)o->body_mb << 20,
                                .keepalive_seconds = o->keepalive,
                                .header_seconds = (uint32_t)o->header_seconds,
                                .idle_seconds = (uint32_t)o->idle_seconds,
                                .stall_seconds = o->stall,
                                .model_name = o->alias,
                                .strict_model = o->strict_model,
                                .think = o->think,
                                .max_tokens = o->n_predict,
                                .max_reasoning = o->reasoning_limit,
                                .temperature = o->temp,
                                .image_placeholder = o->image_placeholder,
                                .special_tokens = o->special_tokens,
                                .release = o->release,
                                .trace_path = o->trace};
}

static void announce(const struct serve *s)
{
    const struct cli *o = s->o;
    bool v6 = o->host && strchr(o->host, ':');
    if (o->socket) {
        cmd_note("listening on the socket %s", o->socket);
    } else {
        cmd_note("listening on http://%s%s%s:%u", v6 ? "[" : "",
                 o->host ? o->host : "127.0.0.1", v6 ? "]" : "", server_port(s->server));
    }
    if (o->trace) {
        cmd_note("everything is written to %s, prompts and answers included", o->trace);
    }
}

/* Loads and serves; the server is open. */
static int serve(struct serve *s, const struct model_ref *m, int *code)
{
    fathom_err err = {0};
    int rc = s->o->script ? open_script(s, m, &err) : open_engine(s, m, &err);
    if (rc && s->o->script) {
        *code = cmd_fail(NULL, &err);
    } else if (rc == FATHOM_ECANCEL) {
        *code = EXIT_DONE;
    } else if (rc) {
        *code = model_fail(m, &err);
    } else {
        cmd_note("ready: %s, %u tokens of context, %u answers at once", s->model.info.name,
                 s->model.info.max_ctx, s->model.info.max_seq);
        rc = server_run(s->server, &s->model, &err);
        *code = rc ? cmd_fail(NULL, &err) : EXIT_DONE;
    }
    return rc;
}

int cmd_serve(struct cli *o)
{
    struct serve s = {.o = o};
    struct server_config c;
    struct model_ref m;
    fathom_err err = {0};
    int code = EXIT_DONE;
    if (!getenv("FATHOM_LOG") && !o->quiet) {
        log_set_level(LOG_INFO);
    }
    signals_block();
    int rc = read_lists(&s, &err);
    rc = rc ? rc : model_find(&m, o, &err);
    if (!rc) {
        config_of(&s, &c);
        rc = server_open(&s.server, &c, &err);
    }
    rc = rc ? rc : signals_on(&s, &err);
    if (rc) {
        code = cmd_fail(NULL, &err);
    } else {
        announce(&s);
        serve(&s, &m, &code);
        signals_off(&s);
    }
    server_close(s.server);
    close_model(&s);
    buf_free(&s.kv_dir);
    buf_free(&s.key_file);
    buf_free(&s.hosts);
    buf_free(&s.origins);
    return code;
}
