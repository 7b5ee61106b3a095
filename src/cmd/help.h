/* help.h - texts generated from the tables (help.c, completion.c); each appends to b. */
#ifndef CMD_HELP_H
#define CMD_HELP_H

#include "base/str.h"
#include "cmd/options.h"

void help_overview(struct buf *b);
void help_command(struct buf *b, const struct command *c);
void help_man(struct buf *b);
void help_bash(struct buf *b);
void help_zsh(struct buf *b);

#endif
