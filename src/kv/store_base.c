/* store_base.c - what all files of the store stand on: its lock and clocks, its state and
 * remembered reasons, its life (whoever holds the last reference frees it), and what a bad file
 * means. Knows nothing of the work above it. */
#include "kv/store_int.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"

const char *kv_why_name(enum kv_why why)
{
    static const char *const names[KV_WHY_COUNT] = {
        "complete",  "no file",  "diverged", "evicted",   "bad file",
        "foreign",   "io error", "budget",   "cheap",     "queue",
        "no parent", "identity", "slow",     "no memory", "off"};
    return (unsigned)why < KV_WHY_COUNT ? names[why] : "?";
}

double store_mono(const struct kv_store *s)
{
    return s->clock.mono(s->clock.user);
}
int64_t store_wall(const struct kv_store *s)
{
    return s->clock.wall(s->clock.user);
}
void store_lock(struct kv_store *s)
{
    pthread_mutex_lock(&s->mu);
}
void store_unlock(struct kv_store *s)
{
    pthread_mutex_unlock(&s->mu);
}

static uint32_t why_slot(const struct kv_key *to)
{
    return load_le32(to->b + 4) % KV_WHY_SLOTS;
}

void store_remember_locked(struct kv_store *s, const struct kv_key *to, enum kv_why why)
{
    s->why[why_slot(to)].key = *to;
    s->why[why_slot(to)].why = (unsigned char)why;
}

enum kv_why store_recall_locked(const struct kv_store *s, const struct kv_key *to)
{
    uint32_t i = why_slot(to);
    return kv_key_eq(&s->why[i].key, to) ? (enum kv_why)s->why[i].why : KV_WHY_NONE;
}

void store_set_state_locked(struct kv_store *s, enum kv_store_state state, const char *fmt, ...)
{
    char reason[sizeof s->reason];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(reason, sizeof reason, fmt, ap);
    va_end(ap);
    if (state == s->state && strcmp(reason, s->reason) == 0) {
        return;
    }
    s->state = state;
    memcpy(s->reason, reason, sizeof reason);
    if (state == KV_STORE_WRITER) {
        log_info("KV store %s: writable", s->dir);
    } else {
        log_at(s->must_exist ? LOG_INFO : LOG_WARN, "KV store %s is %s: %s", s->dir,
               state == KV_STORE_OFF ? "off" : "read-only", reason);
    }
}

void store_plan(const struct kv_store *s, const struct kv_name *name, uint64_t first,
                uint32_t count, const unsigned char salt_sha[KV_ID_BYTES],
                struct kv_header *plan)
{
    kv_header_plan(plan, &s->geom, name->kind, first, count);
    plan->identity = s->identity;
    memcpy(plan->salt_sha, salt_sha, KV_ID_BYTES);
    plan->from = name->from;
    plan->to = name->to;
}

/* ---- life ---- */

void item_free(struct kv_item *it)
{
    mem_free(it->ids);
    mem_free(it->tail);
    mem_free(it);
}

void items_free(struct kv_item *it)
{
    while (it) {
        struct kv_item *next = it->next;
        item_free(it);
        it = next;
    }
}

static void free_store(struct kv_store *s)
{
    items_free(s->queue.head);
    items_free(s->done.head);
    for (uint32_t i = 0; i < s->n_old_dirs; i++) {
        s->fs->dir_close(s->fs->user, s->old_dir[i]);
    }
    if (s->own >= 0) {
        s->fs->dir_close(s->fs->user, s->own);
    }
    if (s->lock >= 0) {
        s->fs->close(s->fs->user, s->lock);
    }
    if (s->root >= 0) {
        s->fs->dir_close(s->fs->user, s->root);
    }
    index_fini(&s->index);
    pthread_cond_destroy(&s->idle);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->mu);
    mem_free(s->dir);
    mem_free(s);
}

void store_unref(struct kv_store *s)
{
    store_lock(s);
    bool last = --s->refs == 0;
    store_unlock(s);
    if (last) {
        free_store(s);
    }
}

void store_wait_locked(struct kv_store *s, pthread_cond_t *c, double seconds)
{
    clock_wait(c, &s->mu, seconds);
}

/* ---- what a file turned out to be ---- */

enum file_fault fault_of(int error)
{
    switch (error) {
    case -ENOENT: return FAULT_VANISHED;
    case -EMFILE:
    case -ENFILE:
    case -ENOMEM:
    case -EINTR:
    case -EAGAIN: return FAULT_BUSY;
    case -ENODATA: return FAULT_DAMAGED; /* ends early */
    default: return FAULT_IO;
    }
}

enum kv_why store_fault(struct kv_store *s, const struct kv_name *name, enum file_fault fault,
                        int error, const char *what)
{
    char text[KV_NAME_MAX];
    kv_name_make(name, text);
    enum kv_why why = fault == FAULT_VANISHED  ? KV_WHY_NO_FILE
                      : fault == FAULT_FOREIGN ? KV_WHY_FOREIGN
                      : fault == FAULT_DAMAGED ? KV_WHY_BAD_FILE
                                               : KV_WHY_IO_ERROR;
    store_lock(s);
    struct kv_entry *e = index_find(&s->index, s->own_folder, name);
    bool remove = false;
    if (e && fault == FAULT_VANISHED) {
        index_remove(&s->index, e);
    } else if (e && fault == FAULT_FOREIGN) {
        e->foreign = true;
    } else if (e && fault != FAULT_BUSY && !e->bad) {
        e->bad = true;
        s->stats.n_bad++;
        store_remember_locked(s, &name->to, why);
        remove = fault == FAULT_DAMAGED && s->state == KV_STORE_WRITER && !e->evicting;
        e->evicting = e->evicting || remove;
    }
    s->stats.load_failures++;
    int own = s->own;
    store_unlock(s);
    if (fault != FAULT_VANISHED) {
        log_warn("KV store %s/%s/%s: %s%s%s: not used%s", s->dir, s->own_name, text, what,
                 error ? ": " : "", error ? strerror(-error) : "", remove ? ", removed" : "");
    }
    if (remove) {
        int rc = s->fs->remove(s->fs->user, own, text);
        store_lock(s);
        e = index_find(&s->index, s->own_folder, name);
        if (e && (rc == 0 || rc == -ENOENT)) {
            index_remove(&s->index, e);
        } else if (e) {
            e->evicting = false;
            e->stuck = true;
        }
        store_unlock(s);
    }
    return why;
}
