/* http.c - HTTP by libmicrohttpd, one thread per connection; the only file that includes it.
 *
 * The library does parsing, limits, chunked bodies, 100-continue, keep-alive and HEAD. Added
 * here: the listening socket (so that port 0 and Unix sockets work), a guard thread that cuts
 * connections whose headers do not arrive in time (the library only times silence, so a byte
 * every few seconds would hold a connection for ever), and the check whether the peer is gone
 * while nothing is being written.
 *
 * A refusal that is known from the headers is sent after the body was read and thrown away if
 * the body is small, because closing a socket with unread data makes the peer lose the answer.
 * Invariant: a socket in the guard's list is open; it leaves the list before it is closed. */
#include "server/http.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <microhttpd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum {
    HEADER_BYTES = 64 << 10,
    STACK_BYTES = 1 << 20, /* of address space; a few pages are touched */
    BLOCK_BYTES = 16 << 10,
    DISCARD_BYTES = 1 << 20, /* bodies of a few times the limit and this are read in vain */
    BODY_SECONDS = 600,      /* for a whole body, however it trickles */
    CLOSE_SECONDS = 5,       /* at the end: for responses that are being sent */
};

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_storage room;
};

/* One connection, for the guard. */
struct conn {
    struct conn *prev, *next;
    int fd;
    double deadline; /* clock_now(); 0: none */
};

struct http_server {
    struct http_config cfg;
    struct MHD_Daemon *daemon;
    int listen_fd;
    uint16_t port;
    char *unix_path; /* owned; removed at the end */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t guard;
    bool guard_on, stop; /* stop: under lock */
    struct conn *conns;  /* under lock */
    unsigned in_flight; /* under lock: requests from their headers to the end of the response */
};

struct reply_header {
    struct reply_header *next;
    const char *name, *value; /* in the request's arena */
};

struct http_request {
    struct http_server *server;
    struct MHD_Connection *mhd;
    struct arena arena;
    const char *method, *path;
    struct buf body;
    bool refused; /* a reply is kept until the body is through */
    bool replied; /* queued */
    bool too_large;
    bool through; /* the body was read, or never will be */
    uint64_t discarded;
    int fd;
    struct reply_header *headers;
    int status; /* the kept reply */
    const char *type;
    struct buf reply;
    struct http_stream stream;
    struct buf out; /* bytes of the stream that were not taken yet, from at on */
    size_t at;
    bool last, sent_all;
    void *user;
};

/* ---- the guard ---- */

static struct conn *conn_of(struct http_request *r)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(r->mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return i ? i->socket_context : NULL;
}

static void set_deadline(struct http_request *r, unsigned seconds)
{
    struct conn *c = conn_of(r);
    if (c) {
        pthread_mutex_lock(&r->server->lock);
        c->deadline = seconds ? clock_now() + seconds : 0;
        pthread_mutex_unlock(&r->server->lock);
    }
}

static void on_connection(void *user, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http_server *s = user;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        struct conn *c = mem_calloc(1, sizeof *c);
        const union MHD_ConnectionInfo *i =
            MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        *context = c;
        if (!c || !i) {
            return;
        }
        c->fd = i->connect_fd;
        c->deadline = clock_now() + s->cfg.header_seconds;
        pthread_mutex_lock(&s->lock);
        c->next = s->conns;
        if (c->next) {
            c->next->prev = c;
        }
        s->conns = c;
        pthread_mutex_unlock(&s->lock);
    } else if (*context) {
        struct conn *c = *context;
        pthread_mutex_lock(&s->lock);
        *(c->prev ? &c->prev->next : &s->conns) = c->next;
        if (c->next) {
            c->next->prev = c->prev;
        }
        pthread_mutex_unlock(&s->lock);
        mem_free(c);
        *context = NULL;
    }
}

