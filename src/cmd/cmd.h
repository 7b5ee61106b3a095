/* cmd.h - what the files of the program share: the commands' entry points and how a command
 * ends. The program is a user of the library: it may print and exit, the library may not.
 * Results go to stdout, everything else to stderr. A command returns its exit code; main.c
 * flushes stdout and turns a failed write into exit code 1. */
#ifndef CMD_CMD_H
#define CMD_CMD_H

#include "base/err.h"
#include "base/str.h"
#include "cmd/options.h"

enum exit_code { EXIT_DONE = 0, EXIT_RUNTIME = 1, EXIT_USAGE = 2, EXIT_INPUT = 3 };

/* "fathom: PLACE: message" (place may be NULL) on stderr; returns the exit code of err->code:
 * FATHOM_EFORMAT and FATHOM_ENOENT 3, FATHOM_EINVAL 2, everything else 1. */
int cmd_fail(const char *place, const fathom_err *err);
/* Wrong usage: "fathom COMMAND: message (see fathom COMMAND --help)"; returns EXIT_USAGE. */
int cmd_usage(const struct cli *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* One line on stderr. */
void cmd_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Writes a buffer to stdout; 0, or EXIT_RUNTIME when memory was short while it was filled. */
int cmd_print(const struct buf *b);

/* The text a command works on: -p TEXT, -f FILE (- is stdin), else all of stdin. At most 64
 * MiB. */
int cmd_text(struct buf *out, const struct cli *o, fathom_err *err);

/* Calls fn for every line of stdin that is not blank (--jsonl) and flushes stdout after each,
 * so that a program at the other end of a pipe gets its answer. fn returns an exit code;
 * anything but EXIT_DONE ends the loop. */
int cmd_lines(int (*fn)(void *user, const char *line, size_t n), void *user);

/* JSON number with 9 significant digits (enough to give the same float back), null for NaN and
 * infinities. */
void cmd_add_float(struct buf *b, float v);
/* "7.20 GB", decimal units as disks are sold. */
const char *cmd_bytes(uint64_t n); /* one of four static buffers in turn */

int cmd_run(struct cli *o);
int cmd_chat(struct cli *o);
int cmd_convert(struct cli *o);
int cmd_imatrix(struct cli *o);
int cmd_inspect(struct cli *o);
int cmd_plan(struct cli *o);
int cmd_explain(struct cli *o);
int cmd_tokens(struct cli *o);
int cmd_render(struct cli *o);
int cmd_parse(struct cli *o);
int cmd_logits(struct cli *o);
int cmd_selftest(struct cli *o);
int cmd_bench(struct cli *o);
int cmd_kv(struct cli *o);
int cmd_serve(struct cli *o);
int cmd_eval(struct cli *o);
int cmd_help(struct cli *o);

#endif
