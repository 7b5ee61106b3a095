/* route.c - from a request's headers to its handler: Host, Origin, keys, paths, methods. What can
 * be refused without the body is refused before the body is read.
 *
 * Paths: /v1/X and /X are the same, doubled slashes are one, one slash at the end is ignored, the
 * query is not looked at. Order of the checks: Host (nobody else's page may even ask), Origin,
 * preflight, key, path, method, size and form of the body. Read next: generate.c, models.c,
 * page.c. */
#include <ctype.h>
#include <strings.h>

#include "base/clock.h"
#include "server/server_int.h"

enum { MAX_HEADERS = 100 };

/* ---- paths ---- */

enum { GET = 1, POST = 2, DELETE = 4 };
static const struct route {
    const char *path;
    enum endpoint endpoint;
    unsigned methods;
    bool prefix;    /* more may follow, behind a slash */
    bool anthropic; /* error shape */
    bool open;      /* no key needed */
} routes[] = {
    {"chat/completions", EP_CHAT, POST, false, false, false},
    {"completions", EP_COMPLETIONS, POST, false, false, false},
    {"responses", EP_RESPONSES, POST, false, false, false},
    {"messages", EP_MESSAGES, POST, false, true, false},
    {"messages/count_tokens", EP_COUNT_TOKENS, POST, false, true, false},
    {"models", EP_MODELS, GET, false, false, false},
    {"models/", EP_MODELS, GET, true, false, false},
    {"health", EP_HEALTH, GET, false, false, true},
    {"", EP_PAGE, GET, false, false, true},
    {"page.css", EP_PAGE, GET, false, false, true},
    {"page.js", EP_PAGE, GET, false, false, true},
    {"metrics", EP_METRICS, GET, false, false, false},
    {"props", EP_PROPS, GET, false, false, false},
    {"tokenize", EP_TOKENIZE, POST, false, false, false},
    {"detokenize", EP_TOKENIZE, POST, false, false, false},
};

/* The path in its plain form: no doubled slashes, no slash at the ends, no "v1/". */
static const char *plain_path(struct http_request *r)
{
    const char *p = http_path(r);
    char *out = http_alloc(r, strlen(p) + 1);
    size_t n = 0;
    if (!out) {
        return "";
    }
    for (; *p; p++) {
        if (*p != '/' || (n > 0 && out[n - 1] != '/')) {
            out[n++] = *p;
        }
    }
    if (n > 0 && out[n - 1] == '/') {
        n--;
    }
    out[n] = 0;
    if (strcmp(out, "v1") == 0) {
        return "v1"; /* not the root */
    }
    return strncmp(out, "v1/", 3) == 0 ? out + 3 : out;
}

static const struct route *find_route(const char *path, const char **tail)
{
    *tail = "";
    for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
        size_t n = strlen(routes[i].path);
        if (routes[i].prefix ? strncmp(path, routes[i].path, n) == 0 && path[n]
                             : strcmp(path, routes[i].path) == 0) {
            *tail = routes[i].prefix ? path + n : path;
            return &routes[i];
        }
    }
    return NULL;
}

static unsigned method_bit(const char *m)
{
    return strcmp(m, "GET") == 0 || strcmp(m, "HEAD") == 0 ? GET
           : strcmp(m, "POST") == 0                        ? POST
           : strcmp(m, "DELETE") == 0                      ? DELETE
                                                           : 0;
}

/* ---- checks ---- */

static bool is_json_type(const char *type)
{
    static const char want[] = "application/json";
    if (!type || strncasecmp(type, want, sizeof want - 1) != 0) {
        return false;
    }
    const char *rest = type + sizeof want - 1;
    return *rest == 0 || *rest == ';' || *rest == ' ';
}

static int check_host(struct exchange *x, struct api_error *e)
{
    const struct server_config *c = &x->s->cfg;
    const char *host = http_header(x->http, "Host");
    char bound[64];
    http_local_address(x->http, bound, sizeof bound);
    if (!host || !*host) {
        return api_fail(e, API_BAD, NULL, "the Host header is missing");
    }
    if (!host_allowed(host, bound, c->allowed_hosts, c->n_allowed_hosts)) {
        return api_fail(e, API_FORBIDDEN, NULL,
                        "Host \"%.100s\" is not a name of this server (--allowed-hosts adds "
                        "names)",
                        host);
    }
    return 0;
}

