/* explain.c - what was reused, in numbers (fathom_engine_kv) and in words
 * (fathom_session_explain): where the known part of the prompt ended, and the text on both
 * sides of that place. The text is made only when somebody asks. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/engine_int.h"
#include "text/text.h"

enum { AROUND = 16 }; /* tokens shown before and after the place */

void fathom_engine_kv(const fathom_engine *e, fathom_kv_info *out)
{
    *out = e->kv;
    out->budget_bytes = pool_budget_bytes(&e->pool);
    out->page_bytes = pool_used_bytes(&e->pool, KV_PAGES);
    out->slot_bytes = pool_used_bytes(&e->pool, KV_SLOTS);
    out->frontier_bytes = pool_used_bytes(&e->pool, KV_FRONTIERS);
    out->staging_bytes = pool_used_bytes(&e->pool, KV_STAGING);
    out->shared_pages = e->tree.n_nodes;
    out->idle_pages = tree_evictable(&e->tree, NULL);
    out->evicted_pages = e->tree.n_evicted;
    snprintf(out->disk_reason, sizeof out->disk_reason, "%s", e->store_off);
    if (e->store) {
        struct kv_store_stats s;
        kv_store_get_stats(e->store, &s);
        out->disk_state = (enum fathom_disk_state)s.state;
        snprintf(out->disk_reason, sizeof out->disk_reason, "%s", s.reason);
        out->disk_paused = s.paused;
        out->disk_budget_bytes = s.budget_bytes;
        out->disk_used_bytes = s.used_bytes;
        out->disk_written_files = s.written_files;
        out->disk_written_bytes = s.written_bytes;
        out->disk_write_errors = s.write_errors;
        out->disk_loaded_bytes = s.loaded_bytes;
        out->disk_load_failures = s.load_failures;
        out->disk_evicted_files = s.evicted_files;
        out->disk_queued = s.n_queued;
        out->disk_bad = s.n_bad;
    }
}

/* ids as text in quotes, control characters escaped; numbers if there is no tokenizer. */
static void add_ids(struct buf *b, const fathom_engine *e, const uint32_t *ids, uint32_t n)
{
    struct buf raw = {0}, text = {0};
    for (uint32_t i = 0; i < n && e->tok; i++) {
        buf_add_slice(&raw, tokenizer_bytes(e->tok, ids[i]));
    }
    if (!e->tok) {
        for (uint32_t i = 0; i < n; i++) {
            buf_addf(b, "%s%u", i ? " " : "", ids[i]);
        }
        return;
    }
    buf_add_utf8_lossy(&text, raw.p ? raw.p : "", raw.n);
    buf_addc(b, '"');
    for (size_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        if (c == '\n') {
            buf_adds(b, "\\n");
        } else if (c < 0x20 || c == 0x7F) {
            buf_addf(b, "\\x%02x", c);
        } else {
            buf_addc(b, (char)c);
        }
    }
    buf_addc(b, '"');
    buf_free(&raw);
    buf_free(&text);
}

/* DIVERGED, and only the disk knows by what: looks into one file. */
static void look_on_disk(fathom_session *s)
{
    fathom_reuse *r = &s->last;
    struct kv_hit hit = {0};
    uint32_t pos, id;
    if (!s->e->store || r->have != UINT32_MAX || s->n_ids < r->matched) {
        return;
    }
    kv_store_find(s->e->store, &s->chain, s->ids, s->n_ids, &hit);
    if (kv_store_divergence(s->e->store, &s->chain, &hit, s->ids, s->n_ids, &pos, &id) &&
        id != UINT32_MAX && pos < s->n_ids && pos >= r->matched) {
        r->matched = pos;
        r->want = s->ids[pos];
        r->have = id;
        s->n_other = 1;
        s->other[0] = id;
    }
    kv_hit_release(s->e->store, &hit);
}

size_t fathom_session_explain(fathom_session *s, char *out, size_t n)
{
    fathom_reuse *r = &s->last;
    struct buf b = {0};
    uint32_t total = r->kept + r->rerun + r->computed;
    buf_addf(&b, "%u of %u tokens were known (memory %u, disk %u", r->matched, total, r->ram,
             r->disk);
    if (r->disk) {
        buf_addf(&b, " in %.0f ms", r->load_ms);
    }
    buf_addf(&b, "); computed %u, of them %u again; end: %s", r->rerun + r->computed, r->rerun,
             fathom_reuse_end_name(r->end));
    if (r->end == FATHOM_REUSE_DIVERGED) {
        look_on_disk(s);
        uint32_t at = r->matched, before = MIN(at, (uint32_t)AROUND);
        buf_addf(&b, "\nat token %u, after ", at);
        add_ids(&b, s->e, s->ids + at - before, before);
        buf_addf(&b, "\n  now    ");
        add_ids(&b, s->e, s->ids + at,
                at < s->n_ids ? MIN(s->n_ids - at, (uint32_t)AROUND) : 0);
        if (s->n_other) {
            buf_addf(&b, "\n  before ");
            add_ids(&b, s->e, s->other, s->n_other);
        }
    }
    if (n > 0) {
        snprintf(out, n, "%s", buf_cstr(&b));
    }
    size_t len = b.n;
    buf_free(&b);
    return len;
}
