/* eval_report.c - the results of `fathom eval`: a report for people, JSON for programs, and the
 * single tokens as CSV. Every mean stands with its 95 % interval. */
#include <math.h>
#include <stdio.h>

#include "base/file.h"
#include "base/mem.h"
#include "cmd/eval.h"
#include "json/json.h"

typedef unsigned long long ull;
enum { LISTED_FAILURES = 20 };

/* ---- shared ---- */

/* Accuracy per group of tasks, in the order of their first appearance. */
struct group {
    const char *name;
    size_t n, exact;
};
static size_t groups(struct group **out, const struct eval_tasks *t)
{
    struct group *g = mem_calloc(t->n, sizeof *g);
    size_t n = 0;
    for (size_t i = 0; g && i < t->n; i++) {
        size_t k = 0;
        while (k < n && strcmp(g[k].name, t->v[i].group) != 0) {
            k++;
        }
        g[k].name = t->v[i].group;
        n = MAX(n, k + 1);
        g[k].n++;
        g[k].exact += t->v[i].exact;
    }
    *out = g;
    return g ? n : 0;
}

struct official_sum {
    uint32_t steps, usable, same, first, first_usable, prefix, prompts_equal, prompts_known;
};
static struct official_sum sum_official(const struct official *f)
{
    struct official_sum s = {0};
    for (size_t i = 0; i < f->n; i++) {
        const struct official_case *c = &f->v[i];
        s.steps += c->n_steps;
        s.usable += c->n_usable;
        s.same += c->n_same;
        s.first += c->prefix > 0;
        s.first_usable += c->n_usable > 0;
        s.prefix += c->prefix;
        s.prompts_equal += c->api_prompt && c->api_prompt == c->n_prompt;
        s.prompts_known += c->api_prompt > 0;
    }
    return s;
}

