/* emit.c - what both halves of the completion parser (events.c, dsml.c) send: events and the
 * first fault; the spelling of markers; and the sink that collects a whole answer. */
#include "chat/events_int.h"
#include "chat/template.h"

const enum control_token marker_tokens[MARK_COUNT] = {CT_BOS, CT_EOS, CT_THINK_OPEN,
                                                      CT_THINK_CLOSE, CT_DSML};

const char *marker_text(enum chat_marker m)
{
    return control_token_text(marker_tokens[m]);
}

void events_emit(struct chat_events *e, enum chat_event_kind kind, struct slice text)
{
    bool is_text =
        kind == CHAT_EV_REASONING || kind == CHAT_EV_CONTENT || kind == CHAT_EV_ARGUMENTS;
    if (is_text && text.n == 0) {
        return;
    }
    struct chat_event ev = {.kind = kind, .call = e->n_call, .text = text};
    e->o.sink(e->o.user, &ev);
}

void events_fault(struct chat_events *e, const char *why)
{
    e->why = e->why ? e->why : why;
}

/* ---- collecting ---- */
static struct chat_result_call *open_call(struct chat_result *r)
{
    if (r->n_call == r->cap_call) {
        size_t cap = r->cap_call ? r->cap_call * 2 : 4;
        struct chat_result_call *call = mem_realloc(r->call, cap, sizeof *call);
        if (!call) {
            r->failed = true;
            return NULL;
        }
        memset(call + r->cap_call, 0, (cap - r->cap_call) * sizeof *call);
        r->call = call;
        r->cap_call = cap;
    }
    return &r->call[r->n_call];
}

void chat_result_sink(void *result, const struct chat_event *ev)
{
    struct chat_result *r = result;
    struct chat_result_call *call;
    switch (ev->kind) {
    case CHAT_EV_REASONING: buf_add_slice(&r->reasoning, ev->text); break;
    case CHAT_EV_CONTENT: buf_add_slice(&r->content, ev->text); break;
    case CHAT_EV_CALL:
        call = open_call(r);
        if (call) {
            buf_add_slice(&call->name, ev->text);
            r->open = true;
        }
        break;
    case CHAT_EV_ARGUMENTS:
        if (r->open) {
            buf_add_slice(&r->call[r->n_call].arguments, ev->text);
        }
        break;
    case CHAT_EV_CALL_END:
        if (r->open) {
            call = &r->call[r->n_call++];
            r->failed = r->failed || call->name.failed || call->arguments.failed;
            r->open = false;
        }
        break;
    case CHAT_EV_END:
        r->end = ev->end;
        r->why = ev->why;
        r->failed = r->failed || r->reasoning.failed || r->content.failed;
        break;
    }
}

void chat_result_fini(struct chat_result *r)
{
    for (size_t i = 0; i < r->cap_call; i++) {
        buf_free(&r->call[i].name);
        buf_free(&r->call[i].arguments);
    }
    mem_free(r->call);
    buf_free(&r->reasoning);
    buf_free(&r->content);
    *r = (struct chat_result){0};
}
