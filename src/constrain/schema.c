/* schema.c - see schema.h: opening, the entry points, and the loop over the work list. */
#include "constrain/schema_int.h"

int schema_check_size(const struct json *v, fathom_err *err)
{
    struct buf text = {0};
    json_write_compact(&text, v);
    size_t n = text.failed ? SIZE_MAX : text.n;
    buf_free(&text);
    return n <= SCHEMA_MAX_BYTES ? 0
                                 : err_set(err, FATHOM_ELIMIT,
                                           "the schema has %zu bytes; at most %d are supported",
                                           n, SCHEMA_MAX_BYTES);
}

int schema_open(struct schema **out, struct grammar *g, const struct json *root, bool strict,
                struct fuel *fuel, fathom_err *err)
{
    struct schema *s = mem_calloc(1, sizeof *s);
    *out = s;
    if (!s) {
        return err_nomem(err, "a schema", sizeof *s);
    }
    s->g = g;
    s->root = root;
    s->strict = strict;
    s->fuel = fuel;
    return 0;
}

void schema_close(struct schema *s)
{
    if (s) {
        mem_free(s->list);
        mem_free(s->work);
        mem_free(s->text);
        arena_fini(&s->arena);
        mem_free(s);
    }
}

static uint32_t list_of_value(struct schema *s, const struct json *v)
{
    struct parts p;
    p.n = 0;
    p.never = false;
    if (v) {
        parts_add(s, &p, v);
    }
    return list_of(s, &p);
}

uint32_t schema_any(struct schema *s)
{
    return list_of_value(s, NULL);
}

uint32_t schema_rule(struct schema *s, const struct json *v, enum schema_form form)
{
    return list_rule(s, list_of_value(s, v), form);
}

bool schema_read_members(struct schema *s, const struct json *v, struct schema_members *out)
{
    *out = (struct schema_members){.key = NO_DFA};
    uint32_t list = list_of_value(s, v);
    return schema_ok(s) && list_members(s, list, out);
}

uint32_t schema_member_rule(struct schema *s, uint32_t list, enum schema_form form)
{
    return list_rule(s, list, form);
}

int schema_run(struct schema *s, fathom_err *err)
{
    while (s->done < s->n_work && schema_ok(s)) {
        struct schema_work w = s->work[s->done++];
        s->depth = s->list[w.list].depth;
        uint32_t node = emit_list(s, w.list, w.form);
        s->g->rule[s->list[w.list].rule[w.form]] = node;
    }
    s->depth = 0;
    if (s->err.code) {
        return err_set(err, s->err.code, "%s", s->err.msg);
    }
    return s->g->err.code ? err_set(err, s->g->err.code, "%s", s->g->err.msg) : 0;
}
