/* str.h - byte strings: a growing buffer and a borrowed slice. Neither needs a NUL inside; a
 * buffer's data always carries one behind its end. Errors stick: after a failed allocation (or
 * passing max_bytes) `failed` is true and further appends do nothing; check once at the end. */
#ifndef BASE_STR_H
#define BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Borrowed bytes; never freed through the slice. */
struct slice {
    const char *p;
    size_t n;
};
#define SLICE(lit) ((struct slice){(lit), sizeof(lit) - 1})
static inline struct slice slice_of(const char *cstr)
{
    return (struct slice){cstr, strlen(cstr)};
}
static inline bool slice_eq(struct slice a, struct slice b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool slice_is(struct slice a, const char *cstr)
{
    return slice_eq(a, slice_of(cstr));
}

struct buf {
    char *p; /* owned; NULL while empty and never grown */
    size_t n, cap;
    size_t max_bytes; /* 0 = no limit */
    bool failed;
};
void buf_free(struct buf *b);
void buf_clear(struct buf *b); /* keeps the memory, resets `failed` */
bool buf_reserve(struct buf *b, size_t extra);
void buf_add(struct buf *b, const void *p, size_t n);
void buf_addc(struct buf *b, char c);
void buf_adds(struct buf *b, const char *cstr);
void buf_add_slice(struct buf *b, struct slice s);
void buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *buf_cstr(const struct buf *b); /* "" while empty */
static inline struct slice buf_slice(const struct buf *b)
{
    return (struct slice){b->p ? b->p : "", b->n};
}

/* Is item among "a,b,c" (NULL: none)? */
bool str_list_has(const char *list, const char *item);

/* UTF-8. utf8_decode: reads one scalar value at s[0..n), n >= 1, returns its length (1..4) and
 * sets *cp; for an invalid sequence returns the length of the maximal invalid subpart (1..3)
 * and sets *cp = UTF8_BAD; for an incomplete but possible sequence at the end returns 0. */
#define UTF8_BAD 0xFFFFFFFFu
int utf8_decode(const char *s, size_t n, uint32_t *cp);
int utf8_encode(uint32_t cp, char out[4]); /* returns the length */
bool utf8_valid(const char *s, size_t n);
/* Appends s with each maximal invalid subpart replaced by U+FFFD. */
void buf_add_utf8_lossy(struct buf *b, const char *s, size_t n);

#endif
