/* testdata.h - where tests find their data: $FATHOM_TEST_DATA (another folder of the same layout,
 * other vectors) or tests/data below the repository root, which is the working directory. */
#ifndef TESTS_TESTDATA_H
#define TESTS_TESTDATA_H

#include <stdio.h>
#include <stdlib.h>

/* Path of tests/data/<name>; static buffers, four in turn. A folder that the alternative directory
 * does not have is taken from tests/data. */
static inline const char *test_data_path(const char *name)
{
    static char bufs[4][4096];
    static unsigned turn;
    char *b = bufs[turn++ % 4];
    const char *dir = getenv("FATHOM_TEST_DATA");
    if (dir) {
        snprintf(b, sizeof bufs[0], "%s/%s", dir, name);
        FILE *f = fopen(b, "rb");
        if (f) {
            fclose(f);
            return b;
        }
    }
    snprintf(b, sizeof bufs[0], "tests/data/%s", name);
    return b;
}

#endif
