/* error.c - see error.h: the error table of the API, once. */
#include "server/error.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"
#include "json/json.h"

static const struct {
    int status;
    const char *type, *code, *anthropic;
} faults[API_FAULTS] = {
    [API_OK] = {200, "", NULL, ""},
    [API_BAD] = {400, "invalid_request_error", NULL, "invalid_request_error"},
    [API_TOO_LONG] = {400, "invalid_request_error", "context_length_exceeded",
                      "invalid_request_error"},
    [API_NO_THREAD] = {400, "invalid_request_error", NULL, "invalid_request_error"},
    [API_NO_KEY] = {401, "authentication_error", "invalid_api_key", "authentication_error"},
    [API_FORBIDDEN] = {403, "permission_error", NULL, "permission_error"},
    [API_NOT_FOUND] = {404, "not_found", NULL, "not_found_error"},
    [API_NO_MODEL] = {404, "not_found", "model_not_found", "not_found_error"},
    [API_METHOD] = {405, "invalid_request_error", NULL, "invalid_request_error"},
    [API_TOO_LARGE] = {413, "invalid_request_error", NULL, "request_too_large"},
    [API_MEDIA] = {415, "invalid_request_error", NULL, "invalid_request_error"},
    [API_HEADERS] = {431, "invalid_request_error", NULL, "invalid_request_error"},
    [API_BUSY] = {429, "rate_limit_exceeded", "rate_limit_exceeded", "rate_limit_error"},
    [API_UNAVAILABLE] = {503, "server_error", "unavailable", "overloaded_error"},
    [API_ENGINE] = {500, "server_error", NULL, "api_error"},
};

int api_fail(struct api_error *e, enum api_fault fault, const char *param, const char *fmt, ...)
{
    if (e->fault == API_OK) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(e->msg, sizeof e->msg, fmt, ap);
        va_end(ap);
        e->fault = fault;
        snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    }
    return -1;
}

int api_fail_err(struct api_error *e, const char *param, const fathom_err *err)
{
    bool ours = err->code == FATHOM_ENOMEM || err->code == FATHOM_EIO;
    return api_fail(e, ours ? API_ENGINE : API_BAD, param, "%s", err->msg);
}

int api_too_long(struct api_error *e, uint64_t prompt, uint32_t limit)
{
    e->prompt = (uint32_t)MIN(prompt, (uint64_t)UINT32_MAX);
    e->limit = limit;
    return api_fail(e, API_TOO_LONG, "messages",
                    "This model's maximum context length is %u tokens, but the prompt has %llu "
                    "tokens and an answer needs at least one. Shorten the input.",
                    limit, (unsigned long long)prompt);
}

int api_status(const struct api_error *e)
{
    return faults[e->fault].status;
}

static void print_or_null(struct buf *out, const char *s)
{
    if (s && *s) {
        json_write_str(out, slice_of(s));
    } else {
        buf_adds(out, "null");
    }
}

void api_error_print(struct buf *out, const struct api_error *e, bool anthropic,
                     const char *request_id)
{
    char text[sizeof e->msg + 64];
    snprintf(text, sizeof text, "%s", e->msg);
    if (anthropic && e->fault == API_TOO_LONG) {
        snprintf(text, sizeof text, "prompt is too long: %u tokens > %u maximum", e->prompt,
                 e->limit);
    }
    if (anthropic) {
        buf_addf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":",
                 faults[e->fault].anthropic);
        json_write_str(out, slice_of(text));
        if (e->fault == API_NO_THREAD) { /* by this the SDK knows that it must send it all */
            buf_adds(out, ",\"details\":{\"error_code\":\"thread_unsupported_request\","
                          "\"unsupported\":[\"thread\"]}");
        }
        buf_adds(out, "},\"request_id\":");
        print_or_null(out, request_id);
        buf_adds(out, "}");
        return;
    }
    buf_adds(out, "{\"error\":{\"message\":");
    json_write_str(out, slice_of(text));
    buf_addf(out, ",\"type\":\"%s\",\"param\":", faults[e->fault].type);
    print_or_null(out, e->param);
    buf_adds(out, ",\"code\":");
    print_or_null(out, faults[e->fault].code);
    buf_adds(out, "}}");
}
