/* dfa.c - see dfa.h: exploration, trimming, products. */
#include "constrain/dfa.h"

#include "base/mem.h"

bool fuel_use(struct fuel *f, uint64_t n, fathom_err *err)
{
    if (f->left < n) {
        f->left = 0;
        err_set(err, FATHOM_ELIMIT,
                "compiling this takes too long; make the schema or its patterns simpler");
        return false;
    }
    f->left -= n;
    return true;
}

/* ---- classes and UTF-8 ---- */

uint32_t dfa_classes(uint8_t class_of[256], const bool cut[256])
{
    uint32_t n = 0;
    for (int c = 0; c < 256; c++) {
        n += c > 0 && cut[c];
        class_of[c] = (uint8_t)n;
    }
    return n + 1;
}

void dfa_cut_utf8(bool cut[256])
{
    static const uint8_t at[] = {0x80, 0x90, 0xA0, 0xC0, 0xC2, 0xE0, 0xE1,
                                 0xED, 0xEE, 0xF0, 0xF1, 0xF4, 0xF5};
    for (size_t i = 0; i < sizeof at; i++) {
        cut[at[i]] = true;
    }
}

/* States: 1, 2, 3 = so many continuation bytes to come; 4..7 = the first of them is bounded,
 * after E0, ED, F0, F4. */
uint8_t utf8_next(uint8_t state, unsigned char c)
{
    static const struct {
        uint8_t lo, hi, to;
    } next[UTF8_STATES] = {{0, 0, 0},       {0x80, 0xBF, 0}, {0x80, 0xBF, 1}, {0x80, 0xBF, 2},
                           {0xA0, 0xBF, 1}, {0x80, 0x9F, 1}, {0x90, 0xBF, 2}, {0x80, 0x8F, 2}};
    if (state != UTF8_BETWEEN) {
        return c >= next[state].lo && c <= next[state].hi ? next[state].to : UTF8_REFUSED;
    }
    if (c < 0x80) {
        return UTF8_BETWEEN;
    }
    if (c < 0xC2 || c > 0xF4) {
        return UTF8_REFUSED;
    }
    if (c < 0xE0) {
        return 1;
    }
    if (c < 0xF0) {
        return c == 0xE0 ? 4 : c == 0xED ? 5 : 2;
    }
    return c == 0xF0 ? 6 : c == 0xF4 ? 7 : 3;
}

/* ---- exploring ---- */

struct explorer {
    const struct dfa_source *src;
    struct dfa *d;
    unsigned char *keys; /* [cap][key_bytes] */
    uint16_t *table;     /* 2 * DFA_MAX_STATES slots: state or 0 */
    uint32_t cap;
};

static bool reserve(struct explorer *x, uint32_t n)
{
    if (n <= x->cap) {
        return true;
    }
    uint32_t cap = MAX(n, x->cap * 2);
    unsigned char *keys = mem_realloc(x->keys, cap, x->src->key_bytes);
    uint16_t *next =
        keys ? mem_realloc(x->d->next, (size_t)cap * x->d->n_class, sizeof *next) : NULL;
    uint8_t *flags = next ? mem_realloc(x->d->flags, cap, 1) : NULL;
    x->keys = keys ? keys : x->keys;
    x->d->next = next ? next : x->d->next;
    x->d->flags = flags ? flags : x->d->flags;
    x->cap = flags ? cap : x->cap;
    return flags != NULL;
}

/* Number of the state with this key; DFA_DEAD: no room. */
static uint32_t intern(struct explorer *x, const void *key, fathom_err *err)
{
    const unsigned char *k = key;
    uint32_t h = 2166136261u, mask = 2 * DFA_MAX_STATES - 1;
    size_t n = x->src->key_bytes;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ k[i]) * 16777619u;
    }
    for (h ^= h >> 15;; h++) {
        uint32_t s = x->table[h & mask];
        if (s == 0) {
            break;
        }
        if (memcmp(x->keys + s * n, key, n) == 0) {
            return s;
        }
    }
    if (x->d->n >= DFA_MAX_STATES) {
        err_set(err, FATHOM_ELIMIT, "the automaton needs more than %d states", DFA_MAX_STATES);
        return DFA_DEAD;
    }
    if (!reserve(x, x->d->n + 1)) {
        err_nomem(err, "an automaton", n * x->d->n);
        return DFA_DEAD;
    }
    uint32_t s = x->d->n++;
    memcpy(x->keys + s * n, key, n);
    x->table[h & mask] = (uint16_t)s;
    x->d->flags[s] = x->src->accept(x->src->user, key) ? DFA_ACCEPT : 0;
    return s;
}

