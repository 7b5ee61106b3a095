/* recipe.h - conversion recipes: a list of types per role, best first. A tensor takes the first
 * type that its rows and values allow (recipe_choose says why an earlier one was passed over). */
#ifndef FACTORY_RECIPE_H
#define FACTORY_RECIPE_H

#include "base/str.h"
#include "factory/names.h"

enum { RECIPE_MAX_TYPES = 3 };

struct recipe {
    const char *name, *about;
    uint32_t file_type;                            /* general.file_type */
    int8_t types[ROLE_COUNT][RECIPE_MAX_TYPES + 1]; /* enum qtype, ended by -1 */
};

/* By name. FATHOM_EUNSUPPORTED for a known recipe that this build cannot write, FATHOM_EINVAL for
 * an unknown one (the message lists the names); NULL in both cases. */
const struct recipe *recipe_find(const char *name, fathom_err *err);
/* i-th recipe that can be written, NULL at the end (for --help). */
const struct recipe *recipe_at(size_t i);

/* Largest magnitude that a type holds; above it a value would become infinite. */
double type_max_value(uint32_t type);

/* Matches a GGUF tensor name against a pattern in which '*' stands for any characters. */
bool name_matches(const char *pattern, const char *name);

#endif
