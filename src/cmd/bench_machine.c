/* bench_machine.c - what this machine can do at most: plain reads of memory by the same number
 * of threads that the kernels get, and register-only integer and float loops. Everything else
 * in the benchmark is quoted against these, measured in the same run. Best of several passes: a
 * pass can only be slowed down from outside. */
#include "cmd/bench.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

enum {
    READ_PASSES = 8,
    PEAK_PASSES = 8,
    STREAM_MIN_MIB = 256,
    STREAM_L3_TIMES = 8,
    READ_PIECE = 512
};

size_t bench_stream_bytes(void)
{
    size_t bytes = (size_t)STREAM_MIN_MIB << 20;
#ifdef _SC_LEVEL3_CACHE_SIZE
    long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (l3 > 0 && l3 < 4L << 30) {
        bytes = MAX(bytes, (size_t)l3 * STREAM_L3_TIMES);
    }
#endif
    return bytes;
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
    r->team = NULL;
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

int bench_limits(double *read_gbs, double *int8_gops, uint32_t threads, fathom_err *err)
{
    size_t bytes = bench_stream_bytes();
    unsigned char *p = mem_alloc_aligned(4096, bytes);
    if (!p) {
        return err_nomem(err, "read test", bytes);
    }
    memset(p, 1, bytes);
    struct bench_reader r;
    int rc = bench_reader_open(&r, p, bytes, threads, err);
    double f32_gflops;
    *read_gbs = *int8_gops = 0;
    for (int i = 0; i < READ_PASSES && rc == 0; i++) {
        double gbs = bench_read_pass(&r, i % 2 ? BENCH_STREAMS : BENCH_PLAIN);
        *read_gbs = MAX(*read_gbs, gbs);
    }
    if (rc == 0) {
        bench_peaks(&r, int8_gops, &f32_gflops);
    }
    bench_reader_close(&r);
    mem_free(p);
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

static double peak_rate(struct bench_reader *r, bool f32)
{
    const double ops = f32 ? r->peak.f32_ops : r->peak.int8_ops;
    struct peak_job job = {.r = r, .rounds = 1 << 16, .f32 = f32};
    double best = 0;
    for (int i = 0; i < PEAK_PASSES; i++) {
        double t0 = clock_now();
        team_run(r->team, peak_share, &job);
        double s = clock_now() - t0;
        best = MAX(best, ops * (double)job.rounds * team_size(r->team) / s / 1e9);
        job.rounds = s < 0.02 ? job.rounds * 4 : job.rounds;
    }
    return best;
}

void bench_peaks(struct bench_reader *r, double *int8_gops, double *f32_gflops)
{
    *int8_gops = peak_rate(r, false);
    *f32_gflops = peak_rate(r, true);
}