static void *guard_main(void *user)
{
    struct http_server *s = user;
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        clock_wait(&s->wake, &s->lock, 1);
        double now = clock_now();
        for (struct conn *c = s->conns; c; c = c->next) {
            if (c->deadline > 0 && now > c->deadline) {
                shutdown(c->fd, SHUT_RDWR);
                c->deadline = 0;
            }
        }
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- requests ---- */

const char *http_method(const struct http_request *r)
{
    return r->method;
}
const char *http_path(const struct http_request *r)
{
    return r->path;
}
const char *http_header(const struct http_request *r, const char *name)
{
    return MHD_lookup_connection_value(r->mhd, MHD_HEADER_KIND, name);
}
size_t http_n_headers(const struct http_request *r)
{
    return (size_t)MHD_get_connection_values(r->mhd, MHD_HEADER_KIND, NULL, NULL);
}
struct slice http_body(const struct http_request *r)
{
    return buf_slice(&r->body);
}
bool http_too_large(const struct http_request *r)
{
    return r->too_large;
}
void *http_alloc(struct http_request *r, size_t bytes)
{
    return arena_alloc(&r->arena, bytes);
}
void http_set_user(struct http_request *r, void *user)
{
    r->user = user;
}
void *http_user(const struct http_request *r)
{
    return r->user;
}

void http_local_address(const struct http_request *r, char *out, size_t n)
{
    union address a;
    socklen_t len = sizeof a;
    const char *text = NULL;
    out[0] = 0;
    if (getsockname(r->fd, &a.any, &len) != 0) {
        return;
    }
    if (a.any.sa_family == AF_INET) {
        text = inet_ntop(AF_INET, &a.v4.sin_addr, out, (socklen_t)n);
    } else if (a.any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a.v6.sin6_addr)) {
        text = inet_ntop(AF_INET, a.v6.sin6_addr.s6_addr + 12, out, (socklen_t)n);
    } else if (a.any.sa_family == AF_INET6) {
        text = inet_ntop(AF_INET6, &a.v6.sin6_addr, out, (socklen_t)n);
    }
    if (!text) {
        out[0] = 0;
    }
}

bool http_peer_is_local(const struct http_request *r)
{
    union address a;
    socklen_t len = sizeof a;
    if (getpeername(r->fd, &a.any, &len) != 0) {
        return false;
    }
    switch (a.any.sa_family) {
    case AF_INET: return ntohl(a.v4.sin_addr.s_addr) >> 24 == 127;
    case AF_INET6:
        return IN6_IS_ADDR_LOOPBACK(&a.v6.sin6_addr) ||
               (IN6_IS_ADDR_V4MAPPED(&a.v6.sin6_addr) && a.v6.sin6_addr.s6_addr[12] == 127);
    case AF_UNIX: return true;
    default: return false;
    }
}

bool http_peer_gone(const struct http_request *r)
{
    char c;
#ifdef POLLRDHUP
    struct pollfd p = {.fd = r->fd, .events = POLLRDHUP};
    if (poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))) {
        return true;
    }
