/* line.c - see line.h. Libedit's wide-character calls are used because the narrow ones lose
 * non-ASCII bytes. It lacks bracketed paste: mode 2004 is switched on around each line, and the
 * key sequence ESC [200~ is bound to a function that inserts everything up to ESC [201~ as
 * text, so that newlines in a paste do not send the line. */
#include "cmd/line.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "base/cache.h"
#include "base/mem.h"
#include "cmd/progress.h"

enum { HISTORY_MAX = 1000 };

struct line_reader {
    EditLine *el; /* NULL: plain reading */
    HistoryW *hist;
    wchar_t prompt[64];
    struct buf history_path;
};
static struct line_reader *current;

static wchar_t *prompt_cb(EditLine *el)
{
    (void)el;
    return current->prompt;
}

/* Inserts a paste: everything up to ESC [201~, carriage returns as newlines. */
static unsigned char paste_cb(EditLine *el, int key)
{
    static const wchar_t end[] = L"\x1b[201~";
    wchar_t piece[256];
    size_t n = 0, matched = 0;
    wchar_t c;
    (void)key;
    while (matched < 6 && el_wgetc(el, &c) == 1) {
        if (c == end[matched]) {
            matched++;
            continue;
        }
        for (size_t i = 0; i < matched; i++) { /* it was text after all */
            piece[n++] = end[i];
        }
        matched = c == end[0];
        if (!matched) {
            piece[n++] = c == L'\r' ? L'\n' : c;
        }
        if (n > 240) {
            piece[n] = 0;
            el_winsertstr(el, piece);
            n = 0;
        }
    }
    piece[n] = 0;
    el_winsertstr(el, piece);
    return CC_REFRESH;
}

static void open_editor(struct line_reader *r)
{
    HistEventW ev;
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX < 2) {
        setlocale(LC_CTYPE, "C.UTF-8");
    }
    r->el = el_init("fathom", stdin, stdout, stderr);
    r->hist = r->el ? history_winit() : NULL;
    if (!r->hist) {
        return;
    }
    history_w(r->hist, &ev, H_SETSIZE, HISTORY_MAX);
    history_w(r->hist, &ev, H_SETUNIQUE, 1);
    cache_path(&r->history_path, "history");
    if (r->history_path.n) {
        history_w(r->hist, &ev, H_LOAD, buf_cstr(&r->history_path));
    }
    el_wset(r->el, EL_PROMPT, prompt_cb);
    el_wset(r->el, EL_EDITOR, L"emacs");
    el_wset(r->el, EL_HIST, history_w, r->hist);
    el_wset(r->el, EL_ADDFN, L"fathom-paste", L"Insert pasted text", paste_cb);
    el_wset(r->el, EL_BIND, L"\\e[200~", L"fathom-paste", NULL);
    el_wset(r->el, EL_BIND, L"^R", L"em-inc-search-prev", NULL);
}

struct line_reader *line_open(const char *prompt)
{
    struct line_reader *r = mem_calloc(1, sizeof *r);
    if (!r) {
        return NULL;
    }
    for (size_t i = 0; prompt[i] && i + 1 < ARRAY_LEN(r->prompt); i++) {
        r->prompt[i] = (wchar_t)(unsigned char)prompt[i];
    }
    current = r;
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) {
        open_editor(r);
    }
    return r;
}

void line_close(struct line_reader *r)
{
    HistEventW ev;
    if (!r) {
        return;
    }
    if (r->hist) {
        if (r->history_path.n) {
            history_w(r->hist, &ev, H_SAVE, buf_cstr(&r->history_path));
            (void)chmod(buf_cstr(&r->history_path), 0600);
        }
        history_wend(r->hist);
    }
    if (r->el) {
        el_end(r->el);
    }
    buf_free(&r->history_path);
    mem_free(r);
    current = NULL;
}

static enum line_result read_plain(struct buf *out)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, stdin);
    if (n > 0) {
        buf_add(out, line, (size_t)(n - (line[n - 1] == '\n')));
    }
    free(line);
    return n < 0 ? LINE_END : LINE_OK;
}

static void add_history(struct line_reader *r, const wchar_t *line, int n)
{
    HistEventW ev;
    wchar_t *copy = mem_alloc((size_t)n + 1, sizeof *copy);
    if (copy) { /* without its newline, which would be stored as part of the entry */
        wmemcpy(copy, line, (size_t)n);
        copy[n] = 0;
        history_w(r->hist, &ev, H_ENTER, copy);
        mem_free(copy);
    }
}

enum line_result line_read(struct line_reader *r, struct buf *out)
{
    buf_clear(out);
    if (!r->hist) {
        return read_plain(out);
    }
    bool paste = term_is_tty(STDOUT_FILENO);
    interrupt_clear();
    fputs(paste ? "\x1b[?2004h" : "", stdout);
    fflush(stdout);
    int n = 0;
    errno = 0;
    const wchar_t *line = el_wgets(r->el, &n);
    fputs(paste ? "\x1b[?2004l" : "", stdout);
    fflush(stdout);
    if (interrupted() || (!line && errno == EINTR)) {
        interrupt_clear();
        el_wset(r->el, EL_REFRESH);
        fputs("^C\n", stdout);
        return LINE_INTERRUPTED;
    }
    if (!line || n <= 0) {
        fputc('\n', stdout);
        return LINE_END;
    }
    n -= line[n - 1] == L'\n';
    for (int i = 0; i < n; i++) {
        char utf8[4];
        buf_add(out, utf8, (size_t)utf8_encode((uint32_t)line[i], utf8));
    }
    if (n > 0) {
        add_history(r, line, n);
    }
    return LINE_OK;
}
