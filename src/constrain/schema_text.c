/* schema_text.c - automata of the strings and numbers of a schema, each made once. */
#include "constrain/schema_int.h"

/* ---- what was made before ---- */

static uint32_t known(const struct schema *s, const struct buf *key)
{
    for (uint32_t i = 0; i < s->n_text; i++) {
        if (slice_eq(s->text[i].key, buf_slice(key))) {
            return s->text[i].dfa;
        }
    }
    return NO_DFA;
}

/* Takes d over; its number. */
static uint32_t remember(struct schema *s, const struct buf *key, struct dfa *d)
{
    if (s->n_text == s->cap_text) {
        uint32_t cap = s->cap_text ? s->cap_text * 2 : 32;
        struct text_dfa *p = mem_realloc(s->text, cap, sizeof *p);
        if (!p) {
            dfa_free(d);
            err_nomem(&s->err, "a schema", cap);
            return NO_DFA;
        }
        s->text = p;
        s->cap_text = cap;
    }
    char *own = arena_strndup(&s->arena, key->n ? key->p : "", key->n);
    uint32_t number = grammar_dfa(s->g, d);
    if (own) {
        s->text[s->n_text++] = (struct text_dfa){{own, key->n}, number};
    }
    return number;
}

/* ---- strings ---- */

/* An error of pattern i: refused, or if the keyword may be ignored, ignored (true). */
static bool ignore(struct schema *s, const struct view *v, uint32_t i, int rc,
                   const fathom_err *err)
{
    if (!s->strict && rc == FATHOM_EUNSUPPORTED) {
        return true;
    }
    schema_fail(s, rc, v->pattern_at[i], v->pattern_key[i], err->msg);
    return false;
}

/* d becomes the texts of d (if n > 1) that also `more` has; takes `more` over. */
static int narrow(struct schema *s, struct dfa *d, struct dfa *more, fathom_err *err)
{
    struct dfa both = {0};
    if (!d->next) {
        *d = *more;
        return 0;
    }
    int rc = dfa_both(&both, d, more, s->fuel, err);
    dfa_free(more);
    if (!rc) {
        dfa_free(d);
        *d = both;
    }
    return rc;
}

static void apply_patterns(struct schema *s, const struct view *v, struct dfa *d)
{
    for (uint32_t i = 0; i < v->n_pattern && schema_ok(s); i++) {
        fathom_err err = {0};
        struct dfa one = {0};
        int rc = regex_compile(&one, v->pattern[i], s->fuel, &err);
        rc = rc ? rc : narrow(s, d, &one, &err);
        if (rc && !ignore(s, v, i, rc, &err)) {
            return;
        }
    }
}

/* A string with a pattern and bounds of its length needs both in one automaton, because a length
 * may be impossible for the pattern. */
static void apply_length(struct schema *s, const struct view *v, struct dfa *d, bool *counted)
{
    fathom_err err = {0};
    struct dfa whole = {0};
    if (!d->next || (v->min_length == 0 && v->max_length == UINT32_MAX)) {
        return;
    }
    int rc = dfa_length(&whole, d, v->min_length, v->max_length, s->fuel, &err);
    if (rc == 0) {
        dfa_free(d);
        *d = whole;
        *counted = true;
    } else if (s->strict || rc != FATHOM_ELIMIT || s->fuel->left == 0) {
        schema_fail(s, rc, v->pattern_at[0], v->pattern_key[0],
                    "together with the bounds of the length this is too large");
    } /* else: the pattern holds, and the bounds are ignored like an unsupported keyword */
}

uint32_t string_dfa(struct schema *s, const struct view *v, bool *counted)
{
    struct buf key = {0};
    struct dfa d = {0};
    *counted = v->n_pattern > 0;
    if (v->n_pattern == 0) {
        return NO_DFA;
    }
    buf_addf(&key, "s %u %u", v->min_length, v->max_length);
    for (uint32_t i = 0; i < v->n_pattern; i++) {
        buf_addf(&key, " %zu ", v->pattern[i].n);
        buf_add_slice(&key, v->pattern[i]);
    }
    uint32_t found = key.failed ? NO_DFA : known(s, &key);
    if (found == NO_DFA) {
        apply_patterns(s, v, &d);
        if (schema_ok(s)) {
            apply_length(s, v, &d, counted);
        }
        if (schema_ok(s) && d.next) {
            found = remember(s, &key, &d);
        } else {
            dfa_free(&d);
            *counted = false; /* every pattern was ignored */
        }
    }
    buf_free(&key);
    return found;
}

/* ---- numbers ---- */

uint32_t number_dfa(struct schema *s, const struct view *v, bool integer)
{
    struct number_bounds b = v->number;
    struct buf key = {0};
    struct dfa d = {0};
    fathom_err err = {0};
    b.integer = integer;
    buf_addf(&key, "n %d %d %d %.*s %.*s", integer, b.min_open, b.max_open, (int)b.min.n,
             b.min.p ? b.min.p : "", (int)b.max.n, b.max.p ? b.max.p : "");
    uint32_t found = known(s, &key);
    if (found == NO_DFA) {
        int rc = dfa_number(&d, &b, s->fuel, &err);
        if (rc) {
            schema_fail(s, rc, NULL, "minimum", err.msg);
        } else {
            found = remember(s, &key, &d);
        }
    }
    buf_free(&key);
    return found;
}
