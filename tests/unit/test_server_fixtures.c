/* test_server_fixtures.c - every request of tests/data/client-requests, as released clients sent
 * it, is read and rendered: to the same bytes each time, to the bytes of prompts.tsv, and so that
 * the prompt of turn 3 begins with that of turn 1. Requests that must be refused are listed. */
#include <dirent.h>
#include <stdlib.h>

#include "base/siphash.h"
#include "server_util.h"
#include "testdata.h"

static const char folder[] = "tests/data/client-requests";

static int setup(void **state)
{
    (void)state;
    return util_open("{\"completion\":\"x\"}", 1);
}

static int teardown(void **state)
{
    (void)state;
    util_close();
    return 0;
}

struct rendered {
    struct buf text;
    struct ids ids;
    struct api_error e;
};

static void rendered_fini(struct rendered *r)
{
    buf_free(&r->text);
    ids_free(&r->ids);
}

static bool protocol_of(const char *path, enum protocol *out)
{
    static const struct {
        const char *path;
        enum protocol proto;
    } kinds[] = {{"/v1/chat/completions", PROTO_CHAT},
                 {"/v1/completions", PROTO_COMPLETIONS},
                 {"/v1/responses", PROTO_RESPONSES},
                 {"/v1/messages", PROTO_MESSAGES}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (strncmp(path, kinds[i].path, strlen(kinds[i].path)) == 0) {
            *out = kinds[i].proto;
            return true;
        }
    }
    return false;
}

/* Reads and renders one fixture; tools, if not NULL, replace its own. False: nothing to render.
 */
static bool render(struct rendered *out, const struct json *fixture, const struct json *tools)
{
    enum protocol proto;
    struct arena a = {0};
    struct buf body = {0};
    struct api_request r;
    bool in_reasoning;
    struct replay *replay = replay_new(1 << 20);
    const struct json *b = json_get(fixture, "body");
    *out = (struct rendered){0};
    char *path = arena_strndup(&a, json_get(fixture, "path")->s, json_get(fixture, "path")->n);
    bool known = json_is(b, JSON_OBJECT) && protocol_of(path, &proto);
    if (known) {
        struct json copy = *b;
        copy.members = arena_alloc(&a, (b->n + 1) * sizeof *b->members);
        memcpy(copy.members, b->members, b->n * sizeof *b->members);
        if (tools) {
            assert_true(json_set(&a, &copy, "tools", *tools));
        }
        json_write_compact(&body, &copy);
        if (request_read(&r, proto, buf_slice(&body), &util_policy, &out->e) == 0) {
            request_prompt(&r, &util_policy, replay, (struct sip_digest){0}, &out->ids,
                           &in_reasoning, &out->text, &out->e);
        }
        request_fini(&r);
    }
    replay_free(replay);
    buf_free(&body);
    arena_fini(&a);
    return known;
}

static void load(struct arena *a, const char *name, struct json **out)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", test_data_path("client-requests"), name);
    *out = util_read(a, path);
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static size_t list(struct arena *a, char **names, size_t max)
{
    size_t n = 0;
    DIR *d = opendir(test_data_path("client-requests"));
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        size_t len = strlen(e->d_name);
        if (len > 5 && strcmp(e->d_name + len - 5, ".json") == 0 && n < max) {
            names[n++] = arena_strndup(a, e->d_name, len);
        }
    }
    closedir(d);
    qsort(names, n, sizeof *names, compare);
    return n;
}

/* Fixtures that are refused by design. */
static bool must_fail(const char *name)
{
    return strcmp(name, "sdk-ai-sdk-openai-3.0.141-responses-turn3.json") ==
           0; /* item_reference */
}

static void add_row(struct buf *table, const char *name, const struct rendered *r)
{
    struct sip_key fixed = {{1, 2}};
    struct sip_digest d = sip_hash(fixed, r->text.n ? r->text.p : "", r->text.n);
    buf_addf(table, "%s\t%zu\t%zu\t%016llx%016llx\n", name, r->text.n, r->ids.n,
             (unsigned long long)d.h[0], (unsigned long long)d.h[1]);
}

static void test_all_render_to_stable_bytes(void **state)
{
    struct arena a = {0};
    char *names[256];
    struct buf table = {0}, want = {0};
    char path[512];
    fathom_err err = {0};
    size_t n = list(&a, names, ARRAY_LEN(names)), n_rendered = 0;
    (void)state;
    assert_true(n >= 50);
    for (size_t i = 0; i < n; i++) {
        struct json *fixture;
        struct rendered r, again;
        load(&a, names[i], &fixture);
        if (!render(&r, fixture, NULL)) {
            continue;
        }
        render(&again, fixture, NULL);
        if ((r.e.fault != API_OK) != must_fail(names[i])) {
            fail_msg("%s: %s", names[i], r.e.fault ? r.e.msg : "was accepted");
        }
        assert_true(slice_eq(buf_slice(&r.text), buf_slice(&again.text)));
        assert_int_equal(r.ids.n, again.ids.n);
        assert_null(memmem(buf_cstr(&r.text), r.text.n, "cache_control", 13));
        assert_null(memmem(buf_cstr(&r.text), r.text.n, "x-anthropic-", 12));
        if (r.e.fault == API_OK) {
            add_row(&table, names[i], &r);
            n_rendered++;
        }
        rendered_fini(&r);
        rendered_fini(&again);
    }
    assert_true(n_rendered >= 45);
    snprintf(path, sizeof path, "%s/prompts.tsv", folder);
    assert_int_equal(file_read_all(&want, path, 1 << 20, &err), 0);
    if (!getenv("FATHOM_TEST_DATA") && !slice_eq(buf_slice(&table), buf_slice(&want))) {
        puts(buf_cstr(&table));
        fail_msg("prompts differ from %s; what they are now stands above", path);
    }
    buf_free(&table);
    buf_free(&want);
    arena_fini(&a);
}

static void test_turn_3_extends_turn_1(void **state)
{
    struct arena a = {0};
    char *names[256];
    size_t n = list(&a, names, ARRAY_LEN(names)), n_pairs = 0;
    (void)state;
    for (size_t i = 0; i < n; i++) {
        char *at = strstr(names[i], ".turn1.json"), other[300];
        struct json *f1, *f3;
        struct rendered r1, r3;
        if (!at) {
            continue;
        }
        snprintf(other, sizeof other, "%.*s.turn3-parallel-results.json", (int)(at - names[i]),
                 names[i]);
        load(&a, names[i], &f1);
        load(&a, other, &f3);
        /* the fixtures' tool lists were shortened differently */
        render(&r1, f1, json_get(json_get(f3, "body"), "tools"));
        render(&r3, f3, NULL);
        assert_int_equal(r1.e.fault, API_OK);
        assert_int_equal(r3.e.fault, API_OK);
        assert_true(r3.text.n > r1.text.n && r3.ids.n > r1.ids.n);
        if (memcmp(r1.text.p, r3.text.p, r1.text.n) != 0 ||
            memcmp(r1.ids.p, r3.ids.p, r1.ids.n * sizeof *r1.ids.p) != 0) {
            fail_msg("%s: turn 3 does not extend the prompt of turn 1", names[i]);
        }
        n_pairs++;
        rendered_fini(&r1);
        rendered_fini(&r3);
    }
    assert_true(n_pairs >= 11);
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_render_to_stable_bytes),
        cmocka_unit_test(test_turn_3_extends_turn_1),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
