/* write.c - a JSON tree to text, in Python's json.dumps form or compact.
 *
 * The walk keeps a fixed stack of open containers, so a tree deeper than JSON_MAX_DEPTH
 * (readers refuse such text) marks the buffer as failed instead of recursing. Strings are
 * copied in runs between the characters that need an escape; only '"', '\\' and bytes below
 * 0x20 do. */
#include "json/json.h"

#include <math.h>

struct style {
    const char *comma, *colon;
    void (*string)(struct buf *b, struct slice s);
    void (*number)(struct buf *b, const struct json *v);
};

static void add_escape(struct buf *b, unsigned char c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt", hex[] = "0123456789abcdef";
    const char *hit = c ? strchr(from, c) : NULL;
    if (hit) {
        buf_add(b, (char[]){'\\', to[hit - from]}, 2);
    } else {
        buf_add(b, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
    }
}

void json_write_python_chars(struct buf *b, struct slice s)
{
    size_t run = 0;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c == '"' || c == '\\') {
            buf_add(b, s.p + run, i - run);
            add_escape(b, c);
            run = i + 1;
        }
    }
    if (run < s.n) {
        buf_add(b, s.p + run, s.n - run);
    }
}

void json_write_python_str(struct buf *b, struct slice s)
{
    buf_addc(b, '"');
    json_write_python_chars(b, s);
    buf_addc(b, '"');
}

void json_write_str(struct buf *b, struct slice s)
{
    if (s.n == 0 || utf8_valid(s.p, s.n)) {
        json_write_python_str(b, s);
        return;
    }
    struct buf clean = {0};
    buf_add_utf8_lossy(&clean, s.p, s.n);
    json_write_python_str(b, buf_slice(&clean));
    b->failed = b->failed || clean.failed;
    buf_free(&clean);
}

/* The escape of a line break beyond ASCII at s, *n its length; NULL if there is none. */
static const char *line_break_escape(const char *s, size_t left, size_t *n)
{
    static const char *const breaks[][2] = {
        {"\xC2\x85", "\\u0085"}, {"\xE2\x80\xA8", "\\u2028"}, {"\xE2\x80\xA9", "\\u2029"}};
    for (size_t i = 0; i < ARRAY_LEN(breaks); i++) {
        *n = strlen(breaks[i][0]);
        if (left >= *n && memcmp(s, breaks[i][0], *n) == 0) {
            return breaks[i][1];
        }
    }
    return NULL;
}

void json_write_line_str(struct buf *b, struct slice s)
{
    struct buf quoted = {0};
    size_t run = 0, n;
    json_write_str(&quoted, s);
    for (size_t i = 0; i < quoted.n; i++) {
        const char *escape = line_break_escape(quoted.p + i, quoted.n - i, &n);
        if (escape) {
            buf_add(b, quoted.p + run, i - run);
            buf_adds(b, escape);
            run = i + n;
        }
    }
    buf_add(b, buf_cstr(&quoted) + run, quoted.n - run);
    b->failed = b->failed || quoted.failed;
    buf_free(&quoted);
}

/* Integers as they are; anything with a point or an exponent is a float to Python. */
static void write_python_number(struct buf *b, const struct json *v)
{
    struct slice text = {v->s, v->n};
    bool is_float =
        memchr(v->s, '.', v->n) || memchr(v->s, 'e', v->n) || memchr(v->s, 'E', v->n);
    double d;
    if (v->s[v->n - 1] > '9' || !is_float) { /* NaN and Infinity keep their text, too */
        buf_add_slice(b, slice_is(text, "-0") ? SLICE("0") : text);
    } else if (json_double(v, &d)) {
        json_write_double(b, d);
    } else {
        json_write_double(b, v->s[0] == '-' ? -INFINITY : INFINITY);
    }
}

static void write_number_text(struct buf *b, const struct json *v)
{
    buf_add_slice(b, v->s[v->n - 1] > '9' ? SLICE("null") : (struct slice){v->s, v->n});
}

static void write_scalar(struct buf *b, const struct json *v, const struct style *style)
{
    switch (v->type) {
    case JSON_NULL: buf_adds(b, "null"); break;
    case JSON_FALSE: buf_adds(b, "false"); break;
    case JSON_TRUE: buf_adds(b, "true"); break;
    case JSON_NUMBER: style->number(b, v); break;
    case JSON_STRING: style->string(b, (struct slice){v->s, v->n}); break;
    case JSON_ARRAY:
    case JSON_OBJECT: break; /* the caller opens them */
    }
}

static void write_tree(struct buf *b, const struct json *v, const struct style *style)
{
    struct {
        const struct json *v;
        size_t next; /* member to write next */
    } open[JSON_MAX_DEPTH];
    size_t depth = 0;
    for (;;) {
        if (v->type == JSON_ARRAY || v->type == JSON_OBJECT) {
            if (depth == JSON_MAX_DEPTH) {
                b->failed = true;
                return;
            }
            open[depth].v = v;
            open[depth++].next = 0;
            buf_addc(b, v->type == JSON_OBJECT ? '{' : '[');
        } else {
            write_scalar(b, v, style);
        }
        while (depth > 0 && open[depth - 1].next == open[depth - 1].v->n) {
            buf_addc(b, open[--depth].v->type == JSON_OBJECT ? '}' : ']');
        }
        if (depth == 0 || b->failed) {
            return;
        }
        const struct json *parent = open[depth - 1].v;
        size_t i = open[depth - 1].next++;
        if (i > 0) {
            buf_adds(b, style->comma);
        }
        if (parent->type == JSON_OBJECT) {
            style->string(b, parent->members[i].key);
            buf_adds(b, style->colon);
            v = &parent->members[i].value;
        } else {
            v = &parent->items[i];
        }
    }
}

void json_write_python(struct buf *b, const struct json *v)
{
    static const struct style style = {", ", ": ", json_write_python_str, write_python_number};
    write_tree(b, v, &style);
}

void json_write_compact(struct buf *b, const struct json *v)
{
    static const struct style style = {",", ":", json_write_str, write_number_text};
    write_tree(b, v, &style);
}
