/* kv.c - `fathom kv`: looks after the directory of stored KV state, without the model. Listing
 * and checking read only; removing needs the directory's lock, so it is refused while a server
 * or a chat writes there. Exit codes: 0 clean, 1 problems found, 2 usage, 3 locked or not usable.
 * Names, sizes and times are shown; ids are the prompt and shown only by `show --text`. */
#include "cmd/cmd.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/cache.h"
#include "base/mem.h"
#include "cmd/model.h"
#include "json/json.h"
#include "kv/admin.h"
#include "text/text.h"

enum { KEY_SHOWN = 16, KEY_HEX = 2 * SHA1_BYTES, MIN_PREFIX = 6, MAX_IDS = 16384 };

struct kv {
    const struct cli *o;
    struct buf dir;
    struct kv_store *s;
    struct kv_store_stats st;
    struct kv_files files;
    struct buf out;
    int problems;
};

static const char *kind_name(enum kv_kind_file kind)
{
    return kind == KV_SEGMENT ? "segment" : kind == KV_FRONTIER ? "frontier" : "other";
}

/* ---- opening ---- */

/* Is the directory that the user named, or the default one, there to be looked at? *missing: it
 * is the default one, and nothing was ever stored. */
static int kv_open(struct kv *k, bool writes, bool *missing)
{
    fathom_err err = {0};
    const struct cli *o = k->o;
    *missing = false;
    if (o->kv_dir) {
        buf_adds(&k->dir, o->kv_dir);
    } else {
        cache_path(&k->dir, "kv");
    }
    if (k->dir.failed || k->dir.n == 0) {
        cmd_note("no cache folder: name the directory with --kv-dir");
        return EXIT_INPUT;
    }
    struct kv_store_config cfg = {.dir = buf_cstr(&k->dir),
                                  .budget_bytes = UINT64_MAX, /* nothing goes by itself */
                                  .read_only = !writes,
                                  .must_exist = true};
    int rc = kv_store_open(&k->s, &cfg, &err);
    if (rc != 0) {
        return cmd_fail(NULL, &err);
    }
    kv_store_get_stats(k->s, &k->st);
    if (k->st.state == KV_STORE_OFF) {
        *missing = !o->kv_dir && k->st.missing;
        if (!*missing) {
            cmd_note("%s: %s", cfg.dir, k->st.reason);
        }
        return *missing ? EXIT_DONE : EXIT_INPUT;
    }
    if (writes && k->st.state != KV_STORE_WRITER) {
        cmd_note("%s: %s; nothing was removed (end that process, or ask it to)", cfg.dir,
                 k->st.reason);
        return EXIT_INPUT;
    }
    rc = kv_admin_list(k->s, &k->files, &err);
    return rc != 0 ? cmd_fail(NULL, &err) : EXIT_DONE;
}

/* ---- choosing files ---- */

static bool matches(const struct kv_file *f, const char *prefix)
{
    char hex[KEY_HEX + 1];
    hex_encode(f->name.to.b, SHA1_BYTES, hex);
    return strncmp(hex, prefix, strlen(prefix)) == 0 || strcmp(f->text, prefix) == 0;
}

static int check_key(const struct cli *o, const char *key)
{
    size_t n = strlen(key);
    if (n < MIN_PREFIX || (n <= KEY_HEX && strspn(key, "0123456789abcdef") != n)) {
        return cmd_usage(o,
                         "\"%s\" is no key: at least %d hexadecimal digits of one (fathom kv "
                         "ls shows them), or a file name",
                         key, MIN_PREFIX);
    }
    return EXIT_DONE;
}

/* ---- ls ---- */

static void add_when(struct buf *b, int64_t t)
{
    time_t at = (time_t)t;
    struct tm tm;
    char text[32];
    if (t == INT64_MIN || !localtime_r(&at, &tm) ||
        strftime(text, sizeof text, "%Y-%m-%d %H:%M", &tm) == 0) {
        memcpy(text, "-", 2);
    }
    buf_addf(b, "%-16s", text);
}

