/* journal.c - see journal.h. Flushing a disk takes milliseconds, so finished items are
 * collected and flushed together: after FLUSH_BYTES, or FLUSH_SECONDS after the last time. What
 * a kill can cost is that much work, never a wrong line.
 *
 * A kill in the middle of a write leaves a torn last line: reading stops at the first line that
 * is not whole and cuts the file there. Damage that still parses (a changed digit) fails the
 * checksum of the data, which covers index and count as well, and the item is made again. */
#include "factory/journal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"

#define FLUSH_SECONDS 0.25
static const uint64_t FLUSH_BYTES = 64u << 20;
enum { MAX_JOURNAL_BYTES = 1 << 30 };

/* ---- checksum ---- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9FB21C651E98DF25u;
    return h ^ h >> 29;
}

void checksum_add(struct checksum *c, const void *p, size_t n)
{
    const unsigned char *b = p;
    size_t used = c->n % 8;
    c->n += n;
    for (; used && n; n--) {
        c->tail[used++] = *b++;
        if (used == 8) {
            c->h = mix(c->h, load_le64(c->tail));
            used = 0;
        }
    }
    for (; n >= 8; n -= 8, b += 8) {
        c->h = mix(c->h, load_le64(b));
    }
    for (; n; n--) {
        c->tail[used++] = *b++;
    }
}

void checksum_u64(struct checksum *c, uint64_t v)
{
    unsigned char b[8];
    store_le64(b, v);
    checksum_add(c, b, sizeof b);
}

uint64_t checksum_end(const struct checksum *c)
{
    unsigned char last[8] = {0};
    memcpy(last, c->tail, c->n % 8);
    return splitmix64(mix(mix(c->h, load_le64(last)), c->n));
}

/* ---- reading ---- */

/* Parses "INDEX LOST CHECKSUM\n" at p; NULL if the line is torn or not like that. */
static const char *parse_line(struct journal *j, const char *p)
{
    const char *end = strchr(p, '\n');
    uint64_t item, lost, sum;
    int used = 0;
    if (!end ||
        sscanf(p, "%" SCNu64 " %" SCNu64 " %16" SCNx64 "%n", &item, &lost, &sum, &used) != 3 ||
        p + used != end || item >= j->n_items) {
        return NULL;
    }
    j->n_done += !j->entry[item].done;
    j->entry[item] = (struct journal_entry){true, lost, sum};
    return end + 1;
}

static int start_empty(struct journal *j, uint64_t plan, fathom_err *err)
{
    char line[96];
    int n = snprintf(line, sizeof line, "fathom-journal 1 plan %016" PRIx64 " items %zu\n",
                     plan, j->n_items);
    if (ftruncate(j->fd, 0) != 0 || pwrite(j->fd, line, (size_t)n, 0) != n ||
        fsync(j->fd) != 0) {
        return err_sys(err, j->path, "cannot write");
    }
    j->bytes = (uint64_t)n;
    return 0;
}

static int parse(struct journal *j, const char *out, uint64_t plan, const struct buf *text,
                 fathom_err *err)
{
    const char *p = text->n ? strchr(text->p, '\n') : NULL;
    if (!p) {
        return start_empty(j, plan, err); /* killed before the first line was whole */
    }
    uint64_t other;
    size_t n_items;
    if (sscanf(text->p, "fathom-journal 1 plan %16" SCNx64 " items %zu\n", &other, &n_items) !=
        2) {
        return err_set(err, FATHOM_EINVAL, "%s: this is no journal of a conversion", j->path);
    }
    if (other != plan || n_items != j->n_items) {
        return err_set(
            err, FATHOM_EINVAL,
            "%s belongs to an unfinished conversion with another recipe, rule, "
            "checkpoint or program version: run that one again to finish it, or delete "
            "%s and %s.part to start over",
            j->path, j->path, out);
    }
    const char *good = p + 1;
    for (p = good; p; p = parse_line(j, p)) {
        good = p;
    }
    j->bytes = (uint64_t)(good - text->p);
    return ftruncate(j->fd, (off_t)j->bytes) == 0 ? 0 : err_sys(err, j->path, "cannot cut");
}

static bool part_exists(const char *out)
{
    struct buf path = {0};
    struct stat st;
    buf_addf(&path, "%s.part", out);
    bool found = !path.failed && stat(path.p, &st) == 0;
    buf_free(&path);
    return found;
}

