/* bench_report.c - prints what bench_model.c measured: a table, CSV (product columns only, one
 * row as soon as it is known) or JSON (everything). Whatever is not measured directly says so:
 * rows with a random cache, speeds extrapolated to all layers. */
#include "cmd/bench.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "json/json.h"

static const char *kind_name(uint32_t ratio, char *out, size_t cap)
{
    if (ratio == 0) {
        snprintf(out, cap, "window");
    } else {
        snprintf(out, cap, "ratio %u", ratio);
    }
    return out;
}

void bench_report_begin(const struct cli *o, const struct bench_result *r)
{
    if (o->csv) {
        puts("ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,kvcache_bytes");
    } else if (!o->json) {
        printf("%s\n%s, %s, %u threads, chunk %u; weights %s\n", r->name, r->backend, r->device,
               r->threads, r->chunk, cmd_bytes(r->weight_bytes));
        if (r->in_turn) {
            printf("%u contexts decode in turn, step by step\n", r->n_ctx);
        } else if (r->n_ctx > 1) {
            printf("%u contexts, one after the other: %s\n", r->n_ctx, r->alone);
        }
        putchar('\n');
        printf("%9s %9s %9s %7s %9s %9s %9s %6s %6s %9s\n", "context", "prefill", "tok/s",
               "decoded", "tok/s", "best", "MB/token", "reads", "share", "cache");
    }
    fflush(stdout);
}

void bench_report_row(const struct cli *o, const struct bench_result *r,
                      const struct bench_row *row)
{
    if (o->csv) {
        printf("%u,%u,%.3f,%u,%.3f,%llu\n", row->ctx, row->n_prefill, row->prefill_tps,
               row->n_gen, row->gen_tps, (unsigned long long)row->kv_bytes);
    } else if (!o->json) {
        printf("%8u%c %9u %9.2f %7u %9.2f %9.2f %9.1f %6.1f %5.1f%% %9s\n", row->ctx,
               row->filled ? '*' : ' ', row->n_prefill, row->prefill_tps, row->n_gen,
               row->gen_tps, row->gen_best_tps, (double)row->read_bytes / 1e6, row->read_gbs,
               100 * row->share, cmd_bytes(row->kv_bytes));
    }
    (void)r;
    fflush(stdout);
}

/* ---- the rest of the table ---- */

static void text_kinds(struct buf *b, const struct bench_result *r)
{
    char name[32];
    buf_adds(b, "\nms per token, decode: head, then one layer of each kind (GB/s)\n"
                "  context              head");
    for (uint32_t k = 0; k < r->row[0].n_kind; k++) {
        buf_addf(b, "%18s", kind_name(r->row[0].kind[k].ratio, name, sizeof name));
    }
    for (uint32_t i = 0; i < r->n_row; i++) {
        const struct bench_row *row = &r->row[i];
        buf_addf(b, "\n%9u %9.3f (%5.1f)", row->ctx, row->decode.head * 1e3,
                 (double)row->head_read_bytes / row->decode.head / 1e9);
        for (uint32_t k = 0; k < row->n_kind; k++) {
            const struct bench_kind *x = &row->kind[k];
            buf_addf(b, " %9.3f (%5.1f)", row->decode.kind[k] / x->n_layer * 1e3,
                     (double)x->read_bytes / row->decode.kind[k] / 1e9);
        }
    }
    buf_addc(b, '\n');
}

static void text_spread(struct buf *b, const char *what, const struct bench_spread *s)
{
    char sure[32] = "";
    if (s->lo > 0) {
        snprintf(sure, sizeof sure, "%.4f - %.4f", s->lo, s->hi);
    }
    buf_addf(b, "  %-24s %7.4f  %15s  %7.4f - %.4f %+8.1f%%\n", what, s->median, sure, s->q1,
             s->q3, 100 * (1 / s->median - 1));
}

/* Each context against the first. */
static void text_turn(struct buf *b, const struct bench_result *r)
{
    char name[32], what[64];
    buf_addf(b,
             "\ntime of a decode step over that at %u in the same round, %u rounds: median, "
             "its 95 %% interval,\nquartiles, speed by the median\n",
             r->row[0].ctx, r->row[0].turn.n_round);
    for (uint32_t i = 1; i < r->n_row; i++) {
        const struct bench_row *row = &r->row[i];
        const struct bench_turn *t = &row->turn;
        buf_addf(b, "%9u\n", row->ctx);
        text_spread(b, "step", &t->step);
        text_spread(b, "head", &t->head);
        for (uint32_t k = 0; k < row->n_kind; k++) {
            snprintf(what, sizeof what, "layers of %s",
                     kind_name(row->kind[k].ratio, name, sizeof name));
            text_spread(b, what, &t->kind[k]);
        }
        if (t->full.median > 0) {
            snprintf(what, sizeof what, "extrapolated, %u layers", r->n_full_layer);
            text_spread(b, what, &t->full);
        }
    }
}

