/* replay.c - see replay.h.
 *
 * A record's key is a keyed 128-bit hash of its kind, the salt and the bytes, so equal keys mean
 * equal bytes: nobody outside can prepare a collision. Records whose ids are those that the
 * tokenizer gives anyway are not kept. An answer's record is found by the bytes that the
 * renderer makes of the parsed message, so it is used only for a message that means exactly
 * what was sampled. One lock; the list is in order of last use. */
#include "server/replay.h"

#include <pthread.h>

#include "base/mem.h"
#include "base/siphash.h"

enum record_kind { REC_REASONING = 1, REC_ANSWER, REC_CALL };
enum { FIRST_SLOTS = 256 };

struct record {
    struct record *chain; /* next of the hash slot */
    struct record *older, *newer;
    struct sip_digest key;
    size_t n;    /* bytes of data */
    size_t name; /* REC_CALL: bytes of the name, before the arguments */
    char data[]; /* ids, or name and arguments */
};

struct replay {
    pthread_mutex_t lock;
    struct sip_key secret;
    size_t max_bytes, bytes, n, n_slot;
    uint64_t hits;
    struct record **slot; /* owned: n_slot, a power of two */
    struct record *newest, *oldest;
};

struct replay *replay_new(size_t max_bytes)
{
    struct replay *r = mem_calloc(1, sizeof *r);
    struct record **slot = mem_calloc(FIRST_SLOTS, sizeof(struct record *));
    if (!r || !slot) {
        mem_free(r);
        mem_free(slot);
        return NULL;
    }
    r->slot = slot;
    r->n_slot = FIRST_SLOTS;
    r->max_bytes = max_bytes;
    r->secret = sip_key_random();
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

void replay_free(struct replay *r)
{
    if (!r) {
        return;
    }
    for (struct record *x = r->newest; x;) {
        struct record *older = x->older;
        mem_free(x);
        x = older;
    }
    mem_free(r->slot);
    pthread_mutex_destroy(&r->lock);
    mem_free(r);
}

struct replay_stats replay_stats(struct replay *r)
{
    pthread_mutex_lock(&r->lock);
    struct replay_stats s = {r->n, r->bytes, r->hits};
    pthread_mutex_unlock(&r->lock);
    return s;
}

/* ---- the table ---- */

static struct sip_digest key_of(const struct replay *r, enum record_kind kind,
                                struct sip_digest salt, struct slice bytes)
{
    struct {
        uint64_t kind;
        struct sip_digest salt, bytes;
    } k = {(uint64_t)kind, salt, sip_hash(r->secret, bytes.n ? bytes.p : "", bytes.n)};
    return sip_hash(r->secret, &k, sizeof k);
}

static struct record **slot_of(struct replay *r, struct sip_digest key)
{
    struct record **x = &r->slot[key.h[0] & (r->n_slot - 1)];
    while (*x && !((*x)->key.h[0] == key.h[0] && (*x)->key.h[1] == key.h[1])) {
        x = &(*x)->chain;
    }
    return x;
}

static void list_remove(struct replay *r, struct record *x)
{
    *(x->newer ? &x->newer->older : &r->newest) = x->older;
    *(x->older ? &x->older->newer : &r->oldest) = x->newer;
}

static void list_add(struct replay *r, struct record *x)
{
    x->newer = NULL;
    x->older = r->newest;
    *(x->older ? &x->older->newer : &r->oldest) = x;
    r->newest = x;
}

static void remove_record(struct replay *r, struct record **link)
{
    struct record *x = *link;
    *link = x->chain;
    list_remove(r, x);
    r->bytes -= x->n + sizeof *x;
    r->n--;
    mem_free(x);
}

static void grow(struct replay *r)
{
    size_t n = r->n_slot * 2;
    struct record **slot = mem_calloc(n, sizeof(struct record *));
    if (!slot) {
        return; /* longer chains, nothing else */
    }
    for (struct record *x = r->newest; x; x = x->older) {
        x->chain = slot[x->key.h[0] & (n - 1)];
        slot[x->key.h[0] & (n - 1)] = x;
    }
    mem_free(r->slot);
    r->slot = slot;
    r->n_slot = n;
}

static void put(struct replay *r, struct sip_digest key, size_t name, struct slice a,
                struct slice b)
{
    struct record *x = mem_alloc(1, sizeof *x + a.n + b.n);
    if (!x) {
        return;
    }
    *x = (struct record){.key = key, .n = a.n + b.n, .name = name};
    if (a.n) {
        memcpy(x->data, a.p, a.n);
    }
    if (b.n) {
        memcpy(x->data + a.n, b.p, b.n);
    }
    pthread_mutex_lock(&r->lock);
    struct record **old = slot_of(r, key);
    if (*old) {
        remove_record(r, old);
    }
    if (r->n >= r->n_slot) {
        grow(r);
    }
    struct record **link = slot_of(r, key);
    *link = x;
    list_add(r, x);
    r->n++;
    r->bytes += x->n + sizeof *x;
    while (r->bytes > r->max_bytes && r->oldest) {
        remove_record(r, slot_of(r, r->oldest->key));
    }
    pthread_mutex_unlock(&r->lock);
}

/* ---- parts of assistant turns in a prompt ---- */

struct part {
    enum record_kind kind;
    size_t at, end; /* bytes of the prompt text */
    size_t last;    /* the segment that ends it */
};

static bool is_token(const struct chat_prompt *p, size_t i, enum control_token t)
{
    return i < p->n_seg && p->seg[i].kind == CHAT_SEG_CONTROL && p->seg[i].token == t;
}

/* The part that begins behind segment i, if one does: reasoning after <Assistant><think>, the
 * answer after <Assistant></think> or after the end of the reasoning. */
static bool part_after(const struct chat_prompt *p, size_t i, bool in_reasoning,
                       struct part *out)
{
    bool think = i > 0 && is_token(p, i - 1, CT_ASSISTANT) && is_token(p, i, CT_THINK_OPEN);
    bool answer = is_token(p, i, CT_THINK_CLOSE) &&
                  (in_reasoning || (i > 0 && is_token(p, i - 1, CT_ASSISTANT)));
    if (!think && !answer) {
        return false;
    }
    enum control_token end = think ? CT_THINK_CLOSE : CT_EOS;
    for (size_t k = i + 1; k < p->n_seg; k++) {
        if (is_token(p, k, end)) {
            *out = (struct part){think ? REC_REASONING : REC_ANSWER, p->seg[i].at + p->seg[i].n,
                                 p->seg[k].at, k};
            return out->end > out->at;
        }
        if (is_token(p, k, CT_EOS) || is_token(p, k, CT_USER) || is_token(p, k, CT_ASSISTANT)) {
            break;
        }
    }
    return false;
}

/* Appends the ids of the record for these bytes; false if there is none. */
static bool splice(struct replay *r, enum record_kind kind, struct sip_digest salt,
                   struct slice bytes, struct ids *out)
{
    struct sip_digest key = key_of(r, kind, salt, bytes);
    pthread_mutex_lock(&r->lock);
    struct record *x = *slot_of(r, key);
    if (x) {
        list_remove(r, x);
        list_add(r, x);
        r->hits++;
        for (size_t i = 0; i < x->n; i += sizeof(uint32_t)) {
            uint32_t id;
            memcpy(&id, x->data + i, sizeof id);
            ids_add(out, id);
        }
    }
    pthread_mutex_unlock(&r->lock);
    return x != NULL;
}

int replay_prompt_ids(struct replay *r, struct sip_digest salt, const struct chat_prompt *p,
                      const struct tokenizer *t, struct ids *out, fathom_err *err)
{
    const char *text = buf_cstr(&p->text);
    size_t run = 0;
    bool thinking = false;
    for (size_t i = 0; i < p->n_seg; i++) {
        const struct chat_seg *seg = &p->seg[i];
        struct part part;
        if (seg->kind != CHAT_SEG_CONTROL) {
            continue;
        }
        int32_t id = tokenizer_control(t, seg->token);
        if (id < 0) {
            return err_set(err, FATHOM_EUNSUPPORTED, "the vocabulary has no token %s",
                           control_token_text(seg->token));
        }
        tokenizer_encode(t, text + run, seg->at - run, false, out);
        ids_add(out, (uint32_t)id);
        run = seg->at + seg->n;
        bool before = thinking; /* inside a reasoning until its end marker is passed */
        thinking = is_token(p, i, CT_THINK_OPEN);
        bool known =
            part_after(p, i, before, &part) &&
            splice(r, part.kind, salt, (struct slice){text + part.at, part.end - part.at}, out);
        if (known) {
            run = part.end;
            i = part.last - 1;
        }
    }
    tokenizer_encode(t, text + run, p->text.n - run, false, out);
    return out->failed ? err_nomem(err, "the ids of a prompt", p->text.n) : 0;
}

/* ---- remembering ---- */

/* The ids that the tokenizer gives for a part. */
static void plain_ids(const struct chat_prompt *p, const struct part *part, size_t first,
                      const struct tokenizer *t, struct ids *out)
{
    const char *text = buf_cstr(&p->text);
    size_t run = part->at;
    for (size_t i = first; i < part->last; i++) {
        if (p->seg[i].kind == CHAT_SEG_CONTROL) {
            tokenizer_encode(t, text + run, p->seg[i].at - run, false, out);
            ids_add(out, (uint32_t)tokenizer_control(t, p->seg[i].token));
            run = p->seg[i].at + p->seg[i].n;
        }
    }
    tokenizer_encode(t, text + run, part->end - run, false, out);
}

static void note_part(struct replay *r, struct sip_digest salt, const struct chat_prompt *p,
                      const struct part *part, size_t first, const struct tokenizer *t,
                      const uint32_t *ids, size_t n)
{
    struct ids plain = {0};
    plain_ids(p, part, first, t, &plain);
    bool same = plain.n == n && memcmp(plain.p, ids, n * sizeof *ids) == 0;
    if (!same && !plain.failed && n > 0) {
        struct slice bytes = {p->text.p + part->at, part->end - part->at};
        put(r, key_of(r, part->kind, salt, bytes), 0,
            (struct slice){(const char *)ids, n * sizeof *ids}, (struct slice){0});
    }
    ids_free(&plain);
}

static void note_parts(struct replay *r, struct sip_digest salt, const struct chat_prompt *p,
                       const struct tokenizer *t, const struct ids *output, bool in_reasoning)
{
    size_t at = 0, end = output->n - 1; /* without the end token */
    int64_t close = tokenizer_control(t, CT_THINK_CLOSE);
    while (in_reasoning && at < end && output->p[at] != close) {
        at++;
    }
    if (in_reasoning && at == end) {
        return;
    }
    bool thinking = false;
    for (size_t i = 1; i < p->n_seg; i++) {
        struct part part;
        if (part_after(p, i, thinking, &part)) {
            if (part.kind == REC_REASONING && in_reasoning) {
                note_part(r, salt, p, &part, i + 1, t, output->p, at);
            } else if (part.kind == REC_ANSWER) {
                size_t from = in_reasoning ? at + 1 : 0;
                note_part(r, salt, p, &part, i + 1, t, output->p + from, end - from);
                return;
            }
        }
        thinking = thinking || is_token(p, i, CT_THINK_OPEN);
    }
}

void replay_note(struct replay *r, const struct tokenizer *t, struct sip_digest salt,
                 const struct chat_message *m, const struct chat_render_opts *o,
                 const struct ids *output, bool in_reasoning)
{
    struct arena a = {0};
    struct chat_conversation c;
    struct chat_prompt p = {0};
    struct chat_render_opts own = *o;
    for (size_t i = 0; i < m->n_call; i++) {
        if (m->call[i].id.n > 0) {
            put(r, key_of(r, REC_CALL, salt, m->call[i].id), m->call[i].name.n, m->call[i].name,
                m->call[i].arguments);
        }
    }
    bool ended =
        output->n > 0 && output->p[output->n - 1] == (int64_t)tokenizer_control(t, CT_EOS);
    own.thinking = in_reasoning;
    own.effort = CHAT_EFFORT_NONE;
    own.keep_thinking = own.api_rules = true;
    chat_init(&c, &a);
    struct chat_message *user = chat_add(&c, CHAT_USER, (struct slice){0});
    struct chat_message *copy = chat_add(&c, CHAT_ASSISTANT, m->content);
    struct chat_message *next = chat_add(&c, CHAT_USER, (struct slice){0});
    if (ended && user && copy && next) {
        copy->reasoning = m->reasoning;
        copy->call = m->call;
        copy->n_call = m->n_call;
        if (chat_render(&p, &c, &own, NULL) == 0) {
            note_parts(r, salt, &p, t, output, in_reasoning);
        }
    }
    chat_prompt_fini(&p);
    arena_fini(&a);
}

/* ---- calls ---- */

struct pair {
    const struct json *a, *b;
};

static bool same_number(const struct json *a, const struct json *b)
{
    double x, y;
    if (a->n == b->n && memcmp(a->s, b->s, a->n) == 0) {
        return true;
    }
    return json_double(a, &x) && json_double(b, &y) && x == y && x < 0x1p53 && x > -0x1p53;
}

/* Pushes the children of two containers of equal size; false if they cannot be equal. */
static bool push_children(struct pair p, struct pair *stack, size_t *n, size_t cap)
{
    for (size_t i = 0; i < p.a->n; i++) {
        struct pair c;
        if (p.a->type == JSON_ARRAY) {
            c = (struct pair){&p.a->items[i], &p.b->items[i]};
        } else {
            const struct json_member *m = &p.a->members[i];
            bool here = slice_eq(m->key, p.b->members[i].key);
            c.a = &m->value;
            c.b = here ? &p.b->members[i].value : NULL;
            for (size_t k = 0; !c.b && k < p.b->n; k++) {
                c.b = slice_eq(m->key, p.b->members[k].key) ? &p.b->members[k].value : NULL;
            }
        }
        if (!c.b || *n == cap) {
            return false;
        }
        stack[(*n)++] = c;
    }
    return true;
}

/* Are two JSON values equal whatever the order of keys? Gives up (false) on huge ones. */
static bool same_value(const struct json *a, const struct json *b)
{
    enum { CAP = 512, LIMIT = 64 };
    struct pair stack[CAP];
    size_t n = 0;
    stack[n++] = (struct pair){a, b};
    while (n > 0) {
        struct pair p = stack[--n];
        bool container = p.a->type == JSON_ARRAY || p.a->type == JSON_OBJECT;
        if (p.a->type != p.b->type || (container && p.a->n != p.b->n)) {
            return false;
        }
        if (p.a->type == JSON_NUMBER && !same_number(p.a, p.b)) {
            return false;
        }
        if (p.a->type == JSON_STRING &&
            !slice_eq((struct slice){p.a->s, p.a->n}, (struct slice){p.b->s, p.b->n})) {
            return false;
        }
        if (container && ((p.a->type == JSON_OBJECT && p.a->n > LIMIT) ||
                          !push_children(p, stack, &n, CAP))) {
            return false;
        }
    }
    return true;
}

static bool same_arguments(struct arena *a, struct slice x, struct slice y)
{
    struct json vx, vy;
    if (slice_eq(x, y)) {
        return true;
    }
    return json_read_python(&vx, a, x.p, x.n, NULL) == 0 &&
           json_read_python(&vy, a, y.p, y.n, NULL) == 0 && same_value(&vx, &vy);
}

void replay_calls(struct replay *r, struct sip_digest salt, struct chat_conversation *c)
{
    for (size_t i = 0; i < c->n; i++) {
        for (size_t k = 0; k < c->msg[i]->n_call; k++) {
            struct chat_call *call = &c->msg[i]->call[k];
            if (call->id.n == 0) {
                continue;
            }
            struct sip_digest key = key_of(r, REC_CALL, salt, call->id);
            char *copy = NULL;
            size_t n = 0, name = 0;
            pthread_mutex_lock(&r->lock);
            struct record *x = *slot_of(r, key);
            if (x) {
                n = x->n;
                name = x->name;
                copy = arena_strndup(c->arena, x->data, n);
                list_remove(r, x);
                list_add(r, x);
            }
            pthread_mutex_unlock(&r->lock);
            struct slice own = {copy ? copy + name : NULL, copy ? n - name : 0};
            if (copy && slice_eq((struct slice){copy, name}, call->name) &&
                same_arguments(c->arena, own, call->arguments)) {
                call->arguments = own;
            }
        }
    }
}
