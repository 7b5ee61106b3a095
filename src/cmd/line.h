/* line.h - reading lines from a person: editing, history, paste. The only user of libedit.
 * Without a terminal on stdin, lines are read plainly and no prompt is printed. */
#ifndef CMD_LINE_H
#define CMD_LINE_H

#include "base/str.h"

struct
    line_reader; /* opaque; one at a time, because libedit's prompt callback has no user data */

/* NULL when memory is out. History comes from (and goes to) fathom/history in the cache folder. */
struct line_reader *line_open(const char *prompt);
void line_close(struct line_reader *r);

enum line_result { LINE_OK, LINE_END, LINE_INTERRUPTED };
/* The next line, without its newline, as UTF-8; pasted newlines are kept. */
enum line_result line_read(struct line_reader *r, struct buf *out);

#endif