static double share(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* ---- text ---- */

static void text_mean(struct buf *b, const struct eval_mean *m)
{
    buf_addf(b, "%.5g (%.5g .. %.5g)", m->mean, m->lo, m->hi);
}

static void text_percent(struct buf *b, const struct eval_mean *m)
{
    buf_addf(b, "%.2f %% (%.2f .. %.2f)", 100 * m->mean, 100 * m->lo, 100 * m->hi);
}

static void text_set(struct buf *b, const struct cli *o, const struct eval_result *r)
{
    const struct eval_summary *s = &r->sum;
    buf_addf(b, "scored         %llu tokens in %zu %s of %s; %llu computed", (ull)s->n_tokens,
             r->set.n, o->cases ? "cases" : "windows", o->cases ? o->cases : o->file,
             (ull)r->set.n_computed);
    if (o->cases) {
        buf_addf(b, "; %s\n", o->all ? "prompts and continuations" : "continuations only");
    } else {
        buf_addf(b, "; windows of %u, %u of them repeated as context\n", r->window, r->overlap);
    }
    buf_adds(b, "likelihood     nll ");
    text_mean(b, &s->nll);
    buf_addf(b, " nats/token, perplexity %.5g (%.5g .. %.5g)", exp(s->nll.mean), exp(s->nll.lo),
             exp(s->nll.hi));
    if (r->set_bytes) {
        buf_addf(b, ", %.5g nats/byte",
                 s->nll.mean * (double)s->n_tokens / (double)r->set_bytes);
    }
    buf_adds(b, "\naccuracy       ");
    text_percent(b, &s->accuracy);
    buf_adds(b, " of the tokens are the likeliest one\n");
    if (o->cases && !o->all) {
        buf_adds(b, "continuations  first token ");
        text_percent(b, &s->first_hit);
        buf_adds(b, ", greedy common prefix ");
        text_mean(b, &s->prefix);
        buf_addf(b, " of %.1f tokens\n", s->length);
    }
}

static void text_reference(struct buf *b, const struct eval_result *r)
{
    const struct eval_summary *s = &r->sum;
    if (!s->has_ref) {
        return;
    }
    buf_addf(b, "reference      %s\n", r->reference);
    buf_addf(b, "  nll          %.5g; model - reference, paired: %+.3g (%+.3g .. %+.3g)\n",
             s->ref_nll.mean, s->nll_diff.mean, s->nll_diff.lo, s->nll_diff.hi);
    buf_adds(b, "  KL           ");
    text_mean(b, &s->kl);
    buf_addf(b, " nats/token; median %.3g, 90 %% %.3g, 99 %% %.3g, largest %.3g\n",
             s->kl_median, s->kl_p90, s->kl_p99, s->kl_max);
    buf_adds(b, "  same best    ");
    text_percent(b, &s->agree);
    buf_adds(b, "\n");
    if (r->kept) {
        buf_addf(
            b,
            "  (from the %u likeliest ids of a row; %.3g of the mass is taken together, so "
            "the KL is a lower bound)\n",
            r->kept, s->rest_mass);
    }
}

static void text_floor(struct buf *b, const struct eval_result *r)
{
    for (uint32_t i = 0; i < r->n_floor; i++) {
        const struct eval_floor *f = &r->floor[i];
        buf_addf(b, "noise floor    same weights, %s: KL ", f->name);
        text_mean(b, &f->sum.kl);
        buf_adds(b, ", same best ");
        text_percent(b, &f->sum.agree);
        buf_addf(b, "; %llu tokens\n", (ull)f->sum.n_tokens);
    }
    if (!r->n_floor && r->sum.has_ref) {
        buf_adds(b, "noise floor    not measured (--floor)\n");
    }
    buf_addf(b,
             "intervals      95 %%, bootstrap over %llu blocks of at most %d tokens, %u draws, "
             "seed %llu\n",
             (ull)r->sum.n_blocks, EVAL_BLOCK, r->sum.resamples, (ull)r->sum.seed);
}

static void text_tasks(struct buf *b, const struct eval_tasks *t)
{
    struct group *g;
    size_t n = groups(&g, t), listed = 0;
    buf_addf(b, "tasks          %zu of %zu exact: %.2f %%", t->n_exact, t->n,
             100 * share((double)t->n_exact, (double)t->n));
    buf_addf(b, " (%zu lines without accepted answers left out)\n", t->n_skipped);
    for (size_t i = 0; i < n; i++) {
        buf_addf(b, "  %-12s %zu of %zu\n", g[i].name, g[i].exact, g[i].n);
    }
    for (size_t i = 0; i < t->n && listed < LISTED_FAILURES; i++) {
        if (!t->v[i].exact) {
            buf_addf(b, "%s%s", listed++ ? " " : "  not exact:   ", t->v[i].id);
        }
    }
    buf_adds(b, listed ? "\n" : "");
    mem_free(g);
}

static void text_token(struct buf *b, const struct tokenizer *tok, uint32_t id)
{
    struct slice s = tokenizer_bytes(tok, id);
    json_write_str(b, s);
}

static void text_official(struct buf *b, const struct official *f, const struct tokenizer *tok)
{
    struct official_sum s = sum_official(f);
    buf_addf(
        b,
        "official       %u of %u tokens the same, first token %u of %u, common prefix %.2f; "
        "prompt lengths as counted by the API: %u of %u\n",
        s.same, s.usable, s.first, s.first_usable, share(s.prefix, (double)f->n),
        s.prompts_equal, s.prompts_known);
    if (s.usable < s.steps) {
        buf_addf(b,
                 "  %u of %u official tokens were not compared: the vocabulary lacks them, or "
                 "one before them\n",
                 s.steps - s.usable, s.steps);
    }
    for (size_t i = 0; i < f->n; i++) {
        const struct official_case *c = &f->v[i];
        buf_addf(b, "  %-28s %u of %u", c->id, c->n_same, c->n_usable);
        if (c->api_prompt && c->api_prompt != c->n_prompt) {
            buf_addf(b, "; prompt %u tokens, %u by the API", c->n_prompt, c->api_prompt);
        }
        if (c->other != UINT32_MAX) {
            buf_adds(b, "; chose ");
            text_token(b, tok, c->other);
            buf_adds(b, " where the API chose ");
            text_token(b, tok, c->wanted);
        }
        buf_adds(b, "\n");
    }
}

static void text_all(struct buf *b, const struct cli *o, const struct eval_result *r,
                     const struct tokenizer *tok)
{
    buf_addf(b, "model          %s, %s of weights; %s, %s\n", r->label,
             cmd_bytes(r->info.weight_bytes), r->backend, r->arith);
    if (r->has_set) {
        text_set(b, o, r);
        text_reference(b, r);
        text_floor(b, r);
    }
    if (r->saved[0]) {
        buf_addf(b, "written        %s, %s\n", r->saved, cmd_bytes(r->saved_bytes));
    }
    if (r->tasks.n) {
        text_tasks(b, &r->tasks);
    }
    if (r->official.n) {
        text_official(b, &r->official, tok);
    }
}

/* ---- JSON ---- */

static void json_num(struct buf *b, const char *key, double v)
{
    buf_addf(b, "\"%s\":", key);
    if (isfinite(v)) {
        json_write_double(b, v);
    } else {
        buf_adds(b, "null");
    }
}

static void json_text(struct buf *b, const char *key, const char *v)
{
    buf_addf(b, "\"%s\":", key);
    json_write_str(b, slice_of(v));
}

static void json_mean(struct buf *b, const char *key, const struct eval_mean *m)
{
    buf_addf(b, "\"%s\":{", key);
    json_num(b, "mean", m->mean);
    buf_addc(b, ',');
    json_num(b, "lo", m->lo);
    buf_addc(b, ',');
    json_num(b, "hi", m->hi);
    buf_addc(b, '}');
}

static void json_kl(struct buf *b, const struct eval_summary *s)
{
    json_mean(b, "kl", &s->kl);
    buf_addc(b, ',');
    json_mean(b, "same_best", &s->agree);
    const double q[] = {s->kl_median, s->kl_p90, s->kl_p99, s->kl_max};
    static const char *const names[] = {"kl_median", "kl_p90", "kl_p99", "kl_max"};
    for (size_t i = 0; i < ARRAY_LEN(q); i++) {
        buf_addc(b, ',');
        json_num(b, names[i], q[i]);
    }
}

static void json_scored(struct buf *b, const struct cli *o, const struct eval_result *r)
{
    const struct eval_summary *s = &r->sum;
    buf_adds(b, ",\"scored\":{");
    json_text(b, "source", o->cases ? "cases" : "text");
    buf_addc(b, ',');
    json_text(b, "file", o->cases ? o->cases : o->file);
    buf_addf(b, ",\"sequences\":%zu,\"tokens\":%llu,\"computed\":%llu,\"bytes\":%llu,",
             r->set.n, (ull)s->n_tokens, (ull)r->set.n_computed, (ull)r->set_bytes);
    if (o->cases) {
        buf_addf(b, "\"prompts\":%s,", o->all ? "true" : "false");
    } else {
        buf_addf(b, "\"window\":%u,\"overlap\":%u,", r->window, r->overlap);
    }
    json_mean(b, "nll", &s->nll);
    buf_addc(b, ',');
    json_num(b, "perplexity", exp(s->nll.mean));
    buf_addc(b, ',');
    json_num(b, "nll_per_byte",
             r->set_bytes ? s->nll.mean * (double)s->n_tokens / (double)r->set_bytes : NAN);
    buf_addc(b, ',');
    json_mean(b, "accuracy", &s->accuracy);
    if (o->cases && !o->all) {
        buf_addc(b, ',');
        json_mean(b, "first_token", &s->first_hit);
        buf_addc(b, ',');
        json_mean(b, "common_prefix", &s->prefix);
        buf_addc(b, ',');
        json_num(b, "continuation_tokens", s->length);
    }
    buf_addf(b,
             ",\"bootstrap\":{\"blocks\":%llu,\"block_tokens\":%d,\"draws\":%u,\"seed\":%llu}",
             (ull)s->n_blocks, EVAL_BLOCK, s->resamples, (ull)s->seed);
    if (s->has_ref) {
        buf_adds(b, ",\n\"reference\":{");
        json_text(b, "model", r->reference);
        buf_addf(b, ",\"kept\":%u,", r->kept);
        json_num(b, "rest_mass", s->rest_mass);
        buf_addc(b, ',');
        json_mean(b, "nll", &s->ref_nll);
        buf_addc(b, ',');
        json_num(b, "accuracy", s->ref_accuracy);
        buf_addc(b, ',');
        json_mean(b, "nll_difference", &s->nll_diff);
        buf_addc(b, ',');
        json_kl(b, s);
        buf_addc(b, '}');
    }
    buf_adds(b, ",\n\"floor\":[");
    for (uint32_t i = 0; i < r->n_floor; i++) {
        buf_adds(b, i ? ",{" : "{");
        json_text(b, "arithmetic", r->floor[i].name);
        buf_addf(b, ",\"tokens\":%llu,", (ull)r->floor[i].sum.n_tokens);
        json_kl(b, &r->floor[i].sum);
        buf_addc(b, '}');
    }
    buf_adds(b, "]}");
}

static void json_tasks(struct buf *b, const struct eval_tasks *t)
{
    struct group *g;
    size_t n = groups(&g, t);
    bool first = true;
    buf_addf(b, ",\n\"tasks\":{\"n\":%zu,\"exact\":%zu,\"skipped\":%zu,\"groups\":[", t->n,
             t->n_exact, t->n_skipped);
    for (size_t i = 0; i < n; i++) {
        buf_adds(b, i ? ",{" : "{");
        json_text(b, "task", g[i].name);
        buf_addf(b, ",\"n\":%zu,\"exact\":%zu}", g[i].n, g[i].exact);
    }
    buf_adds(b, "],\"failed\":[");
    for (size_t i = 0; i < t->n; i++) {
        if (!t->v[i].exact) {
            buf_adds(b, first ? "{" : ",{");
            json_text(b, "id", t->v[i].id);
            buf_adds(b, ",\"answer\":");
            json_write_str(b, buf_slice(&t->v[i].text));
            buf_addc(b, '}');
            first = false;
        }
    }
    buf_adds(b, "]}");
    mem_free(g);
}

static void json_official(struct buf *b, const struct official *f)
{
    struct official_sum s = sum_official(f);
    buf_addf(b,
             ",\n\"official\":{\"cases\":%zu,\"steps\":%u,\"compared\":%u,\"same\":%u,"
             "\"first_same\":%u,\"first_compared\":%u,\"prompt_lengths_same\":%u,"
             "\"prompt_lengths_known\":%u,",
             f->n, s.steps, s.usable, s.same, s.first, s.first_usable, s.prompts_equal,
             s.prompts_known);
    json_num(b, "common_prefix", share(s.prefix, (double)f->n));
    buf_adds(b, ",\"list\":[");
    for (size_t i = 0; i < f->n; i++) {
        const struct official_case *c = &f->v[i];
        buf_adds(b, i ? ",{" : "{");
        json_text(b, "id", c->id);
        buf_addf(b,
                 ",\"prompt_tokens\":%u,\"api_prompt_tokens\":%u,\"steps\":%u,\"compared\":%u,"
                 "\"same\":%u,\"prefix\":%u}",
                 c->n_prompt, c->api_prompt, c->n_steps, c->n_usable, c->n_same, c->prefix);
    }
    buf_adds(b, "]}");
}

static void json_all(struct buf *b, const struct cli *o, const struct eval_result *r)
{
    buf_addc(b, '{');
    json_text(b, "model", r->label);
    buf_addf(b, ",\"weight_bytes\":%llu,", (ull)r->info.weight_bytes);
    json_text(b, "backend", r->backend);
    buf_addc(b, ',');
    json_text(b, "arithmetic", r->arith);
    if (r->has_set) {
        json_scored(b, o, r);
    }
    if (r->tasks.n) {
        json_tasks(b, &r->tasks);
    }
    if (r->official.n) {
        json_official(b, &r->official);
    }
    buf_adds(b, "}\n");
}

int eval_report(const struct cli *o, const struct eval_result *r, const struct tokenizer *tok)
{
    struct buf b = {0};
    if (o->json) {
        json_all(&b, o, r);
    } else {
        text_all(&b, o, r, tok);
    }
    return cmd_print(&b);
}

/* ---- single tokens ---- */

int eval_write_rows(const char *path, const struct eval_result *r, fathom_err *err)
{
    struct file_out f;
    struct buf b = {0};
    int rc = file_out_open(&f, path, err);
    buf_adds(&b, "seq,pos,id,nll,hit,ref_nll,ref_hit,kl,agree\n");
    const struct eval_token *t = r->score.tok;
    for (size_t i = 0; rc == 0 && i < r->set.n; i++) {
        const struct eval_seq *q = &r->set.seq[i];
        for (uint32_t k = q->from; k < q->n; k++, t++) {
            buf_addf(&b, "%zu,%u,%u,%.9g,%d,", i, k, r->set.ids.p[q->at + k], t->nll, t->hit);
            if (r->score.has_ref) {
                buf_addf(&b, "%.9g,%d,%.9g,%d\n", t->ref_nll, t->ref_hit, t->kl, t->agree);
            } else {
                buf_adds(&b, ",,,\n");
            }
        }
        rc = b.failed ? err_nomem(err, path, b.n) : file_out_write(&f, b.p, b.n, err);
        buf_clear(&b);
    }
    rc = rc ? rc : file_out_commit(&f, err);
    file_out_abort(&f);
    buf_free(&b);
    return rc;
}
