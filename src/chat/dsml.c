/* dsml.c - the calls block of a completion, from after "<｜DSML｜tool_calls" to its closing
 * tag.
 *
 * The grammar (docs/chat-format.md, "Parsing a completion") is read by a state machine that
 * sees text and markers in turn. Only the marker can begin a tag, so text between tags is
 * checked byte by byte, and a value runs until "</", the marker and "parameter" have come in
 * a row; anything less was part of the value. Arguments are sent as they arrive, as the text
 * of a JSON object: string values escaped, other values as they are.
 *
 * strict accepts what the release's parser accepts. Otherwise blanks may be missing or added
 * around tags and attributes, as vLLM and SGLang both allow; nothing else is repaired. After
 * a fault the rest is ignored and the open call never ends, so it cannot be taken for a
 * call. */
#include "chat/events_int.h"
#include "chat/template.h"
#include "json/json.h"

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static void broken(struct chat_events *e, const char *why)
{
    events_fault(e, why);
    e->state = ST_DEAD;
}

static void enter(struct chat_events *e, int state)
{
    buf_clear(&e->tag);
    buf_clear(&e->hold);
    e->n_blank = 0;
    e->only_newlines = true;
    e->after_line = false;
    e->state = state;
}

void dsml_start(struct chat_events *e)
{
    e->word = CHAT_CALLS;
    e->closing = false;
    enter(e, ST_BRACKET);
}

/* ---- arguments ---- */

static void send_arguments(struct chat_events *e)
{
    e->failed = e->failed || e->args.failed;
    events_emit(e, CHAT_EV_ARGUMENTS, buf_slice(&e->args));
    buf_clear(&e->args);
}

static void send_value(struct chat_events *e, struct slice s)
{
    if (e->string_value) {
        json_write_python_chars(&e->args, s);
    } else {
        buf_add_slice(&e->args, s);
    }
}

static void begin_call(struct chat_events *e, struct slice name)
{
    e->in_call = true;
    e->n_param = 0;
    keyset_clear(&e->keys);
    events_emit(e, CHAT_EV_CALL, name);
}

static void end_call(struct chat_events *e)
{
    buf_adds(&e->args, e->n_param ? "}" : "{}");
    send_arguments(e);
    events_emit(e, CHAT_EV_CALL_END, (struct slice){0});
    e->in_call = false;
    e->n_call++;
}

static void begin_parameter(struct chat_events *e, struct slice key, bool string_value)
{
    char *copy = arena_strndup(&e->key_arena, key.n ? key.p : "", key.n);
    size_t k = copy ? keyset_add(&e->keys, (struct slice){copy, key.n}) : KEYSET_NONE;
    if (k == KEYSET_NONE) {
        e->failed = true;
        return;
    }
    if (k < e->n_param) {
        broken(e, "a parameter is given twice");
        return;
    }
    e->string_value = string_value;
    buf_adds(&e->args, e->n_param++ ? ", " : "{");
    json_write_python_str(&e->args, key);
    buf_adds(&e->args, string_value ? ": \"" : ": ");
    send_arguments(e);
    enter(e, ST_VALUE);
}

static void end_parameter(struct chat_events *e)
{
    if (e->string_value) {
        buf_addc(&e->args, '"');
        send_arguments(e);
    }
    e->word = CHAT_PARAMETER;
    e->closing = true;
    enter(e, ST_BRACKET);
}

/* ---- opening tags: e->tag holds the text after the word ---- */

/* Length of the blanks and `name="` that a tag begins with, 0 if it does not. The release wants
 * one blank before the attribute of a parameter, and any number before that of a call. */
static size_t attribute_start(const struct chat_events *e, bool parameter)
{
    const struct buf *b = &e->tag;
    size_t n_attr = sizeof CHAT_NAME_ATTR - 1, i = 0;
    while (i < b->n && is_blank(b->p[i])) {
        i++;
    }
    bool blanks = e->o.strict ? !parameter || (i == 1 && b->p[0] == ' ') : i > 0;
    bool name = b->n - i >= n_attr && memcmp(b->p + i, CHAT_NAME_ATTR, n_attr) == 0;
    return blanks && name ? i + n_attr : 0;
}

/* End of s[0..n) without trailing blanks; strict texts have none. */
static size_t trim(const struct chat_events *e, const char *s, size_t n)
{
    while (!e->o.strict && n > 0 && is_blank(s[n - 1])) {
        n--;
    }
    return n;
}