static int explore(struct explorer *x, struct fuel *fuel, fathom_err *err)
{
    unsigned char key[DFA_KEY_MAX], to[DFA_KEY_MAX];
    struct dfa *d = x->d;
    unsigned char sample[256];
    for (int c = 255; c >= 0; c--) {
        sample[d->class_of[c]] = (unsigned char)c;
    }
    memset(key, 0, sizeof key);
    x->src->start(x->src->user, key);
    if (!reserve(x, 64)) {
        return err_nomem(err, "an automaton", 64);
    }
    d->n = 1;
    d->flags[DFA_DEAD] = 0;
    memset(d->next, 0, d->n_class * sizeof *d->next);
    if (intern(x, key, err) == DFA_DEAD) {
        return err ? err->code : FATHOM_ELIMIT;
    }
    for (uint32_t s = DFA_START; s < d->n; s++) {
        if (!fuel_use(fuel, d->n_class, err)) {
            return FATHOM_ELIMIT;
        }
        for (uint32_t c = 0; c < d->n_class; c++) {
            uint32_t next = DFA_DEAD;
            memcpy(key, x->keys + s * x->src->key_bytes, x->src->key_bytes);
            memset(to, 0, sizeof to);
            if (x->src->step(x->src->user, key, sample[c], to) &&
                (next = intern(x, to, err)) == DFA_DEAD) {
                return err ? err->code : FATHOM_ELIMIT;
            }
            d->next[(size_t)s * d->n_class + c] = (uint16_t)next;
        }
    }
    return 0;
}

/* ---- trimming ---- */

/* live[s]: an accepting state can be reached. */
static bool find_live(const struct dfa *d, bool *live)
{
    bool any = false;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t s = d->n; s-- > DFA_START;) {
            bool was = live[s];
            live[s] = live[s] || (d->flags[s] & DFA_ACCEPT);
            for (uint32_t c = 0; c < d->n_class && !live[s]; c++) {
                live[s] = live[d->next[(size_t)s * d->n_class + c]];
            }
            more = more || live[s] != was;
            any = any || live[s];
        }
    }
    return any;
}

static int trim(struct dfa *d, fathom_err *err)
{
    bool *live = mem_calloc(d->n, sizeof *live);
    uint16_t *name = mem_calloc(d->n, sizeof *name);
    uint32_t n = 1;
    if (!live || !name) {
        mem_free(live);
        mem_free(name);
        return err_nomem(err, "an automaton", d->n);
    }
    find_live(d, live);
    for (uint32_t s = DFA_START; s < d->n; s++) {
        name[s] = live[s] ? (uint16_t)n++ : DFA_DEAD;
    }
    if (!live[DFA_START]) { /* nothing is accepted */
        n = 1;
    }
    for (uint32_t s = DFA_START; s < d->n && n > 1; s++) {
        for (uint32_t c = 0; live[s] && c < d->n_class; c++) {
            d->next[(size_t)name[s] * d->n_class + c] =
                name[d->next[(size_t)s * d->n_class + c]];
        }
        d->flags[name[s]] = live[s] ? d->flags[s] : d->flags[name[s]];
    }
    d->flags[DFA_DEAD] = 0;
    d->n = n;
    mem_free(live);
    mem_free(name);
    return 0;
}

/* Does every byte lo..hi followed by `more` continuation bytes lead from s to u? */
static bool all_lead(const struct dfa *d, uint32_t s, uint32_t u, int lo, int hi, int more)
{
    uint32_t last = UINT32_MAX;
    for (int c = lo; c <= hi; c++) {
        uint32_t x = dfa_step(d, s, (unsigned char)c), y = UINT32_MAX, z;
        if (x == last) {
            continue;
        }
        last = x;
        for (int b = 0x80; more > 0 && b <= 0xBF; b++) {
            z = dfa_step(d, x, (unsigned char)b);
            if (more == 2) { /* one level deeper; three are checked by their second byte */
                for (int a = 0x80; z != y && a <= 0xBF; a++) {
                    if (dfa_step(d, z, (unsigned char)a) != u) {
                        return false;
                    }
                }
                y = z;
            } else if (z != u) {
                return false;
            }
        }
        if (more == 0 && x != u) {
            return false;
        }
    }
    return true;
}

static bool is_any(const struct dfa *d, uint32_t u)
{
    bool ok = (d->flags[u] & DFA_ACCEPT) && all_lead(d, u, u, 0, 0x7F, 0) &&
              all_lead(d, u, u, 0xC2, 0xDF, 1) && all_lead(d, u, u, 0xE1, 0xEC, 2) &&
              all_lead(d, u, u, 0xEE, 0xEF, 2);
    /* the bounded lead bytes */
    ok = ok && all_lead(d, dfa_step(d, u, 0xE0), u, 0xA0, 0xBF, 1) &&
         all_lead(d, dfa_step(d, u, 0xED), u, 0x80, 0x9F, 1) &&
         all_lead(d, dfa_step(d, u, 0xF0), u, 0x90, 0xBF, 2) &&
         all_lead(d, dfa_step(d, u, 0xF4), u, 0x80, 0x8F, 2);
    for (int c = 0xF1; ok && c <= 0xF3; c++) {
        ok = all_lead(d, dfa_step(d, u, (unsigned char)c), u, 0x80, 0xBF, 2);
    }
    return ok;
}

