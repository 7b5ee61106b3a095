/* store.h - the disk store of KV state: content-addressed, write-once files that outlive the
 * process (kv-store.md 3; bytes: docs/kv-format.md). A *segment* holds ids and compressed rows
 * of tokens [kS, (k+1)S); a *frontier* at position p what continuing there needs besides rows,
 * and the rows of [p - p % S, p). Rows are useful without frontiers (exact re-run, kv/state.h),
 * a frontier never without the segments before it.
 *
 * Promise: never wrong, never in the way. A file is used only after every check passed (name,
 * header, ids = the prompt's, checksums of every byte); whatever fails is a miss, and a bad file
 * is tried once. Nothing here stops a server: a directory that cannot be used gives a store that
 * is off or read-only and says why.
 *
 * Threads. One *owner* thread (the engine thread) makes all calls, except where "any thread"
 * stands. Behind it: one writer thread (writes, evicts, persists recency, retries the lock) and
 * per load a few readers. The owner never waits for the disk: no call but open, close, the
 * waiting ones and kv_store_divergence makes a system call, and no lock is held by others during
 * one.
 *
 * Page bytes stay in the pool. The store reads and writes them through struct kv_page_io, by
 * page number: `read` from the writer thread, only on pages handed over by put_segment (full,
 * immutable, kept referenced until given back through `release`); `write` from readers, only on
 * pages named by a load (private to it until it ended). Both follow the buf_read / buf_write
 * rule of backend/backend.h. `release` is called by the owner's own calls only (kv_store_poll,
 * _give_up, _close, _put_*), so it may touch the pool's reference counts.
 *
 * Several processes: the holder of LOCK writes and evicts; others read and retry the lock. */
#ifndef KV_STORE_H
#define KV_STORE_H

#include "kv/geom.h"
#include "kv/key.h"

struct kv_store; /* opaque */
struct kv_fs;    /* file layer (kv/fs.h) */

#define KV_DEFAULT_BUDGET ((uint64_t)16 << 30)

/* How far a store may go. Reads work in all states but OFF. */
enum kv_store_state { KV_STORE_OFF, KV_STORE_READ_ONLY, KV_STORE_WRITER };

/* Why a stored prefix ends where it does, or a request was refused. */
enum kv_why {
    KV_WHY_NONE,      /* it does not: all that was asked for is there */
    KV_WHY_NO_FILE,   /* nothing stored goes on from here */
    KV_WHY_DIVERGED,  /* what is stored goes on with other tokens (kv_store_divergence) */
    KV_WHY_EVICTED,   /* this process evicted it */
    KV_WHY_BAD_FILE,  /* failed a check; it is not tried again */
    KV_WHY_FOREIGN,   /* another version, kind or layout: not ours to read */
    KV_WHY_IO_ERROR,  /* the system refused to read or write it */
    KV_WHY_BUDGET,    /* it was refused when it should have been written: no room */
    KV_WHY_CHEAP,     /* ... computing it again costs less than min_cost_ms */
    KV_WHY_QUEUE,     /* ... the queue was full, or it was given up for RAM */
    KV_WHY_NO_PARENT, /* ... the segment before it is neither stored nor queued */
    KV_WHY_IDENTITY,  /* the directory holds state, but only of other models or versions */
    KV_WHY_SLOW,      /* the load was abandoned */
    KV_WHY_NO_MEMORY,
    KV_WHY_OFF, /* the store is off (or, for writing, read-only or pausing) */
    KV_WHY_COUNT
};
const char *kv_why_name(enum kv_why why); /* "diverged", ... */

struct kv_page_io {
    void *user;
    /* Bytes [at, at + n) of page `page`. They cannot fail. */
    void (*read)(void *user, uint32_t page, uint64_t at, void *dst, uint64_t n);
    void (*write)(void *user, uint32_t page, uint64_t at, const void *src, uint64_t n);
    /* The store is done with what put_segment (page; ref NULL) or put_frontier (ref) gave it.
     * Owner thread. */
    void (*release)(void *user, uint32_t page, void *ref);
};

struct kv_clock { /* injected by tests; any thread */
    void *user;
    double (*mono)(void *user);  /* seconds, never backwards */
    int64_t (*wall)(void *user); /* unix seconds, may jump */
};

