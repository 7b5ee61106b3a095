/* journal.h - what of OUT.part is finished, in OUT.journal beside it, so that a conversion that
 * was killed at any moment goes on where it was. A line is written only after the data it
 * speaks of is on the disk; it carries the data's checksum, and a resuming run believes nothing
 * else.
 *
 * Text: "fathom-journal 1 plan HASH items N", then "INDEX LOST CHECKSUM" per finished item, in
 * any order. Thread rule: journal_add from any thread, the rest from one. */
#ifndef FACTORY_JOURNAL_H
#define FACTORY_JOURNAL_H

#include <pthread.h>

#include "base/err.h"
#include "base/str.h"

/* A 64-bit checksum of a stream of bytes, however it is cut into pieces. Against accidents, not
 * against forgery. Start with {.h = seed}. */
struct checksum {
    uint64_t h, n;
    unsigned char tail[8];
};
void checksum_add(struct checksum *c, const void *p, size_t n);
void checksum_u64(struct checksum *c, uint64_t v);
uint64_t checksum_end(const struct checksum *c);

struct journal_entry {
    bool done;
    uint64_t lost; /* values that the type could not hold (encode.h) */
    uint64_t sum;
};

struct journal {
    char *path; /* owned */
    int fd;
    uint64_t bytes;              /* of the file, up to the last whole line */
    struct journal_entry *entry; /* [n_items], owned: what the file said when it was opened */
    size_t n_items, n_done;      /* n_done: entries that are set, later also those written */
    /* Lines whose data may not be on the disk yet; all under lock. */
    pthread_mutex_t lock;
    struct buf pending;
    size_t n_pending;
    uint64_t pending_bytes;
    double flushed_at;
    bool flushing, has_lock;
};

/* Opens or creates OUT.journal and locks it against a second conversion. One of another plan is
 * FATHOM_EINVAL with a message that says how to start over. Without OUT.part, or with nothing
 * in it, the journal starts empty. */
int journal_open(struct journal *j, const char *out, uint64_t plan, size_t n_items,
                 fathom_err *err);
/* Does OUT.journal say that this plan is finished, and is OUT.part renamed already? A finished
 * file keeps its journal until the files that belong to it are finished, too. */
bool journal_is_complete(const char *out, uint64_t plan, size_t n_items);
/* Removes OUT.journal, if there is one. */
void journal_remove(const char *out);
/* An item of n bytes is finished: written to data_fd, not flushed yet. From time to time
 * flushes the data and then writes the lines. */
int journal_add(struct journal *j, int data_fd, size_t item, const struct journal_entry *e,
                uint64_t n, fathom_err *err);
int journal_flush(struct journal *j, int data_fd, fathom_err *err);
/* remove: delete the file, too. Safe after a failed open. */
void journal_close(struct journal *j, bool remove);

#endif