/* seconds, bytes (NULL: unknown): of each op. */
static void text_ops(struct buf *b, const char *what, const struct bench_row *row,
                     const double seconds[OP_KIND_COUNT], const uint64_t *bytes)
{
    bool done[OP_KIND_COUNT] = {false};
    double total = 0;
    for (int i = 0; i < OP_KIND_COUNT; i++) {
        total += seconds[i];
    }
    buf_addf(b, "\nops of %s at %u: ms, share%s\n", what, row->ctx, bytes ? ", GB/s" : "");
    for (int n = 0; n < OP_KIND_COUNT; n++) { /* largest first */
        int best = -1;
        for (int i = 0; i < OP_KIND_COUNT; i++) {
            if (!done[i] && (best < 0 || seconds[i] > seconds[best])) {
                best = i;
            }
        }
        done[best] = true;
        double s = seconds[best];
        if (s >= 0.005 * total && total > 0) {
            buf_addf(b, "  %-20s %12.3f %5.1f%%", op_name((enum op_kind)best), s * 1e3,
                     100 * s / total);
            if (bytes) {
                buf_addf(b, " %6.1f", (double)bytes[best] / s / 1e9);
            }
            buf_addc(b, '\n');
        }
    }
}

/* Of all kinds of op. */
static struct bench_products all_products(const struct bench_row *row)
{
    struct bench_products sum = {0};
    for (int i = 0; i < OP_KIND_COUNT; i++) {
        bench_products_add(&sum, &row->products[i]);
    }
    return sum;
}

/* GFLOP/s, the loop's, and the share; blanks where there are no such products. */
static void text_share(struct buf *b, double flop, double seconds, double loop_flop)
{
    if (seconds > 0) {
        buf_addf(b, " %7.0f %7.0f %6.1f%%", flop / seconds / 1e9, loop_flop / seconds / 1e9,
                 100 * flop / loop_flop);
    } else {
        buf_addf(b, "%24s", "");
    }
}

static void text_product_row(struct buf *b, const char *name, const struct bench_products *p)
{
    buf_addf(b, "  %-16s", name);
    for (int i = 0; i < 2; i++) {
        text_share(b, p->flop[i], p->seconds[i], p->loop_flop[i]);
    }
    text_share(b, p->flop[0] + p->flop[1], p->seconds[0] + p->seconds[1], p->int8_ops);
    buf_addf(b, " %9.1f\n", (p->seconds[0] + p->seconds[1]) * 1e3);
}

static void text_products(struct buf *b, const struct bench_result *r)
{
    buf_adds(
        b, "\nweight products of a prompt's last chunk: GFLOP/s, those of register-only loops "
           "between\nthe ops on as many threads, and the share: block formats against int8 "
           "dots, F16 BF16 F32\nagainst F32 fma, all against int8 dots; ms\n");
    for (uint32_t i = 0; i < r->n_row; i++) {
        const struct bench_row *row = &r->row[i];
        struct bench_products all = all_products(row);
        char name[32];
        if (all.int8_ops == 0) {
            continue;
        }
        snprintf(name, sizeof name, "to %u", row->ctx);
        buf_addf(b, "%-18s%24s%24s%24s\n", "", "block formats", "floats", "all");
        text_product_row(b, name, &all);
        for (int k = 0; k < OP_KIND_COUNT; k++) {
            if (row->products[k].int8_ops > 0) {
                text_product_row(b, op_name((enum op_kind)k), &row->products[k]);
            }
        }
    }
}

static void text_extrapolated(struct buf *b, const struct bench_result *r)
{
    buf_addf(
        b, "\nextrapolated to the %u layers of %s (head once, each kind as often as there):\n",
        r->n_full_layer, r->cut_of);
    for (uint32_t i = 0; i < r->n_row; i++) {
        const struct bench_row *row = &r->row[i];
        if (row->full_gen_tps > 0) {
            double limit = row->read_gbs * 1e9 / (double)row->full_read_bytes;
            buf_addf(b,
                     "%9u  prefill %.3f tok/s, decode %.3f tok/s (%.1f MB/token: reads allow "
                     "%.2f, so %.1f%%)\n",
                     row->ctx, row->full_prefill_tps, row->full_gen_tps,
                     (double)row->full_read_bytes / 1e6, limit,
                     100 * row->full_gen_tps / limit);
        } else {
            buf_addf(b, "%9u  not possible: a kind of layer is missing in the cut\n", row->ctx);
        }
    }
}

