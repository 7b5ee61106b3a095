/* read.c - the JSON reader: text to a tree in an arena.
 *
 * One pass, no recursion. Open containers are frames of a fixed stack; the values that are
 * finished but whose container is still open lie on one growing stack of members. When a
 * container closes, its values are copied from the top of that stack into one block of the
 * arena, so every array and object is contiguous. Duplicate keys are folded at that moment.
 *
 * Invariants: `at` never passes `end`; strings in the tree are valid UTF-8; number text follows
 * the JSON grammar (or is one of the three Python literals). Next: write.c, number.c. */
#include "json/json.h"

#include "json/keyset.h"

enum { SMALL_OBJECT = 16 }; /* up to here duplicates are found by comparing all pairs */

struct frame {
    bool object;
    size_t base; /* height of the value stack when it opened */
};

struct reader {
    const char *start, *at, *end;
    struct arena *a;
    fathom_err *err;
    bool python; /* NaN, Infinity, -Infinity allowed */
    struct json_member *stack;
    size_t n_stack, cap_stack;
    struct frame frame[JSON_MAX_DEPTH];
    size_t depth;
    struct keyset keys;
};

static int fail(const struct reader *r, const char *where, const char *what)
{
    size_t line = 1;
    const char *bol = r->start;
    for (const char *p = r->start; p < where; p++) {
        if (*p == '\n') {
            line++;
            bol = p + 1;
        }
    }
    return err_set(r->err, FATHOM_EFORMAT, "invalid JSON at line %zu, column %zu: %s", line,
                   (size_t)(where - bol) + 1, what);
}

static void skip_blanks(struct reader *r)
{
    while (r->at < r->end &&
           (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r')) {
        r->at++;
    }
}

/* ---- strings ---- */

static bool hex4(const char *p, const char *end, uint32_t *out)
{
    uint32_t v = 0;
    if (end - p < 4) {
        return false;
    }
    for (int i = 0; i < 4; i++) {
        unsigned c = (unsigned char)p[i];
        unsigned lower = c | 0x20;
        unsigned d = c - '0' <= 9 ? c - '0' : lower - 'a' <= 5 ? lower - 'a' + 10 : 16;
        if (d > 15) {
            return false;
        }
        v = v << 4 | d;
    }
    *out = v;
    return true;
}

/* First pass over a string whose opening quote was read: finds the closing quote and checks
 * everything but the digits of \u. */
static int find_quote(struct reader *r, const char **close)
{
    const char *p = r->at;
    while (p < r->end) {
        unsigned char c = (unsigned char)*p;
        if (c == '"') {
            *close = p;
            return 0;
        }
        if (c < 0x20) {
            return fail(r, p, "control character in a string");
        }
        if (c == '\\') {
            p += r->end - p >= 2 ? 2 : 1;
        } else if (c < 0x80) {
            p++;
        } else {
            uint32_t cp;
            int len = utf8_decode(p, (size_t)(r->end - p), &cp);
            if (len == 0 || cp == UTF8_BAD) {
                return fail(r, p, "invalid UTF-8");
            }
            p += len;
        }
    }
    return fail(r, r->at - 1, "string without an end");
}

/* Decodes one escape at p[0] = '\\' into out; returns its length in the source, 0 if invalid. A
 * surrogate that is not half of a pair becomes U+FFFD. */
static size_t decode_escape(const char *p, const char *end, char out[4], int *n_out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *hit = p + 1 < end && p[1] ? strchr(from, p[1]) : NULL;
    if (hit) {
        out[0] = to[hit - from];
        *n_out = 1;
        return 2;
    }
    uint32_t cp, low;
    if (p + 1 >= end || p[1] != 'u' || !hex4(p + 2, end, &cp)) {
        return 0;
    }
    size_t used = 6;
    if (cp - 0xD800 < 0x800) {
        bool pair = cp < 0xDC00 && end - p >= 8 && p[6] == '\\' && p[7] == 'u' &&
                    hex4(p + 8, end, &low) && low - 0xDC00 < 0x400;
        cp = pair ? 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00) : 0xFFFD;
        used = pair ? 12 : 6;
    }
    *n_out = utf8_encode(cp, out);
    return used;
}

static int read_string(struct reader *r, struct slice *out)
{
    const char *close = NULL;
    int rc = find_quote(r, &close);
    if (rc) {
        return rc;
    }
    size_t n = (size_t)(close - r->at);
    char *s = arena_strndup(r->a, r->at, n); /* decoding never lengthens */
    if (!s) {
        return err_nomem(r->err, "a JSON string", n);
    }
    const char *esc = memchr(r->at, '\\', n);
    char *w = esc ? s + (esc - r->at) : s + n;
    for (const char *p = esc; p && p < close;) {
        if (*p != '\\') {
            *w++ = *p++;
            continue;
        }
        char c[4];
        int n_c;
        size_t used = decode_escape(p, close, c, &n_c);
        if (used == 0) {
            return fail(r, p, "invalid escape");
        }
        memcpy(w, c, (size_t)n_c);
        w += n_c;
        p += used;
    }
    *w = 0;
    *out = (struct slice){s, (size_t)(w - s)};
    r->at = close + 1;
    return 0;
}

