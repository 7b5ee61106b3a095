/* metrics.h - counters of the running server and their Prometheus text. Counting is atomic and
 * allowed from any thread; a reading is consistent per number, not across numbers. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include <stdatomic.h>

#include "base/str.h"

enum endpoint {
    EP_CHAT,
    EP_COMPLETIONS,
    EP_RESPONSES,
    EP_MESSAGES,
    EP_COUNT_TOKENS,
    EP_MODELS,
    EP_HEALTH,
    EP_METRICS,
    EP_PROPS,
    EP_TOKENIZE,
    EP_PAGE,
    EP_OTHER,
    EP_COUNT
};
const char *endpoint_name(enum endpoint e);

enum { METRIC_CODES = 16, METRIC_BUCKETS = 12 };
enum cancel_phase { CANCEL_QUEUE, CANCEL_PREFILL, CANCEL_DECODE, CANCEL_PHASES };

/* Counts of observations at most so many seconds, the last bucket of all; sum in nanoseconds. */
struct histogram {
    atomic_ullong count[METRIC_BUCKETS + 1];
    atomic_ullong sum_ns;
};

struct metrics {
    atomic_ullong requests[EP_COUNT][METRIC_CODES];
    atomic_ullong prompt_tokens, cached_live, cached_disk, output_tokens;
    atomic_ullong prefill_ns, decode_ns, steps, step_tokens;
    atomic_ullong cancelled[CANCEL_PHASES], joined, auth_failures;
    atomic_ullong context_max;
    atomic_uint running, queued, connections_streaming;
    atomic_ullong kv_used, kv_budget, disk_bytes, disk_hits, disk_evicted, grammar_bytes;
    struct histogram queue_wait, ttft, grammar;
};

void metrics_request(struct metrics *m, enum endpoint e, int code);
void metrics_observe(struct histogram *h, double seconds);
void metrics_add_seconds(atomic_ullong *ns, double seconds);
void metrics_print(struct buf *out, const struct metrics *m, uint32_t n_slots);

#endif
