/* completion.c - shell completion for bash and zsh, generated from the tables of table.c:
 * command names, then the options of the command, the fixed choices of an option, else file
 * names. */
#include "cmd/cmd.h"
#include "cmd/help.h"

static void add_choices(struct buf *b, const char *choices)
{
    for (const char *p = choices; *p; p++) {
        buf_addc(b, *p == '|' ? ' ' : *p);
    }
}

void help_bash(struct buf *b)
{
    buf_adds(b, "# bash completion of fathom (generated: fathom help bash)\n"
                "_fathom()\n{\n"
                "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W \"");
    for (size_t i = 0; i < cli_n_commands; i++) {
        buf_addf(b, "%s%s", i ? " " : "", cli_commands[i].name);
    }
    buf_adds(b, "\" -- \"$cur\"))\n        return\n    fi\n    case \"$prev\" in\n");
    for (size_t i = 0; i < cli_n_options; i++) {
        if (cli_options[i].choices) {
            buf_addf(b, "    --%s) COMPREPLY=($(compgen -W \"", cli_options[i].name);
            add_choices(b, cli_options[i].choices);
            buf_adds(b, "\" -- \"$cur\")); return ;;\n");
        }
    }
    buf_adds(b, "    esac\n    case \"$cur\" in\n    -*) ;;\n"
                "    *) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n    esac\n"
                "    case \"${COMP_WORDS[1]}\" in\n");
    for (size_t i = 0; i < cli_n_commands; i++) {
        buf_addf(b, "    %s) COMPREPLY=($(compgen -W \"", cli_commands[i].name);
        bool first = true;
        for (size_t j = 0; j < cli_n_options; j++) {
            if (cli_options[j].commands & cli_commands[i].bit) {
                buf_addf(b, "%s--%s", first ? "" : " ", cli_options[j].name);
                first = false;
            }
        }
        buf_adds(b, "\" -- \"$cur\")) ;;\n");
    }
    buf_adds(b, "    esac\n}\ncomplete -o filenames -F _fathom fathom\n");
}

/* Text inside a single-quoted zsh argument description. */
static void add_zsh(struct buf *b, const char *s)
{
    for (; *s; s++) {
        if (*s == '\'') {
            buf_adds(b, "'\\''");
        } else if (strchr("[]:\\", *s)) {
            buf_addf(b, "\\%c", *s);
        } else {
            buf_addc(b, *s);
        }
    }
}

void help_zsh(struct buf *b)
{
    buf_adds(b, "#compdef fathom\n# zsh completion of fathom (generated: fathom help zsh)\n"
                "_fathom()\n{\n    if (( CURRENT == 2 )); then\n        local -a commands\n"
                "        commands=(\n");
    for (size_t i = 0; i < cli_n_commands; i++) {
        buf_addf(b, "            '%s:", cli_commands[i].name);
        add_zsh(b, cli_commands[i].summary);
        buf_adds(b, "'\n");
    }
    buf_adds(b, "        )\n        _describe command commands\n        return\n    fi\n"
                "    local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n"
                "    case $command in\n");
    for (size_t i = 0; i < cli_n_commands; i++) {
        buf_addf(b, "    %s) _arguments", cli_commands[i].name);
        for (size_t j = 0; j < cli_n_options; j++) {
            const struct option_def *d = &cli_options[j];
            if (!(d->commands & cli_commands[i].bit)) {
                continue;
            }
            buf_addf(b, " \\\n        '--%s[", d->name);
            add_zsh(b, d->help);
            buf_addc(b, ']');
            if (d->choices) {
                buf_addf(b, ":%s:(", d->arg);
                add_choices(b, d->choices);
                buf_addc(b, ')');
            } else if (d->arg) {
                buf_addf(b, ":%s:_files", d->arg);
            }
            buf_addc(b, '\'');
        }
        buf_adds(b, " \\\n        '*:file:_files' ;;\n");
    }
    buf_adds(b, "    esac\n}\n_fathom \"$@\"\n");
}
