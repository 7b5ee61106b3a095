/* options.c - parses the words behind a command by the table of table.c. Long options are exact
 * (no abbreviations, so that new ones never change what a script means) and take their value as
 * the next word or after '='; short ones as the next word or attached. "--" ends the options.
 * A value is taken as it stands, a leading dash included. Numbers must be read whole: "12x",
 * "" and overflow are wrong usage, never a silent 0. Read next: help.c. */
#include "cmd/cmd.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "factory/imatrix.h"

const struct command *cli_command(const char *name)
{
    for (size_t i = 0; i < cli_n_commands; i++) {
        if (strcmp(cli_commands[i].name, name) == 0) {
            return &cli_commands[i];
        }
    }
    return NULL;
}

void cli_init(struct cli *o, const struct command *cmd)
{
    *o = (struct cli){.cmd = cmd,
                      .temp = 1.0,
                      .layer = -2,
                      .tokens = 1,
                      .sequences = 1,
                      .save_minutes = 10,
                      .shrink = IMATRIX_SHRINK,
                      .kv_flush = 5,
                      .port = 8000,
                      .overlap = -1,
                      .keep = -1};
}

int cmd_usage(const struct cli *o, const char *fmt, ...)
{
    char msg[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    fprintf(stderr, "fathom %s: %s (see fathom %s --help)\n", o->cmd->name, msg, o->cmd->name);
    return EXIT_USAGE;
}

static const struct option_def *find_long(const struct cli *o, const char *name, size_t n)
{
    for (size_t i = 0; i < cli_n_options; i++) {
        const struct option_def *d = &cli_options[i];
        if ((d->commands & o->cmd->bit) && strlen(d->name) == n &&
            memcmp(d->name, name, n) == 0) {
            return d;
        }
    }
    return NULL;
}

static const struct option_def *find_short(const struct cli *o, char letter)
{
    for (size_t i = 0; i < cli_n_options; i++) {
        const struct option_def *d = &cli_options[i];
        if ((d->commands & o->cmd->bit) && d->letter == letter) {
            return d;
        }
    }
    return NULL;
}

/* Unsigned number with 0x and one of the suffixes (the first is 1024, each next 1024 times
 * that), all of it. */
static bool read_units(const char *s, const char *suffixes, uint64_t max, uint64_t *out)
{
    if (!isdigit((unsigned char)*s)) {
        return false; /* strtoull would take a sign or blanks */
    }
    char *end;
    errno = 0;
    unsigned long long v = strtoull(s, &end, s[0] == '0' && (s[1] | 32) == 'x' ? 16 : 10);
    uint64_t unit = 1;
    const char *suffix = *end ? strchr(suffixes, *end | 32) : NULL;
    if (suffix) {
        unit <<= 10 * (suffix - suffixes + 1);
        end++;
    }
    if (errno || *end || v > max / unit) {
        return false;
    }
    *out = v * unit;
    return true;
}

static bool read_u64(const char *s, uint64_t max, uint64_t *out)
{
    return read_units(s, "km", max, out);
}

static bool is_choice(const char *choices, const char *value)
{
    size_t n = strlen(value);
    for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL) {
        if (strncmp(p, value, n) == 0 && n > 0 && (p[n] == '|' || p[n] == 0)) {
            return true;
        }
    }
    return false;
}