static const char *status_of(const struct kv_file *f, enum kv_check c, const char *why)
{
    if (f->detached) {
        return "keys repeat or form a ring";
    }
    return c == KV_CHECK_OK ? "" : c == KV_CHECK_FOREIGN ? "of another version" : why;
}

static void ls_line(struct kv *k, const struct kv_file *f, const struct kv_header *h,
                    const char *status)
{
    struct buf *b = &k->out;
    char key[KEY_HEX + 1];
    hex_encode(f->name.to.b, SHA1_BYTES, key);
    uint32_t indent = k->o->tree ? MIN(f->depth, 40u) : 0;
    buf_addf(b, "%s  ", f->folder);
    for (uint32_t i = 0; i < indent; i++) {
        buf_addc(b, ' ');
    }
    buf_addf(b, "%.*s  %-8s  ", KEY_SHOWN, key, kind_name(f->name.kind));
    if (h->count || h->first) {
        uint64_t end = h->first + h->count;
        uint64_t from = f->name.kind == KV_SEGMENT ? h->first : end;
        struct buf range = {0};
        buf_addf(&range, f->name.kind == KV_SEGMENT ? "%llu..%llu" : "at %llu",
                 (unsigned long long)from, (unsigned long long)end);
        buf_addf(b, "%-17s", buf_cstr(&range));
        buf_free(&range);
    } else {
        buf_addf(b, "%-17s", "?");
    }
    buf_addf(b, " %10s  ", cmd_bytes(f->bytes));
    add_when(b, f->mtime);
    buf_addf(b, "%s%s\n", *status ? "  " : "", status);
}

static void json_key(struct buf *b, const char *name, const unsigned char *p, size_t n)
{
    char hex[2 * KV_ID_BYTES + 1];
    hex_encode(p, n, hex);
    buf_addf(b, "\"%s\":\"%s\",", name, hex);
}

static void json_file(struct buf *b, const struct kv_file *f, const struct kv_header *h,
                      const char *status)
{
    buf_addf(b, "{\"folder\":\"%s\",\"file\":\"%s\",\"kind\":\"%s\",", f->folder, f->text,
             kind_name(f->name.kind));
    json_key(b, "from", f->name.from.b, SHA1_BYTES);
    json_key(b, "key", f->name.to.b, SHA1_BYTES);
    json_key(b, "salt_sha256", h->salt_sha, KV_ID_BYTES);
    buf_addf(b,
             "\"first\":%llu,\"tokens\":%u,\"bytes\":%llu,\"depth\":%u,\"created\":%llu,"
             "\"cost_ms\":%u,",
             (unsigned long long)h->first, h->count, (unsigned long long)f->bytes, f->depth,
             (unsigned long long)h->created, h->cost_ms);
    if (f->mtime == INT64_MIN) {
        buf_adds(b, "\"used\":null,");
    } else {
        buf_addf(b, "\"used\":%lld,", (long long)f->mtime);
    }
    buf_adds(b, "\"problem\":");
    if (*status) {
        json_write_str(b, slice_of(status));
    } else {
        buf_adds(b, "null");
    }
    buf_addc(b, '}');
}

static void json_total(struct kv *k)
{
    buf_adds(&k->out, "],\"dir\":");
    json_write_str(&k->out, buf_slice(&k->dir));
    buf_addf(&k->out, ",\"used_bytes\":%llu,\"segments\":%u,\"frontiers\":%u,\"foreign\":%u}\n",
             (unsigned long long)k->st.used_bytes, k->st.n_segments, k->st.n_frontiers,
             k->st.n_foreign);
}

/* Files in the order of a walk that goes deep first, for --tree. */
static uint32_t next_in_tree(const struct kv_files *l, uint32_t *first, uint32_t *next,
                             uint32_t at)
{
    if (first[at] != UINT32_MAX) {
        return first[at];
    }
    while (next[at] == UINT32_MAX && l->v[at].parent != UINT32_MAX) {
        at = l->v[at].parent;
    }
    return next[at];
}

