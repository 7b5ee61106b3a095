/* manifest.c - see manifest.h. */
#include "eval/manifest.h"

#include "base/mem.h"
#include "chat/message.h"

int manifest_each(struct slice text,
                  int (*fn)(void *user, const struct json *entry, fathom_err *err), void *user,
                  fathom_err *err)
{
    const char *p = text.p, *end = text.p + text.n;
    int rc = 0;
    for (size_t line = 1; rc == 0 && p < end; line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        const char *stop = nl ? nl : end, *q = p;
        while (q < stop && (*q == ' ' || *q == '\t' || *q == '\r')) {
            q++;
        }
        if (q < stop) {
            struct arena a = {0};
            struct json entry;
            fathom_err why = {0};
            rc = json_read(&entry, &a, p, (size_t)(stop - p), &why);
            if (rc == 0 && !json_is(&entry, JSON_OBJECT)) {
                rc = err_set(&why, FATHOM_EFORMAT, "not a JSON object");
            }
            rc = rc ? rc : fn(user, &entry, &why);
            if (rc) {
                err_set(err, rc, "line %zu: %s", line, why.msg);
            }
            arena_fini(&a);
        }
        p = nl ? nl + 1 : end;
    }
    return rc;
}

static int add_ids(struct ids *out, const struct manifest_ctx *m, const struct json *list,
                   const char *key, fathom_err *err)
{
    for (size_t i = 0; i < list->n; i++) {
        int64_t id;
        if (!json_int(&list->items[i], &id) || id < 0 || id > UINT32_MAX ||
            (m->n_vocab && id >= m->n_vocab)) {
            return err_set(err, FATHOM_EFORMAT, "%s[%zu] is no token id below %u", key, i,
                           m->n_vocab);
        }
        ids_add(out, (uint32_t)id);
    }
    return out->failed ? err_nomem(err, key, list->n) : 0;
}

static int need_tokenizer(const struct manifest_ctx *m, const char *key, fathom_err *err)
{
    return m->tok
               ? 0
               : err_set(err, FATHOM_EUNSUPPORTED,
                         "\"%s\" is text, and the model file has no tokenizer: give ids", key);
}

static int render(struct ids *out, const struct manifest_ctx *m,
                  const struct chat_conversation *c, bool thinking, fathom_err *err)
{
    struct chat_render_opts o = {.release = m->release, .thinking = thinking};
    struct chat_prompt p = {0};
    int rc = chat_render(&p, c, &o, err);
    rc = rc ? rc : chat_prompt_ids(&p, m->tok, out, err);
    chat_prompt_fini(&p);
    return rc;
}

int manifest_user_prompt(struct ids *out, const struct manifest_ctx *m, struct slice system,
                         struct slice text, bool thinking, fathom_err *err)
{
    struct arena a = {0};
    struct chat_conversation c;
    chat_init(&c, &a);
    int rc = need_tokenizer(m, "prompt", err);
    if (rc == 0 &&
        ((system.p && !chat_add(&c, CHAT_SYSTEM, system)) || !chat_add(&c, CHAT_USER, text))) {
        rc = err_nomem(err, "prompt", text.n);
    }
    rc = rc ? rc : render(out, m, &c, thinking, err);
    arena_fini(&a);
    return rc;
}

static int messages_prompt(struct ids *out, const struct manifest_ctx *m,
                           const struct json *entry, bool thinking, fathom_err *err)
{
    struct arena a = {0};
    struct chat_conversation c;
    const struct json *tools = json_get(entry, "tools");
    chat_init(&c, &a);
    int rc = need_tokenizer(m, "messages", err);
    rc = rc ? rc : chat_load_messages(&c, json_get(entry, "messages"), err);
    if (rc == 0 && tools && tools->type != JSON_NULL) {
        rc = chat_attach_tools(&c, tools, err);
    }
    rc = rc ? rc : render(out, m, &c, thinking, err);
    arena_fini(&a);
    return rc;
}

static int trusted_text(struct ids *out, const struct manifest_ctx *m, const char *key,
                        struct slice text, fathom_err *err)
{
    int rc = need_tokenizer(m, key, err);
    if (rc == 0) {
        tokenizer_encode(m->tok, text.p, text.n, true, out);
        rc = out->failed ? err_nomem(err, key, text.n) : 0;
    }
    return rc;
}

int manifest_prompt(struct ids *out, const struct manifest_ctx *m, const struct json *entry,
                    fathom_err *err)
{
    const struct json *ids = json_get(entry, "prompt_ids"), *text = json_get(entry, "text");
    const struct json *thinks = json_get(entry, "thinking");
    const struct json *prompt = json_get(entry, "prompt");
    bool thinking = false;
    if (thinks && !json_bool(thinks, &thinking)) {
        return err_set(err, FATHOM_EFORMAT, "\"thinking\" is neither true nor false");
    }
    if (json_is(ids, JSON_ARRAY)) {
        return ids->n ? add_ids(out, m, ids, "prompt_ids", err)
                      : err_set(err, FATHOM_EFORMAT, "\"prompt_ids\" is empty");
    }
    if (json_is(json_get(entry, "messages"), JSON_ARRAY)) {
        return messages_prompt(out, m, entry, thinking, err);
    }
    if (json_is(prompt, JSON_STRING)) {
        return manifest_user_prompt(out, m, json_str(json_get(entry, "system")),
                                    json_str(prompt), thinking, err);
    }
    if (!json_is(text, JSON_STRING)) {
        return err_set(
            err, FATHOM_EFORMAT,
            "no prompt: there is none of \"prompt_ids\", \"messages\", \"prompt\" and "
            "\"text\" in a usable form");
    }
    int rc = need_tokenizer(m, "text", err);
    if (rc == 0) {
        ids_add(out, (uint32_t)tokenizer_control(m->tok, CT_BOS));
        rc = trusted_text(out, m, "text", json_str(text), err);
    }
    return rc;
}

int manifest_continuation(struct ids *out, size_t *n_added, const struct manifest_ctx *m,
                          const struct json *entry, fathom_err *err)
{
    static const char *const lists[] = {"continuation_ids", "sample"};
    const struct json *text = json_get(entry, "continuation");
    size_t before = out->n;
    int rc = 0;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        const struct json *list = json_get(entry, lists[i]);
        if (json_is(list, JSON_ARRAY)) {
            rc = add_ids(out, m, list, lists[i], err);
            *n_added = out->n - before;
            return rc;
        }
    }
    if (json_is(text, JSON_STRING)) {
        rc = trusted_text(out, m, "continuation", json_str(text), err);
    }
    *n_added = out->n - before;
    return rc;
}
