/* store_int.h - what the files of the disk store share: the store itself, the queue, and who
 * may do what. From above: store.c opens, finds and counts; writer.c writes and evicts; loader.c
 * reads; queue.c queues; scan.c lists the directory and takes the lock; store_base.c is below all.
 *
 * Locking. `mu` guards everything below it but what is said; it is never held during a system
 * call or a callback. Functions named *_locked are called with it. Background work (scanning,
 * writing, evicting, file times) is done by one thread only, the writer (single_threaded: the
 * owner), so what only that work changes needs the lock for others' eyes alone. */
#ifndef KV_STORE_INT_H
#define KV_STORE_INT_H

#include <pthread.h>

#include "kv/fs.h"
#include "kv/index.h"
#include "kv/store.h"

enum {
    KV_WHY_SLOTS = 4096,    /* remembered reasons, by key */
    KV_LOCK_RETRY = 30,     /* seconds between attempts to take the lock */
    KV_PAUSE_MIN = 30,      /* seconds without writing after the disk was full ... */
    KV_PAUSE_MAX = 600,     /* ... doubling up to this */
    KV_RECREATE = 60,       /* at most once in so many seconds */
    KV_REST_MAX = 2,        /* seconds that the writer rests after one file */
    KV_PERSIST = 600,       /* file times are renewed if older than this */
    KV_OLD_DIRS = 16,       /* handles of directories that vanished, closed at the end */
    KV_LEFT_TEMPS = 16,     /* temporaries that could not be removed */
    KV_READ_BATCH = 1 << 20 /* bytes of sections read at once */
};

struct kv_item { /* one file to write */
    struct kv_item *next;
    struct kv_name name;
    unsigned char salt_sha[KV_ID_BYTES];
    uint64_t first, bytes; /* position of the first token; of the file */
    uint32_t count, cost_ms, saves_ms, page;
    bool used_before;
    bool released;       /* the owner has its references back already */
    uint32_t *ids;       /* [count], owned */
    unsigned char *tail; /* frontier: its rows in section order, layer after layer; owned */
    const void *state;   /* frontier */
    void *ref;
    enum kv_why why; /* result */
};

struct kv_queue {
    struct kv_item *head, **end;
};

struct kv_store {
    /* constant after open */
    const struct kv_fs *fs;
    struct kv_clock clock;
    struct kv_geom geom;
    bool has_geom, read_only, must_exist, single_threaded, direct;
    struct kv_page_io io;
    struct kv_id identity;
    struct kv_key root_key; /* key(0) without salt */
    char own_name[KV_DIR_DIGITS + 1];
    char *dir; /* owned */
    uint64_t queue_max;
    double writer_share; /* of a core; 0: no limit */
    uint32_t n_waiting;  /* calls that wait for the writer: it does not rest */
    uint32_t min_cost_ms, n_readers;
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t mu;
    pthread_cond_t work; /* for the writer: something to do */
    pthread_cond_t idle; /* from the writer: something was done */
    uint32_t refs;       /* owner, writer, loads */
    bool quit;           /* the writer is to end */
    bool abandon;        /* and not to look at pages any more */
    bool copying;        /* it is looking at one */
    bool thread_ended;

    enum kv_store_state state;
    char reason[256];
    int root, own, lock; /* handles; -1: closed. own: folder of this identity */
    int old_dir[KV_OLD_DIRS];
    uint32_t n_old_dirs;
    double next_lock, next_scan, paused_until, next_recreate;
    uint32_t pause;                     /* seconds */
    bool rescan;                        /* a peer's find missed */
    bool rescan_force;                  /* kv_store_refresh */
    uint64_t scan_asked, scan_answered; /* calls of kv_store_refresh */
    bool restamp;   /* the stamp was taken within the clock's grain of the last listing */
    uint64_t stamp; /* of the own folder when it was listed */

