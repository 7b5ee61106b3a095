/* turns.c - see turns.h. The order of the steps is that of docs/chat-format.md,
 * "Preprocessing":
 * 1. merge: tool results and user messages that follow each other become one user turn,
 * 2. sort: tool results of one turn follow the order of the calls they answer,
 * 3. decide whether reasoning of earlier turns is kept,
 * 4. drop developer turns before the last user turn (thinking mode, reasoning not kept).
 *
 * Messages before n_context were rendered earlier: they take part in every decision, but never
 * merge with what follows them. Invariant: parts and messages of a turn are contiguous, because
 * only neighbours merge. Next: render.c. */
#include "chat/turns.h"

#include <stdlib.h>

#include "json/keyset.h"

static enum chat_role role_of(const struct chat_message *m, bool api_rules)
{
    if (m->role == CHAT_TOOL) {
        return CHAT_USER;
    }
    return api_rules && m->role == CHAT_DEVELOPER ? CHAT_SYSTEM : m->role;
}

/* Whether message m, number i, continues the last turn. */
static bool joins(const struct chat_turns *ts, const struct chat_message *m, size_t i,
                  const struct chat_turns_opts *o)
{
    const struct chat_turn *last = ts->n ? &ts->turn[ts->n - 1] : NULL;
    enum chat_role role = role_of(m, o->api_rules);
    if (!last || last->role != role) {
        return false;
    }
    if (ts->n == ts->n_context && i >= o->n_context) {
        return false; /* never across the end of the context */
    }
    if (role == CHAT_USER) {
        return m->role == CHAT_TOOL || !last->task.p;
    }
    return role == CHAT_SYSTEM && o->api_rules && ts->n == 1;
}

static void merge(struct chat_turns *ts, struct chat_part *part,
                  const struct chat_conversation *c, const struct chat_turns_opts *o)
{
    for (size_t i = 0; i < c->n; i++) {
        const struct chat_message *m = c->msg[i];
        enum chat_role role = role_of(m, o->api_rules);
        bool quiet = role == CHAT_SYSTEM && o->api_rules && m->content.n == 0;
        if (quiet && ts->n > 0 && !m->tools && !m->response_format) {
            continue;
        }
        if (!joins(ts, m, i, o)) {
            struct slice task = m->role == CHAT_TOOL ? (struct slice){0} : m->task;
            ts->turn[ts->n++] =
                (struct chat_turn){.role = role, .msg = c->msg + i, .part = part, .task = task};
        }
        struct chat_turn *t = &ts->turn[ts->n - 1];
        t->n_msg = (size_t)(c->msg + i - t->msg) + 1;
        if (!quiet) {
            *part++ = (struct chat_part){m->content, m->call_id, m->role == CHAT_TOOL};
            t->n_part++;
        }
        ts->n_context += i < o->n_context && t->n_msg == 1;
    }
}

/* ---- order of tool results ---- */

struct result_order {
    size_t call, arrival; /* sort keys */
};

static int compare_results(const void *pa, const void *pb)
{
    const struct result_order *a = pa, *b = pb;
    if (a->call != b->call) {
        return a->call < b->call ? -1 : 1;
    }
    return a->arrival < b->arrival ? -1 : a->arrival > b->arrival;
}

/* The calls of the latest assistant turn that has some: distinct ids and their positions. */
struct call_order {
    struct keyset ids;
    size_t *position; /* of each distinct id: its last call */
    size_t cap;
};

static int note_calls(struct call_order *order, struct arena *a, const struct chat_message *m)
{
    keyset_clear(&order->ids);
    if (order->cap < m->n_call) {
        order->position = arena_alloc(a, m->n_call * sizeof *order->position);
        order->cap = order->position ? m->n_call : 0;
    }
    for (size_t i = 0; order->position && i < m->n_call; i++) {
        if (m->call[i].id.n == 0) {
            continue;
        }
        size_t k = keyset_add(&order->ids, m->call[i].id);
        if (k == KEYSET_NONE) {
            return FATHOM_ENOMEM;
        }
        order->position[k] = i;
    }
    return order->position ? 0 : FATHOM_ENOMEM;
}

