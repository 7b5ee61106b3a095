/* regex.c - see regex.h: the parser. One pass with a stack of groups, no recursion. What is
 * written for an atom, a sequence or a group is a contiguous range of the program with one way
 * in and one way out, so a repetition copies the range. */
#include "constrain/regex.h"

#include "base/mem.h"

struct range {
    uint32_t lo, hi;
};

/* Code [lo, n) of the program: enter at `in`, leave through op `out`, whose x is still open. */
struct frag {
    bool set;
    uint32_t lo, in, out;
};

struct level { /* an open group */
    uint32_t lo;
    struct frag alt; /* alternatives before the last '|' */
    struct frag seq; /* the sequence so far, without `atom` */
    struct frag atom;
    size_t at; /* in the expression, for messages */
};

struct parser {
    struct slice s;
    size_t at;
    struct regex_op *op; /* owned: n of cap */
    uint32_t n, cap;
    struct range set[REGEX_MAX_RANGES];
    size_t n_set;
    struct level level[REGEX_MAX_DEPTH + 1];
    size_t depth;
    struct fuel *fuel;
    fathom_err *err;
    bool failed;
};

static void fail(struct parser *p, int code, const char *why)
{
    if (!p->failed) {
        p->failed = true;
        err_set(p->err, code, "pattern \"%.*s\", byte %zu: %s", (int)MIN(p->s.n, (size_t)200),
                p->s.p, p->at, why);
    }
}

/* ---- writing ---- */

static uint32_t put(struct parser *p, struct regex_op op)
{
    if (p->n == p->cap && !p->failed) {
        uint32_t cap = p->cap ? p->cap * 2 : 256;
        struct regex_op *q =
            cap <= 2 * REGEX_MAX_OPS ? mem_realloc(p->op, cap, sizeof *q) : NULL;
        if (!q) {
            fail(p, cap > 2 * REGEX_MAX_OPS ? FATHOM_ELIMIT : FATHOM_ENOMEM,
                 "the expression is too large");
            return 0;
        }
        p->op = q;
        p->cap = cap;
    }
    if (p->failed) {
        return 0;
    }
    p->op[p->n] = op;
    return p->n++;
}

static uint32_t put_split(struct parser *p, uint32_t x, uint32_t y)
{
    return put(p, (struct regex_op){.kind = RX_SPLIT, .x = x, .y = y});
}

static void patch(struct parser *p, uint32_t op, uint32_t to)
{
    if (!p->failed) {
        p->op[op].x = to;
    }
}

static struct frag empty(struct parser *p)
{
    uint32_t e = put_split(p, RX_NONE, RX_NONE);
    return (struct frag){true, e, e, e};
}

/* ---- code points ---- */

static void put_bytes(struct parser *p, uint32_t entry, const unsigned char *lo,
                      const unsigned char *hi, int n, uint32_t out)
{
    /* entry is a split whose x is taken: y leads to this alternative */
    uint32_t first = p->n;
    for (int i = 0; i < n; i++) {
        put(p, (struct regex_op){
                   .kind = RX_BYTE, .lo = lo[i], .hi = hi[i], .x = i + 1 < n ? p->n + 1 : out});
    }
    if (!p->failed) {
        p->op[entry].y = first;
    }
}

/* Code points lo..hi of one encoded length, as sequences of byte ranges. Each turn takes the
 * largest piece from lo on whose continuation bytes are whole ranges. */
static uint32_t put_span(struct parser *p, uint32_t entry, uint32_t lo, uint32_t hi,
                         uint32_t out)
{
    while (lo <= hi && !p->failed) {
        char a[4], b[4];
        int n = utf8_encode(lo, a), k = 0; /* the last k bytes take all their values */
        while (k < n - 1 && (lo & ((1u << 6 * (k + 1)) - 1)) == 0 &&
               hi - lo >= (1u << 6 * (k + 1)) - 1) {
            k++;
        }
        uint32_t unit = 1u << 6 * k;
        uint32_t last = k == n - 1 ? hi : MIN(hi, lo | ((unit << 6) - 1));
        uint32_t end = lo + (last - lo + 1) / unit * unit - 1;
        utf8_encode(end, b);
        uint32_t next = put_split(p, RX_NONE, RX_NONE);
        patch(p, entry, next); /* the next alternative hangs at x */
        put_bytes(p, entry, (unsigned char *)a, (unsigned char *)b, n, out);
        entry = next;
        lo = end + 1;
    }
    return entry;
}

