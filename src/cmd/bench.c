/* bench.c - `fathom bench`: which of its parts runs, and which options go together. Everything
 * that is measured is quoted against what the machine reached in the same run. Read next:
 * bench_model.c. */
#include "cmd/bench.h"

static int check_kernels(const struct cli *o)
{
    if (o->synthetic || o->model || o->frontiers || o->standard || o->fill || o->save) {
        return cmd_usage(o, "--kernels measures products, not a model: give neither -m nor "
                            "--synthetic nor frontiers");
    }
    if (o->backend && strcmp(o->backend, "cpu") != 0) {
        return cmd_usage(o, "--kernels measures the cpu backend");
    }
    return 0;
}

static int check_model(const struct cli *o)
{
    if (o->synthetic && o->model) {
        return cmd_usage(o, "give either -m or --synthetic, not both");
    }
    if (!o->synthetic &&
        (o->recipe || o->layers || o->ratios || o->experts || o->vocab || o->save)) {
        return cmd_usage(o, "--recipe, --layers, --ratios, --experts, --vocab and --save go "
                            "with --synthetic");
    }
    if (o->ratios && !o->layers) {
        return cmd_usage(o, "--ratios goes with --layers");
    }
    if (o->standard && o->frontiers) {
        return cmd_usage(o, "give either --standard or --frontiers, not both");
    }
    if (o->formats || o->decode_only) {
        return cmd_usage(o, "--formats and --decode-only go with --kernels");
    }
    return 0;
}

int cmd_bench(struct cli *o)
{
    if (o->csv && o->json) {
        return cmd_usage(o, "give either --csv or --json, not both");
    }
    int rc = o->kernels ? check_kernels(o) : check_model(o);
    return rc ? rc : o->kernels ? bench_kernels(o) : bench_model(o);
}
