/* fields.h - typed reading of request fields. A known field of the wrong type or out of range is
 * an error that names its path; null counts as absent; nothing is clamped or cast. Errors stick
 * in the api_error: parsers read on and check once. */
#ifndef SERVER_FIELDS_H
#define SERVER_FIELDS_H

#include "json/json.h"
#include "server/error.h"

/* An object and its path in the request ("" for the body, "messages[3].content[0]"). */
struct fields {
    const struct json *obj;
    struct api_error *e; /* borrowed */
    char path[128];
};

/* The value, or NULL if absent or null. */
const struct json *field(const struct fields *f, const char *name);
/* These return false and leave *out if the field is absent (or wrong: then e is set). */
bool field_bool(const struct fields *f, const char *name, bool *out);
bool field_int(const struct fields *f, const char *name, int64_t lo, int64_t hi, int64_t *out);
bool field_num(const struct fields *f, const char *name, double lo, double hi, double *out);
bool field_str(const struct fields *f, const char *name, struct slice *out);
/* NULL if absent or wrong. */
const struct json *field_array(const struct fields *f, const char *name);
/* Empty fields (obj NULL) if absent or wrong. */
struct fields field_object(const struct fields *f, const char *name);
/* Element i of array `name`, which must be an object; obj NULL if it is not. */
struct fields field_element(const struct fields *f, const char *name, const struct json *array,
                            size_t i);
/* An error at field `name` ("" : at the object itself). Returns -1. */
int field_fail(const struct fields *f, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