static void text_end(struct buf *b, const struct bench_result *r)
{
    bool filled = false;
    for (uint32_t i = 0; i < r->n_row; i++) {
        filled |= r->row[i].filled;
    }
    buf_adds(b, "reads: GB/s that plain reads reach; share: MB/token x tok/s of that\n");
    if (filled) {
        buf_adds(b, "* the cache holds random rows; only the last tokens were computed\n");
    }
    text_kinds(b, r);
    if (r->in_turn) {
        text_turn(b, r);
    }
    const struct bench_row *last = &r->row[r->n_row - 1];
    text_ops(b, "a decode step", last, last->op_seconds, last->op_bytes);
    text_ops(b, "the prompt", last, last->prompt_op_seconds, NULL);
    text_products(b, r);
    if (r->cut_of && r->n_layer < r->n_full_layer) {
        text_extrapolated(b, r);
    }
}

/* ---- JSON ---- */

static void json_num(struct buf *b, const char *key, double v)
{
    buf_addf(b, "\"%s\":", key);
    cmd_add_float(b, (float)v);
    buf_addc(b, ',');
}

static void json_share(struct buf *b, const char *key, double flop, double seconds,
                       double loop_flop)
{
    buf_addf(b, "\"%s\":", key);
    if (seconds > 0) {
        buf_addc(b, '{');
        json_num(b, "gflops", flop / seconds / 1e9);
        json_num(b, "loop_gops", loop_flop / seconds / 1e9);
        json_num(b, "share", flop / loop_flop);
        json_num(b, "ms", seconds * 1e3);
        b->n--;
        buf_addc(b, '}');
    } else {
        buf_adds(b, "null");
    }
    buf_addc(b, ',');
}

static void json_products(struct buf *b, const char *key, const struct bench_products *p)
{
    buf_addf(b, "\"%s\":{", key);
    json_share(b, "block", p->flop[BENCH_BLOCK], p->seconds[BENCH_BLOCK], p->loop_flop[0]);
    json_share(b, "float", p->flop[BENCH_FLOAT], p->seconds[BENCH_FLOAT], p->loop_flop[1]);
    json_share(b, "all", p->flop[0] + p->flop[1], p->seconds[0] + p->seconds[1], p->int8_ops);
    b->n--;
    buf_addc(b, '}');
}

static void json_row_products(struct buf *b, const struct bench_row *row)
{
    struct bench_products all = all_products(row);
    json_products(b, "prefill_products", &all);
    buf_adds(b, ",\"prefill_products_by_op\":{");
    const char *comma = "";
    for (int i = 0; i < OP_KIND_COUNT; i++) {
        if (row->products[i].int8_ops > 0) {
            buf_adds(b, comma);
            json_products(b, op_name((enum op_kind)i), &row->products[i]);
            comma = ",";
        }
    }
    buf_adds(b, "},");
}

static void json_spread(struct buf *b, const char *key, const struct bench_spread *s)
{
    buf_addf(b, "\"%s\":", key);
    if (s->median > 0) {
        buf_addc(b, '{');
        json_num(b, "q1", s->q1);
        json_num(b, "median", s->median);
        json_num(b, "q3", s->q3);
        if (s->lo > 0) {
            json_num(b, "lo", s->lo);
            json_num(b, "hi", s->hi);
            b->n--;
        } else {
            buf_adds(b, "\"lo\":null,\"hi\":null");
        }
        buf_adds(b, "},");
    } else {
        buf_adds(b, "null,");
    }
}

/* The double at `offset` of every round, in milliseconds. */
static void json_rounds(struct buf *b, const char *key, const struct bench_turn *t,
                        size_t offset)
{
    buf_addf(b, "\"%s\":[", key);
    for (uint32_t i = 0; i < t->n_round; i++) {
        double seconds;
        memcpy(&seconds, (const char *)&t->round[i] + offset, sizeof seconds);
        buf_adds(b, i ? "," : "");
        cmd_add_float(b, (float)(seconds * 1e3));
    }
    buf_adds(b, "],");
}

static void json_turn(struct buf *b, const struct bench_row *row)
{
    const struct bench_turn *t = &row->turn;
    buf_adds(b, "\"in_turn\":");
    if (t->n_round == 0) {
        buf_adds(b, "null,");
        return;
    }
    buf_addf(b, "{\"against\":%u,\"rounds\":%u,", t->base_ctx, t->n_round);
    json_spread(b, "step", &t->step);
    json_spread(b, "head", &t->head);
    json_spread(b, "extrapolated", &t->full);
    json_rounds(b, "step_ms", t, offsetof(struct bench_split, step));
    json_rounds(b, "head_ms", t, offsetof(struct bench_split, head));
    buf_adds(b, "\"kinds\":[");
    for (uint32_t k = 0; k < row->n_kind; k++) {
        buf_addf(b, "%s{\"ratio\":%u,", k ? "," : "", row->kind[k].ratio);
        json_spread(b, "layers", &t->kind[k]);
        json_rounds(b, "layers_ms", t, offsetof(struct bench_split, kind) + k * sizeof(double));
        b->n--;
        buf_addc(b, '}');
    }
    buf_adds(b, "]},");
}