/* ---- numbers and words ---- */

static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && *p >= '0' && *p <= '9') {
        p++;
    }
    return p;
}

/* End of the number that starts at p, or NULL: -? (0 | [1-9][0-9]*) (. [0-9]+)?
 * ([eE][+-]?[0-9]+)? As in Python, what cannot continue a number ends it. */
static const char *number_end(const char *p, const char *end)
{
    p += p < end && *p == '-';
    const char *q = p < end && *p == '0' ? p + 1 : skip_digits(p, end);
    if (q == p) {
        return NULL;
    }
    if (end - q >= 2 && *q == '.' && skip_digits(q + 1, end) > q + 1) {
        q = skip_digits(q + 1, end);
    }
    if (q < end && (*q == 'e' || *q == 'E')) {
        const char *d = q + 1;
        d += d < end && (*d == '+' || *d == '-');
        const char *e = skip_digits(d, end);
        q = e > d ? e : q;
    }
    return q;
}

static int keep_number(struct reader *r, struct json *v, const char *stop)
{
    size_t n = (size_t)(stop - r->at);
    const char *s = arena_strndup(r->a, r->at, n);
    if (!s) {
        return err_nomem(r->err, "a JSON number", n);
    }
    *v = (struct json){.type = JSON_NUMBER, .n = n, .s = s};
    r->at = stop;
    return 0;
}

static bool word_at(const struct reader *r, const char *word)
{
    size_t n = strlen(word);
    return (size_t)(r->end - r->at) >= n && memcmp(r->at, word, n) == 0;
}

/* A value that is no container and no string. */
static int read_word(struct reader *r, struct json *v)
{
    static const struct {
        const char *word;
        enum json_type type;
    } words[] = {{"null", JSON_NULL}, {"true", JSON_TRUE}, {"false", JSON_FALSE}};
    static const char *const python_words[] = {"NaN", "Infinity", "-Infinity"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (word_at(r, words[i].word)) {
            *v = (struct json){.type = words[i].type};
            r->at += strlen(words[i].word);
            return 0;
        }
    }
    for (size_t i = 0; r->python && i < ARRAY_LEN(python_words); i++) {
        if (word_at(r, python_words[i])) {
            return keep_number(r, v, r->at + strlen(python_words[i]));
        }
    }
    const char *stop = number_end(r->at, r->end);
    return stop ? keep_number(r, v, stop) : fail(r, r->at, "a value is expected here");
}

/* ---- containers ---- */

static int push(struct reader *r, struct slice key, const struct json *value)
{
    if (r->n_stack == r->cap_stack) {
        size_t cap = r->cap_stack ? r->cap_stack * 2 : 64;
        struct json_member *p = mem_realloc(r->stack, cap, sizeof *p);
        if (!p) {
            return err_nomem(r->err, "a JSON tree", cap);
        }
        r->stack = p;
        r->cap_stack = cap;
    }
    r->stack[r->n_stack++] = (struct json_member){key, *value};
    return 0;
}

/* Number of `key` among the n_kept distinct keys of m, or n_kept if it is new. */
static int find_kept(struct reader *r, const struct json_member *m, size_t n_kept,
                     struct slice key, bool large, size_t *out)
{
    if (large) {
        *out = keyset_add(&r->keys, key);
        return *out == KEYSET_NONE ? err_nomem(r->err, "JSON object keys", n_kept) : 0;
    }
    for (*out = 0; *out < n_kept && !slice_eq(m[*out].key, key); ++*out) {
    }
    return 0;
}

/* Duplicate keys: the last value, at the first position. Sets *n to the members kept. */
static int fold_duplicates(struct reader *r, struct json_member *m, size_t *n)
{
    size_t n_kept = 0;
    bool large = *n > SMALL_OBJECT;
    for (size_t i = 0; i < *n; i++) {
        size_t j;
        int rc = find_kept(r, m, n_kept, m[i].key, large, &j);
        if (rc) {
            return rc;
        }
        if (j < n_kept) {
            m[j].value = m[i].value;
        } else {
            m[n_kept++] = m[i];
        }
    }
    *n = n_kept;
    keyset_clear(&r->keys);
    return 0;
}

