/* json.h - JSON reader and writers (why our own: docs/dependencies.md).
 * Reader: a tree in one arena; insertion order kept; numbers kept as source text with range-
 * checked getters; duplicate key: last value at the first position (as Python's dict); lone
 * surrogates become U+FFFD; invalid UTF-8 is refused; no recursion, nesting at most 128; input
 * size limited by the caller. Writers: Python's json.dumps form (separators ", " and ": ",
 * ensure_ascii off: the form the release prints in prompts) and a compact form for the wire.
 * Thread rule: a document is immutable after json_read. */
#ifndef JSON_JSON_H
#define JSON_JSON_H

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

enum json_type {
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
};

struct json_member;
struct json {
    enum json_type type;
    uint32_t cap; /* array, object: room for members; 0 = exactly n */
    size_t n;     /* string: bytes; number: bytes of text; array, object: count */
    union {
        const char *s;               /* string (decoded UTF-8, may hold NUL) or number text */
        struct json *items;          /* array: n values */
        struct json_member *members; /* object: n members in order */
    };
};
struct json_member {
    struct slice key;
    struct json value;
};

/* Parses exactly one value (leading and trailing white space allowed). Nodes and strings live
 * in `a` and die with it. Errors: FATHOM_EFORMAT with line, column and reason; FATHOM_ENOMEM.
 */
int json_read(struct json *out, struct arena *a, const char *text, size_t n, fathom_err *err);
/* The same, but accepts exactly what Python's json.loads accepts: also the literals NaN,
 * Infinity and -Infinity, kept as numbers with that text. For the arguments of tool calls. */
int json_read_python(struct json *out, struct arena *a, const char *text, size_t n,
                     fathom_err *err);
enum { JSON_MAX_DEPTH = 128 }; /* of nested arrays and objects, in readers and writers */

/* Lookups; NULL / defaults when absent or of another type. Never fail on NULL input. */
const struct json *json_get(const struct json *obj, const char *key);
const struct json *json_at(const struct json *arr, size_t i);
static inline bool json_is(const struct json *v, enum json_type t)
{
    return v && v->type == t;
}
struct slice json_str(const struct json *v);       /* {NULL,0} unless a string */
bool json_int(const struct json *v, int64_t *out); /* integral value in range, else false */
bool json_double(const struct json *v,
                 double *out); /* nearest double; false if not a number or not finite */
bool json_bool(const struct json *v, bool *out);

/* Building: for tests and for conversions; nodes are allocated in `a` (NULL when memory is
 * out). */
struct json *json_new_object(struct arena *a);
struct json *json_new_array(struct arena *a);
struct json json_make_str(struct arena *a, struct slice s);
bool json_set(struct arena *a, struct json *obj, const char *key, struct json value);
bool json_push(struct arena *a, struct json *arr, struct json value);

/* Writers append to b (check b->failed once; a tree nested deeper than JSON_MAX_DEPTH, which
 * only building can make, sets it too). json_write_python reproduces json.dumps(v,
 * ensure_ascii=False) of Python's json.loads(source): integers exact, floats in shortest
 * round-trip form with Python's spelling (1.0, 1e-07, 1e+22, inf as Infinity).
 * json_write_compact copies number text, writes null for NaN and infinities, and uses no
 * blanks. */
void json_write_python(struct buf *b, const struct json *v);
void json_write_compact(struct buf *b, const struct json *v);
void json_write_python_str(struct buf *b, struct slice s); /* one quoted string, Python form */
/* The same without the quotes, so that a string can be written piece by piece. The Python forms
 * expect valid UTF-8 and copy bytes above 0x7f as they are. */
void json_write_python_chars(struct buf *b, struct slice s);
/* Quoted for the wire: like the Python form; invalid UTF-8 is replaced by U+FFFD. */
void json_write_str(struct buf *b, struct slice s);
/* The same for JSON Lines: U+0085, U+2028 and U+2029, at which some readers of lines break, are
 * escaped, too. */
void json_write_line_str(struct buf *b, struct slice s);
/* Shortest decimal that reads back as the same double, in Python's repr form. */
void json_write_double(struct buf *b, double v);

#endif
