/* write.h - makes all items of a conversion, on several threads, and keeps the journal. */
#ifndef FACTORY_WRITE_H
#define FACTORY_WRITE_H

#include "base/file.h"
#include "factory/items.h"
#include "factory/journal.h"

struct write_result {
    uint64_t *lost;   /* [plan->n], the caller's, zeroed: per tensor, see item_make */
    size_t n_resumed; /* items that the journal listed and whose bytes were right */
};

/* Writes every item to its place in f. Items that the journal lists are read back and compared
 * with their checksums first; they are made again if they differ. On an error the first one by
 * number of item is reported; what was finished is in the journal. Calls opt->progress on this
 * thread. */
int write_items(const struct plan *p, const struct item *items, size_t n,
                const struct convert_options *opt, struct file_out *f, struct journal *j,
                struct write_result *result, fathom_err *err);

#endif