static struct frag put_set(struct parser *p)
{
    static const struct range length[] = {
        {0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, 0x10FFFF}};
    struct frag f = {.set = true, .lo = p->n};
    f.out = put_split(p, RX_NONE, RX_NONE);
    f.in = put_split(p, RX_NONE, RX_NONE);
    uint32_t entry = f.in;
    for (size_t i = 0; i < p->n_set; i++) {
        for (size_t j = 0; j < ARRAY_LEN(length); j++) {
            uint32_t lo = MAX(p->set[i].lo, length[j].lo), hi = MIN(p->set[i].hi, length[j].hi);
            if (lo <= hi) {
                entry = put_span(p, entry, lo, hi, f.out);
            }
        }
    }
    return f;
}

static void set_add(struct parser *p, uint32_t lo, uint32_t hi)
{
    if (p->n_set >= REGEX_MAX_RANGES / 2) {
        fail(p, FATHOM_ELIMIT, "a class with too many ranges");
        return;
    }
    p->set[p->n_set++] = (struct range){lo, hi};
}

static void set_sort(struct parser *p)
{
    size_t n = 0;
    for (size_t i = 1; i < p->n_set; i++) {
        struct range r = p->set[i];
        size_t j = i;
        for (; j > 0 && p->set[j - 1].lo > r.lo; j--) {
            p->set[j] = p->set[j - 1];
        }
        p->set[j] = r;
    }
    for (size_t i = 0; i < p->n_set; i++) {
        if (n > 0 && p->set[i].lo <= p->set[n - 1].hi + 1) {
            p->set[n - 1].hi = MAX(p->set[n - 1].hi, p->set[i].hi);
        } else {
            p->set[n++] = p->set[i];
        }
    }
    p->n_set = n;
}

/* Everything that is not in ranges [from, n_set). */
static void set_invert(struct parser *p, size_t from)
{
    struct range own[REGEX_MAX_RANGES];
    size_t n = p->n_set - from, k = from;
    uint32_t at = 0;
    memcpy(own, p->set + from, n * sizeof *own);
    for (size_t i = 0; i < n; i++) { /* sorted */
        if (own[i].lo > at) {
            p->set[k++] = (struct range){at, own[i].lo - 1};
        }
        at = own[i].hi + 1;
    }
    if (at <= 0x10FFFF) {
        p->set[k++] = (struct range){at, 0x10FFFF};
    }
    p->n_set = k;
}

