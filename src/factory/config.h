/* config.h - the shape of a checkpoint, read from its config.json (model.md 1): the Hugging
 * Face names or those of the official inference config, never a built-in default for a size. */
#ifndef FACTORY_CONFIG_H
#define FACTORY_CONFIG_H

#include "model/shape.h"

/* Reads dir/config.json. The result has passed shape_check. Errors name the file and the key;
 * another architecture (V4.1, V3, ...) is FATHOM_EUNSUPPORTED. release_0731 is set if the
 * dspark keys are there. */
int config_read(struct shape *s, const char *dir, fathom_err *err);
/* The same from text; label is for messages. */
int config_parse(struct shape *s, const char *text, size_t n, const char *label,
                 fathom_err *err);

#endif
