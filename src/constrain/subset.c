/* subset.c - the program of an expression (regex.h) to a DFA: a state is the set of ops where a
 * match may stand. Once RX_REST is among them anything may follow, so the other ops no longer
 * matter, which keeps the automata of unanchored expressions small. */
#include "base/mem.h"
#include "constrain/regex.h"

/* Names for the state behind RX_REST, by the state of the UTF-8 reader: texts are whole code
 * points. Sets of ops are numbered from REST_STATES on. */
enum { REST_STATES = UTF8_STATES, SETS_MAX = DFA_MAX_STATES, SET_SLOTS = 4 * SETS_MAX };

struct subset {
    const struct regex_op *op;
    uint32_t n_op, start;
    struct fuel *fuel;
    uint32_t *item; /* owned: the ops of all sets, one set after the other */
    size_t n_item, cap_item;
    size_t from[SETS_MAX + 2]; /* set i: item[from[i] .. from[i + 1]) */
    uint16_t slot[SET_SLOTS];  /* set + 1, by hash of its items */
    uint32_t n_set;
    uint32_t *seen, turn; /* owned: [n_op] */
    uint32_t *stack;      /* owned: [n_op] */
    bool failed;
    fathom_err *err;
};

static bool add_item(struct subset *s, uint32_t op)
{
    if (s->n_item == s->cap_item) {
        size_t cap = s->cap_item ? s->cap_item * 2 : 1024;
        uint32_t *p = cap <= (size_t)1 << 24 ? mem_realloc(s->item, cap, sizeof *p) : NULL;
        if (!p) {
            s->failed = true;
            err_set(s->err, FATHOM_ELIMIT, "the automaton of a pattern is too large");
            return false;
        }
        s->item = p;
        s->cap_item = cap;
    }
    s->item[s->n_item++] = op;
    return true;
}

/* Puts what can be reached from `op` without reading a byte behind the items. True: RX_REST is
 * among it. */
static bool closure(struct subset *s, uint32_t op, bool begin, bool end)
{
    uint32_t n = 0;
    bool rest = false;
    s->stack[n++] = op;
    s->seen[op] = s->turn;
    while (n > 0 && !s->failed) {
        uint32_t at = s->stack[--n];
        const struct regex_op *o = &s->op[at];
        uint32_t to[2] = {RX_NONE, RX_NONE};
        if (!fuel_use(s->fuel, 1, s->err)) {
            s->failed = true;
        }
        switch (o->kind) {
        case RX_SPLIT:
            to[0] = o->y;
            to[1] = o->x;
            break;
        case RX_BEGIN: to[0] = begin ? o->x : RX_NONE; break;
        case RX_END:
            to[0] = end ? o->x : RX_NONE;
            if (!end) {
                add_item(s, at);
            }
            break;
        case RX_BYTE: add_item(s, at); break;
        default: rest = true; break;
        }
        for (int i = 0; i < 2; i++) {
            if (to[i] != RX_NONE && s->seen[to[i]] != s->turn) {
                s->seen[to[i]] = s->turn;
                s->stack[n++] = to[i];
            }
        }
    }
    return rest;
}

static void sort(uint32_t *v, size_t n)
{
    for (size_t gap = n / 2; gap > 0; gap /= 2) {
        for (size_t i = gap; i < n; i++) {
            uint32_t x = v[i];
            size_t j = i;
            for (; j >= gap && v[j - gap] > x; j -= gap) {
                v[j] = v[j - gap];
            }
            v[j] = x;
        }
    }
}

/* Number of the set that stands behind the last one; equal sets get one number. */
static uint32_t number_set(struct subset *s)
{
    size_t from = s->from[s->n_set], n = s->n_item - from;
    sort(s->item + from, n);
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ s->item[from + i]) * 16777619u;
    }
    for (h ^= h >> 15; s->slot[h % SET_SLOTS]; h++) {
        uint32_t i = s->slot[h % SET_SLOTS] - 1u;
        if (s->from[i + 1] - s->from[i] == n &&
            memcmp(s->item + s->from[i], s->item + from, n * sizeof *s->item) == 0) {
            s->n_item = from;
            return i + REST_STATES;
        }
    }
    if (s->n_set >= SETS_MAX) {
        s->failed = true;
        err_set(s->err, FATHOM_ELIMIT, "the automaton of a pattern needs more than %d states",
                DFA_MAX_STATES);
        return 0;
    }
    s->slot[h % SET_SLOTS] = (uint16_t)(s->n_set + 1);
    s->from[++s->n_set] = s->n_item;
    return s->n_set - 1 + REST_STATES;
}