/* The lock ends with the descriptor, also when the program is killed. */
static int open_locked(struct journal *j, fathom_err *err)
{
    j->fd = open(j->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (j->fd < 0) {
        return err_sys(err, j->path, "cannot create");
    }
    struct stat st;
    if (flock(j->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        return err_set(err, FATHOM_EINVAL, "%s: another conversion is writing this file",
                       j->path);
    }
    if (fstat(j->fd, &st) != 0 || st.st_nlink == 0) {
        return err_set(err, FATHOM_EINVAL, "%s: another conversion has just ended", j->path);
    }
    return 0;
}

int journal_open(struct journal *j, const char *out, uint64_t plan, size_t n_items,
                 fathom_err *err)
{
    *j = (struct journal){.fd = -1, .n_items = n_items, .flushed_at = clock_now()};
    struct buf path = {0}, text = {0};
    buf_addf(&path, "%s.journal", out);
    j->path = path.failed ? NULL : mem_strdup(path.p);
    buf_free(&path);
    j->entry = mem_calloc(n_items + 1, sizeof *j->entry);
    if (!j->path || !j->entry || pthread_mutex_init(&j->lock, NULL) != 0) {
        return err_nomem(err, "the journal", n_items * sizeof *j->entry);
    }
    j->has_lock = true;
    int rc = open_locked(j, err);
    if (rc == 0 && !part_exists(out)) {
        rc = start_empty(j, plan, err);
    } else if (rc == 0) {
        rc = file_read_all(&text, j->path, MAX_JOURNAL_BYTES, err);
        rc = rc ? rc : parse(j, out, plan, &text, err);
    }
    buf_free(&text);
    return rc;
}

bool journal_is_complete(const char *out, uint64_t plan, size_t n_items)
{
    struct journal j = {.fd = -1, .n_items = n_items};
    struct buf path = {0}, text = {0};
    uint64_t other = 0;
    size_t n = 0;
    j.entry = mem_calloc(n_items + 1, sizeof *j.entry);
    buf_addf(&path, "%s.journal", out);
    bool read =
        j.entry && !path.failed && !part_exists(out) &&
        file_read_all(&text, path.p, MAX_JOURNAL_BYTES, NULL) == 0 && text.n > 0 &&
        sscanf(text.p, "fathom-journal 1 plan %16" SCNx64 " items %zu\n", &other, &n) == 2;
    if (read && other == plan && n == n_items) {
        const char *p = strchr(text.p, '\n');
        for (p = p ? p + 1 : NULL; p; p = parse_line(&j, p)) {
        }
    }
    bool complete = n_items > 0 && j.n_done == n_items;
    buf_free(&path);
    buf_free(&text);
    mem_free(j.entry);
    return complete;
}

void journal_remove(const char *out)
{
    struct buf path = {0};
    buf_addf(&path, "%s.journal", out);
    if (!path.failed) {
        unlink(path.p);
    }
    buf_free(&path);
}

/* ---- writing ---- */

static int append(struct journal *j, const struct buf *lines, fathom_err *err)
{
    for (size_t k = 0; k < lines->n;) {
        ssize_t n = pwrite(j->fd, lines->p + k, lines->n - k, (off_t)(j->bytes + k));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return err_sys(err, j->path, "cannot write");
        }
        k += (size_t)n;
    }
    j->bytes += lines->n; /* after a failure the next lines overwrite the torn ones */
    return fsync(j->fd) == 0 ? 0 : err_sys(err, j->path, "cannot flush");
}

/* Called with the lock held and flushing false; the lock is open while the disk works. */
static int flush_pending(struct journal *j, int data_fd, fathom_err *err)
{
    struct buf lines = j->pending;
    size_t n = j->n_pending;
    j->pending = (struct buf){0};
    j->n_pending = 0;
    j->pending_bytes = 0;
    j->flushing = true;
    pthread_mutex_unlock(&j->lock);
    int rc = lines.failed ? err_nomem(err, j->path, lines.n) : 0;
    if (rc == 0 && fsync(data_fd) != 0) {
        rc = err_sys(err, j->path, "cannot flush the data");
    }
    rc = rc ? rc : append(j, &lines, err);
    buf_free(&lines);
    pthread_mutex_lock(&j->lock);
    j->n_done += rc ? 0 : n;
    j->flushing = false;
    j->flushed_at = clock_now();
    return rc;
}

int journal_add(struct journal *j, int data_fd, size_t item, const struct journal_entry *e,
                uint64_t n, fathom_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&j->lock);
    buf_addf(&j->pending, "%zu %" PRIu64 " %016" PRIx64 "\n", item, e->lost, e->sum);
    j->n_pending++;
    j->pending_bytes += n;
    if (!j->flushing &&
        (j->pending_bytes >= FLUSH_BYTES || clock_now() - j->flushed_at >= FLUSH_SECONDS)) {
        rc = flush_pending(j, data_fd, err);
    }
    pthread_mutex_unlock(&j->lock);
    return rc;
}

int journal_flush(struct journal *j, int data_fd, fathom_err *err)
{
    pthread_mutex_lock(&j->lock);
    int rc = j->n_pending ? flush_pending(j, data_fd, err) : 0;
    pthread_mutex_unlock(&j->lock);
    return rc;
}

void journal_close(struct journal *j, bool remove)
{
    if (remove && j->fd >= 0) {
        unlink(j->path);
    }
    if (j->fd >= 0) {
        close(j->fd);
    }
    if (j->has_lock) {
        pthread_mutex_destroy(&j->lock);
    }
    buf_free(&j->pending);
    mem_free(j->entry);
    mem_free(j->path);
    *j = (struct journal){.fd = -1};
}
