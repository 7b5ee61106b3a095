/* help.c - everything printed from the tables of table.c: the overview, the help of one
 * command, the manual page (mdoc-free, plain man macros) and the completions of bash and zsh.
 * No text about an option stands anywhere else. */
#include "cmd/cmd.h"

#include <ctype.h>
#include <stdio.h>

#include "cmd/help.h"

static const char env_text[] =
    "FATHOM_MODEL\0model file when -m is not given\0"
    "FATHOM_LOG\0messages of the library: error, warn (default), info, debug\0"
    "NO_COLOR\0set: no colours\0"
    "XDG_CACHE_HOME\0place of the chat history (fathom/history); default $HOME/.cache\0";
static const char *const exit_text[] = {"done", "failed at run time", "wrong usage",
                                        "the input file or directory is not usable"};

/* Appends text wrapped to 78 columns, every line but the first indented. */
static void wrap(struct buf *b, const char *text, size_t indent, size_t col)
{
    while (*text) {
        size_t n = strcspn(text, " ");
        if (col > indent && col + 1 + n > 78) {
            buf_addf(b, "\n%*s", (int)indent, "");
            col = indent;
        } else if (col > indent) {
            buf_addc(b, ' ');
            col++;
        }
        buf_add(b, text, n);
        col += n;
        text += n + (text[n] == ' ');
    }
    buf_addc(b, '\n');
}

static void option_words(struct buf *b, const struct option_def *d)
{
    if (d->letter) {
        buf_addf(b, "-%c, ", d->letter);
    }
    buf_addf(b, "--%s%s%s", d->name, d->arg ? " " : "", d->arg ? d->arg : "");
}

static void option_text(struct buf *b, const struct option_def *d)
{
    buf_adds(b, d->help);
    if (d->choices) {
        buf_addf(b, " (%s)", d->choices);
    }
}

void help_overview(struct buf *b)
{
    buf_adds(b, "fathom " FATHOM_VERSION " - runs DeepSeek V4 models on your own machine\n\n"
                "usage: fathom COMMAND [OPTIONS]\n\n");
    for (size_t i = 0; i < cli_n_commands; i++) {
        buf_addf(b, "  %-9s %s\n", cli_commands[i].name, cli_commands[i].summary);
    }
    buf_adds(
        b, "\nfathom COMMAND --help tells more. Without -m and $FATHOM_MODEL the embedded mini "
           "model is\nused: try  fathom run -p \"Tell me a story.\"\n\nEnvironment:\n");
    for (const char *p = env_text; *p;) {
        const char *what = p + strlen(p) + 1;
        buf_addf(b, "  %-15s %s\n", p, what);
        p = what + strlen(what) + 1;
    }
    buf_adds(b, "\nExit codes:");
    for (int i = 0; i < 4; i++) {
        buf_addf(b, " %d %s%s", i, exit_text[i], i < 3 ? "," : ".\n");
    }
}

void help_command(struct buf *b, const struct command *c)
{
    buf_addf(b, "usage: fathom %s [OPTIONS]%s%s\n\n", c->name, *c->args ? " " : "", c->args);
    wrap(b, c->summary, 0, 0);
    buf_addc(b, '\n');
    wrap(b, c->text, 0, 0);
    buf_addc(b, '\n');
    for (size_t i = 0; i < cli_n_options; i++) {
        const struct option_def *d = &cli_options[i];
        if (!(d->commands & c->bit)) {
            continue;
        }
        struct buf words = {0}, text = {0};
        option_words(&words, d);
        option_text(&text, d);
        buf_addf(b, "  %-20s  ", buf_cstr(&words));
        if (words.n > 20) {
            buf_addf(b, "\n%24s", "");
        }
        wrap(b, buf_cstr(&text), 24, 24);
        buf_free(&words);
        buf_free(&text);
    }
}

/* Text in man form: backslashes and leading dots and quotes are escaped, dashes kept as typed.
 */
static void man_text(struct buf *b, const char *s)
{
    if (*s == '.' || *s == '\'') {
        buf_adds(b, "\\&");
    }
    for (; *s; s++) {
        if (*s == '\\') {
            buf_adds(b, "\\e");
        } else if (*s == '-') {
            buf_adds(b, "\\-");
        } else {
            buf_addc(b, *s);
        }
    }
    buf_addc(b, '\n');
}

void help_man(struct buf *b)
{
    buf_adds(b, ".TH FATHOM 1 \"\" \"fathom " FATHOM_VERSION "\" \"User Commands\"\n.SH NAME\n"
                "fathom \\- runs DeepSeek V4 models on your own machine\n.SH SYNOPSIS\n"
                ".B fathom\n.I COMMAND\n[\\fIOPTIONS\\fR]\n.SH COMMANDS\n");
    for (size_t i = 0; i < cli_n_commands; i++) {
        const struct command *c = &cli_commands[i];
        buf_addf(b, ".SS fathom %s [\\fIOPTIONS\\fR]%s%s\n", c->name, *c->args ? " " : "",
                 c->args);
        struct buf first = {0};
        buf_addf(&first, "%c%s.", toupper((unsigned char)c->summary[0]), c->summary + 1);
        man_text(b, buf_cstr(&first));
        buf_free(&first);
        man_text(b, c->text);
        for (size_t j = 0; j < cli_n_options; j++) {
            const struct option_def *d = &cli_options[j];
            if (!(d->commands & c->bit) || d->commands == CMD_ALL) {
                continue;
            }
            struct buf words = {0}, text = {0};
            option_words(&words, d);
            option_text(&text, d);
            buf_adds(b, ".TP\n.B ");
            man_text(b, buf_cstr(&words));
            man_text(b, buf_cstr(&text));
            buf_free(&words);
            buf_free(&text);
        }
    }
    buf_adds(b, ".SH ENVIRONMENT\n");
    for (const char *p = env_text; *p;) {
        const char *what = p + strlen(p) + 1;
        buf_addf(b, ".TP\n.B %s\n", p);
        man_text(b, what);
        p = what + strlen(what) + 1;
    }
    buf_adds(b, ".SH EXIT STATUS\n");
    for (int i = 0; i < 4; i++) {
        buf_addf(b, ".TP\n.B %d\n%s\n", i, exit_text[i]);
    }
}

int cmd_help(struct cli *o)
{
    struct buf b = {0};
    const char *topic = o->n_args ? o->args[0] : "";
    const struct command *c = cli_command(topic);
    if (!*topic) {
        help_overview(&b);
    } else if (strcmp(topic, "man") == 0) {
        help_man(&b);
    } else if (strcmp(topic, "bash") == 0) {
        help_bash(&b);
    } else if (strcmp(topic, "zsh") == 0) {
        help_zsh(&b);
    } else if (c) {
        help_command(&b, c);
    } else {
        return cmd_usage(o, "no help on \"%s\"", topic);
    }
    return cmd_print(&b);
}