/* Takes `text` off the end of s[0..*n). */
static bool take_end(const char *s, size_t *n, const char *text)
{
    size_t n_text = strlen(text);
    if (*n < n_text || memcmp(s + *n - n_text, text, n_text) != 0) {
        return false;
    }
    *n -= n_text;
    return true;
}

/* Called at each '\n' (strict) or '>': if the tag of a call is complete, begins the call. */
static void check_invoke(struct chat_events *e)
{
    size_t n = e->tag.n;
    if ((e->o.strict && !take_end(e->tag.p, &n, "\n")) || !take_end(e->tag.p, &n, ">")) {
        return;
    }
    n = trim(e, e->tag.p, n);
    if (!take_end(e->tag.p, &n, "\"")) {
        return;
    }
    size_t start = attribute_start(e, false);
    if (start == 0 || start > n || (start == n && !e->o.strict)) {
        broken(e, "a call has no name");
        return;
    }
    begin_call(e, (struct slice){e->tag.p + start, n - start});
    enter(e, ST_BLANK);
    e->after_line = true;
}

/* Called at each '>': if the tag of a parameter is complete, begins its value. A key may hold
 * '>' and '"', as rendering escapes nothing. */
static void check_parameter(struct chat_events *e)
{
    const char *s = e->tag.p;
    size_t n = e->tag.n, before;
    bool string_value;
    (void)take_end(s, &n, ">");
    n = trim(e, s, n);
    string_value = take_end(s, &n, CHAT_STRING_ATTR "true\"");
    if (!string_value && !take_end(s, &n, CHAT_STRING_ATTR "false\"")) {
        return;
    }
    before = n;
    n = e->o.strict ? n - (n > 0 && s[n - 1] == ' ') : trim(e, s, n);
    if (n == before || !take_end(s, &n, "\"")) {
        return;
    }
    size_t start = attribute_start(e, true);
    if (start == 0 || start > n) {
        broken(e, "a parameter has no name");
        return;
    }
    begin_parameter(e, (struct slice){s + start, n - start}, string_value);
}

/* ---- text ---- */

/* After the '>' of a tag. */
static void tag_closed(struct chat_events *e)
{
    enter(e, ST_BLANK);
    if (e->closing && strcmp(e->word, CHAT_INVOKE) == 0) {
        end_call(e);
    } else if (e->closing && strcmp(e->word, CHAT_CALLS) == 0) {
        e->state = ST_CLOSED;
    }
}

/* '<' between tags: the release wants exactly one newline before it; after the line that
 * opens a call, none or one more. */
static void less_than(struct chat_events *e)
{
    bool fits = e->only_newlines && (e->after_line ? e->n_blank <= 1 : e->n_blank == 1);
    if (e->o.strict && !fits) {
        broken(e, "blanks between tags are not as the format wants them");
    } else {
        e->state = ST_LESS;
    }
}

static void between_tags(struct chat_events *e, char c)
{
    if (e->state == ST_BRACKET && c == '>') {
        tag_closed(e);
    } else if (e->state == ST_BLANK && c == '<') {
        less_than(e);
    } else if (e->state == ST_BLANK && is_blank(c)) {
        e->n_blank++;
        e->only_newlines = e->only_newlines && c == '\n';
    } else if (e->state == ST_LESS && c == '/') {
        e->state = ST_SLASH;
    } else {
        broken(e, "text between the tags of a call");
    }
}

/* The word of a tag is complete. */
static void word_read(struct chat_events *e)
{
    bool parameter = strcmp(e->word, CHAT_PARAMETER) == 0;
    enter(e, e->closing ? ST_BRACKET : parameter ? ST_PARAMETER : ST_INVOKE);
}

static void expected_word(struct chat_events *e, char c)
{
    if (c != e->word[e->tag.n]) {
        broken(e, "unknown tag in a calls block");
        return;
    }
    buf_addc(&e->tag, c);
    if (e->word[e->tag.n] == 0) {
        word_read(e);
    }
}

/* What was held as a possible closing tag belongs to the value. */
static void release_hold(struct chat_events *e, bool with_marker)
{
    send_value(e, buf_slice(&e->hold));
    if (with_marker) {
        send_value(e, SLICE(CHAT_DSML));
        send_value(e, buf_slice(&e->tag));
    }
    send_arguments(e);
    enter(e, ST_VALUE);
}

