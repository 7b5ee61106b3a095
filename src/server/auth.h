/* auth.h - who may ask: API keys, Host and Origin rules. Immutable after auth_init; any
 * thread. */
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include "base/err.h"
#include "base/siphash.h"
#include "base/str.h"

struct auth {
    struct sip_key secret;
    struct sip_digest *key;   /* owned: n_key digests */
    struct sip_digest *owner; /* owned: of each key, the same in every run */
    size_t n_key;
};

/* Keys shorter than 8 bytes are refused. */
int auth_init(struct auth *a, const char *const *keys, size_t n, fathom_err *err);
void auth_fini(struct auth *a);
/* Number of the key that was presented, 0 if none is configured, -1 if it is not known.
 * authorization: value of the header ("Bearer K"); key: of x-api-key or api-key. Takes the same
 * time for any key. */
int auth_check(const struct auth *a, const char *authorization, const char *key);

/* Who shares computed prefixes: none for a server with at most one key and requests without a
 * salt of their own; else a digest of both that is the same in every run, because stored state
 * is named by it. Any memory failure gives a digest that nobody shares. */
struct sip_digest auth_salt(const struct auth *a, int key, struct slice own);

/* Is this Host header one of this machine's own names? bound: the address of this side of the
 * connection. */
bool host_allowed(const char *host, const char *bound, const char *const *more, size_t n_more);
/* Is the Origin that of the server itself, by its Host header? */
bool origin_is_own(const char *origin, const char *host);
/* 127.0.0.0/8, ::1. */
bool address_is_loopback(const char *address);

#endif