struct kv_store_config {
    const char *dir;       /* created (0700) if missing */
    uint64_t budget_bytes; /* all files of ours in dir, of every model; 0: the default 16 GiB */
    struct kv_id identity;
    const struct kv_geom *geom; /* copied; NULL: no reading or writing of state (fathom kv) */
    struct kv_page_io io;
    bool read_only;  /* never take the lock */
    bool must_exist; /* a missing directory is not made (fathom kv) */
    /* Writing is worth it if what it saves would take this long to compute again; 0: always.
     * Segments that a later request hit are written anyway. */
    uint32_t min_cost_ms;
    uint64_t queue_bytes; /* most that may wait to be written; 0: 1 GiB */
    /* Most of one core that the writer may take, so that it does not slow down those who
     * compute: it rests after each file. Not while somebody waits for it (flush, close) or a
     * quarter of the queue is full. 0: no limit. */
    double writer_share;
    uint32_t n_readers;           /* threads of a load, 1 .. 16; 0: 4 */
    const struct kv_fs *fs;       /* NULL: the real one */
    const struct kv_clock *clock; /* NULL: the real one */
    bool direct_io; /* read around the page cache, where weights are mapped from it */
    /* Tests: no threads. Background work is done by kv_store_work, loads inside
     * kv_load_start. */
    bool single_threaded;
};

/* Opens the store: lists the directory, takes the lock if it is free. A directory that cannot
 * be used is no error: the store is OFF or READ_ONLY, one line is logged, kv_store_stats says
 * why. Errors: FATHOM_ENOMEM, FATHOM_EUNSUPPORTED (geometry), FATHOM_EINVAL. */
int kv_store_open(struct kv_store **out, const struct kv_store_config *cfg, fathom_err *err);
/* Writes what is queued, for at most flush_seconds; the rest is dropped (everything is released
 * either way). A disk that hangs cannot hold this up by more than ten seconds. No load may be
 * unfinished. NULL is fine. */
void kv_store_close(struct kv_store *s, double flush_seconds);

/* ---- finding ---- */

/* What is stored of a prompt. Its files are pinned: they are not evicted until
 * kv_hit_release. */
struct kv_hit {
    uint32_t n_segments;   /* full segments [0, n_segments * S) */
    uint32_t frontier_pos; /* position of the deepest stored frontier on this path, 0: none. It
                              may lie below or, in the last partial segment, above n_segments * S
                              and then brings the rows up to itself */
    enum kv_why why;       /* why it ends before n */
    void *segment, *frontier; /* of the store */
};
/* The longest stored prefix of ids[0..n). No file is touched: names are the index. chain: of
 * these ids (extended here); its identity must be the store's. Cost: SHA-1 of the new ids and
 * n / S probes in memory. */
void kv_store_find(struct kv_store *s, struct kv_chain *chain, const uint32_t *ids, uint32_t n,
                   struct kv_hit *hit);
/* The same files get the newest time, as a later request's hit (hit = true: they leave
 * probation) or as part of a conversation that is still in use (false). */
void kv_store_touch(struct kv_store *s, const struct kv_hit *hit, bool proven);
void kv_hit_release(struct kv_store *s, struct kv_hit *hit); /* {0} is fine */

/* After a find that ended with KV_WHY_DIVERGED at the boundary hit->n_segments * S: compares
 * ids[0..n) with the most recently used file that goes on from there. true: *pos is the first
 * position that differs and *stored_id what is stored there (UINT32_MAX: the file ends).
 * Reads one file's header and ids: waits for the disk. */
bool kv_store_divergence(struct kv_store *s, struct kv_chain *chain, const struct kv_hit *hit,
                         const uint32_t *ids, uint32_t n, uint32_t *pos, uint32_t *stored_id);

/* ---- loading ---- */

struct kv_load_request {
    const struct kv_hit *hit; /* stays pinned until the load ended */
    const uint32_t *ids;      /* the prompt, as given to find; copied */
    uint32_t first, end;      /* segments [first, end), end <= hit->n_segments */
    const uint32_t *pages;    /* [end - first] pages for them; copied */
    bool frontier;            /* load the frontier, too */
    uint32_t tail_page;       /* page for its rows if frontier_pos % S > 0 */
    void *state;              /* kv_geom_state_bytes(frontier_pos) bytes, as kv/frontier.h */
};
struct kv_load_result {
    uint32_t end;    /* segments [first, end) are complete and checked */
    bool frontier;   /* the frontier is (its rows in tail_page, too) */
    enum kv_why why; /* what stopped it, KV_WHY_NONE: everything is there */
    uint32_t at;     /* segment at which it stopped */
    uint64_t bytes;  /* read */
    double seconds;
};
struct kv_load; /* opaque */
/* Starts reading, with n_readers threads. Until the load ended, its pages and its state buffer
 * belong to it; what lies outside the complete parts afterwards is undefined (give it back). A
 * frontier that lies above the first segment that failed may be reported as complete: use it
 * only if all segments before it are there. NULL: out of memory. */