static void json_row(struct buf *b, const struct bench_row *row)
{
    buf_addf(b, "{\"ctx_tokens\":%u,\"prefill_tokens\":%u,\"gen_tokens\":%u,", row->ctx,
             row->n_prefill, row->n_gen);
    json_num(b, "prefill_tps", row->prefill_tps);
    json_num(b, "gen_tps", row->gen_tps);
    json_num(b, "gen_best_tps", row->gen_best_tps);
    json_num(b, "read_gbs", row->read_gbs);
    json_num(b, "bandwidth_share", row->share);
    json_row_products(b, row);
    buf_addf(b, "\"kvcache_bytes\":%llu,\"bytes_per_token\":%llu,\"filled\":%s,",
             (unsigned long long)row->kv_bytes, (unsigned long long)row->read_bytes,
             row->filled ? "true" : "false");
    buf_adds(b, "\"extrapolated\":");
    if (row->full_gen_tps > 0) {
        buf_addc(b, '{');
        json_num(b, "prefill_tps", row->full_prefill_tps);
        json_num(b, "gen_tps", row->full_gen_tps);
        buf_addf(b, "\"bytes_per_token\":%llu},", (unsigned long long)row->full_read_bytes);
    } else {
        buf_adds(b, "null,");
    }
    json_turn(b, row);
    json_num(b, "head_decode_ms", row->decode.head * 1e3);
    json_num(b, "head_prefill_ms", row->prefill.head * 1e3);
    buf_addf(b, "\"head_bytes\":%llu,\"kinds\":[", (unsigned long long)row->head_read_bytes);
    for (uint32_t k = 0; k < row->n_kind; k++) {
        const struct bench_kind *x = &row->kind[k];
        buf_addf(b, "%s{\"ratio\":%u,\"layers\":%u,\"layers_in_model\":%u,", k ? "," : "",
                 x->ratio, x->n_layer, x->n_full);
        json_num(b, "decode_ms", row->decode.kind[k] * 1e3);
        json_num(b, "prefill_ms", row->prefill.kind[k] * 1e3);
        buf_addf(b, "\"bytes\":%llu}", (unsigned long long)x->read_bytes);
    }
    buf_adds(b, "],\"op_ms\":{");
    for (int i = 0; i < OP_KIND_COUNT; i++) {
        json_num(b, op_name((enum op_kind)i), row->op_seconds[i] * 1e3);
    }
    b->n--;
    buf_adds(b, "},\"prompt_op_ms\":{");
    for (int i = 0; i < OP_KIND_COUNT; i++) {
        json_num(b, op_name((enum op_kind)i), row->prompt_op_seconds[i] * 1e3);
    }
    b->n--;
    buf_adds(b, "},\"op_bytes\":{");
    for (int i = 0; i < OP_KIND_COUNT; i++) {
        buf_addf(b, "%s\"%s\":%llu", i ? "," : "", op_name((enum op_kind)i),
                 (unsigned long long)row->op_bytes[i]);
    }
    buf_adds(b, "}}");
}

static void json_all(struct buf *b, const struct bench_result *r)
{
    buf_adds(b, "{\"model\":");
    json_write_str(b, slice_of(r->name));
    buf_adds(b, ",\"backend\":");
    json_write_str(b, slice_of(r->backend));
    buf_adds(b, ",\"cpu\":");
    json_write_str(b, slice_of(r->device));
    buf_addf(b,
             ",\"threads\":%u,\"chunk\":%u,\"layers\":%u,\"layers_in_model\":%u,"
             "\"random_weights\":%s,\"weight_bytes\":%llu,",
             r->threads, r->chunk, r->n_layer, r->n_full_layer, r->cut_of ? "true" : "false",
             (unsigned long long)r->weight_bytes);
    json_num(b, "read_gbs", r->read_gbs);
    json_num(b, "int8_gops", r->int8_gops);
    buf_addf(b, "\"in_turn\":%s,\"alone_because\":", r->in_turn ? "true" : "false");
    if (r->in_turn) {
        buf_adds(b, "null");
    } else {
        json_write_str(b, slice_of(r->alone));
    }
    buf_adds(b, ",\"rows\":[");
    for (uint32_t i = 0; i < r->n_row; i++) {
        buf_adds(b, i ? ",\n" : "");
        json_row(b, &r->row[i]);
    }
    buf_adds(b, "]}\n");
}

int bench_report_end(const struct cli *o, const struct bench_result *r)
{
    struct buf b = {0};
    if (o->json) {
        json_all(&b, r);
    } else if (!o->csv && r->n_row) {
        text_end(&b, r);
    }
    return cmd_print(&b);
}
