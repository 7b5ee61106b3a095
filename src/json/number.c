/* number.c - decimal text to numbers and back, independent of the locale.
 *
 * Text to double: the digits go to strtod as one integer with an exponent ("125e-2" for
 * "1.25"), so that no decimal point is involved. Digits after the 800th cannot change the
 * nearest double except by not being zero; they are replaced by one digit that says so. Double
 * to text: the shortest digits that read back as the same double and, among those, the ones
 * nearest to it. printf gives the nearest decimal of each length; only above a power of two,
 * where the doubles below lie closer than those above, may a neighbour of it be the one that
 * reads back. Spelling (where the point goes, the form of the exponent) is that of Python's
 * repr. */
#include "json/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_DIGITS = 800, MAX_EXP = 100000 };

/* A finite decimal: 0.DIGITS * 10^point, without leading zeros; n = 0 is zero. */
struct decimal {
    bool neg;
    int n;
    long long point;
    char digit[MAX_DIGITS + 1];
};

/* From text of the JSON number grammar. */
static void parse_decimal(struct decimal *d, const char *s, size_t n)
{
    const char *end = s + n;
    bool fraction = false, lost = false;
    d->n = 0;
    d->point = 0;
    d->neg = s < end && *s == '-';
    for (s += d->neg; s < end && *s != 'e' && *s != 'E'; s++) {
        if (*s == '.') {
            fraction = true;
            continue;
        }
        bool leading = d->n == 0 && *s == '0';
        d->point += fraction ? -(long long)leading : !leading;
        if (!leading && d->n < MAX_DIGITS) {
            d->digit[d->n++] = *s;
        } else {
            lost = lost || *s != '0';
        }
    }
    if (lost) {
        d->digit[d->n++] = '1';
    }
    if (s < end && ++s < end) {
        bool neg = *s == '-';
        long long e = 0;
        for (s += *s == '-' || *s == '+'; s < end; s++) {
            e = e < INT64_MAX / 20 ? e * 10 + (*s - '0') : e; /* texts are far shorter */
        }
        d->point += neg ? -e : e;
    }
}

static double to_double(const struct decimal *d)
{
    char text[MAX_DIGITS + 32];
    if (d->n == 0) {
        return d->neg ? -0.0 : 0.0;
    }
    long long e = d->point - d->n;
    e = MAX((long long)-MAX_EXP, MIN((long long)MAX_EXP, e));
    snprintf(text, sizeof text, "%s%.*se%lld", d->neg ? "-" : "", d->n, d->digit, e);
    return strtod(text, NULL);
}

bool json_double(const struct json *v, double *out)
{
    struct decimal d;
    if (!json_is(v, JSON_NUMBER) || v->s[v->n - 1] > '9') { /* NaN, Infinity */
        return false;
    }
    parse_decimal(&d, v->s, v->n);
    double x = to_double(&d);
    if (!isfinite(x)) {
        return false;
    }
    *out = x;
    return true;
}

bool json_int(const struct json *v, int64_t *out)
{
    struct decimal d;
    if (!json_is(v, JSON_NUMBER) || v->s[v->n - 1] > '9') {
        return false;
    }
    parse_decimal(&d, v->s, v->n);
    while (d.n > 0 && d.digit[d.n - 1] == '0') {
        d.n--;
    }
    if (d.n > 0 && (d.point < d.n || d.point > 19)) {
        return false;
    }
    uint64_t u = 0;
    for (int i = 0; d.n > 0 && i < d.point; i++) {
        u = u * 10 + (i < d.n ? (uint64_t)(d.digit[i] - '0') : 0); /* below 10^19 < 2^64 */
    }
    if (u > (uint64_t)INT64_MAX + d.neg) {
        return false;
    }
    *out = d.neg ? (int64_t)(0 - u) : (int64_t)u;
    return true;
}

/* The n digits of |v| nearest to it; d->point from printf's exponent. v is finite, not 0. */
static void round_to(struct decimal *d, double v, int n)
{
    char text[64];
    snprintf(text, sizeof text, "%.*e", n - 1, fabs(v));
    const char *p = text;
    d->neg = signbit(v);
    for (d->n = 0; *p != 'e'; p++) { /* passes over the decimal point of any locale */
        if (*p >= '0' && *p <= '9') {
            d->digit[d->n++] = *p;
        }
    }
    d->point = strtoll(p + 1, NULL, 10) + 1;
}

/* One more in the last place. */
static void step_up(struct decimal *d)
{
    int i = d->n - 1;
    for (; i >= 0 && d->digit[i] == '9'; i--) {
        d->digit[i] = '0';
    }
    if (i >= 0) {
        d->digit[i]++;
    } else {
        d->digit[0] = '1';
        d->point++;
    }
}

static void shortest(struct decimal *d, double v)
{
    int exp2;
    bool power = frexp(fabs(v), &exp2) == 0.5;
    /* 15 digits always survive the way through a normal double, so trailing zeros of the 15
     * show the shorter forms; subnormal doubles have fewer digits to give. */
    for (int n = fabs(v) < 0x1p-1022 ? 1 : 15; n <= 17; n++) {
        round_to(d, v, n);
        if (to_double(d) == v) {
            break;
        }
        if (power) {
            step_up(d);
            if (to_double(d) == v) {
                break;
            }
        }
    }
    while (d->n > 1 && d->digit[d->n - 1] == '0') {
        d->n--;
    }
}

static void add_zeros(struct buf *b, long long n)
{
    for (; n > 0; n--) {
        buf_addc(b, '0');
    }
}

void json_write_double(struct buf *b, double v)
{
    struct decimal d;
    if (!isfinite(v)) {
        buf_adds(b, isnan(v) ? "NaN" : v < 0 ? "-Infinity" : "Infinity");
        return;
    }
    if (v == 0) {
        buf_adds(b, signbit(v) ? "-0.0" : "0.0");
        return;
    }
    shortest(&d, v);
    if (d.neg) {
        buf_addc(b, '-');
    }
    if (d.point > 16 || d.point < -3) { /* 1e+16 and up, below 0.0001 */
        buf_addc(b, d.digit[0]);
        if (d.n > 1) {
            buf_addc(b, '.');
            buf_add(b, d.digit + 1, (size_t)d.n - 1);
        }
        buf_addf(b, "e%c%02lld", d.point > 0 ? '+' : '-', llabs(d.point - 1));
        return;
    }
    int whole = (int)MAX(0LL, MIN(d.point, (long long)d.n));
    buf_add(b, d.digit, (size_t)whole);
    add_zeros(b, whole == 0 ? 1 : d.point - d.n);
    buf_addc(b, '.');
    add_zeros(b, -d.point);
    buf_add(b, d.digit + whole, (size_t)(d.n - whole));
    if (whole == d.n) {
        buf_addc(b, '0');
    }
}