/* Calls fn for each file: in list order, or parents directly before what hangs below them. */
static bool each_file(struct kv *k, bool tree,
                      void (*fn)(struct kv *k, const struct kv_file *f))
{
    const struct kv_files *l = &k->files;
    uint32_t *first = mem_alloc(l->n, sizeof *first), *next = mem_alloc(l->n, sizeof *next);
    bool ok = first && next;
    uint32_t roots = UINT32_MAX;
    for (uint32_t i = l->n; ok && i-- > 0;) {
        first[i] = UINT32_MAX;
        next[i] = UINT32_MAX;
    }
    for (uint32_t i = l->n; ok && i-- > 0;) {
        uint32_t *head = l->v[i].parent == UINT32_MAX ? &roots : &first[l->v[i].parent];
        next[i] = *head;
        *head = i;
    }
    for (uint32_t i = 0; ok && !tree && i < l->n; i++) {
        fn(k, &l->v[i]);
    }
    for (uint32_t i = roots; ok && tree && i != UINT32_MAX;
         i = next_in_tree(l, first, next, i)) {
        fn(k, &l->v[i]);
    }
    mem_free(first);
    mem_free(next);
    return ok;
}

static void ls_file(struct kv *k, const struct kv_file *f)
{
    struct kv_header h;
    const char *why = "";
    enum kv_check c = kv_admin_header(k->s, f, &h, &why);
    const char *status = status_of(f, c, why);
    k->problems += c == KV_CHECK_BAD || f->detached;
    if (k->o->json) {
        buf_adds(&k->out, k->out.n && k->out.p[k->out.n - 1] == '}' ? ",\n" : "");
        json_file(&k->out, f, &h, status);
    } else {
        ls_line(k, f, &h, status);
    }
}

static int kv_ls(struct kv *k)
{
    if (k->o->json) {
        buf_adds(&k->out, "{\"files\":[");
    }
    if (!each_file(k, k->o->tree, ls_file)) {
        k->out.failed = true;
    }
    if (k->o->json) {
        json_total(k);
    } else {
        buf_addf(&k->out, "%s: %u segments, %u frontiers, %u other files of ours, %s",
                 buf_cstr(&k->dir), k->st.n_segments, k->st.n_frontiers, k->st.n_other,
                 cmd_bytes(k->st.used_bytes));
        if (k->st.n_foreign) {
            buf_addf(&k->out, "; %u names that are not ours", k->st.n_foreign);
        }
        buf_addc(&k->out, '\n');
    }
    return EXIT_DONE;
}

/* ---- show ---- */

static int show_text(struct kv *k, const uint32_t *ids, uint32_t n)
{
    struct model_ref m = {0};
    struct tokenizer *t = NULL;
    fathom_err err = {0};
    if (model_find(&m, k->o, &err) || model_tokenizer(&t, NULL, &m, &err)) {
        return model_fail(&m, &err);
    }
    buf_adds(&k->out, "\n");
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] >= tokenizer_n_vocab(t)) {
            cmd_note("the tokenizer of %s does not know id %u: another model wrote this file",
                     model_label(&m), ids[i]);
            tokenizer_free(t);
            return EXIT_RUNTIME;
        }
        struct slice s = tokenizer_bytes(t, ids[i]);
        buf_add_utf8_lossy(&k->out, s.p, s.n);
    }
    buf_addc(&k->out, '\n');
    tokenizer_free(t);
    return EXIT_DONE;
}

static void show_header(struct kv *k, const struct kv_file *f, const struct kv_header *h)
{
    struct buf *b = &k->out;
    char id[2 * KV_ID_BYTES + 1], salt[2 * KV_ID_BYTES + 1], from[KEY_HEX + 1], to[KEY_HEX + 1];
    hex_encode(h->identity.b, KV_ID_BYTES, id);
    hex_encode(h->salt_sha, KV_ID_BYTES, salt);
    hex_encode(h->from.b, SHA1_BYTES, from);
    hex_encode(h->to.b, SHA1_BYTES, to);
    buf_addf(b, "file        %s/%s\n", f->folder, f->text);
    buf_addf(b, "kind        %s%s\n", kind_name(h->kind),
             h->flags & KV_FLAG_RAGGED ? ", ragged" : "");
    buf_addf(b, "identity    %s\nsalt        sha256 %s\nkey before  %s\nkey after   %s\n", id,
             strspn(salt, "0") == sizeof salt - 1 ? "none" : salt, from, to);
    buf_addf(b, "tokens      %llu .. %llu of %u per segment, vocabulary %u\n",
             (unsigned long long)h->first, (unsigned long long)(h->first + h->count),
             h->page_tokens, h->n_vocab);
    buf_adds(b, "written     ");
    add_when(b, (int64_t)h->created);
    buf_addf(b, ", computed in %u ms\nlast use    ", h->cost_ms);
    add_when(b, f->mtime);
    buf_addf(b, "\nbytes       %llu in %u sections\n", (unsigned long long)h->file_bytes,
             h->n_sections);
}