    struct kv_index index;
    struct kv_folder *own_folder;
    uint64_t budget, reserved; /* reserved: of the file being written, and left temporaries */
    uint64_t left_temp[KV_LEFT_TEMPS], n_left_temps, left_temp_bytes[KV_LEFT_TEMPS];
    uint64_t temp_counter;
    struct kv_queue queue, done; /* to be written; to be released by the owner */
    struct kv_item *active;      /* taken out of the queue, being written */
    uint64_t queued_bytes;       /* of the queue and the active one */
    uint32_t n_queued;
    struct {
        struct kv_key key; /* at the end of what was refused, evicted, bad */
        unsigned char why;
    } why[KV_WHY_SLOTS];
    struct kv_store_stats stats; /* the counters only */
};

/* ---- store_base.c ---- */
double store_mono(const struct kv_store *s);
int64_t store_wall(const struct kv_store *s);
void store_lock(struct kv_store *s);
void store_unlock(struct kv_store *s);
/* Waits on one of the store's conditions for at most `seconds`; may end early. */
void store_wait_locked(struct kv_store *s, pthread_cond_t *c, double seconds);
void store_unref(struct kv_store *s); /* frees the store with the last one */
void item_free(struct kv_item *it);
void items_free(struct kv_item *first);
void store_remember_locked(struct kv_store *s, const struct kv_key *to, enum kv_why why);
enum kv_why store_recall_locked(const struct kv_store *s, const struct kv_key *to);
/* Another state, said once in the log. */
void store_set_state_locked(struct kv_store *s, enum kv_store_state state, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static inline bool entry_usable(const struct kv_entry *e)
{
    return !e->bad && !e->foreign && !e->evicting && !e->gone;
}
/* What a file of ours must look like, keys included. */
void store_plan(const struct kv_store *s, const struct kv_name *name, uint64_t first,
                uint32_t count, const unsigned char salt_sha[KV_ID_BYTES],
                struct kv_header *plan);

/* What a file turned out to be (any thread, unlocked). */
enum file_fault {
    FAULT_VANISHED, /* not there any more */
    FAULT_BUSY,     /* no descriptor, no memory: nothing is wrong with the file */
    FAULT_IO,       /* the system refuses to open or read it */
    FAULT_DAMAGED,  /* a check failed: removed by the holder of the lock */
    FAULT_FOREIGN
};
enum kv_why store_fault(struct kv_store *s, const struct kv_name *name, enum file_fault fault,
                        int error, const char *what);
enum file_fault fault_of(int error); /* of a failed open or read */

/* ---- scan.c (background work) ---- */
/* Opens the directory, lists it, tries the lock: state and reason afterwards are final. */
void scan_open(struct kv_store *s);
/* Lists a peer's own folder again, if its stamp changed (rescan_force: whatever it says). */
void scan_peer(struct kv_store *s);
/* Tries to become the one who writes; true: it is. */
bool scan_take_lock(struct kv_store *s);
/* The directory vanished: makes it again, at most once a minute; true: it is there. */
bool scan_recreate(struct kv_store *s);
/* Opens the own folder, making it if it is missing; 0 or -errno. */
int scan_own_folder(struct kv_store *s, bool create);
/* Handle of a folder for removing files of other identities; close it with dir_close unless it
 * is s->own. */
int scan_folder_handle(struct kv_store *s, const struct kv_folder *f);

/* ---- queue.c ---- */
void queue_push(struct kv_queue *q, struct kv_item *it);
struct kv_item *queue_pop(struct kv_queue *q);
/* An item that was taken out goes to the owner, who releases what it gave. */
void item_done_locked(struct kv_store *s, struct kv_item *it, enum kv_why why);
void drop_queue_locked(struct kv_store *s, enum kv_why why);
/* The stored segment that ends at `key`, if it can be used. */
struct kv_entry *stored_locked(const struct kv_store *s, const struct kv_key *key);

/* ---- writer.c ---- */
void *writer_main(void *store);
/* One piece of background work; false: nothing is due. */
bool writer_step(struct kv_store *s);
/* Removes one file; false: nothing can go. Background work. */
bool writer_evict(struct kv_store *s, const char *for_what);

#endif
