/* main.c - the program `fathom`: finds the command, parses its options by the table, runs it
 * and turns the outcome into an exit code: 0 done, 1 failed at run time, 2 wrong usage, 3 the
 * input file or directory is not usable. Everything environment variables may change is read
 * here or in model.c and line.c; the list is product policy: FATHOM_MODEL, FATHOM_LOG,
 * NO_COLOR, XDG_CACHE_HOME and HOME. Read next: table.c, then the file of the command. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/backend.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/team.h"
#include "cmd/cmd.h"
#include "cmd/help.h"

static void log_level_from_env(void)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    const char *v = getenv("FATHOM_LOG");
    if (!v || !*v) {
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(v, names[i]) == 0) {
            log_set_level((enum log_level)i);
            return;
        }
    }
    cmd_note("FATHOM_LOG=%s is none of error, warn, info, debug: ignored", v);
}

/* Workers without a processor of their own hold up all others at every barrier. */
static void note_crowd(uint32_t threads)
{
    uint32_t cpus = team_cpus();
    if (threads > cpus) {
        cmd_note("--threads %u, but this process may use %u processor%s (affinity mask, CPU "
                 "quota): the threads will wait for each other; use -t %u, or leave it out",
                 threads, cpus, cpus == 1 ? "" : "s", cpus);
    }
}

static int overview(FILE *to, int code)
{
    struct buf b = {0};
    help_overview(&b);
    fputs(buf_cstr(&b), to);
    buf_free(&b);
    return code;
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        return overview(stderr, EXIT_USAGE);
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        return overview(stdout, EXIT_DONE);
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("fathom %s\n", fathom_version());
        return EXIT_DONE;
    }
    const struct command *cmd = cli_command(name);
    if (!cmd) {
        fprintf(stderr, "fathom: unknown command \"%s\" (fathom --help lists them)\n", name);
        return EXIT_USAGE;
    }
    struct cli o;
    cli_init(&o, cmd);
    int rc = cli_parse(&o, argc - 2, argv + 2);
    if (rc) {
        return rc;
    }
    if (o.help) {
        struct buf b = {0};
        help_command(&b, cmd);
        return cmd_print(&b);
    }
    if (o.backend && cmd->fn != cmd_explain && !backend_by_name(o.backend)) {
        return cmd_usage(&o, "this build has no backend \"%s\"%s", o.backend,
                         strcmp(o.backend, "metal") == 0
                             ? ": it is part of builds on macOS; use --backend cpu"
                             : "");
    }
    note_crowd(o.threads);
    return cmd->fn(&o);
}

int main(int argc, char **argv)
{
    log_level_from_env();
    int rc = dispatch(argc, argv);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "fathom: cannot write to standard output: %s\n", strerror(errno));
        return rc ? rc : EXIT_RUNTIME;
    }
    return rc;
}
