/* events.c - the front of the completion parser: tokens or text to text runs and markers,
 * the reasoning and content states. The calls block is dsml.c, what they send goes out by
 * emit.c.
 *
 * Three stages. (1) Bytes become valid UTF-8 (struct detok). (2) Markers are found: by id
 * when tokens are fed, by spelling when text is fed; in the second case text that may still
 * become a marker waits in `clean`. (3) A state machine takes runs of text and markers. It
 * holds back at most "\n\n<", which may begin the calls, so no cut of the input can change
 * what is sent.
 *
 * A marker where none belongs is left out of the text and noted as a fault; the text around
 * it is sent on, so that an answer is never lost. Next: dsml.c. */
#include "chat/events_int.h"
#include "chat/template.h"

void chat_events_start(struct chat_events *e, const struct chat_events_opts *o,
                       const struct tokenizer *tok)
{
    *e = (struct chat_events){.o = *o, .tok = tok};
    e->state = o->thinking ? ST_REASONING : ST_CONTENT;
}

bool chat_events_done(const struct chat_events *e)
{
    return e->state == ST_DONE;
}

/* ---- reasoning and content ---- */

/* How many bytes at the end of s may belong to the opening tag of the calls: \n{0,2}<? */
static size_t opening_suffix(const char *s, size_t n)
{
    size_t k = n > 0 && s[n - 1] == '<';
    for (int i = 0; i < 2 && k < n && s[n - k - 1] == '\n'; i++) {
        k++;
    }
    return k;
}

static void content_text(struct chat_events *e, const char *s, size_t n)
{
    buf_add(&e->hold, s, n);
    e->failed = e->failed || e->hold.failed;
    size_t keep = opening_suffix(e->hold.p, e->hold.n), send = e->hold.n - keep;
    if (send > 0) {
        events_emit(e, CHAT_EV_CONTENT, (struct slice){e->hold.p, send});
        memmove(e->hold.p, e->hold.p + send, keep);
        e->hold.n = keep;
    }
}

static void flush_content(struct chat_events *e)
{
    events_emit(e, CHAT_EV_CONTENT, buf_slice(&e->hold));
    buf_clear(&e->hold);
}

/* The opening tag is there: the blank line before it is no content. */
static void drop_opening(struct chat_events *e)
{
    e->hold.n -= e->hold.n == 3 ? 3 : 1;
    flush_content(e);
}

/* It was no opening tag: the marker is a stray one. */
static void not_opening(struct chat_events *e)
{
    events_fault(e, "a call marker in the content");
    e->state = ST_CONTENT;
    buf_add_slice(&e->hold, buf_slice(&e->tag));
    content_text(e, "", 0);
}

static size_t opening_text(struct chat_events *e, char c)
{
    static const char word[] = CHAT_CALLS;
    if (c != word[e->tag.n]) {
        not_opening(e);
        return 0;
    }
    buf_addc(&e->tag, c);
    if (word[e->tag.n] == 0) {
        drop_opening(e);
        dsml_start(e);
    }
    return 1;
}

static void take_text(struct chat_events *e, struct slice s)
{
    while (s.n > 0 && !e->failed) {
        size_t used = s.n;
        if (e->state == ST_REASONING) {
            events_emit(e, CHAT_EV_REASONING, s);
        } else if (e->state == ST_CONTENT) {
            content_text(e, s.p, s.n);
        } else if (e->state == ST_OPENING) {
            used = opening_text(e, *s.p);
        } else if (e->state == ST_DONE) {
            events_fault(e, "text after the end of the completion");
        } else {
            used = dsml_text(e, s.p, s.n);
        }
        s.p += used;
        s.n -= used;
        e->failed = e->failed || e->tag.failed || e->hold.failed;
    }
}

static void reasoning_marker(struct chat_events *e, enum chat_marker m)
{
    if (m == MARK_THINK_CLOSE) {
        e->state = ST_CONTENT;
    } else if (m == MARK_EOS) {
        events_fault(e, "the completion ends inside the reasoning");
        e->state = ST_DONE;
    } else {
        events_fault(e, "a control token in the reasoning");
    }
}

static void content_marker(struct chat_events *e, enum chat_marker m)
{
    const struct buf *h = &e->hold;
    bool tag = m == MARK_DSML && h->n > 0 && h->p[h->n - 1] == '<';
    if (m == MARK_EOS) {
        flush_content(e);
        e->state = ST_DONE;
    } else if (tag && (h->n == 3 || !e->o.strict)) {
        buf_clear(&e->tag);
        e->state = ST_OPENING;
    } else {
        events_fault(e, "a control token in the content");
    }
}

