/* ok.h - OK(call): a call that takes `err` must succeed; its message fails the test. Include after
 * cmocka.h. */
#ifndef TESTS_OK_H
#define TESTS_OK_H

#include "fathom/fathom.h"

#define OK(call)                                 \
    do {                                         \
        fathom_err err_ = {0};                   \
        fathom_err *err = &err_;                 \
        if ((call) != 0) {                       \
            fail_msg("%s: %s", #call, err_.msg); \
        }                                        \
    } while (0)

#endif
