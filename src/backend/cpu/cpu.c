/* cpu.c - the cpu backend as backend.h wants it: device, capabilities, weights, buffers.
 *
 * Weights are used where they lie (the mapped file or the owner's copies), so loading is
 * nothing. The engine thread is worker 0 of the team: submit runs the step and wait has nothing
 * left to wait for. The arithmetic class names the order of operations of op.h and this
 * backend's own choices (exp, divisions); it changes whenever any bit of any result does, and
 * it is the same for all tiers because they agree bit for bit. Read next: exec.c. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"
#include "backend/cpu/exec.h"
#include "base/str.h"

#define ARITH_CLASS "cpu/1"

static uint64_t memory_total(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && bytes > 0 ? (uint64_t)pages * (uint64_t)bytes : 0;
}

static int cpu_probe(struct backend_info *out, fathom_err *err)
{
    (void)err;
    uint32_t tiers = kern_available();
    *out = (struct backend_info){
        .available = true, .memory_bytes = memory_total(), .n_units = team_cores()};
    snprintf(out->device_name, sizeof out->device_name, "CPU, %" PRIu32 " cores", out->n_units);
    static const struct {
        enum cpu_tier tier;
        const char *name;
    } names[] = {{CPU_TIER_AVX2, " avx2"},       {CPU_TIER_AVXVNNI, " avxvnni"},
                 {CPU_TIER_AVX512, " avx512"},   {CPU_TIER_AVX512VNNI, " avx512vnni"},
                 {CPU_TIER_AMX, " amx"},         {CPU_TIER_NEON, " neon"},
                 {CPU_TIER_DOTPROD, " dotprod"}, {CPU_TIER_I8MM, " i8mm"}};
    size_t n = (size_t)snprintf(out->features, sizeof out->features, "tiers: c");
    for (size_t i = 0; i < ARRAY_LEN(names) && n < sizeof out->features; i++) {
        const char *name = tiers & names[i].tier ? names[i].name : "";
        n += (size_t)snprintf(out->features + n, sizeof out->features - n, "%s", name);
    }
    return 0;
}

static void cpu_close(struct device *dev)
{
    if (dev) {
        team_free(dev->team);
        mem_free(dev);
    }
}

static int cpu_open(struct device **out, const struct backend_config *cfg, fathom_err *err)
{
    struct device *dev = mem_calloc(1, sizeof *dev);
    if (!dev) {
        return err_nomem(err, "cpu device", sizeof *dev);
    }
    dev->tier = kern_select(&dev->kern, cfg ? cfg->cpu_mask : 0);
    int rc = team_create(&dev->team, cfg ? cfg->n_threads : 0, cfg && cfg->pin, err);
    if (rc != 0) {
        cpu_close(dev);
        return rc;
    }
    dev->n_workers = team_size(dev->team);
    dev->folds = !(cfg && str_list_has(cfg->debug, "no-folds"));
    *out = dev;
    return 0;
}

static void cpu_caps(const struct device *dev, struct backend_caps *out)
{
    (void)dev;
    *out = (struct backend_caps){
        .host_visible = true, .picked = true, .t_max = CPU_T_MAX, .row_align = 64};
    snprintf(out->arith_class, sizeof out->arith_class, "%s", ARITH_CLASS);
}

static int cpu_weights_load(struct device *dev, const struct op_weight *weights, uint32_t n,
                            fathom_err *err)
{
    (void)dev;
    for (uint32_t i = 0; i < n; i++) {
        if (!weights[i].data) {
            return err_set(err, FATHOM_EINVAL, "weight %s has no data",
                           weights[i].name ? weights[i].name : "?");
        }
    }
    return 0;
}

static void cpu_weights_free(struct device *dev)
{
    (void)dev;
}

static const char *cpu_supports(const struct device *dev, const struct program *p,
                                const struct op *op)
{
    (void)dev;
    return cpu_exec_supports(p, op);
}

static int cpu_wait(struct device *dev, fathom_err *err)
{
    (void)dev;
    (void)err;
    return 0;
}

static void cpu_trace(struct device *dev, const struct backend_trace *t)
{
    dev->trace = t ? *t : (struct backend_trace){0};
}

const struct backend backend_cpu = {
    .name = "cpu",
    .probe = cpu_probe,
    .open = cpu_open,
    .close = cpu_close,
    .caps = cpu_caps,
    .weights_load = cpu_weights_load,
    .weights_free = cpu_weights_free,
    .buf_alloc = host_buf_alloc,
    .buf_free = host_buf_free,
    .buf_write = host_buf_write,
    .buf_read = host_buf_read,
    .buf_copy = host_buf_copy,
    .buf_map = host_buf_map,
    .supports = cpu_supports,
    .compile = cpu_exec_compile,
    .exec_free = cpu_exec_free,
    .submit = cpu_exec_submit,
    .wait = cpu_wait,
    .trace = cpu_trace,
};