struct kv_load *kv_load_start(struct kv_store *s, struct kv_chain *chain,
                              const struct kv_load_request *req);
/* true when it ended. Any thread. */
bool kv_load_done(struct kv_load *l);
/* Waits at most max_seconds (< 0: for ever), ends and frees the load. Not there in time: it is
 * abandoned (KV_WHY_SLOW); afterwards nothing writes to the pages any more. Any thread. */
void kv_load_finish(struct kv_load *l, double max_seconds, struct kv_load_result *out);

/* ---- writing ---- */

/* Queues segment k (tokens [kS, (k+1)S)) of ids; page holds its rows, complete and immutable.
 * KV_WHY_NONE: queued (or already stored or queued: then released at once); from then on the
 * store owns one reference of the page and gives it back through release. Otherwise the reason,
 * and nothing is kept. The segment before must be stored or queued (NO_PARENT). cost_ms: what
 * computing the segment took, for the file's header; saves_ms: what computing the known tokens
 * of the sequence from 0 on would take, by which it is decided (CHEAP), because a prefix is read
 * as a whole; used_before: a later request hit it in RAM. */
enum kv_why kv_store_put_segment(struct kv_store *s, struct kv_chain *chain,
                                 const uint32_t *ids, uint32_t k, uint32_t page,
                                 uint32_t cost_ms, uint32_t saves_ms, bool used_before);
/* Queues the frontier at position pos (> 0). state: kv_geom_state_bytes(pos) bytes, immutable
 * until ref is released; page: holds the rows of [pos - pos % S, pos), read during this call
 * (unused if pos % S is 0). The segments before must be stored or queued. cost_ms: what
 * continuing at pos would take without it; by this it is decided. */
enum kv_why kv_store_put_frontier(struct kv_store *s, struct kv_chain *chain,
                                  const uint32_t *ids, uint32_t pos, const void *state,
                                  void *ref, uint32_t page, uint32_t cost_ms);
/* Is segment k of ids on disk or queued (then it need not be offered)? */
bool kv_store_has_segment(struct kv_store *s, struct kv_chain *chain, const uint32_t *ids,
                          uint32_t k);

/* Releases what the writer is done with. Call it between steps and before pages are needed.
 * Returns how many pages and frontiers it released. */
uint32_t kv_store_poll(struct kv_store *s);
/* RAM is short: takes up to n_pages segments back out of the queue, deepest first, and releases
 * them. Returns how many. The one being written stays. */
uint32_t kv_store_give_up(struct kv_store *s, uint32_t n_pages);
/* Waits until the queue is empty or max_seconds passed; true: empty. */
bool kv_store_flush(struct kv_store *s, double max_seconds);
/* single_threaded: does all background work that is due, here. */
void kv_store_work(struct kv_store *s);
/* A peer: lists the directory again, now (else done in the background, when a find missed). */
void kv_store_refresh(struct kv_store *s);

/* ---- statistics (any thread) ---- */

struct kv_store_stats {
    enum kv_store_state state;
    char reason[256]; /* why it is not a writer; "" if it is */
    bool missing;     /* off: there is no such directory */
    bool paused;      /* writing waits: no space, or errors */
    uint64_t budget_bytes, used_bytes;
    uint64_t probation_bytes;                  /* of files no later request has hit yet */
    uint32_t n_segments, n_frontiers, n_other; /* other: replay records, unreadable versions */
    uint32_t n_foreign;                        /* names that are not ours: never touched */
    uint32_t n_bad;                            /* names known as bad */
    uint32_t n_queued;                         /* waiting to be written or being written */
    uint64_t queued_bytes;
    uint64_t loads, loaded_segments, loaded_bytes, load_failures;
    uint64_t written_files, written_bytes, write_errors, evicted_files, evicted_bytes;
    uint64_t refused[KV_WHY_COUNT]; /* puts not queued or not written, by reason */
};
void kv_store_get_stats(struct kv_store *s, struct kv_store_stats *out);

#endif
