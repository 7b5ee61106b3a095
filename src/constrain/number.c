/* number.c - JSON numbers as an automaton, with bounds (dfa.h).
 *
 * Digits come from the left, so a number is compared with a bound as it is read: the digits so
 * far are less than, equal to or greater than as many digits of the bound, and the length of the
 * integer part decides before they do. Bounds are decimal texts, never converted to binary, so
 * the comparison is exact. A negative zero is refused. */
#include "base/mem.h"
#include "constrain/dfa.h"

enum { INT_DIGITS = 20, FRAC_DIGITS = 18, INTEGER_DIGITS = 40, BOUND_DIGITS = 64 };

enum phase { P_START, P_SIGN, P_ZERO, P_INT, P_POINT, P_FRAC, P_E, P_E_SIGN, P_E1, P_E2 };

/* |bound| = 0.d1d2... x 10^n_int; n_int 0 and no digits: zero. */
struct bound {
    bool set, neg;
    uint8_t digit[BOUND_DIGITS];
    int n_digit; /* without zeros at the end */
    int n_int;   /* digits before the point; <= 0: zeros follow the point */
};

struct number {
    struct bound lo, hi;
    bool lo_open, hi_open, integer;
};

struct number_key {
    uint8_t phase, neg, nonzero, n_int, n_frac;
    int8_t lo, hi; /* digits so far against those of the bound */
    uint8_t pad;
};

static void read_bound(struct bound *b, struct slice s)
{
    int exp = 0, sign = 1, n_int = 0;
    bool point = false, lead = true;
    size_t i = 0;
    *b = (struct bound){.set = s.p != NULL};
    for (; i < s.n && s.p[i] != 'e' && s.p[i] != 'E'; i++) {
        char c = s.p[i];
        b->neg = b->neg || c == '-';
        point = point || c == '.';
        if (c < '0' || c > '9') {
            continue;
        }
        if (lead && c == '0') {
            n_int -= point;
            continue;
        }
        lead = false;
        n_int += !point;
        if (b->n_digit < BOUND_DIGITS) {
            b->digit[b->n_digit++] = (uint8_t)(c - '0');
        }
    }
    for (i++; i < s.n; i++) {
        sign = s.p[i] == '-' ? -1 : sign;
        if (s.p[i] >= '0' && s.p[i] <= '9') {
            exp = MIN(exp * 10 + (s.p[i] - '0'), 100000);
        }
    }
    while (b->n_digit > 0 && b->digit[b->n_digit - 1] == 0) {
        b->n_digit--;
    }
    b->n_int = b->n_digit ? n_int + sign * exp : 0;
    b->neg = b->neg && b->n_digit > 0;
}

/* Digit i (0: the first of a number whose integer part has n_int digits) of the bound. */
static int bound_digit(const struct bound *b, int n_int, int i)
{
    int at = i - (n_int - b->n_int);
    return at >= 0 && at < b->n_digit ? b->digit[at] : 0;
}

static int length_of(const struct bound *b)
{
    return MAX(b->n_int, 1); /* zero is written with one digit */
}

/* Relation of the digits after one more, the i-th; the integer part is as long as the bound's
 * (a different length decides at the point). */
static int8_t compare(int8_t so_far, const struct bound *b, int i, int digit)
{
    int other = bound_digit(b, length_of(b), i);
    return so_far ? so_far : (int8_t)((digit > other) - (digit < other));
}

static int8_t at_point(int8_t so_far, const struct bound *b, int n_int)
{
    int len = length_of(b);
    return n_int != len ? (int8_t)(n_int < len ? -1 : 1) : so_far;
}

/* |number| against |bound| at its end. */
static int whole(const struct number_key *k, int8_t so_far, const struct bound *b)
{
    int8_t r = k->phase == P_FRAC ? so_far : at_point(so_far, b, k->n_int);
    int read = length_of(b) + k->n_frac; /* digits of the bound that were compared */
    int lead = length_of(b) - b->n_int;
    return r ? r : read < b->n_digit + lead ? -1 : 0;
}

static bool inside(const struct number *p, const struct number_key *k)
{
    if (p->lo.set) {
        int c = whole(k, k->lo, &p->lo);
        c = k->neg != p->lo.neg ? (k->neg ? -1 : 1) : k->neg ? -c : c;
        if (c < 0 || (c == 0 && p->lo_open)) {
            return false;
        }
    }
    if (p->hi.set) {
        int c = whole(k, k->hi, &p->hi);
        c = k->neg != p->hi.neg ? (k->neg ? -1 : 1) : k->neg ? -c : c;
        if (c > 0 || (c == 0 && p->hi_open)) {
            return false;
        }
    }
    return !k->neg || k->nonzero;
}