static int show_one(struct kv *k, const struct kv_file *f)
{
    struct kv_header h;
    const char *why = "";
    uint32_t *ids = mem_alloc(MAX_IDS, sizeof *ids);
    enum kv_check c = ids ? kv_admin_verify(k->s, f, &h, ids, &why) : KV_CHECK_BAD;
    int rc = ids ? EXIT_DONE : EXIT_RUNTIME;
    if (k->o->json) {
        json_file(&k->out, f, &h, status_of(f, c, why));
        buf_addc(&k->out, '\n');
    } else if (c == KV_CHECK_OK) {
        show_header(k, f, &h);
    }
    if (c != KV_CHECK_OK) {
        k->problems++;
        cmd_note("%s/%s: %s", f->folder, f->text, status_of(f, c, why));
    } else if (k->o->text) {
        rc = show_text(k, ids, h.count);
    }
    mem_free(ids);
    return rc;
}

static int kv_show(struct kv *k)
{
    const struct kv_file *found = NULL;
    for (uint32_t i = 0; i < k->files.n; i++) {
        if (matches(&k->files.v[i], k->o->args[1])) {
            if (found) {
                cmd_note("more than one file ends at %s: give more digits, or the file name",
                         k->o->args[1]);
                return EXIT_RUNTIME;
            }
            found = &k->files.v[i];
        }
    }
    if (!found) {
        cmd_note("no file ends at %s", k->o->args[1]);
        return EXIT_RUNTIME;
    }
    return show_one(k, found);
}

/* ---- verify ---- */

struct verify {
    struct hash *run; /* [n]: running hash at the end of a segment whose chain is right */
    uint32_t n_good, n_bad, n_foreign;
};

static void verify_file(struct kv *k, struct verify *v, uint32_t i, uint32_t *ids)
{
    static const struct kv_header none;
    const struct kv_file *f = &k->files.v[i];
    struct kv_header h;
    const char *why = "";
    enum kv_check c = kv_admin_verify(k->s, f, &h, ids, &why);
    bool salted = memcmp(h.salt_sha, none.salt_sha, sizeof h.salt_sha) != 0;
    const struct hash *before = f->parent != UINT32_MAX ? &v->run[f->parent] : NULL;
    /* The keys can be computed again where all ids before are at hand and no salt is in them. */
    if (c == KV_CHECK_OK && !salted && (h.first == 0 || (before && before->ctx))) {
        if (!kv_admin_chain(&h, ids, h.first ? before : NULL, &v->run[i])) {
            c = KV_CHECK_BAD;
            why = "its keys do not follow from the token ids";
        }
    }
    v->n_good += c == KV_CHECK_OK;
    v->n_foreign += c == KV_CHECK_FOREIGN;
    v->n_bad += c == KV_CHECK_BAD;
    if (c == KV_CHECK_BAD) {
        fathom_err err = {0};
        bool gone = k->o->delete_bad && kv_admin_remove(k->s, f, &err) == 0;
        buf_addf(&k->out, "bad  %s/%s  %s%s\n", f->folder, f->text, why,
                 gone ? ", removed" : "");
        k->problems += !gone;
    }
}

