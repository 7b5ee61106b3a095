/* server_util.h - shared by the test_server_*.c programs: a scripted model and the policy of a
 * server around it. */
#ifndef TESTS_SERVER_UTIL_H
#define TESTS_SERVER_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/file.h"
#include "server/request.h"

static struct tokenizer *util_tok;
static struct script *util_script;
static struct model util_model;
static struct request_policy util_policy;
static struct constraint_cache *util_constraints;

static inline int util_open(const char *script, uint32_t max_seq)
{
    fathom_err err = {0};
    struct script_options o = {.max_seq = max_seq, .max_ctx = 262144};
    if (tokenizer_from_json(&util_tok, "models/mini/tokenizer.json", &err) != 0 ||
        script_open_mem(&util_script, script, strlen(script), util_tok, &o, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    script_model_init(&util_model, util_script);
    util_constraints = constraint_cache_new(util_tok, (size_t)64 << 20);
    util_policy = (struct request_policy){.model = &util_model,
                                          .think = "on",
                                          .model_name = SLICE("script"),
                                          .temperature = 1,
                                          .constraints = util_constraints};
    return 0;
}

static inline void util_close(void)
{
    constraint_cache_free(util_constraints);
    script_close(util_script);
    tokenizer_free(util_tok);
}

static inline struct json *util_read(struct arena *a, const char *path)
{
    struct buf b = {0};
    fathom_err err = {0};
    struct json *v = arena_alloc(a, sizeof *v);
    if (file_read_all(&b, path, (size_t)64 << 20, &err) != 0 ||
        json_read(v, a, buf_cstr(&b), b.n, &err) != 0) {
        fail_msg("%s: %s", path, err.msg);
    }
    buf_free(&b);
    return v;
}

#endif