int dfa_explore(struct dfa *out, const struct dfa_source *src, struct fuel *fuel,
                fathom_err *err)
{
    fathom_err own = {0};
    struct explorer x = {.src = src, .d = out};
    *out = (struct dfa){.n_class = src->n_class};
    memcpy(out->class_of, src->class_of, sizeof out->class_of);
    x.table = mem_calloc(2 * DFA_MAX_STATES, sizeof *x.table);
    int rc = x.table ? explore(&x, fuel, &own) : err_nomem(&own, "an automaton", 16384);
    rc = rc ? rc : trim(out, &own);
    for (uint32_t s = DFA_START; !rc && s < out->n; s++) {
        out->flags[s] |= is_any(out, s) ? DFA_ANY : 0;
    }
    mem_free(x.table);
    mem_free(x.keys);
    if (rc) {
        dfa_free(out);
        return err_set(err, rc, "%s", own.msg);
    }
    return 0;
}

void dfa_free(struct dfa *d)
{
    mem_free(d->next);
    mem_free(d->flags);
    *d = (struct dfa){0};
}

size_t dfa_bytes(const struct dfa *d)
{
    return sizeof *d + (size_t)d->n * (d->n_class * sizeof *d->next + 1);
}

bool dfa_match(const struct dfa *d, struct slice s)
{
    uint32_t at = d->n > 1 ? DFA_START : DFA_DEAD;
    for (size_t i = 0; i < s.n && at; i++) {
        at = dfa_step(d, at, (unsigned char)s.p[i]);
    }
    return at && (d->flags[at] & DFA_ACCEPT);
}

/* ---- products ---- */

struct both {
    const struct dfa *a, *b;
};

static void both_start(void *user, void *key)
{
    const struct both *p = user;
    uint32_t k[2] = {p->a->n > 1, p->b->n > 1};
    memcpy(key, k, sizeof k);
}

static bool both_step(void *user, const void *key, unsigned char c, void *to)
{
    const struct both *p = user;
    uint32_t k[2];
    memcpy(k, key, sizeof k);
    k[0] = k[0] ? dfa_step(p->a, k[0], c) : 0;
    k[1] = k[1] ? dfa_step(p->b, k[1], c) : 0;
    memcpy(to, k, sizeof k);
    return k[0] && k[1];
}

static bool both_accept(void *user, const void *key)
{
    const struct both *p = user;
    uint32_t k[2];
    memcpy(k, key, sizeof k);
    return k[0] && k[1] && (p->a->flags[k[0]] & p->b->flags[k[1]] & DFA_ACCEPT);
}

static void cut_by(bool cut[256], const struct dfa *d)
{
    for (int c = 1; c < 256; c++) {
        cut[c] = cut[c] || d->class_of[c] != d->class_of[c - 1];
    }
}

int dfa_both(struct dfa *out, const struct dfa *a, const struct dfa *b, struct fuel *fuel,
             fathom_err *err)
{
    struct both p = {a, b};
    bool cut[256] = {false};
    uint8_t class_of[256];
    cut_by(cut, a);
    cut_by(cut, b);
    struct dfa_source src = {.user = &p,
                             .key_bytes = 2 * sizeof(uint32_t),
                             .class_of = class_of,
                             .n_class = dfa_classes(class_of, cut),
                             .start = both_start,
                             .step = both_step,
                             .accept = both_accept};
    return dfa_explore(out, &src, fuel, err);
}

struct length {
    const struct dfa *d;
    uint32_t min, max;
};

static void length_start(void *user, void *key)
{
    const struct length *p = user;
    uint32_t k[2] = {p->d->n > 1, 0};
    memcpy(key, k, sizeof k);
}

static bool length_step(void *user, const void *key, unsigned char c, void *to)
{
    const struct length *p = user;
    uint32_t k[2];
    memcpy(k, key, sizeof k);
    bool begins = (c & 0xC0) != 0x80; /* a code point */
    k[1] += begins;
    if (k[1] > p->max) {
        return false;
    }
    k[1] = p->max == UINT32_MAX ? MIN(k[1], p->min) : k[1];
    k[0] = k[0] ? dfa_step(p->d, k[0], c) : 0;
    memcpy(to, k, sizeof k);
    return k[0] != 0;
}