static int kv_verify(struct kv *k)
{
    struct verify v = {.run = mem_calloc(k->files.n, sizeof *v.run)};
    uint32_t *ids = mem_alloc(MAX_IDS, sizeof *ids), n = 0;
    const char *key = k->o->n_args > 1 ? k->o->args[1] : NULL;
    for (uint32_t i = 0; v.run && ids && i < k->files.n; i++) {
        if (!key || matches(&k->files.v[i], key)) {
            verify_file(k, &v, i, ids);
            n++;
        }
    }
    bool ok = v.run && ids;
    for (uint32_t i = 0; v.run && i < k->files.n; i++) {
        hash_close(&v.run[i]);
    }
    mem_free(v.run);
    mem_free(ids);
    if (!ok) {
        k->out.failed = true;
    } else if (key && n == 0) {
        cmd_note("no file ends at %s", key);
        return EXIT_RUNTIME;
    }
    buf_addf(&k->out, "%u files good, %u bad, %u of another version\n", v.n_good, v.n_bad,
             v.n_foreign);
    return EXIT_DONE;
}

/* ---- rm and gc ---- */

static bool has_salt(struct kv *k, const struct kv_file *f, const char *prefix)
{
    struct kv_header h;
    const char *why;
    char hex[2 * KV_ID_BYTES + 1];
    if (kv_admin_header(k->s, f, &h, &why) != KV_CHECK_OK) {
        return false;
    }
    hex_encode(h.salt_sha, KV_ID_BYTES, hex);
    return strncmp(hex, prefix, strlen(prefix)) == 0;
}

/* Is file i itself named by the command line? hits: for each word, the files that it names. */
static bool selected(struct kv *k, uint32_t i, uint32_t *hits)
{
    const struct kv_file *f = &k->files.v[i];
    bool any = k->o->all || (k->o->salt && has_salt(k, f, k->o->salt));
    for (uint32_t a = 1; a < k->o->n_args; a++) {
        bool hit = matches(f, k->o->args[a]);
        hits[a] += hit;
        any = any || hit;
    }
    return any;
}

/* go[i]: file i is to be removed. What needs a removed file goes with it; by age, a segment goes
 * only when nothing is left that needs it. kept: room for a count per file. hits: as above. */
static void choose(struct kv *k, bool *go, uint32_t *kept, uint32_t *hits)
{
    uint32_t n = k->files.n;
    int64_t older_than = (int64_t)time(NULL) - (int64_t)k->o->older_than * 86400;
    for (uint32_t i = 0; i < n; i++) { /* parents first */
        uint32_t p = k->files.v[i].parent;
        go[i] = (p != UINT32_MAX && go[p]) || selected(k, i, hits);
    }
    for (uint32_t i = n; k->o->older_than && i-- > 0;) { /* children first */
        const struct kv_file *f = &k->files.v[i];
        go[i] = go[i] || (f->mtime < older_than && kept[i] == 0);
        if (!go[i] && f->parent != UINT32_MAX) {
            kept[f->parent]++;
        }
    }
}

enum { RM_KEYS = 3 }; /* at most */

static int kv_rm(struct kv *k)
{
    uint32_t n_all = k->files.n, n = 0, hits[RM_KEYS + 1] = {0};
    uint64_t bytes = 0;
    bool *go = mem_calloc(n_all, sizeof *go);
    uint32_t *kept = mem_calloc(n_all, sizeof *kept);
    int rc = EXIT_DONE;
    if (!go || !kept) {
        k->out.failed = true;
    } else {
        choose(k, go, kept, hits);
    }
    for (uint32_t i = n_all; !k->out.failed && i-- > 0;) { /* children first */
        fathom_err err = {0};
        const struct kv_file *f = &k->files.v[i];
        if (!go[i]) {
            continue;
        }
        if (!k->o->dry_run && kv_admin_remove(k->s, f, &err) != 0) {
            cmd_fail(NULL, &err);
            rc = EXIT_RUNTIME;
            continue;
        }
        n++;
        bytes += f->bytes;
    }
    mem_free(go);
    mem_free(kept);
    for (uint32_t a = 1; a < k->o->n_args; a++) {
        if (hits[a] == 0) {
            cmd_note("no file ends at %s", k->o->args[a]);
            rc = EXIT_RUNTIME;
        }
    }
    if (rc != EXIT_DONE && n == 0) {
        return rc;
    }
    buf_addf(&k->out, "%s %u files, %s\n", k->o->dry_run ? "would remove" : "removed", n,
             cmd_bytes(bytes));
    return rc;
}

