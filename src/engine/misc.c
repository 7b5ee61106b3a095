/* misc.c - the public functions that take neither engine nor session: version, status texts,
 * log, memory release. Thread-safe. */
#include <pthread.h>

#include "base/log.h"
#include "base/mem.h"
#include "fathom/fathom.h"

const char *fathom_version(void)
{
    return FATHOM_VERSION;
}

const char *fathom_status_text(int status)
{
    switch (status) {
    case FATHOM_OK: return "no error";
    case FATHOM_EINVAL: return "invalid argument";
    case FATHOM_ENOMEM: return "not enough memory";
    case FATHOM_EIO: return "input/output error";
    case FATHOM_EFORMAT: return "unusable input";
    case FATHOM_ENOENT: return "no such file";
    case FATHOM_ELIMIT: return "limit reached";
    case FATHOM_ECANCEL: return "cancelled";
    case FATHOM_EUNSUPPORTED: return "not supported";
    default: return "unknown status";
    }
}

void fathom_free(void *p)
{
    mem_free(p);
}

/* The caller's sink; set and read under the log's own order of calls. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void (*user_fn)(void *user, int level, const char *line);
static void *user_data;

static void forward_line(void *unused, enum log_level level, const char *line)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    void (*fn)(void *, int, const char *) = user_fn;
    void *user = user_data;
    pthread_mutex_unlock(&lock);
    if (fn) {
        fn(user, (int)level, line);
    }
}

void fathom_set_log(void (*fn)(void *user, int level, const char *line), void *user,
                    int max_level)
{
    pthread_mutex_lock(&lock);
    user_fn = fn;
    user_data = user;
    pthread_mutex_unlock(&lock);
    int level = max_level < LOG_ERROR   ? LOG_ERROR
                : max_level > LOG_DEBUG ? LOG_DEBUG
                                        : max_level;
    log_set_level((enum log_level)level);
    log_set_sink(fn ? forward_line : NULL, NULL);
}
