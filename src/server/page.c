/* page.c - the page for people at /: three files of src/server/page, placed in the program's
 * read-only data by the build (cmake/embed.cmake). Nothing is fetched from elsewhere, and the
 * policy below forbids it; text of the model is only ever put into the page as text.
 *
 * Programs that ask for / without wanting HTML get the health answer, as before. */
#include <inttypes.h>
#include <stdio.h>

#include "base/siphash.h"
#include "server/server_int.h"

extern const unsigned char fathom_page_html[], fathom_page_html_end[];
extern const unsigned char fathom_page_css[], fathom_page_css_end[];
extern const unsigned char fathom_page_js[], fathom_page_js_end[];

static const char policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static void send_file(struct exchange *x, const char *type, const unsigned char *p,
                      const unsigned char *end)
{
    static const struct sip_key no_secret; /* the digest only says whether the bytes changed */
    struct sip_digest d = sip_hash(no_secret, p, (size_t)(end - p));
    char tag[40];
    snprintf(tag, sizeof tag, "\"%016" PRIx64 "\"", d.h[0]);
    http_set_header(x->http, "ETag", tag);
    http_set_header(x->http, "Content-Security-Policy", policy);
    http_set_header(x->http, "X-Content-Type-Options", "nosniff");
    http_set_header(x->http, "Referrer-Policy", "no-referrer");
    const char *have = http_header(x->http, "If-None-Match");
    if (have && strcmp(have, tag) == 0) {
        reply_send(x, 304, NULL, NULL);
        return;
    }
    struct buf b = {0};
    buf_add(&b, (const char *)p, (size_t)(end - p));
    reply_send(x, 200, type, &b);
}

void handle_page(struct exchange *x)
{
    const char *accept = http_header(x->http, "Accept");
    if (strcmp(x->tail, "page.css") == 0) {
        send_file(x, "text/css; charset=utf-8", fathom_page_css, fathom_page_css_end);
    } else if (strcmp(x->tail, "page.js") == 0) {
        send_file(x, "text/javascript; charset=utf-8", fathom_page_js, fathom_page_js_end);
    } else if (accept && strstr(accept, "text/html")) {
        http_set_header(x->http, "Vary", "Accept");
        send_file(x, "text/html; charset=utf-8", fathom_page_html, fathom_page_html_end);
    } else {
        handle_health(x);
    }
}