static void gc_file(void *user, const struct kv_file *f)
{
    struct kv *k = user;
    char key[KEY_HEX + 1];
    hex_encode(f->name.to.b, SHA1_BYTES, key);
    buf_addf(&k->out, "%s  %s  %.*s  %s\n", k->o->dry_run ? "would remove" : "removed",
             f->folder, KEY_SHOWN, key, cmd_bytes(f->bytes));
}

static int kv_gc(struct kv *k)
{
    fathom_err err = {0};
    uint64_t budget = k->o->kv_disk ? k->o->kv_disk : KV_DEFAULT_BUDGET;
    int rc = kv_admin_gc(k->s, budget, k->o->dry_run, gc_file, k, &err);
    kv_store_get_stats(k->s, &k->st);
    buf_addf(&k->out, "%s used, budget %s\n", cmd_bytes(k->st.used_bytes), cmd_bytes(budget));
    return rc != 0 ? cmd_fail(NULL, &err) : EXIT_DONE;
}

/* ---- the command ---- */

static const struct action {
    const char *name;
    int (*fn)(struct kv *k);
    uint32_t max_keys;
    bool key_needed;
} actions[] = {{"ls", kv_ls, 0, false},
               {"show", kv_show, 1, true},
               {"verify", kv_verify, 1, false},
               {"rm", kv_rm, RM_KEYS, false},
               {"gc", kv_gc, 0, false}};

static int check_usage(const struct cli *o, const struct action **out)
{
    const struct action *a = NULL;
    for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
        a = strcmp(o->args[0], actions[i].name) == 0 ? &actions[i] : a;
    }
    if (!a) {
        return cmd_usage(o, "\"%s\" is none of ls, show, verify, rm, gc", o->args[0]);
    }
    if (o->n_args - 1 > a->max_keys) {
        return cmd_usage(o, "unexpected word \"%s\"", o->args[1 + a->max_keys]);
    }
    if (a->key_needed && o->n_args < 2) {
        return cmd_usage(o, "%s needs a KEY", a->name);
    }
    for (uint32_t i = 1; i < o->n_args; i++) {
        if (check_key(o, o->args[i]) != EXIT_DONE) {
            return EXIT_USAGE;
        }
    }
    bool rm = a->fn == kv_rm, how = o->all || o->salt || o->older_than;
    if (rm && o->n_args == 1 && !how) {
        return cmd_usage(o, "rm needs a KEY, --all, --salt or --older-than");
    }
    if ((o->salt || o->older_than) && !rm) {
        return cmd_usage(o, "--salt and --older-than go with rm");
    }
    if (o->salt && check_key(o, o->salt) != EXIT_DONE) {
        return EXIT_USAGE;
    }
    if (o->delete_bad && a->fn != kv_verify) {
        return cmd_usage(o, "--delete-bad goes with verify");
    }
    *out = a;
    return EXIT_DONE;
}

int cmd_kv(struct cli *o)
{
    const struct action *a = NULL;
    struct kv k = {.o = o};
    bool missing = false;
    int rc = check_usage(o, &a);
    if (rc != EXIT_DONE) {
        return rc;
    }
    bool writes = ((a->fn == kv_rm || a->fn == kv_gc) && !o->dry_run) || o->delete_bad;
    rc = kv_open(&k, writes, &missing);
    if (rc == EXIT_DONE && missing) {
        cmd_note("%s: nothing was stored yet", buf_cstr(&k.dir));
    }
    if (rc == EXIT_DONE && (!missing || a->fn == kv_ls)) {
        rc = a->fn(&k);
    } else if (rc == EXIT_DONE && a->key_needed) {
        rc = EXIT_RUNTIME;
    }
    int printed = cmd_print(&k.out);
    kv_files_free(&k.files);
    kv_store_close(k.s, 0);
    buf_free(&k.dir);
    rc = rc != EXIT_DONE ? rc : printed;
    return rc == EXIT_DONE && k.problems ? EXIT_RUNTIME : rc;
}
