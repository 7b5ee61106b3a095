/* idlist.h - token ids on the command line and in JSON. */
#ifndef CMD_IDLIST_H
#define CMD_IDLIST_H

#include "json/json.h"
#include "text/text.h"

/* "1,2,3" (blanks and newlines also separate). FATHOM_EINVAL names the word that is no id. */
int idlist_read(struct ids *out, const char *s, size_t n, fathom_err *err);
/* The JSON array `key` of obj; FATHOM_EFORMAT if absent or not all ids. */
int idlist_json(struct ids *out, const struct json *obj, const char *key, fathom_err *err);
/* Appends [1,2,3] in JSON's or Python's spacing. */
void idlist_write(struct buf *b, const struct ids *v);

#endif