static void subset_start(void *user, void *key)
{
    struct subset *s = user;
    s->turn++;
    bool rest = closure(s, s->start, true, false);
    uint32_t k = rest ? UTF8_BETWEEN : number_set(s);
    if (rest) {
        s->n_item = s->from[s->n_set];
    }
    memcpy(key, &k, sizeof k);
}

static bool subset_step(void *user, const void *key, unsigned char c, void *to)
{
    struct subset *s = user;
    uint32_t k;
    bool rest = false;
    memcpy(&k, key, sizeof k);
    if (k < REST_STATES) {
        uint8_t u = utf8_next((uint8_t)k, c);
        k = u;
        memcpy(to, &k, sizeof k);
        return u != UTF8_REFUSED;
    }
    size_t lo = s->from[k - REST_STATES], hi = s->from[k - REST_STATES + 1];
    s->turn++;
    for (size_t i = lo; i < hi && !s->failed; i++) {
        const struct regex_op *o = &s->op[s->item[i]];
        if (o->kind == RX_BYTE && c >= o->lo && c <= o->hi && s->seen[o->x] != s->turn) {
            rest = closure(s, o->x, false, false) || rest;
        }
    }
    if (!fuel_use(s->fuel, 1 + (hi - lo) / 8, s->err)) {
        s->failed = true;
    }
    bool none = s->n_item == s->from[s->n_set] && !rest;
    if (rest) {
        s->n_item = s->from[s->n_set];
    }
    if (s->failed || none) {
        return false;
    }
    k = rest ? UTF8_BETWEEN : number_set(s);
    memcpy(to, &k, sizeof k);
    return !s->failed;
}

static bool subset_accept(void *user, const void *key)
{
    struct subset *s = user;
    uint32_t k;
    bool ok = false;
    memcpy(&k, key, sizeof k);
    if (k < REST_STATES) {
        return k == UTF8_BETWEEN;
    }
    size_t lo = s->from[k - REST_STATES], hi = s->from[k - REST_STATES + 1];
    s->turn++;
    for (size_t i = lo; i < hi && !ok && !s->failed; i++) {
        uint32_t at = s->item[i];
        if (s->op[at].kind == RX_END && s->seen[at] != s->turn) {
            ok = closure(s, at, false, true);
        }
    }
    s->n_item = s->from[s->n_set];
    return ok;
}

int subset_dfa(struct dfa *out, const struct regex_op *op, uint32_t n, uint32_t start,
               struct fuel *fuel, fathom_err *err)
{
    struct subset *s = mem_calloc(1, sizeof *s);
    bool cut[256] = {false};
    uint8_t class_of[256];
    if (s) {
        s->seen = mem_calloc(n, sizeof *s->seen);
        s->stack = mem_alloc(n, sizeof *s->stack);
    }
    if (!s || !s->seen || !s->stack) {
        if (s) {
            mem_free(s->seen);
            mem_free(s->stack);
        }
        mem_free(s);
        return err_nomem(err, "a pattern", n * sizeof *op);
    }
    s->op = op;
    s->n_op = n;
    s->start = start;
    s->fuel = fuel;
    s->err = err;
    for (uint32_t i = 0; i < n; i++) {
        if (op[i].kind == RX_BYTE) {
            cut[op[i].lo] = true;
            cut[(op[i].hi + 1) & 255] = true;
        }
    }
    dfa_cut_utf8(cut);
    struct dfa_source src = {.user = s,
                             .key_bytes = sizeof(uint32_t),
                             .class_of = class_of,
                             .n_class = dfa_classes(class_of, cut),
                             .start = subset_start,
                             .step = subset_step,
                             .accept = subset_accept};
    int rc = dfa_explore(out, &src, fuel, err);
    if (!rc && s->failed) {
        dfa_free(out);
        rc = err && err->code ? err->code : FATHOM_ELIMIT;
    }
    mem_free(s->item);
    mem_free(s->seen);
    mem_free(s->stack);
    mem_free(s);
    return rc;
}