static int store_number(struct cli *o, const struct option_def *d, const char *value)
{
    void *at = (char *)o + d->offset;
    uint64_t u = 0;
    char *end = NULL;
    switch (d->type) {
    case OPTION_U32:
        if (!read_u64(value, d->hi > 0 ? (uint64_t)d->hi : UINT32_MAX, &u)) {
            return cmd_usage(o, "--%s needs a whole number up to %.0f, not \"%s\"", d->name,
                             d->hi > 0 ? d->hi : (double)UINT32_MAX, value);
        }
        *(uint32_t *)at = (uint32_t)u;
        return 0;
    case OPTION_U64:
        if (!read_u64(value, UINT64_MAX, &u)) {
            return cmd_usage(o, "--%s needs a whole number, not \"%s\"", d->name, value);
        }
        *(uint64_t *)at = u;
        o->seed_given |= at == (void *)&o->seed;
        return 0;
    case OPTION_BYTES:
        if (!read_units(value, "kmgt", UINT64_MAX, &u)) {
            return cmd_usage(o, "--%s needs a size such as 16g, not \"%s\"", d->name, value);
        }
        *(uint64_t *)at = u;
        return 0;
    case OPTION_I32: {
        bool neg = *value == '-';
        if (!read_u64(value + neg, INT32_MAX, &u)) {
            return cmd_usage(o, "--%s needs a whole number, not \"%s\"", d->name, value);
        }
        *(int32_t *)at = neg ? -(int32_t)u : (int32_t)u;
        return 0;
    }
    default: {
        double v = strtod(value, &end);
        if (end == value || *end || !isfinite(v) || v < d->lo || v > d->hi) {
            return cmd_usage(o, "--%s needs a number from %g to %g, not \"%s\"", d->name, d->lo,
                             d->hi, value);
        }
        *(double *)at = v;
        return 0;
    }
    }
}

static int store(struct cli *o, const struct option_def *d, const char *value)
{
    void *at = (char *)o + d->offset;
    switch (d->type) {
    case OPTION_FLAG: *(bool *)at = true; return 0;
    case OPTION_STR: *(const char **)at = value; return 0;
    case OPTION_CHOICE:
        if (!is_choice(d->choices, value)) {
            return cmd_usage(o, "--%s takes %s, not \"%s\"", d->name, d->choices, value);
        }
        *(const char **)at = value;
        return 0;
    case OPTION_LIST: {
        struct cli_list *list = at;
        if (list->n == CLI_MAX_LIST || (d->hi > 0 && list->n >= (uint32_t)d->hi)) {
            return cmd_usage(o, "--%s may be given at most %u times", d->name, list->n);
        }
        list->v[list->n++] = value;
        return 0;
    }
    default: return store_number(o, d, value);
    }
}

/* One option word; *i is advanced past a value taken from the next word. */
static int parse_option(struct cli *o, int argc, char **argv, int *i)
{
    const char *word = argv[*i], *value = NULL;
    const struct option_def *d;
    if (word[1] == '-') {
        const char *eq = strchr(word, '=');
        d = find_long(o, word + 2, eq ? (size_t)(eq - word - 2) : strlen(word + 2));
        value = eq ? eq + 1 : NULL;
    } else {
        d = find_short(o, word[1]);
        value = word[2] ? word + 2 : NULL;
    }
    if (!d) {
        return cmd_usage(o, "unknown option %s", word);
    }
    if (d->type == OPTION_FLAG) {
        return value ? cmd_usage(o, "--%s takes no value", d->name) : store(o, d, NULL);
    }
    if (!value) {
        if (*i + 1 >= argc) {
            return cmd_usage(o, "%s needs a value (%s)", word, d->arg);
        }
        value = argv[++*i];
    }
    return store(o, d, value);
}

int cli_parse(struct cli *o, int argc, char **argv)
{
    bool options = true;
    for (int i = 0; i < argc; i++) {
        if (options && strcmp(argv[i], "--") == 0) {
            options = false;
        } else if (options && argv[i][0] == '-' && argv[i][1]) {
            int rc = parse_option(o, argc, argv, &i);
            if (rc) {
                return rc;
            }
        } else if (o->n_args == o->cmd->max_args) {
            return cmd_usage(o, "unexpected word \"%s\"", argv[i]);
        } else {
            o->args[o->n_args++] = argv[i];
        }
    }
    if (!o->help && o->n_args < o->cmd->min_args) {
        return cmd_usage(o, "missing %s", o->cmd->args);
    }
    return 0;
}
