/* reuse_common.h - shared by the tests of reused KV state: a directory for files, engines with and
 * without a store, the invariants that must hold after every call. Include after cmocka.h. */
#ifndef TESTS_REUSE_COMMON_H
#define TESTS_REUSE_COMMON_H

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/engine.h"
#include "golden/ok.h"
#include "golden/random_model.h"

enum { N_MAX = 512, V = 97 };

/* ---- a directory for files ---- */

static char dir[64];

static inline void remove_tree(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *x; d && (x = readdir(d));) {
        char name[512];
        struct stat st;
        snprintf(name, sizeof name, "%.200s/%.255s", path, x->d_name);
        if (strcmp(x->d_name, ".") == 0 || strcmp(x->d_name, "..") == 0) {
            continue;
        }
        if (lstat(name, &st) == 0 && S_ISDIR(st.st_mode)) {
            remove_tree(name);
        } else {
            unlink(name);
        }
    }
    if (d) {
        closedir(d);
        rmdir(path);
    }
}

static inline void fresh_dir(void)
{
    if (dir[0]) {
        remove_tree(dir);
    }
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, sizeof dir, "%s/fathom-reuse-XXXXXX", base);
    assert_non_null(mkdtemp(dir));
}

/* Calls fn for every file of the store, with its path and its open descriptor; their number. */
static inline uint32_t each_file(void (*fn)(void *user, const char *path, int fd), void *user)
{
    uint32_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *x; d && (x = readdir(d));) {
        char sub[160], name[400];
        snprintf(sub, sizeof sub, "%s/%.64s", dir, x->d_name);
        DIR *in = strlen(x->d_name) == 16 ? opendir(sub) : NULL;
        for (struct dirent *y; in && (y = readdir(in));) {
            if (y->d_name[0] == '.') {
                continue;
            }
            snprintf(name, sizeof name, "%s/%.200s", sub, y->d_name);
            int fd = open(name, O_RDWR);
            assert_true(fd >= 0);
            fn(user, name, fd);
            close(fd);
            n++;
        }
        if (in) {
            closedir(in);
        }
    }
    closedir(d);
    return n;
}

static inline off_t file_size(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    return st.st_size;
}

static inline void flip(int fd, off_t at, unsigned char bits)
{
    unsigned char c;
    assert_int_equal(pread(fd, &c, 1, at), 1);
    c ^= bits;
    assert_int_equal(pwrite(fd, &c, 1, at), 1);
}

/* ---- engines ---- */

static const char *debug = "poison-kv"; /* developer switches of what open_engine opens */
static int32_t save_ms = -1;            /* its kv_save_ms */

/* n_pages: of the pool, 0: as many as 3 sequences need. */
static inline fathom_engine *open_engine(const struct random_model *m, uint32_t page,
                                         uint32_t n_pages, bool share, bool disk)
{
    fathom_err why = {0};
    fathom_engine *e;
    fathom_engine_options o = {.model_data = m->file,
                               .model_bytes = m->file_bytes,
                               .backend = "cpu",
                               .n_threads = 1,
                               .max_ctx = N_MAX,
                               .max_seq = 3,
                               .chunk = 64,
                               .page_tokens = page,
                               .debug = debug,
                               .kv_no_share = !share,
                               .kv_dir = disk ? dir : NULL,
                               .kv_save_ms = save_ms};
    if (n_pages) {
        fathom_engine_options probe = o;
        probe.kv_no_share = true;
        probe.kv_dir = NULL;
        OK(fathom_engine_open(&e, &probe, err));
        o.kv_bytes = 3 * engine_layout(e)->slot_bytes + n_pages * engine_layout(e)->page_bytes;
        o.max_ctx = MIN(n_pages * page, (uint32_t)N_MAX);
        fathom_engine_close(e);
    }
    if (fathom_engine_open(&e, &o, &why) != 0) {
        fail_msg("%s", why.msg);
    }
    if (disk) {
        fathom_kv_info k;
        fathom_engine_kv(e, &k);
        if (k.disk_state != FATHOM_DISK_WRITER) {
            fail_msg("store: %s", k.disk_reason);
        }
    }
    return e;
}

static inline void within_budget(const fathom_engine *e)
{
    fathom_kv_info k;
    engine_check(e);
    fathom_engine_kv(e, &k);
    assert_true(k.page_bytes + k.slot_bytes + k.frontier_bytes + k.staging_bytes <=
                k.budget_bytes);
}

#endif
