/* convert.c - `fathom convert`: the command around factory/convert.h. Ctrl-C ends it cleanly:
 * the target is complete or untouched, and the same command goes on later. */
#include "cmd/cmd.h"

#include <stdio.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cmd/progress.h"
#include "factory/convert.h"

struct state {
    struct progress progress;
};

static void on_report(void *user, const char *line)
{
    struct state *s = user;
    progress_end(&s->progress);
    fprintf(stderr, "%s\n", line);
}

static bool on_progress(void *user, const char *stage, uint64_t done, uint64_t total)
{
    struct state *s = user;
    return progress_report(&s->progress, stage, done, total);
}

/* "PATTERN=TYPE"; the pattern is copied to text, which lives as long as the rules. */
static bool split_rule(const char *arg, char text[128], struct convert_rule *rule)
{
    const char *eq = strrchr(arg, '=');
    if (!eq || eq == arg || !eq[1] || eq - arg >= 128) {
        return false;
    }
    memcpy(text, arg, (size_t)(eq - arg));
    text[eq - arg] = 0;
    *rule = (struct convert_rule){.pattern = text, .type = eq + 1};
    return true;
}

/* Largest resident memory of this process so far; 0 if the system does not say. On Linux the
 * counter of rusage also knows the memory of the program that started this one, VmHWM does not.
 */
static double peak_bytes(void)
{
    struct rusage u;
    char line[128];
    double kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && kb == 0 && fgets(line, sizeof line, f)) {
        sscanf(line, "VmHWM: %lf kB", &kb);
    }
    if (f) {
        fclose(f);
    }
    if (kb > 0) {
        return kb * 1024;
    }
    if (getrusage(RUSAGE_SELF, &u) != 0) {
        return 0;
    }
#ifdef __APPLE__
    return (double)u.ru_maxrss;
#else
    return (double)u.ru_maxrss * 1024;
#endif
}

int cmd_convert(struct cli *o)
{
    char text[CLI_MAX_LIST][128];
    struct convert_rule rules[CLI_MAX_LIST];
    for (uint32_t i = 0; i < o->rules.n; i++) {
        if (!split_rule(o->rules.v[i], text[i], &rules[i])) {
            return cmd_usage(o, "--tensor wants PATTERN=TYPE, not \"%s\"", o->rules.v[i]);
        }
    }
    if (!o->output && !o->dry_run) {
        return cmd_usage(o, "-o FILE is needed");
    }
    struct state s = {0};
    struct convert_options opt = {
        .dir = o->args[0],
        .out = o->output ? o->output : "model.gguf",
        .recipe = o->recipe ? o->recipe : "mxfp4",
        .rules = rules,
        .n_rules = o->rules.n,
        .dense = o->dense,
        .no_draft = o->no_mtp,
        .imatrix = o->imatrix,
        .shrink = o->shrink,
        .imatrix_strict = o->imatrix_strict,
        .threads = (int)o->threads,
        .dry_run = o->dry_run,
        .report = on_report,
        .progress = on_progress,
        .user = &s,
    };
    fathom_err err = {0};
    double start = clock_now();
    interrupt_on();
    int rc = convert_run(&opt, &err);
    progress_end(&s.progress);
    interrupt_off();
    if (rc) {
        return cmd_fail("cannot convert", &err);
    }
    if (!o->dry_run) {
        fprintf(stderr, "%s: done in %.1f s, peak memory %.1f MB\n", o->output,
                clock_now() - start, peak_bytes() / 1e6);
    }
    return EXIT_DONE;
}