static size_t value_text(struct chat_events *e, const char *s, size_t n)
{
    buf_add(&e->hold, s, n);
    size_t all = e->hold.n, keep = 0;
    const char *p = e->hold.p;
    if (e->hold.failed) {
        e->failed = true;
        return n;
    }
    if (p[all - 1] == '<') {
        keep = 1;
    } else if (p[all - 1] == '/') {
        keep = all > 1 && p[all - 2] == '<' ? 2 : e->o.strict;
    }
    if (all > keep) {
        send_value(e, (struct slice){p, all - keep});
        send_arguments(e);
        memmove(e->hold.p, p + all - keep, keep);
        e->hold.n = keep;
    }
    return n;
}

/* One byte after "</" and the marker inside a value; false if it does not fit. */
static bool closing_word(struct chat_events *e, char c)
{
    static const char word[] = CHAT_PARAMETER;
    if (c != word[e->tag.n]) {
        release_hold(e, true);
        return false;
    }
    buf_addc(&e->tag, c);
    if (word[e->tag.n] == 0) {
        if (e->hold.p[0] == '<') {
            end_parameter(e);
        } else { /* the release takes "/｜DSML｜parameter" for the end, too, and misses the '<' */
            broken(e, "the closing tag of a parameter is damaged");
        }
    }
    return true;
}

static void opening_tag(struct chat_events *e, char c)
{
    buf_addc(&e->tag, c);
    if (e->state == ST_INVOKE && c == (e->o.strict ? '\n' : '>')) {
        check_invoke(e);
    } else if (e->state == ST_PARAMETER && c == '>') {
        check_parameter(e);
    }
}

size_t dsml_text(struct chat_events *e, const char *s, size_t n)
{
    switch (e->state) {
    case ST_BRACKET:
    case ST_BLANK:
    case ST_LESS:
    case ST_SLASH: between_tags(e, *s); return 1;
    case ST_WORD: expected_word(e, *s); return 1;
    case ST_INVOKE:
    case ST_PARAMETER: opening_tag(e, *s); return 1;
    case ST_VALUE: return value_text(e, s, n);
    case ST_VALUE_WORD: return closing_word(e, *s) ? 1 : 0;
    case ST_CLOSED:
        if (e->o.strict || !is_blank(*s)) {
            events_fault(e, "text after the calls");
        }
        return 1;
    default: return n; /* ST_DEAD */
    }
}

/* ---- markers ---- */

static void tag_begins(struct chat_events *e)
{
    e->closing = e->state == ST_SLASH;
    e->word = e->closing   ? e->in_call ? CHAT_INVOKE : CHAT_CALLS
              : e->in_call ? CHAT_PARAMETER
                           : CHAT_INVOKE;
    enter(e, ST_WORD);
}

static void value_marker(struct chat_events *e, enum chat_marker m)
{
    if (m == MARK_DSML && e->hold.n > 0 && e->hold.p[e->hold.n - 1] == '/') {
        e->state = ST_VALUE_WORD; /* keeps the hold */
        buf_clear(&e->tag);
        return;
    }
    send_value(e, buf_slice(&e->hold));
    send_value(e, slice_of(marker_text(m)));
    send_arguments(e);
    buf_clear(&e->hold);
}

void dsml_marker(struct chat_events *e, enum chat_marker m)
{
    if (e->state == ST_VALUE_WORD && m != MARK_EOS) {
        release_hold(e, true);
    }
    if (m == MARK_EOS) {
        if (e->state != ST_CLOSED) {
            events_fault(e, "the completion ends inside the calls");
        }
        e->state = ST_DONE;
    } else if (e->state == ST_VALUE) {
        value_marker(e, m);
    } else if (m == MARK_DSML && (e->state == ST_LESS || e->state == ST_SLASH)) {
        tag_begins(e);
    } else if (m != MARK_DSML && (e->state == ST_INVOKE || e->state == ST_PARAMETER)) {
        buf_adds(&e->tag, marker_text(m));
    } else if (e->state == ST_CLOSED) {
        events_fault(e, "text after the calls");
    } else if (e->state != ST_DEAD) {
        broken(e, "a control token between the tags of a call");
    }
}
