/* metrics.c - see metrics.h. Names and labels follow the Prometheus text format 0.0.4. */
#include "server/metrics.h"

#include "base/mem.h"

static const char *const names[EP_COUNT] = {
    [EP_CHAT] = "chat_completions",
    [EP_COMPLETIONS] = "completions",
    [EP_RESPONSES] = "responses",
    [EP_MESSAGES] = "messages",
    [EP_COUNT_TOKENS] = "count_tokens",
    [EP_MODELS] = "models",
    [EP_HEALTH] = "health",
    [EP_METRICS] = "metrics",
    [EP_PROPS] = "props",
    [EP_TOKENIZE] = "tokenize",
    [EP_PAGE] = "page",
    [EP_OTHER] = "other",
};
static const int codes[METRIC_CODES] = {200, 204, 400, 401, 403, 404, 405, 413,
                                        415, 429, 431, 499, 500, 503, 529, 0};
static const double bounds[METRIC_BUCKETS] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                              1,    2.5,   5,    15,  60,   300};

const char *endpoint_name(enum endpoint e)
{
    return names[e];
}

void metrics_request(struct metrics *m, enum endpoint e, int code)
{
    size_t i = 0;
    while (i + 1 < METRIC_CODES && codes[i] != code) {
        i++;
    }
    atomic_fetch_add(&m->requests[e][i], 1);
}

void metrics_add_seconds(atomic_ullong *ns, double seconds)
{
    atomic_fetch_add(ns, (unsigned long long)(seconds > 0 ? seconds * 1e9 : 0));
}

void metrics_observe(struct histogram *h, double seconds)
{
    size_t i = 0;
    while (i < METRIC_BUCKETS && seconds > bounds[i]) {
        i++;
    }
    atomic_fetch_add(&h->count[i], 1);
    metrics_add_seconds(&h->sum_ns, seconds);
}

static void head(struct buf *b, const char *name, const char *type, const char *help)
{
    buf_addf(b, "# HELP fathom_%s %s\n# TYPE fathom_%s %s\n", name, help, name, type);
}

static void number(struct buf *b, const char *name, const char *type, const char *help,
                   unsigned long long v)
{
    head(b, name, type, help);
    buf_addf(b, "fathom_%s %llu\n", name, v);
}

static void seconds(struct buf *b, const char *name, const char *help, unsigned long long ns)
{
    head(b, name, "counter", help);
    buf_addf(b, "fathom_%s %.9f\n", name, (double)ns * 1e-9);
}

static void print_histogram(struct buf *b, const char *name, const char *help,
                            const struct histogram *h)
{
    unsigned long long n = 0;
    head(b, name, "histogram", help);
    for (size_t i = 0; i < METRIC_BUCKETS; i++) {
        n += atomic_load(&h->count[i]);
        buf_addf(b, "fathom_%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], n);
    }
    n += atomic_load(&h->count[METRIC_BUCKETS]);
    buf_addf(b, "fathom_%s_bucket{le=\"+Inf\"} %llu\n", name, n);
    buf_addf(b, "fathom_%s_sum %.9f\n", name, (double)atomic_load(&h->sum_ns) * 1e-9);
    buf_addf(b, "fathom_%s_count %llu\n", name, n);
}

static void print_requests(struct buf *b, const struct metrics *m)
{
    head(b, "requests_total", "counter", "Requests answered, by endpoint and status.");
    for (size_t e = 0; e < EP_COUNT; e++) {
        for (size_t i = 0; i < METRIC_CODES; i++) {
            unsigned long long n = atomic_load(&m->requests[e][i]);
            if (n > 0) {
                buf_addf(b, "fathom_requests_total{endpoint=\"%s\",code=\"%d\"} %llu\n",
                         names[e], codes[i], n);
            }
        }
    }
}

void metrics_print(struct buf *b, const struct metrics *m, uint32_t n_slots)
{
    static const char *const phases[CANCEL_PHASES] = {"queue", "prefill", "decode"};
    print_requests(b, m);
    number(b, "requests_running", "gauge", "Answers being generated.",
           atomic_load(&m->running));
    number(b, "requests_queued", "gauge", "Answers waiting for a slot.",
           atomic_load(&m->queued));
    number(b, "slots", "gauge", "Answers that can be generated at once.", n_slots);
    number(b, "prompt_tokens_total", "counter", "Tokens of all prompts, cached ones included.",
           atomic_load(&m->prompt_tokens));
    head(b, "prompt_tokens_cached_total", "counter", "Prompt tokens that were not computed.");
    buf_addf(b, "fathom_prompt_tokens_cached_total{source=\"live\"} %llu\n",
             atomic_load(&m->cached_live));
    buf_addf(b, "fathom_prompt_tokens_cached_total{source=\"disk\"} %llu\n",
             atomic_load(&m->cached_disk));
    number(b, "completion_tokens_total", "counter", "Tokens generated.",
           atomic_load(&m->output_tokens));
    seconds(b, "prefill_seconds_total", "Time from the start of a prompt to its first token.",
            atomic_load(&m->prefill_ns));
    seconds(b, "decode_seconds_total", "Time from the first token of answers to their last.",
            atomic_load(&m->decode_ns));
    number(b, "steps_total", "counter", "Steps of the model.", atomic_load(&m->steps));
    number(b, "step_tokens_total", "counter", "Tokens of all steps.",
           atomic_load(&m->step_tokens));
    print_histogram(b, "queue_wait_seconds", "Time in the queue.", &m->queue_wait);
    print_histogram(b, "ttft_seconds", "Time from a request to its first token.", &m->ttft);
    print_histogram(b, "grammar_compile_seconds", "Time to compile a constraint.", &m->grammar);
    number(b, "grammar_cache_bytes", "gauge", "Compiled constraints that are kept.",
           atomic_load(&m->grammar_bytes));
    head(b, "request_cancelled_total", "counter",
         "Answers whose client left before their end.");
    for (size_t i = 0; i < CANCEL_PHASES; i++) {
        buf_addf(b, "fathom_request_cancelled_total{phase=\"%s\"} %llu\n", phases[i],
                 atomic_load(&m->cancelled[i]));
    }
    number(b, "requests_joined_total", "counter",
           "Requests that were served by an identical one already running.",
           atomic_load(&m->joined));
    number(b, "context_tokens_max", "gauge", "Longest sequence so far.",
           atomic_load(&m->context_max));
    number(b, "kv_used_bytes", "gauge", "KV memory in use.", atomic_load(&m->kv_used));
    number(b, "kv_budget_bytes", "gauge", "KV memory in all.", atomic_load(&m->kv_budget));
    number(b, "kv_disk_bytes", "gauge", "Size of all files of stored state.",
           atomic_load(&m->disk_bytes));
    number(b, "kv_disk_hits_total", "counter", "Prompts that took something from these files.",
           atomic_load(&m->disk_hits));
    number(b, "kv_disk_evictions_total", "counter", "Files that had to make room.",
           atomic_load(&m->disk_evicted));
    number(b, "auth_failures_total", "counter", "Requests with no key or a wrong one.",
           atomic_load(&m->auth_failures));
}