static bool origin_listed(const struct server_config *c, const char *origin)
{
    for (size_t i = 0; i < c->n_cors_origins; i++) {
        if (strcmp(c->cors_origins[i], "*") == 0 ||
            strcasecmp(c->cors_origins[i], origin) == 0) {
            return true;
        }
    }
    return false;
}

/* A page of another site may ask only if its origin is listed, or if it knows a key. */
static int check_origin(struct exchange *x, bool has_key, struct api_error *e)
{
    const char *origin = http_header(x->http, "Origin");
    const char *host = http_header(x->http, "Host");
    if (!origin || origin_is_own(origin, host ? host : "")) {
        return 0;
    }
    if (origin_listed(&x->s->cfg, origin)) {
        http_set_header(x->http, "Access-Control-Allow-Origin", origin);
        http_set_header(x->http, "Vary", "Origin");
        return 0;
    }
    if (has_key) {
        return 0;
    }
    return api_fail(e, API_FORBIDDEN, NULL,
                    "pages of %.100s may not use this server (--cors-origin allows them)",
                    origin);
}

/* Those of the headers a page wants to send that it may. */
static void allow_headers(struct exchange *x)
{
    static const char *const known[] = {
        "authorization",     "content-type",   "x-api-key",
        "anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access"};
    const char *want = http_header(x->http, "Access-Control-Request-Headers");
    struct buf b = {0};
    while (want && *want) {
        size_t n = strcspn(want, ", ");
        bool ok = n > 12 && strncasecmp(want, "x-stainless-", 12) == 0;
        for (size_t i = 0; i < ARRAY_LEN(known) && !ok; i++) {
            ok = n == strlen(known[i]) && strncasecmp(want, known[i], n) == 0;
        }
        if (ok) {
            buf_adds(&b, b.n ? ", " : "");
            buf_add(&b, want, n);
        }
        want += n;
        want += strspn(want, ", ");
    }
    if (b.n > 0) {
        http_set_header(x->http, "Access-Control-Allow-Headers", buf_cstr(&b));
    }
    buf_free(&b);
}