static int sort_results(struct call_order *order, struct arena *a, struct chat_turn *t)
{
    size_t n_results = 0, n_known = order->ids.n;
    for (size_t i = 0; i < t->n_part; i++) {
        n_results += t->part[i].result;
    }
    if (n_results < 2 || n_known == 0) {
        return 0;
    }
    struct result_order *r = arena_alloc(a, n_results * sizeof *r);
    struct chat_part *copy = arena_alloc(a, t->n_part * sizeof *copy);
    if (!r || !copy) {
        return FATHOM_ENOMEM;
    }
    memcpy(copy, t->part, t->n_part * sizeof *copy);
    size_t n = 0;
    for (size_t i = 0; i < t->n_part; i++) {
        if (copy[i].result) {
            size_t k =
                copy[i].call_id.n ? keyset_find(&order->ids, copy[i].call_id) : KEYSET_NONE;
            r[n++] = (struct result_order){k < n_known ? order->position[k] : 0, i};
        }
    }
    qsort(r, n_results, sizeof *r, compare_results);
    n = 0;
    for (size_t i = 0; i < t->n_part; i++) {
        if (copy[i].result) {
            t->part[i] = copy[r[n++].arrival];
        }
    }
    return 0;
}

static int sort_all(struct chat_turns *ts, struct arena *a)
{
    struct call_order order = {0};
    int rc = 0;
    for (size_t i = 0; i < ts->n && !rc; i++) {
        struct chat_turn *t = &ts->turn[i];
        if (t->role == CHAT_ASSISTANT && t->msg[0]->n_call > 0) {
            rc = note_calls(&order, a, t->msg[0]);
        } else if (t->role == CHAT_USER) {
            rc = sort_results(&order, a, t);
        }
    }
    keyset_free(&order.ids);
    return rc;
}

/* ---- reasoning ---- */

static size_t last_user(const struct chat_turn *turn, size_t n)
{
    while (n > 0 && turn[n - 1].role != CHAT_USER && turn[n - 1].role != CHAT_DEVELOPER) {
        n--;
    }
    return n - 1; /* SIZE_MAX if there is none */
}

/* Only definitions count, and only where the release looks for them. */
static bool any_tools(const struct chat_turns *ts)
{
    for (size_t i = 0; i < ts->n; i++) {
        for (size_t k = 0; ts->turn[i].role != CHAT_USER && k < ts->turn[i].n_msg; k++) {
            if (ts->turn[i].msg[k]->tools) {
                return true;
            }
        }
    }
    return false;
}

/* Removes developer turns before the last user turn. The release counts the context's own turns
 * by dropping from the context alone, with the last user turn of the context. */
static void drop_developers(struct chat_turns *ts)
{
    size_t last = last_user(ts->turn, ts->n);
    size_t last_context = last_user(ts->turn, ts->n_context);
    size_t n = 0, n_context = 0;
    for (size_t i = 0; i < ts->n; i++) {
        bool developer = ts->turn[i].role == CHAT_DEVELOPER;
        n_context +=
            i < ts->n_context && (!developer || last_context == SIZE_MAX || i >= last_context);
        if (!developer || last == SIZE_MAX || i >= last) {
            ts->turn[n++] = ts->turn[i];
        }
    }
    ts->n = n;
    ts->n_context = MIN(n_context, n);
}

int chat_turns_make(struct chat_turns *out, struct arena *a, const struct chat_conversation *c,
                    const struct chat_turns_opts *o, fathom_err *err)
{
    size_t n = c->n ? c->n : 1, bytes = n * sizeof(struct chat_turn);
    struct chat_part *part = arena_alloc(a, n * sizeof *part);
    *out = (struct chat_turns){.turn = arena_alloc(a, bytes)};
    if (!part || !out->turn) {
        return err_nomem(err, "the turns of a conversation", bytes);
    }
    merge(out, part, c, o);
    if (sort_all(out, a) != 0) {
        return err_nomem(err, "the turns of a conversation", bytes);
    }
    out->keep_reasoning = o->keep_thinking || any_tools(out);
    if (o->thinking && !out->keep_reasoning) {
        drop_developers(out);
    }
    out->last_user = last_user(out->turn, out->n);
    return 0;
}
