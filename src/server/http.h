/* http.h - HTTP/1.1 as the rest of the server sees it; http.c is the only file that knows the
 * library behind it. One thread per connection calls the handlers, which may block: nothing
 * else waits for them.
 *
 * A request lives from its headers to the end of its response and belongs to its connection's
 * thread. A handler ends in exactly one call of http_reply or http_stream. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "base/err.h"
#include "base/str.h"

struct http_server;
struct http_request;

struct http_config {
    const char *address;   /* to bind: an IP address literal; with unix_path NULL */
    uint16_t port;         /* 0: any free one, see http_port */
    const char *unix_path; /* a Unix-domain socket instead */
    unsigned max_connections;
    size_t max_body_bytes;
    unsigned header_seconds; /* from connect (or the last response) to the end of the headers */
    unsigned idle_seconds;   /* longest pause while a body comes in or a response goes out */
    /* Called when the headers are complete. False: it has replied, and the body is thrown
     * away. */
    bool (*accept)(void *user, struct http_request *r);
    /* Called when the body is complete, too. */
    void (*handle)(void *user, struct http_request *r);
    void *user;
};

/* Listens and serves at once. Errors: FATHOM_EIO (address in use ...), FATHOM_EINVAL. */
int http_open(struct http_server **out, const struct http_config *cfg, fathom_err *err);
uint16_t http_port(const struct http_server *s);
/* No new connections; running ones go on. */
void http_quiesce(struct http_server *s);
/* Gives responses a few seconds to be sent, then ends all connections; handlers that block must
 * have been told to end. NULL is fine. */
void http_close(struct http_server *s);

/* ---- a request ---- */
const char *http_method(const struct http_request *r);
const char *http_path(const struct http_request *r); /* decoded, without the query */
/* First header of that name (in any case), or NULL. */
const char *http_header(const struct http_request *r, const char *name);
size_t http_n_headers(const struct http_request *r);
struct slice http_body(const struct http_request *r);
/* The body exceeds the limit (known from the headers, or found while reading): not kept. */
bool http_too_large(const struct http_request *r);
/* The address of this side of the connection as text ("127.0.0.1", "::1", "" for a Unix
 * socket). */
void http_local_address(const struct http_request *r, char *out, size_t n);
/* The peer is this machine. */
bool http_peer_is_local(const struct http_request *r);
/* Has the peer closed (or half-closed) the connection? Asks the system, never blocks. */
bool http_peer_gone(const struct http_request *r);
/* Zeroed memory that lives as long as the request; NULL when memory is out. */
void *http_alloc(struct http_request *r, size_t bytes);
/* Free use by the handlers. */
void http_set_user(struct http_request *r, void *user);
void *http_user(const struct http_request *r);

/* ---- its response ---- */
void http_set_header(struct http_request *r, const char *name, const char *value);
/* Takes the bytes out of body (which is empty afterwards); NULL sends none. */
void http_reply(struct http_request *r, int status, const char *type, struct buf *body);

enum http_more {
    HTTP_MORE,  /* out may hold bytes, more will come */
    HTTP_END,   /* out may hold bytes, they are the last */
    HTTP_ABORT, /* cut the connection without an end, so that the peer notices */
};
struct http_stream {
    /* Appends to out what can be sent; may wait up to a quarter of a second for it. Called
     * until it says HTTP_END or HTTP_ABORT; the peer is checked in between. */
    enum http_more (*fill)(void *user, struct buf *out);
    /* Called once, when no more bytes are wanted; complete: all were handed to the system. */
    void (*close)(void *user, bool complete);
    void *user;
};
/* A response of unknown length, sent as it comes. s is copied. */
void http_stream(struct http_request *r, int status, const char *type,
                 const struct http_stream *s);
/* Waiting inside a handler is not idling: switches the connection's idle timer off and on. */
void http_idle_timer(struct http_request *r, bool on);

#endif
