/* plan.h - the memory estimate shared by fathom_plan_make and fathom_engine_open (plan.c). */
#ifndef ENGINE_PLAN_H
#define ENGINE_PLAN_H

#include "model/layout.h"

/* Memory of this machine; 0 where the system does not tell. available: what programs can still
 * take, the page cache included. */
void memory_info(uint64_t *total, uint64_t *available); /* memory.c */

struct plan_need {
    const struct layout *layout;
    uint32_t model_ctx;        /* limit of the model */
    uint32_t max_ctx, max_seq; /* asked for; max_ctx 0: as long as fits */
    uint64_t weight_bytes, scratch_bytes;
    uint64_t kv_bytes;  /* budget asked for; 0: what the sequences need */
    uint64_t available; /* UINT64_MAX: do not check */
};
/* Sizes of the KV pool. */
struct plan_pool {
    uint32_t max_ctx, n_pages;
};
/* Decides the pool, or refuses with FATHOM_ENOMEM, the numbers and the lever. */
int plan_pool(struct plan_pool *out, const struct plan_need *need, fathom_err *err);

/* Longest context of one sequence for which weights, scratch and n_seq such sequences fit;
 * 0: none. */
uint32_t plan_max_ctx(const struct plan_need *need, uint32_t n_seq);

#endif
