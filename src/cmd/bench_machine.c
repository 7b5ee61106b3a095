/* bench_machine.c - what this machine can do at most: plain reads of memory by the same number
 * of threads that the kernels get, and register-only integer and float loops. Everything else
 * in the benchmark is quoted against these, measured in the same run. Best of several passes: a
 * pass can only be slowed down from outside. */
#include "cmd/bench.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#define PASS_SECONDS 0.003
enum { PEAK_PASSES = 10, STREAM_MIN_MIB = 256, STREAM_CACHE_TIMES = 4 };

/* The largest cache that the system reports, in bytes; 0 if it reports none. */
static size_t largest_cache(void)
{
    size_t bytes = 0;
#ifdef __APPLE__
    int64_t v = 0;
    size_t n = sizeof v;
    if (sysctlbyname("hw.perflevel0.l2cachesize", &v, &n, NULL, 0) == 0 && v > 0) {
        bytes = (size_t)v;
    }
#else
    for (int i = 0; i < 8; i++) {
        char path[80];
        size_t kib = 0;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        FILE *f = fopen(path, "r");
        if (f && fscanf(f, "%zuK", &kib) == 1) {
            bytes = MAX(bytes, MIN(kib, (size_t)4 << 20) << 10);
        }
        if (f) {
            fclose(f);
        }
    }
#endif
    return bytes;
}

size_t bench_stream_bytes(void)
{
    return MAX((size_t)STREAM_MIN_MIB << 20, largest_cache() * STREAM_CACHE_TIMES);
}

const char *bench_cpu_name(void)
{
    static char name[128] = "unknown processor";
#ifdef __APPLE__
    size_t n = sizeof name;
    sysctlbyname("machdep.cpu.brand_string", name, &n, NULL, 0);
#else
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "model name : %127[^\n]", name) == 1) {
            break;
        }
    }
    if (f) {
        fclose(f);
    }
#endif
    return name;
}

int bench_reader_open(struct bench_reader *r, const void *p, size_t bytes, uint32_t threads,
                      fathom_err *err)
{
    *r = (struct bench_reader){.p = (unsigned char *)p, .bytes = bytes};
    peak_select(&r->peak, 0);
    return team_create(&r->team, threads, false, err);
}

void bench_reader_close(struct bench_reader *r)
{
    team_free(r->team);
    mem_free(r->own);
    r->team = NULL;
    r->own = NULL;
}

/* Bytes that each worker reads. */
static size_t share_bytes(const struct bench_reader *r)
{
    const size_t unit = (size_t)PEAK_PIECE * BENCH_STREAMS * 4;
    return r->bytes / team_size(r->team) / unit * unit;
}

static void read_share(void *ctx, uint32_t rank)
{
    struct bench_reader *r = ctx;
    size_t per = share_bytes(r);
    r->keep[rank] += r->peak.read(r->p + rank * per, per, r->streams);
}

double bench_read_pass(struct bench_reader *r, uint32_t streams)
{
    r->streams = streams;
    double t0 = clock_now();
    team_run(r->team, read_share, r);
    return (double)(share_bytes(r) * team_size(r->team)) / (clock_now() - t0) / 1e9;
}

int bench_reader_new(struct bench_reader *r, uint32_t threads, fathom_err *err)
{
    size_t bytes = bench_stream_bytes();
    unsigned char *p = mem_alloc_huge(bytes);
    if (!p) {
        return err_nomem(err, "read test", bytes);
    }
    memset(p, 1, bytes);
    int rc = bench_reader_open(r, p, bytes, threads, err);
    r->own = p;
    if (rc != 0) {
        bench_reader_close(r);
    }
    return rc;
}

/* ---- register-only loops ---- */

struct peak_job {
    struct bench_reader *r;
    uint64_t rounds;
    bool f32;
};

static void peak_share(void *ctx, uint32_t rank)
{
    const struct peak_job *j = ctx;
    if (j->f32) {
        j->r->keep[rank] += (uint64_t)j->r->peak.f32(j->rounds);
    } else {
        j->r->keep[rank] += j->r->peak.int8(j->rounds);
    }
}

/* Operations per second in one pass of `rounds`, and its seconds. */
static double loop_pass(struct bench_reader *r, bool f32, uint64_t rounds, double *seconds)
{
    struct peak_job job = {.r = r, .rounds = rounds, .f32 = f32};
    double t0 = clock_now();
    team_run(r->team, peak_share, &job);
    *seconds = clock_now() - t0;
    return (f32 ? r->peak.f32_ops : r->peak.int8_ops) * (double)rounds * team_size(r->team) /
           *seconds;
}

/* Enough rounds for passes of PASS_SECONDS or more; the best of PEAK_PASSES. */
static double peak_rate(struct bench_reader *r, bool f32)
{
    double best = 0, s;
    uint64_t *rounds = &r->rounds[f32];
    *rounds = *rounds ? *rounds : 1 << 14;
    for (int i = 0; i < PEAK_PASSES; i++) {
        best = MAX(best, loop_pass(r, f32, *rounds, &s));
        *rounds *= s < PASS_SECONDS ? 2 : 1;
    }
    return best / 1e9;
}

void bench_peaks(struct bench_reader *r, double *int8_gops, double *f32_gflops)
{
    *int8_gops = peak_rate(r, false);
    *f32_gflops = peak_rate(r, true);
}

/* The short pass before wakes the team and lets the processor find its clock. */
void bench_loop_pass(struct bench_reader *r, double *int8_gops, double *f32_gflops)
{
    double s;
    loop_pass(r, false, r->rounds[0] / 4 + 1, &s);
    *int8_gops = loop_pass(r, false, r->rounds[0] + 1, &s) / 1e9;
    *f32_gflops = loop_pass(r, true, r->rounds[1] + 1, &s) / 1e9;
}
