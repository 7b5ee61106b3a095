/* kv_toy.h - the smallest layouts that have all kinds of layers, for tests of pool, sequence state
 * and prefix tree, and the ref backend they live in. Include after cmocka.h. */
#ifndef TESTS_KV_TOY_H
#define TESTS_KV_TOY_H

#include "kv/pool.h"

static struct device *dev;

static inline int toy_setup(void **state)
{
    (void)state;
    struct backend_config cfg = {0};
    return backend_ref.open(&dev, &cfg, NULL);
}

static inline int toy_teardown(void **state)
{
    (void)state;
    backend_ref.close(dev);
    return 0;
}

static inline struct layout toy_layout(uint32_t n_layer, const uint16_t *ratio, uint32_t window,
                                       uint32_t page_tokens)
{
    struct shape s = {.n_vocab = 97,
                      .d = 32,
                      .n_layer = n_layer,
                      .n_head = 2,
                      .head_dim = 96,
                      .rope_dim = 32,
                      .q_lora = 16,
                      .o_groups = 1,
                      .o_lora = 16,
                      .window = window,
                      .index_heads = 2,
                      .index_dim = 32,
                      .index_topk = 2,
                      .n_ff = 16,
                      .n_expert = 2,
                      .n_used = 1,
                      .hc = 2,
                      .max_ratio = 1};
    for (uint32_t i = 0; i < n_layer; i++) {
        s.ratio[i] = ratio[i];
        s.max_ratio = ratio[i] > s.max_ratio ? ratio[i] : s.max_ratio;
    }
    struct layout l;
    assert_int_equal(layout_make(&l, &s, true, page_tokens, NULL), 0);
    return l;
}

#endif