static void take_marker(struct chat_events *e, enum chat_marker m)
{
    if (e->state == ST_OPENING) {
        not_opening(e);
    }
    if (e->state == ST_REASONING) {
        reasoning_marker(e, m);
    } else if (e->state == ST_CONTENT) {
        content_marker(e, m);
    } else if (e->state == ST_DONE) {
        events_fault(e, "text after the end of the completion");
    } else {
        dsml_marker(e, m);
    }
}

/* ---- finding markers ---- */

/* The marker spelled at the start of s, or MARK_COUNT; *possible if s may still become one. */
static enum chat_marker marker_at(struct slice s, bool *possible)
{
    *possible = false;
    for (int m = 0; m < MARK_COUNT; m++) {
        struct slice text = slice_of(marker_text((enum chat_marker)m));
        size_t n = MIN(s.n, text.n);
        if (memcmp(s.p, text.p, n) == 0) {
            if (n == text.n) {
                return (enum chat_marker)m;
            }
            *possible = true;
        }
    }
    return MARK_COUNT;
}

/* Passes on what is in `clean`; at_end also what could have become a marker. */
static void scan_clean(struct chat_events *e, bool at_end)
{
    const char *s = buf_cstr(&e->clean);
    size_t n = e->clean.n, run = 0, i = 0;
    while (i < n) {
        bool possible = false;
        bool may_start = s[i] == '<' || s[i] == CHAT_DSML[0];
        enum chat_marker m =
            may_start ? marker_at((struct slice){s + i, n - i}, &possible) : MARK_COUNT;
        if (possible && !at_end) {
            break;
        }
        if (m == MARK_COUNT) {
            i++;
            continue;
        }
        take_text(e, (struct slice){s + run, i - run});
        take_marker(e, m);
        i += strlen(marker_text(m));
        run = i;
    }
    take_text(e, (struct slice){s + run, i - run});
    if (i > 0) {
        memmove(e->clean.p, s + i, n - i);
        e->clean.n = n - i;
    }
}

/* Sends complete code points from `clean` on without looking for markers (token mode). */
static void pass_clean(struct chat_events *e)
{
    e->failed = e->failed || e->clean.failed;
    take_text(e, buf_slice(&e->clean));
    buf_clear(&e->clean);
}

void chat_events_token(struct chat_events *e, uint32_t id)
{
    for (int m = 0; m < MARK_COUNT; m++) {
        if (tokenizer_control(e->tok, marker_tokens[m]) == (int64_t)id) {
            detok_flush(&e->detok, &e->clean);
            pass_clean(e);
            take_marker(e, (enum chat_marker)m);
            return;
        }
    }
    struct slice bytes = tokenizer_bytes(e->tok, id);
    detok_feed(&e->detok, bytes.p, bytes.n, &e->clean);
    pass_clean(e);
}

void chat_events_text(struct chat_events *e, const char *s, size_t n)
{
    detok_feed(&e->detok, s, n, &e->clean);
    e->failed = e->failed || e->clean.failed;
    scan_clean(e, false);
}

/* ---- the end ---- */

/* Sends what can no longer become a tag and tells where the input stopped. */
static const char *cut_off(struct chat_events *e)
{
    switch (e->state) {
    case ST_REASONING: return "cut off in the reasoning";
    case ST_CONTENT: flush_content(e); return "cut off in the content";
    case ST_OPENING: drop_opening(e); return "cut off in the calls";
    default: return "cut off in the calls";
    }
}

int chat_events_finish(struct chat_events *e, fathom_err *err)
{
    struct chat_event ev = {.kind = CHAT_EV_END, .call = e->n_call};
    detok_flush(&e->detok, &e->clean);
    scan_clean(e, true);
    const char *cut = e->state < ST_CLOSED ? cut_off(e) : NULL;
    ev.end = cut ? CHAT_END_LENGTH : e->why ? CHAT_END_MALFORMED : CHAT_END_STOP;
    ev.why = e->why ? e->why : cut;
    if (e->failed) {
        ev.end = CHAT_END_MALFORMED;
        ev.why = "out of memory";
    }
    e->o.sink(e->o.user, &ev);
    int rc = e->failed ? err_nomem(err, "a completion", e->clean.n) : 0;
    buf_free(&e->clean);
    buf_free(&e->hold);
    buf_free(&e->tag);
    buf_free(&e->args);
    keyset_free(&e->keys);
    arena_fini(&e->key_arena);
    return rc;
}
