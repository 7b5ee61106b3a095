/* talk.c - see talk.h. */
#include "cmd/talk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "cmd/cmd.h"

enum { FILE_MAX_BYTES = 64 << 20 };

/* ---- the folder ---- */

static bool folder_ok(const char *path)
{
    struct stat st;
    (void)mkdir(path, 0700); /* may exist */
    if (lstat(path, &st) != 0) {
        cmd_note("conversations are not kept: %s: %s", path, strerror(errno));
        return false;
    }
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022) != 0) {
        cmd_note("conversations are not kept: %s must be a folder of yours that others cannot "
                 "write to",
                 path);
        return false;
    }
    return true;
}

void talk_open(struct talk *t, struct slice dir, const char *model)
{
    *t = (struct talk){.fd = -1, .model = model};
    buf_add_slice(&t->dir, dir);
    if (t->dir.n > 0 && (t->dir.failed || !folder_ok(buf_cstr(&t->dir)))) {
        buf_clear(&t->dir);
    }
}

void talk_new(struct talk *t)
{
    if (t->fd >= 0) {
        close(t->fd); /* gives the lock back */
    }
    t->fd = -1;
    t->id[0] = 0;
    t->n_saved = 0;
}

void talk_close(struct talk *t)
{
    talk_new(t);
    buf_free(&t->dir);
}

static void path_of(const struct talk *t, const char *id, struct buf *out)
{
    buf_addf(out, "%s/%s.jsonl", buf_cstr(&t->dir), id);
}

/* An id made by new_id: digits and dashes only, so it cannot leave the folder. */
static bool is_id(const char *s, size_t n)
{
    if (n < 10 || n >= sizeof((struct talk *)0)->id) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if ((s[i] < '0' || s[i] > '9') && s[i] != '-') {
            return false;
        }
    }
    return true;
}

/* ---- writing ---- */

static void add_message(struct buf *b, const struct chat_message *m)
{
    static const char *const roles[] = {"system", "user",      "assistant",
                                        "tool",   "developer", "latest_reminder"};
    buf_addf(b, "{\"role\":\"%s\",\"content\":", roles[m->role]);
    json_write_line_str(b, m->content);
    if (m->reasoning.n) {
        buf_adds(b, ",\"reasoning_content\":");
        json_write_line_str(b, m->reasoning);
    }
    buf_adds(b, "}\n");
}

static int open_locked(const char *path, int flags)
{
    int fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        errno = EWOULDBLOCK;
        return -1;
    }
    return fd;
}

/* A file of a name that is not taken, with its first line. */
static bool begin_file(struct talk *t, struct buf *text)
{
    struct buf path = {0};
    time_t now = time(NULL);
    struct tm tm;
    char stamp[20] = "00000000-000000";
    if (gmtime_r(&now, &tm)) {
        strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &tm);
    }
    for (int i = 0; i < 100 && t->fd < 0; i++) {
        snprintf(t->id, sizeof t->id, "%s-%02d-%ld", stamp, i, (long)getpid() % 1000000);
        buf_clear(&path);
        path_of(t, t->id, &path);
        t->fd = open_locked(buf_cstr(&path), O_CREAT | O_EXCL);
        if (t->fd < 0 && errno != EEXIST) {
            break;
        }
    }
    buf_free(&path);
    if (t->fd < 0) {
        return false;
    }
    buf_adds(text, "{\"fathom\":\"chat\",\"version\":1,\"model\":");
    json_write_line_str(text, slice_of(t->model));
    buf_adds(text, "}\n");
    return true;
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k <= 0) {
            return false;
        }
        p += k;
        n -= (size_t)k;
    }
    return true;
}

void talk_save(struct talk *t, const struct chat_conversation *c)
{
    struct buf text = {0};
    if (t->dir.n == 0 || c->n <= t->n_saved) {
        return;
    }
    bool ok = t->fd >= 0 || begin_file(t, &text);
    for (size_t i = t->n_saved; ok && i < c->n; i++) {
        add_message(&text, c->msg[i]);
    }
    struct stat st = {0};
    ok = ok && !text.failed && fstat(t->fd, &st) == 0;
    if (ok && !write_all(t->fd, text.p, text.n)) {
        (void)!ftruncate(t->fd, st.st_size); /* no half line */
        ok = false;
    }
    if (ok) {
        t->n_saved = c->n;
    } else {
        cmd_note("this conversation cannot be kept: %s", strerror(errno));
        talk_new(t);
        buf_clear(&t->dir);
    }
    buf_free(&text);
}

bool talk_forget(struct talk *t)
{
    struct buf path = {0};
    bool ok = true;
    if (t->id[0]) {
        path_of(t, t->id, &path);
        ok = unlink(buf_cstr(&path)) == 0;
    }
    buf_free(&path);
    talk_new(t);
    return ok;
}

/* ---- reading ---- */

/* The header line: is it a conversation that this version reads? */
static bool read_header(const struct json *v, char *model, size_t n)
{
    int64_t version;
    if (!slice_is(json_str(json_get(v, "fathom")), "chat") ||
        !json_int(json_get(v, "version"), &version) || version != 1) {
        return false;
    }
    struct slice s = json_str(json_get(v, "model"));
    snprintf(model, n, "%.*s", (int)MIN(s.n, n - 1), s.n ? s.p : "");
    return true;
}