/* Closes the innermost container and leaves its value in *v. */
static int close_container(struct reader *r, struct json *v)
{
    struct frame f = r->frame[--r->depth];
    size_t n = r->n_stack - f.base;
    r->n_stack = f.base;
    *v = (struct json){.type = f.object ? JSON_OBJECT : JSON_ARRAY};
    if (n == 0) {
        return 0;
    }
    struct json_member *m = r->stack + f.base;
    if (f.object) {
        int rc = fold_duplicates(r, m, &n);
        if (rc) {
            return rc;
        }
        v->members = arena_alloc(r->a, n * sizeof *m); /* no overflow: they lie on the stack */
        if (v->members) {
            memcpy(v->members, m, n * sizeof *m);
        }
    } else {
        v->items = arena_alloc(r->a, n * sizeof *v->items);
        for (size_t i = 0; v->items && i < n; i++) {
            v->items[i] = m[i].value;
        }
    }
    v->n = n;
    return v->items ? 0 : err_nomem(r->err, "a JSON container", n * sizeof *m);
}

static int open_container(struct reader *r)
{
    if (r->depth == JSON_MAX_DEPTH) {
        return fail(r, r->at, "nested too deeply (at most 128 levels)");
    }
    r->frame[r->depth++] = (struct frame){.object = *r->at == '{', .base = r->n_stack};
    r->at++;
    return 0;
}

/* Reads the key and colon that must come next in an object. */
static int read_key(struct reader *r, struct slice *key)
{
    skip_blanks(r);
    if (r->at == r->end || *r->at != '"') {
        return fail(r, r->at, "a member name in quotes is expected here");
    }
    r->at++;
    int rc = read_string(r, key);
    if (rc) {
        return rc;
    }
    skip_blanks(r);
    if (r->at == r->end || *r->at != ':') {
        return fail(r, r->at, "':' is expected here");
    }
    r->at++;
    return 0;
}

/* Reads one scalar, or opens a container (*opened), at the next character that is not blank. */
static int read_start(struct reader *r, struct json *v, bool *opened)
{
    skip_blanks(r);
    *opened = false;
    if (r->at == r->end) {
        return fail(r, r->at, "the text ends too early");
    }
    if (*r->at == '{' || *r->at == '[') {
        *opened = true;
        return open_container(r);
    }
    if (*r->at == '"') {
        struct slice s;
        r->at++;
        int rc = read_string(r, &s);
        *v = (struct json){.type = JSON_STRING, .n = s.n, .s = s.p};
        return rc;
    }
    return read_word(r, v);
}

/* After an opening bracket: true (and consumed) if the container is empty. */
static bool closes_at_once(struct reader *r)
{
    char close = r->frame[r->depth - 1].object ? '}' : ']';
    skip_blanks(r);
    if (r->at < r->end && *r->at == close) {
        r->at++;
        return true;
    }
    return false;
}

/* After a finished member: consumes ',' (*more true) or the closing bracket. */
static int read_separator(struct reader *r, bool *more)
{
    bool object = r->frame[r->depth - 1].object;
    skip_blanks(r);
    char c = r->at < r->end ? *r->at : 0;
    if (c != ',' && c != (object ? '}' : ']')) {
        return fail(r, r->at,
                    object ? "',' or '}' is expected here" : "',' or ']' is expected here");
    }
    r->at++;
    *more = c == ',';
    return 0;
}

static int read_tree(struct reader *r, struct json *v)
{
    struct slice key[JSON_MAX_DEPTH + 1] = {{0}}; /* key of the value being read, per depth */
    for (;;) {
        bool opened;
        int rc = read_start(r, v, &opened);
        if (rc) {
            return rc;
        }
        bool more = opened;
        if (opened && closes_at_once(r)) {
            more = false;
            rc = close_container(r, v);
        }
        while (!rc && !more && r->depth > 0) { /* v is complete: hand it to its container */
            rc = push(r, key[r->depth], v);
            rc = rc ? rc : read_separator(r, &more);
            if (!rc && !more) {
                rc = close_container(r, v);
            }
        }
        if (rc || !more) {
            return rc;
        }
        key[r->depth] = (struct slice){0};
        if (r->frame[r->depth - 1].object && (rc = read_key(r, &key[r->depth])) != 0) {
            return rc;
        }
    }
}

static int read_document(struct json *out, struct arena *a, const char *text, size_t n,
                         bool python, fathom_err *err)
{
    struct reader *r = mem_calloc(1, sizeof *r);
    if (!r) {
        return err_nomem(err, "the JSON reader", sizeof *r);
    }
    const char *start = n ? text : "";
    r->start = r->at = start;
    r->end = start + n;
    r->a = a;
    r->err = err;
    r->python = python;
    *out = (struct json){0};
    int rc = read_tree(r, out);
    if (!rc) {
        skip_blanks(r);
        rc = r->at == r->end ? 0 : fail(r, r->at, "more text after the value");
    }
    if (rc) {
        *out = (struct json){0};
    }
    keyset_free(&r->keys);
    mem_free(r->stack);
    mem_free(r);
    return rc;
}

int json_read(struct json *out, struct arena *a, const char *text, size_t n, fathom_err *err)
{
    return read_document(out, a, text, n, false, err);
}

int json_read_python(struct json *out, struct arena *a, const char *text, size_t n,
                     fathom_err *err)
{
    return read_document(out, a, text, n, true, err);
}