#endif
    ssize_t n = recv(r->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

void http_idle_timer(struct http_request *r, bool on)
{
    MHD_set_connection_option(r->mhd, MHD_CONNECTION_OPTION_TIMEOUT,
                              on ? r->server->cfg.idle_seconds : 0u);
}

/* ---- responses ---- */

void http_set_header(struct http_request *r, const char *name, const char *value)
{
    struct reply_header *h = arena_alloc(&r->arena, sizeof *h);
    char *n = arena_strndup(&r->arena, name, strlen(name));
    char *v = arena_strndup(&r->arena, value, strlen(value));
    if (h && n && v) {
        *h = (struct reply_header){r->headers, n, v};
        r->headers = h;
    }
}

static void queue(struct http_request *r, int status, const char *type,
                  struct MHD_Response *response)
{
    if (!response) {
        return; /* out of memory: the library closes the connection */
    }
    if (type) {
        MHD_add_response_header(response, "Content-Type", type);
    }
    for (const struct reply_header *h = r->headers; h; h = h->next) {
        MHD_add_response_header(response, h->name, h->value);
    }
    r->replied = MHD_queue_response(r->mhd, (unsigned)status, response) == MHD_YES;
    MHD_destroy_response(response);
}

static void send_reply(struct http_request *r, int status, const char *type, struct buf *body)
{
    struct MHD_Response *response =
        body && body->p
            ? MHD_create_response_from_buffer_with_free_callback(body->n, body->p, mem_free)
            : MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (body && response) {
        body->p = NULL; /* now the library's */
    }
    if (body) {
        buf_free(body);
    }
    queue(r, status, type, response);
}

void http_reply(struct http_request *r, int status, const char *type, struct buf *body)
{
    if (r->through) {
        send_reply(r, status, type, body);
        return;
    }
    r->refused = true; /* said by accept(): kept until the body is through */
    r->status = status;
    r->type = type;
    if (body) {
        r->reply = *body;
        *body = (struct buf){0};
    }
}

static ssize_t read_stream(void *user, uint64_t pos, char *p, size_t max)
{
    struct http_request *r = user;
    (void)pos;
    http_idle_timer(r, false);
    while (r->at == r->out.n) {
        buf_clear(&r->out);
        r->at = 0;
        if (r->last) {
            r->sent_all = true;
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        if (http_peer_gone(r)) {
            return MHD_CONTENT_READER_END_WITH_ERROR;
        }
        enum http_more more = r->stream.fill(r->stream.user, &r->out);
        if (more == HTTP_ABORT || r->out.failed) {
            return MHD_CONTENT_READER_END_WITH_ERROR;
        }
        r->last = more == HTTP_END;
    }
    http_idle_timer(r, true);
    size_t n = MIN(max, r->out.n - r->at);
    memcpy(p, r->out.p + r->at, n);
    r->at += n;
    return (ssize_t)n;
}

void http_stream(struct http_request *r, int status, const char *type,
                 const struct http_stream *s)
{
    r->stream = *s;
    queue(
        r, status, type,
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_stream, r, NULL));
    if (!r->replied) {
        r->stream = (struct http_stream){0};
        s->close(s->user, false);
    }
}

/* ---- the library's callbacks ---- */

static bool expects_body(const struct http_request *r)
{
    const char *n = http_header(r, "Content-Length");
    return http_header(r, "Transfer-Encoding") || (n && strcmp(n, "0") != 0);
}

static uint64_t discard_bytes(const struct http_request *r)
{
    return 4 * (uint64_t)r->server->cfg.max_body_bytes + DISCARD_BYTES;
}

static bool too_large(const struct http_request *r)
{
    const char *n = http_header(r, "Content-Length");
    return n && strtoull(n, NULL, 10) > r->server->cfg.max_body_bytes;
}

static struct http_request *begin(struct http_server *s, struct MHD_Connection *mhd,
                                  const char *url, const char *method)
{
    struct http_request *r = mem_calloc(1, sizeof *r);
    if (!r) {
        return NULL;
    }
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    r->server = s;
    r->mhd = mhd;
    r->fd = i ? i->connect_fd : -1;
    r->method = arena_strndup(&r->arena, method, strlen(method));
    r->path = arena_strndup(&r->arena, url, strlen(url));
    r->body.max_bytes = s->cfg.max_body_bytes;
    if (!r->method || !r->path) {
        arena_fini(&r->arena);
        mem_free(r);
        return NULL;
    }
    pthread_mutex_lock(&s->lock);
    s->in_flight++;
    pthread_mutex_unlock(&s->lock);
    return r;
}

static enum MHD_Result finish(struct http_request *r)
{
    struct http_server *s = r->server;
    r->through = true;
    set_deadline(r, 0);
    http_idle_timer(r, false);
    if (r->refused) {
        send_reply(r, r->status, r->type, &r->reply);
    } else {
        s->cfg.handle(s->cfg.user, r);
    }
    http_idle_timer(r, true);
    return r->replied ? MHD_YES : MHD_NO;
}

/* More than is read only to be thrown away. */
static bool is_endless(const struct http_request *r)
{
    const char *n = http_header(r, "Content-Length");
    return n && strtoull(n, NULL, 10) > discard_bytes(r);
}

/* The headers are there. The body of a refused request is read all the same (a peer that is still
 * sending would not see the answer), unless it is huge or the peer waits for "100 Continue". */
static enum MHD_Result headers_done(struct http_request *r)
{
    struct http_server *s = r->server;
    set_deadline(r, BODY_SECONDS);
    r->too_large = too_large(r);
    bool ok = s->cfg.accept(s->cfg.user, r);
    assert(ok != r->refused);
    if (!ok && expects_body(r) && (is_endless(r) || http_header(r, "Expect"))) {
        r->through = true;
        send_reply(r, r->status, r->type, &r->reply);
        return r->replied ? MHD_YES : MHD_NO;
    }
    return MHD_YES;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *n_data, void **context)
{
    (void)version;
    struct http_request *r = *context;
    if (!r) {
        r = *context = begin(user, mhd, url, method);
        return r ? headers_done(r) : MHD_NO;
    }
    if (r->replied) {
        *n_data = 0;
        return MHD_YES;
    }
    if (*n_data == 0) {
        return finish(r);
    }
    if (!r->refused) {
        buf_add(&r->body, data, *n_data);
    }
    if (r->refused || r->body.failed) {
        r->too_large = r->too_large || r->body.failed;
        r->discarded += *n_data;
        if (r->discarded > discard_bytes(r)) {
            return MHD_NO;
        }
    }
    *n_data = 0;
    return MHD_YES;
}

static void on_completed(void *user, struct MHD_Connection *mhd, void **context,
                         enum MHD_RequestTerminationCode code)
{
    struct http_server *s = user;
    struct http_request *r = *context;
    (void)mhd;
    if (!r) {
        return;
    }
    set_deadline(r, s->cfg.idle_seconds + s->cfg.header_seconds); /* for the next request */
    if (r->stream.close) {
        r->stream.close(r->stream.user,
                        r->sent_all && code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    }
    buf_free(&r->body);
    buf_free(&r->reply);
    buf_free(&r->out);
    arena_fini(&r->arena);
    mem_free(r);
    *context = NULL;
    pthread_mutex_lock(&s->lock);
    s->in_flight--;
    pthread_mutex_unlock(&s->lock);
}

static void on_log(void *user, const char *fmt, va_list ap)
{
    char line[512];
    (void)user;
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\r\n")] = 0;
    log_debug("http: %s", line);
}

/* ---- listening ---- */

static int listen_tcp(struct http_server *s, fathom_err *err)
{
    union address a = {0};
    const char *text = s->cfg.address;
    socklen_t len = sizeof a.v4;
    int on = 1, off = 0;
    a.v4.sin_family = AF_INET;
    a.v4.sin_port = htons(s->cfg.port);
    if (inet_pton(AF_INET, text, &a.v4.sin_addr) != 1) {
        a.v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(s->cfg.port)};
        len = sizeof a.v6;
        if (inet_pton(AF_INET6, text, &a.v6.sin6_addr) != 1) {
            return err_set(err, FATHOM_EINVAL, "\"%s\" is not an IP address to listen on",
                           text);
        }
    }
    s->listen_fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->listen_fd < 0) {
        return err_sys(err, text, "cannot make a socket");
    }
    setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a.any.sa_family == AF_INET6) { /* "::" also takes IPv4 */
        setsockopt(s->listen_fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    }
    if (bind(s->listen_fd, &a.any, len) != 0 || listen(s->listen_fd, 512) != 0 ||
        getsockname(s->listen_fd, &a.any, &len) != 0) {
        int e = errno;
        return err_set(err, FATHOM_EIO, "cannot listen on %s port %u: %s%s", text, s->cfg.port,
                       strerror(e), e == EADDRINUSE ? " (choose another with --port)" : "");
    }
    s->port = ntohs(a.any.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
    return 0;
}

/* Only a socket that nobody answers on may be replaced. */
static int listen_unix(struct http_server *s, fathom_err *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st;
    const char *path = s->cfg.unix_path;
    if (strlen(path) >= sizeof a.sun_path) {
        return err_set(err, FATHOM_EINVAL, "%s: too long for a socket (at most %zu bytes)",
                       path, sizeof a.sun_path - 1);
    }
    memcpy(a.sun_path, path, strlen(path) + 1);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->listen_fd < 0) {
        return err_sys(err, path, "cannot make a socket");
    }
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool dead = probe >= 0 && connect(probe, (struct sockaddr *)&a, sizeof a) != 0 &&
                    errno == ECONNREFUSED;
        if (probe >= 0) {
            close(probe);
        }
        if (dead) {
            unlink(path);
        }
    }
    mode_t old = umask(0077);
    int rc = bind(s->listen_fd, (struct sockaddr *)&a, sizeof a);
    umask(old);
    if (rc != 0 || listen(s->listen_fd, 512) != 0) {
        return err_sys(err, path, "cannot listen");
    }
    s->unix_path = mem_strdup(path);
    return s->unix_path ? 0 : err_nomem(err, "a path", strlen(path));
}