static bool length_accept(void *user, const void *key)
{
    const struct length *p = user;
    uint32_t k[2];
    memcpy(k, key, sizeof k);
    return k[0] && (p->d->flags[k[0]] & DFA_ACCEPT) && k[1] >= p->min;
}

int dfa_length(struct dfa *out, const struct dfa *d, uint32_t min, uint32_t max,
               struct fuel *fuel, fathom_err *err)
{
    struct length p = {d, min, max};
    bool cut[256] = {false};
    uint8_t class_of[256];
    cut_by(cut, d);
    dfa_cut_utf8(cut);
    struct dfa_source src = {.user = &p,
                             .key_bytes = 2 * sizeof(uint32_t),
                             .class_of = class_of,
                             .n_class = dfa_classes(class_of, cut),
                             .start = length_start,
                             .step = length_step,
                             .accept = length_accept};
    return dfa_explore(out, &src, fuel, err);
}

/* ---- without names ---- */

/* A state: the state of d, of the UTF-8 reader, and the names that the text is a beginning of: a
 * range of the sorted names and its length so far (range empty: it can be none of them). */
struct without {
    const struct dfa *d; /* NULL: any text */
    const struct slice *name;
    uint32_t n;
};
struct without_key {
    uint16_t state;
    uint8_t utf8, pad;
    uint16_t lo, hi;
    uint32_t len;
};

static void without_start(void *user, void *key)
{
    const struct without *p = user;
    struct without_key k = {.state = !p->d || p->d->n > 1, .hi = (uint16_t)p->n};
    memcpy(key, &k, sizeof k);
}

static bool without_step(void *user, const void *key, unsigned char c, void *to)
{
    const struct without *p = user;
    struct without_key k;
    memcpy(&k, key, sizeof k);
    k.state = p->d && k.state ? (uint16_t)dfa_step(p->d, k.state, c) : k.state;
    k.utf8 = utf8_next(k.utf8, c);
    while (k.lo < k.hi &&
           (p->name[k.lo].n <= k.len || (unsigned char)p->name[k.lo].p[k.len] < c)) {
        k.lo++;
    }
    uint16_t hi = k.lo;
    while (hi < k.hi && p->name[hi].n > k.len && (unsigned char)p->name[hi].p[k.len] == c) {
        hi++;
    }
    k.hi = hi;
    k.len++;
    if (k.lo == k.hi) {
        k.lo = k.hi = 0;
        k.len = 0;
    }
    memcpy(to, &k, sizeof k);
    return k.state && k.utf8 != UTF8_REFUSED;
}

static bool without_accept(void *user, const void *key)
{
    const struct without *p = user;
    struct without_key k;
    memcpy(&k, key, sizeof k);
    bool named = k.lo < k.hi && p->name[k.lo].n == k.len;
    return k.state && k.utf8 == UTF8_BETWEEN && !named &&
           (!p->d || (p->d->flags[k.state] & DFA_ACCEPT));
}

static void sort_names(struct slice *v, size_t n)
{
    for (size_t gap = n / 2; gap > 0; gap /= 2) { /* shell sort */
        for (size_t i = gap; i < n; i++) {
            struct slice x = v[i];
            size_t j = i;
            for (; j >= gap; j -= gap) {
                const struct slice *y = &v[j - gap];
                int c = memcmp(y->p, x.p, MIN(y->n, x.n));
                if (c < 0 || (c == 0 && y->n <= x.n)) {
                    break;
                }
                v[j] = *y;
            }
            v[j] = x;
        }
    }
}

int dfa_without(struct dfa *out, const struct dfa *d, const struct slice *name, size_t n,
                struct fuel *fuel, fathom_err *err)
{
    if (n >= UINT16_MAX) {
        return err_set(err, FATHOM_ELIMIT, "%zu names", n);
    }
    struct slice *sorted = mem_alloc(n + 1, sizeof *sorted);
    bool cut[256] = {false};
    uint8_t class_of[256];
    if (!sorted) {
        return err_nomem(err, "an automaton", n * sizeof *sorted);
    }
    for (size_t i = 0; i < n; i++) {
        sorted[i] = name[i];
        for (size_t j = 0; j < name[i].n; j++) {
            unsigned char c = (unsigned char)name[i].p[j];
            cut[c] = true;
            cut[(c + 1) & 255] = true;
        }
    }
    sort_names(sorted, n);
    if (d) {
        cut_by(cut, d);
    }
    dfa_cut_utf8(cut);
    struct without p = {d, sorted, (uint32_t)n};
    struct dfa_source src = {.user = &p,
                             .key_bytes = sizeof(struct without_key),
                             .class_of = class_of,
                             .n_class = dfa_classes(class_of, cut),
                             .start = without_start,
                             .step = without_step,
                             .accept = without_accept};
    int rc = dfa_explore(out, &src, fuel, err);
    mem_free(sorted);
    return rc;
}