/* Ends of lines in a text that may end in the middle of one. */
static bool next_line(const struct buf *text, size_t *at, struct slice *line)
{
    const char *p = text->p + *at, *end = *at < text->n ? memchr(p, '\n', text->n - *at) : NULL;
    if (!end) {
        return false;
    }
    *line = (struct slice){p, (size_t)(end - p)};
    *at += line->n + 1;
    return true;
}

static void one_line(char *out, size_t n, struct slice s)
{
    size_t k = MIN(s.n, n - 1);
    while (k > 0 && k < s.n && ((unsigned char)s.p[k] & 0xC0) == 0x80) {
        k--; /* not inside a character */
    }
    for (size_t i = 0; i < k; i++) {
        out[i] = (unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7F ? ' ' : s.p[i];
    }
    out[k] = 0;
}

static bool read_entry(const struct talk *t, const char *id, struct talk_entry *out)
{
    struct buf path = {0}, text = {0};
    struct arena a = {0};
    struct json v;
    struct slice line;
    size_t at = 0;
    path_of(t, id, &path);
    *out = (struct talk_entry){0};
    snprintf(out->id, sizeof out->id, "%s", id);
    bool ok = file_read_all(&text, buf_cstr(&path), FILE_MAX_BYTES, NULL) == 0 &&
              next_line(&text, &at, &line) && json_read(&v, &a, line.p, line.n, NULL) == 0 &&
              read_header(&v, out->model, sizeof out->model);
    while (ok && next_line(&text, &at, &line)) {
        if (json_read(&v, &a, line.p, line.n, NULL) != 0) {
            break;
        }
        struct slice role = json_str(json_get(&v, "role"));
        out->n_msg += !slice_is(role, "system");
        if (!out->first[0] && slice_is(role, "user")) {
            one_line(out->first, sizeof out->first, json_str(json_get(&v, "content")));
        }
    }
    arena_fini(&a);
    buf_free(&text);
    buf_free(&path);
    return ok && out->n_msg > 0;
}

static int newer_first(const void *a, const void *b)
{
    return strcmp(*(char *const *)b, *(char *const *)a);
}

size_t talk_list(const struct talk *t, struct talk_entry *out)
{
    size_t n = 0, cap = 0, count = 0;
    char **names = NULL;
    DIR *d = t->dir.n ? opendir(buf_cstr(&t->dir)) : NULL;
    for (struct dirent *x; d && (x = readdir(d));) {
        size_t len = strlen(x->d_name), end = len > 6 ? len - 6 : 0;
        if (strcmp(x->d_name + end, ".jsonl") != 0 || !is_id(x->d_name, end)) {
            continue;
        }
        if (n == cap) {
            char **more = mem_realloc(names, cap = cap ? cap * 2 : 64, sizeof *names);
            if (!more) {
                break;
            }
            names = more;
        }
        names[n] = mem_strdup(x->d_name);
        if (!names[n]) {
            break;
        }
        names[n++][end] = 0;
    }
    if (d) {
        closedir(d);
    }
    if (n > 0) {
        qsort(names, n, sizeof *names, newer_first);
    }
    for (size_t i = 0; i < n; i++) {
        count += count < TALK_LIST && read_entry(t, names[i], &out[count]);
        mem_free(names[i]);
    }
    mem_free(names);
    return count;
}

static int read_messages(struct buf *text, size_t *at, struct chat_conversation *c,
                         const char *path, fathom_err *err)
{
    struct slice line;
    char model[64];
    for (int n = 1; next_line(text, at, &line); n++) {
        struct json v, *list = json_new_array(c->arena);
        int rc = list ? json_read(&v, c->arena, line.p, line.n, err) : err_nomem(err, path, 0);
        if (rc == 0 && n == 1) {
            if (!read_header(&v, model, sizeof model)) {
                rc = err_set(err, FATHOM_EFORMAT, "not a conversation of this version");
            }
        } else if (rc == 0) {
            rc = json_push(c->arena, list, v) ? chat_load_messages(c, list, err)
                                              : err_nomem(err, path, 0);
        }
        if (rc != 0) {
            err_prefix(err, "%s, line %d", path, n);
            return rc;
        }
    }
    return c->n ? 0 : err_set(err, FATHOM_EFORMAT, "%s: empty", path);
}

int talk_resume(struct talk *t, const char *id, struct chat_conversation *c, fathom_err *err)
{
    struct buf path = {0}, text = {0};
    size_t at = 0;
    if (!is_id(id, strlen(id))) {
        return err_set(err, FATHOM_ENOENT, "no conversation %s", id);
    }
    path_of(t, id, &path);
    int rc = 0, fd = open_locked(buf_cstr(&path), O_NONBLOCK);
    if (fd < 0) {
        rc = errno == EWOULDBLOCK ? err_set(err, FATHOM_ELIMIT,
                                            "conversation %s is in use by another program", id)
                                  : err_sys(err, buf_cstr(&path), "open");
    }
    rc = rc ? rc : file_read_all(&text, buf_cstr(&path), FILE_MAX_BYTES, err);
    rc = rc ? rc : read_messages(&text, &at, c, buf_cstr(&path), err);
    if (rc == 0 && at < text.n && ftruncate(fd, (off_t)at) != 0) { /* a line that was cut off */
        rc = err_sys(err, buf_cstr(&path), "truncate");
    }
    if (rc == 0) {
        talk_new(t);
        t->fd = fd;
        t->n_saved = c->n;
        snprintf(t->id, sizeof t->id, "%s", id);
    } else if (fd >= 0) {
        close(fd);
    }
    buf_free(&text);
    buf_free(&path);
    return rc;
}