static void number_start(void *user, void *key)
{
    (void)user;
    memset(key, 0, sizeof(struct number_key));
}

static void add_digit(const struct number *p, struct number_key *k, int digit)
{
    bool frac = k->phase == P_POINT || k->phase == P_FRAC;
    int lo_at = frac ? length_of(&p->lo) + k->n_frac : k->n_int;
    int hi_at = frac ? length_of(&p->hi) + k->n_frac : k->n_int;
    k->lo = p->lo.set ? compare(k->lo, &p->lo, lo_at, digit) : 0;
    k->hi = p->hi.set ? compare(k->hi, &p->hi, hi_at, digit) : 0;
    k->nonzero |= digit != 0;
    if (frac) {
        k->n_frac++;
        k->phase = P_FRAC;
    } else {
        k->n_int++;
        k->phase = k->phase <= P_SIGN && digit == 0 ? P_ZERO : P_INT;
    }
}

static bool digit_fits(const struct number *p, const struct number_key *k)
{
    switch (k->phase) {
    case P_START:
    case P_SIGN: return true;
    case P_INT: return k->n_int < (p->integer ? INTEGER_DIGITS : INT_DIGITS);
    case P_POINT:
    case P_FRAC: return k->n_frac < FRAC_DIGITS;
    default: return false;
    }
}

static bool number_step(void *user, const void *key, unsigned char c, void *to)
{
    const struct number *p = user;
    struct number_key k;
    bool ok = false, free_form = !p->lo.set && !p->hi.set && !p->integer;
    memcpy(&k, key, sizeof k);
    bool number = k.phase == P_ZERO || k.phase == P_INT || k.phase == P_FRAC;
    if (c >= '0' && c <= '9') {
        if (k.phase >= P_E) {
            ok = k.phase < P_E2;
            k.phase = k.phase == P_E1 ? P_E2 : P_E1;
        } else if (digit_fits(p, &k)) {
            ok = true;
            add_digit(p, &k, c - '0');
        }
    } else if (c == '-' && k.phase == P_START) {
        ok = true;
        k.neg = 1;
        k.phase = P_SIGN;
    } else if (c == '.' && !p->integer && (k.phase == P_ZERO || k.phase == P_INT)) {
        ok = true;
        k.lo = p->lo.set ? at_point(k.lo, &p->lo, k.n_int) : 0;
        k.hi = p->hi.set ? at_point(k.hi, &p->hi, k.n_int) : 0;
        k.phase = P_POINT;
        k.n_int = 0; /* decided */
    } else if ((c == 'e' || c == 'E') && free_form && number) {
        ok = !k.neg || k.nonzero;
        k = (struct number_key){.phase = P_E, .nonzero = 1};
    } else if ((c == '+' || c == '-') && k.phase == P_E) {
        ok = true;
        k.phase = P_E_SIGN;
    }
    memcpy(to, &k, sizeof k);
    return ok;
}

static bool number_accept(void *user, const void *key)
{
    const struct number *p = user;
    struct number_key k;
    memcpy(&k, key, sizeof k);
    bool number = k.phase == P_ZERO || k.phase == P_INT || k.phase == P_FRAC;
    return k.phase == P_E1 || k.phase == P_E2 || (number && inside(p, &k));
}

int dfa_number(struct dfa *out, const struct number_bounds *b, struct fuel *fuel,
               fathom_err *err)
{
    struct number p = {.lo_open = b->min_open, .hi_open = b->max_open, .integer = b->integer};
    bool cut[256] = {false};
    uint8_t class_of[256];
    read_bound(&p.lo, b->min);
    read_bound(&p.hi, b->max);
    for (const char *c = "+-.0123456789Ee"; *c; c++) {
        cut[(unsigned char)*c] = cut[(unsigned char)*c + 1] = true;
    }
    struct dfa_source src = {.user = &p,
                             .key_bytes = sizeof(struct number_key),
                             .class_of = class_of,
                             .n_class = dfa_classes(class_of, cut),
                             .start = number_start,
                             .step = number_step,
                             .accept = number_accept};
    return dfa_explore(out, &src, fuel, err);
}