static void preflight(struct exchange *x)
{
    const char *origin = http_header(x->http, "Origin");
    http_set_header(x->http, "Allow", "GET, HEAD, POST, OPTIONS");
    if (origin && origin_listed(&x->s->cfg, origin)) {
        http_set_header(x->http, "Access-Control-Allow-Origin", origin);
        http_set_header(x->http, "Vary", "Origin");
        http_set_header(x->http, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
        http_set_header(x->http, "Access-Control-Max-Age", "600");
        allow_headers(x);
    }
    reply_send(x, 204, NULL, NULL);
}

static int check_path(struct exchange *x, const struct route *r, const char *path,
                      struct api_error *e)
{
    unsigned bit = method_bit(http_method(x->http));
    if (!r && strncmp(path, "responses/", 10) == 0) {
        return api_fail(e, API_NOT_FOUND, NULL,
                        "Responses are not stored by this server: there is nothing to get, "
                        "delete or cancel. Send the full history with each request.");
    }
    if (!r) {
        return api_fail(e, API_NOT_FOUND, NULL,
                        "There is no \"%.100s\" here: this server has chat/completions, "
                        "completions, responses, messages, models, health, props, metrics",
                        http_path(x->http));
    }
    if (!(r->methods & bit)) {
        http_set_header(x->http, "Allow",
                        r->methods & GET ? "GET, HEAD, OPTIONS" : "POST, OPTIONS");
        return api_fail(e, API_METHOD, NULL, "%.20s is not possible here",
                        http_method(x->http));
    }
    return 0;
}

static int check_body(struct exchange *x, struct api_error *e)
{
    const char *encoding = http_header(x->http, "Content-Encoding");
    bool post = strcmp(http_method(x->http), "POST") == 0;
    if (http_too_large(x->http)) {
        return api_fail(e, API_TOO_LARGE, NULL, "the body is larger than %zu bytes",
                        x->s->cfg.max_body_bytes);
    }
    if (encoding && strcasecmp(encoding, "identity") != 0) {
        return api_fail(e, API_MEDIA, NULL, "Content-Encoding %.40s is not supported",
                        encoding);
    }
    if (post && http_header(x->http, "Origin") &&
        !is_json_type(http_header(x->http, "Content-Type"))) {
        return api_fail(e, API_MEDIA, NULL,
                        "requests of web pages need Content-Type: application/json");
    }
    return 0;
}

static int check(struct exchange *x, const struct route *r, const char *path,
                 struct api_error *e)
{
    const char *key = http_header(x->http, "x-api-key");
    if (http_n_headers(x->http) > MAX_HEADERS) {
        return api_fail(e, API_HEADERS, NULL, "more than %d headers", MAX_HEADERS);
    }
    key = key ? key : http_header(x->http, "api-key");
    x->key = auth_check(&x->s->auth, http_header(x->http, "Authorization"), key);
    if (check_host(x, e) || check_origin(x, x->s->auth.n_key > 0 && x->key >= 0, e)) {
        return -1;
    }
    if (x->key < 0 && !(r && r->open)) {
        atomic_fetch_add(&x->s->metrics.auth_failures, 1);
        return api_fail(e, API_NO_KEY, NULL,
                        "No valid API key: send it as Authorization: Bearer KEY or x-api-key: "
                        "KEY");
    }
    return check_path(x, r, path, e) || check_body(x, e) ? -1 : 0;
}

bool route_accept(void *server, struct http_request *http)
{
    struct server *s = server;
    struct exchange *x = http_alloc(http, sizeof *x);
    struct api_error e = {0};
    if (!x) {
        http_reply(http, 500, NULL, NULL);
        return false;
    }
    const char *path = plain_path(http);
    const struct route *r = find_route(path, &x->tail);
    x->s = s;
    x->http = http;
    x->endpoint = r ? r->endpoint : EP_OTHER;
    x->anthropic = r ? r->anthropic : strncmp(path, "messages", 8) == 0;
    x->started = clock_now();
    random_id(x->id, "req_");
    http_set_user(http, x);
    if (strcmp(http_method(http), "OPTIONS") == 0) {
        if (check_host(x, &e) == 0) {
            preflight(x);
        } else {
            reply_error(x, &e);
        }
        return false;
    }
    if (check(x, r, path, &e) != 0) {
        reply_error(x, &e);
        return false;
    }
    return true;
}

/* ---- handlers ---- */

static bool is_ready(struct exchange *x)
{
    struct api_error e = {0};
    if (atomic_load(&x->s->stopping)) {
        api_fail(&e, API_UNAVAILABLE, NULL, "the server is shutting down");
    } else if (!atomic_load(&x->s->ready)) {
        api_fail(&e, API_UNAVAILABLE, NULL, "the model is loading (%d %%)",
                 atomic_load(&x->s->progress) / 10);
    } else {
        return true;
    }
    reply_error(x, &e);
    return false;
}

static void trace_request(struct exchange *x)
{
    struct buf b = {0};
    if (x->s->trace) {
        buf_addf(&b, "%s %s", http_method(x->http), http_path(x->http));
        trace_text(x->s->trace, x->id, "request", buf_slice(&b));
        trace_text(x->s->trace, x->id, "body", http_body(x->http));
        buf_free(&b);
    }
}

void route_handle(void *server, struct http_request *http)
{
    struct exchange *x = http_user(http);
    struct api_error e = {0};
    (void)server;
    if (http_too_large(http)) {
        api_fail(&e, API_TOO_LARGE, NULL, "the body is larger than %zu bytes",
                 x->s->cfg.max_body_bytes);
        reply_error(x, &e);
        return;
    }
    trace_request(x);
    bool light =
        x->endpoint == EP_HEALTH || x->endpoint == EP_PAGE || x->endpoint == EP_METRICS;
    if (!light && !is_ready(x)) {
        return;
    }
    switch (x->endpoint) {
    case EP_CHAT: handle_generate(x, PROTO_CHAT); break;
    case EP_COMPLETIONS: handle_generate(x, PROTO_COMPLETIONS); break;
    case EP_RESPONSES: handle_generate(x, PROTO_RESPONSES); break;
    case EP_MESSAGES: handle_generate(x, PROTO_MESSAGES); break;
    case EP_COUNT_TOKENS: handle_count_tokens(x); break;
    case EP_MODELS: handle_models(x); break;
    case EP_METRICS: handle_metrics(x); break;
    case EP_PAGE: handle_page(x); break;
    case EP_PROPS: handle_props(x); break;
    case EP_TOKENIZE:
        if (strcmp(x->tail, "tokenize") == 0) {
            handle_tokenize(x);
        } else {
            handle_detokenize(x);
        }
        break;
    default: handle_health(x); break;
    }
}