/* The set of \d \w \s and their opposites. */
static bool set_escape(struct parser *p, char c)
{
    static const struct range digit[] = {{'0', '9'}};
    static const struct range word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const struct range space[] = {{9, 13},          {32, 32},         {0xA0, 0xA0},
                                         {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
                                         {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000},
                                         {0xFEFF, 0xFEFF}};
    size_t from = p->n_set;
    const struct range *r = c == 'd' || c == 'D' ? digit : c == 'w' || c == 'W' ? word : space;
    size_t n = r == digit ? 1 : r == word ? ARRAY_LEN(word) : ARRAY_LEN(space);
    if (!strchr("dDwWsS", c)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        set_add(p, r[i].lo, r[i].hi);
    }
    if (c < 'a' && !p->failed) {
        set_invert(p, from);
    }
    return true;
}

/* ---- reading ---- */

static bool more(const struct parser *p)
{
    return p->at < p->s.n && !p->failed;
}

static bool take(struct parser *p, char c)
{
    bool ok = more(p) && p->s.p[p->at] == c;
    p->at += ok;
    return ok;
}

static uint32_t code_point(struct parser *p)
{
    uint32_t cp;
    int n = utf8_decode(p->s.p + p->at, p->s.n - p->at, &cp);
    if (n <= 0 || cp == UTF8_BAD) {
        fail(p, FATHOM_EFORMAT, "not UTF-8");
        return 0;
    }
    p->at += (size_t)n;
    return cp;
}

static uint32_t hex(struct parser *p, int digits)
{
    uint32_t v = 0;
    for (int i = 0; i < digits; i++) {
        char c = more(p) ? p->s.p[p->at] : 0;
        int d = c >= '0' && c <= '9'                 ? c - '0'
                : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 87
                                                     : -1;
        if (d < 0) {
            fail(p, FATHOM_EFORMAT, "a hexadecimal digit is missing");
            return 0;
        }
        v = v << 4 | (uint32_t)d;
        p->at++;
    }
    return v;
}

static uint32_t unicode_escape(struct parser *p)
{
    uint32_t v = 0;
    if (!take(p, '{')) {
        v = hex(p, 4);
        bool pair = v >= 0xD800 && v < 0xDC00 && p->s.n - p->at >= 6 && p->s.p[p->at] == '\\' &&
                    p->s.p[p->at + 1] == 'u';
        if (pair) {
            p->at += 2;
            v = 0x10000 + ((v - 0xD800) << 10) + ((hex(p, 4) - 0xDC00) & 0x3FF);
        }
        return v;
    }
    while (more(p) && p->s.p[p->at] != '}' && v <= 0x10FFFF) {
        v = v << 4 | hex(p, 1);
    }
    if (!take(p, '}') || v > 0x10FFFF) {
        fail(p, FATHOM_EFORMAT, "\\u{...} is damaged");
    }
    return v;
}

/* A character after a backslash that stands for itself or a control character. */
static uint32_t escape(struct parser *p, bool in_class)
{
    static const char from[] = "tnrfv0", to[] = "\t\n\r\f\v\0";
    char c = p->s.p[p->at];
    const char *f = strchr(from, c);
    if (c == 'x' || c == 'u') {
        p->at++;
        return c == 'x' ? hex(p, 2) : unicode_escape(p);
    }
    if (f && c) {
        p->at++;
        return (uint32_t)to[f - from];
    }
    if (c == 'c' && p->s.n - p->at > 1) {
        p->at += 2;
        return (uint32_t)p->s.p[p->at - 1] & 31;
    }
    if (c == 'b' && in_class) {
        p->at++;
        return '\b';
    }
    if ((c >= '1' && c <= '9') || c == 'k') {
        fail(p, FATHOM_EUNSUPPORTED, "back-references are not supported");
    } else if (c == 'b' || c == 'B') {
        fail(p, FATHOM_EUNSUPPORTED, "word boundaries are not supported");
    } else if (c == 'p' || c == 'P') {
        fail(p, FATHOM_EUNSUPPORTED, "Unicode property classes are not supported");
    }
    return code_point(p);
}

/* One member of a class: a set (true), or a code point. */
static bool class_member(struct parser *p, uint32_t *cp)
{
    if (!take(p, '\\')) {
        *cp = code_point(p);
        return false;
    }
    if (!more(p)) {
        fail(p, FATHOM_EFORMAT, "a backslash at the end");
        return true;
    }
    if (set_escape(p, p->s.p[p->at])) {
        p->at++;
        return true;
    }
    *cp = escape(p, true);
    return false;
}

static struct frag class_atom(struct parser *p)
{
    bool invert = take(p, '^');
    p->n_set = 0;
    while (more(p) && p->s.p[p->at] != ']') {
        uint32_t lo = 0, hi = 0;
        if (class_member(p, &lo)) {
            continue;
        }
        hi = lo;
        if (p->s.n - p->at > 1 && p->s.p[p->at] == '-' && p->s.p[p->at + 1] != ']') {
            p->at++;
            if (class_member(p, &hi)) { /* [a-\d]: the '-' is a character */
                set_add(p, '-', '-');
                hi = lo;
            } else if (hi < lo) {
                fail(p, FATHOM_EFORMAT, "a range from high to low");
            }
        }
        set_add(p, lo, hi);
    }
    if (!take(p, ']')) {
        fail(p, FATHOM_EFORMAT, "a class without end");
    }
    set_sort(p);
    if (invert && !p->failed) {
        set_invert(p, 0);
    }
    return put_set(p);
}

static struct frag one(struct parser *p, uint32_t cp)
{
    p->n_set = 1;
    p->set[0] = (struct range){cp, cp};
    return put_set(p);
}

static struct frag any_but_lines(struct parser *p)
{
    p->n_set = 3;
    p->set[0] = (struct range){'\n', '\n'};
    p->set[1] = (struct range){'\r', '\r'};
    p->set[2] = (struct range){0x2028, 0x2029};
    set_invert(p, 0);
    return put_set(p);
}

static struct frag assertion(struct parser *p, enum regex_kind kind)
{
    uint32_t at = put(p, (struct regex_op){.kind = (uint8_t)kind, .x = RX_NONE, .y = RX_NONE});
    return (struct frag){true, at, at, at};
}

/* ---- joining ---- */

static struct frag join(struct parser *p, struct frag a, struct frag b)
{
    if (!a.set || !b.set) {
        return a.set ? a : b;
    }
    patch(p, a.out, b.in);
    return (struct frag){true, a.lo, a.in, b.out};
}

static struct frag either(struct parser *p, struct frag a, struct frag b)
{
    if (!a.set) {
        return b;
    }
    struct frag f = {.set = true, .lo = a.lo};
    f.in = put_split(p, a.in, b.in);
    f.out = put_split(p, RX_NONE, RX_NONE);
    patch(p, a.out, f.out);
    patch(p, b.out, f.out);
    return f;
}

static struct frag copy(struct parser *p, struct frag f, uint32_t hi)
{
    uint32_t by = p->n - f.lo;
    if (!fuel_use(p->fuel, hi - f.lo, p->err)) {
        p->failed = true;
    }
    for (uint32_t i = f.lo; i < hi && !p->failed; i++) {
        struct regex_op op = p->op[i];
        op.x += op.x == RX_NONE ? 0 : by;
        op.y += op.y == RX_NONE ? 0 : by;
        put(p, op);
    }
    return (struct frag){true, f.lo + by, f.in + by, f.out + by};
}

/* f between min and max times; max RX_NONE: without bound. */
static struct frag repeat(struct parser *p, struct frag f, uint32_t min, uint32_t max)
{
    uint32_t hi = p->n, copies = max == RX_NONE ? MAX(min, 1) : max;
    struct frag r = {.set = true, .lo = f.lo};
    if (copies == 0) {
        struct frag e = empty(p);
        e.lo = f.lo;
        return e;
    }
    uint32_t out = put_split(p, RX_NONE, RX_NONE), prev = RX_NONE;
    r.out = out;
    for (uint32_t i = 0; i < copies && !p->failed; i++) {
        /* the original comes last: until then it is the pattern to copy from */
        struct frag c = i + 1 < copies ? copy(p, f, hi) : f;
        uint32_t in = i >= min ? put_split(p, c.in, out) : c.in;
        if (i == 0) {
            r.in = in;
        } else {
            patch(p, prev, in);
        }
        if (i + 1 == copies) {
            uint32_t end = max != RX_NONE ? out : i >= min ? in : put_split(p, c.in, out);
            patch(p, c.out, end);
        }
        prev = c.out;
    }
    return r;
}

static bool read_count(struct parser *p, uint32_t *v)
{
    size_t from = p->at;
    *v = 0;
    while (more(p) && p->s.p[p->at] >= '0' && p->s.p[p->at] <= '9') {
        uint32_t digit = (uint32_t)(p->s.p[p->at++] - '0');
        *v = MIN(*v * 10 + digit, 1000000u);
    }
    return p->at > from;
}

static void quantifier(struct parser *p, struct level *l)
{
    uint32_t min = 0, max = RX_NONE;
    size_t from = p->at;
    if (take(p, '+')) {
        min = 1;
    } else if (take(p, '?')) {
        max = 1;
    } else if (take(p, '{')) {
        bool ok = read_count(p, &min);
        max = min;
        if (ok && take(p, ',')) {
            max = read_count(p, &max) ? max : RX_NONE;
        }
        if (!ok || !take(p, '}') || (max != RX_NONE && max < min)) {
            p->at = from;
            fail(p, FATHOM_EFORMAT, "a repetition that is none");
            return;
        }
    } else {
        take(p, '*');
    }
    take(p, '?'); /* lazy: the same texts */
    if (!l->atom.set) {
        fail(p, FATHOM_EFORMAT, "nothing to repeat");
    } else if (min > REGEX_MAX_REPEAT || (max != RX_NONE && max > REGEX_MAX_REPEAT)) {
        fail(p, FATHOM_ELIMIT, "more than 2000 repetitions");
    } else {
        l->atom = repeat(p, l->atom, min, max);
    }
}

static void open_group(struct parser *p)
{
    size_t from = p->at - 1;
    if (take(p, '?')) {
        bool name = take(p, '<') && more(p) && p->s.p[p->at] != '=' && p->s.p[p->at] != '!';
        while (name && more(p) && p->s.p[p->at] != '>') {
            p->at++;
        }
        if (!take(p, name ? '>' : ':')) {
            fail(p, FATHOM_EUNSUPPORTED, "look-around is not supported");
        }
    }
    if (p->depth == REGEX_MAX_DEPTH) {
        fail(p, FATHOM_ELIMIT, "groups nested too deep");
        return;
    }
    p->level[++p->depth] = (struct level){.lo = p->n, .at = from};
}

static void end_branch(struct parser *p, struct level *l)
{
    struct frag seq = join(p, l->seq, l->atom);
    if (!seq.set) {
        seq = empty(p);
    }
    l->alt = either(p, l->alt, seq);
    l->seq = l->atom = (struct frag){0};
}

static void push_atom(struct parser *p, struct frag f)
{
    struct level *l = &p->level[p->depth];
    l->seq = join(p, l->seq, l->atom);
    l->atom = f;
}

static void close_group(struct parser *p)
{
    struct level *l = &p->level[p->depth];
    if (p->depth == 0) {
        fail(p, FATHOM_EFORMAT, "a ')' without '('");
        return;
    }
    end_branch(p, l);
    struct frag f = l->alt;
    f.lo = l->lo;
    p->depth--;
    push_atom(p, f);
}

static void backslash(struct parser *p)
{
    if (!more(p)) {
        fail(p, FATHOM_EFORMAT, "a backslash at the end");
        return;
    }
    p->n_set = 0;
    if (set_escape(p, p->s.p[p->at])) {
        p->at++;
        push_atom(p, put_set(p));
    } else {
        push_atom(p, one(p, escape(p, false)));
    }
}

static void parse(struct parser *p)
{
    while (more(p)) {
        char c = p->s.p[p->at];
        if (strchr("*+?{", c) && c) {
            quantifier(p, &p->level[p->depth]);
            continue;
        }
        if (!strchr("()|[\\.^$", c) || !c) {
            push_atom(p, one(p, code_point(p)));
            continue;
        }
        p->at++;
        switch (c) {
        case '(': open_group(p); break;
        case ')': close_group(p); break;
        case '|': end_branch(p, &p->level[p->depth]); break;
        case '[': push_atom(p, class_atom(p)); break;
        case '\\': backslash(p); break;
        case '.': push_atom(p, any_but_lines(p)); break;
        case '^': push_atom(p, assertion(p, RX_BEGIN)); break;
        default: push_atom(p, assertion(p, RX_END)); break;
        }
    }
    if (!p->failed && p->depth > 0) {
        p->at = p->level[p->depth].at;
        fail(p, FATHOM_EFORMAT, "a '(' without ')'");
    }
}

int regex_compile(struct dfa *out, struct slice expr, struct fuel *fuel, fathom_err *err)
{
    fathom_err own = {0};
    struct parser *p = mem_calloc(1, sizeof *p);
    *out = (struct dfa){0};
    if (!p) {
        return err_nomem(err, "a pattern", sizeof *p);
    }
    p->s = expr;
    p->fuel = fuel;
    p->err = &own;
    /* text before the match */
    p->n_set = 1;
    p->set[0] = (struct range){0, 0x10FFFF};
    struct frag any = put_set(p);
    uint32_t start = put_split(p, RX_NONE, any.in);
    patch(p, any.out, start);
    p->level[0] = (struct level){.lo = p->n};
    parse(p);
    end_branch(p, &p->level[0]);
    uint32_t rest = put(p, (struct regex_op){.kind = RX_REST, .x = RX_NONE, .y = RX_NONE});
    patch(p, p->level[0].alt.out, rest);
    patch(p, start, p->level[0].alt.in);
    int rc = p->failed ? own.code : subset_dfa(out, p->op, p->n, start, fuel, &own);
    mem_free(p->op);
    mem_free(p);
    return rc ? err_set(err, rc, "%s", own.msg) : 0;
}