static int start(struct http_server *s, fathom_err *err)
{
    /* The library's pool holds the headers and a write buffer of one block. */
    size_t pool = HEADER_BYTES + 2 * BLOCK_BYTES;
    s->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
            MHD_USE_ITC | MHD_USE_ERROR_LOG,
        0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
        MHD_OPTION_LISTEN_SOCKET, s->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
        s->cfg.max_connections, MHD_OPTION_CONNECTION_TIMEOUT, s->cfg.idle_seconds,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, pool, MHD_OPTION_THREAD_STACK_SIZE,
        (size_t)STACK_BYTES, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_END);
    if (!s->daemon) {
        return err_set(err, FATHOM_EIO, "cannot start the HTTP server: %s", strerror(errno));
    }
    s->listen_fd = -1; /* the library closes it */
    if (pthread_create(&s->guard, NULL, guard_main, s) != 0) {
        return err_set(err, FATHOM_EIO, "cannot start a thread");
    }
    s->guard_on = true;
    return 0;
}

int http_open(struct http_server **out, const struct http_config *cfg, fathom_err *err)
{
    struct http_server *s = mem_calloc(1, sizeof *s);
    *out = NULL;
    if (!s) {
        return err_nomem(err, "the HTTP server", sizeof *s);
    }
    s->cfg = *cfg;
    s->listen_fd = -1;
    pthread_mutex_init(&s->lock, NULL);
    clock_cond_init(&s->wake);
    int rc = cfg->unix_path ? listen_unix(s, err) : listen_tcp(s, err);
    rc = rc ? rc : start(s, err);
    if (rc) {
        http_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

uint16_t http_port(const struct http_server *s)
{
    return s->port;
}

void http_quiesce(struct http_server *s)
{
    MHD_socket fd = MHD_quiesce_daemon(s->daemon);
    if (fd != MHD_INVALID_SOCKET) {
        close(fd);
    }
}

/* The last bytes of answers that have just ended are still on their way. */
static void wait_for_responses(struct http_server *s)
{
    double end = clock_now() + (double)CLOSE_SECONDS;
    bool busy = true;
    while (busy && clock_now() < end) {
        pthread_mutex_lock(&s->lock);
        busy = s->in_flight > 0;
        pthread_mutex_unlock(&s->lock);
        if (busy) {
            nanosleep(&(struct timespec){0, 5000000}, NULL);
        }
    }
}

void http_close(struct http_server *s)
{
    if (!s) {
        return;
    }
    if (s->daemon) {
        wait_for_responses(s);
        MHD_stop_daemon(s->daemon);
    }
    if (s->guard_on) {
        pthread_mutex_lock(&s->lock);
        s->stop = true;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->guard, NULL);
    }
    if (s->listen_fd >= 0) {
        close(s->listen_fd);
    }
    if (s->unix_path) {
        unlink(s->unix_path);
        mem_free(s->unix_path);
    }
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    mem_free(s);
}
