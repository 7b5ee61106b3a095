/* gguf_build.h - GGUF files from a line of words, for tests that need wrong ones: nothing is
 * checked, every field can be anything. Words, separated by spaces:
 *   H:T:K     header: magic, version 3, T tensors, K keys
 *   u8:N u16:N u32:N u64:N   a little-endian number (decimal, 0x..., or negative)
 *   s:TEXT    a string with its u64 length     raw:TEXT  the bytes alone
 *   x:HEX     bytes in hexadecimal             a:N       N letters 'a'
 *   z:N       N zero bytes                     pad:N     zeros up to a multiple of N
 * A key is "s:NAME u32:TYPE value", a tensor "s:NAME u32:RANK u64:DIM... u32:TYPE u64:OFFSET".
 */
#ifndef TESTS_GGUF_BUILD_H
#define TESTS_GGUF_BUILD_H

#include <stdlib.h>

#include "base/num.h"
#include "base/str.h"

static inline void build_number(struct buf *b, const char *text, size_t bytes)
{
    uint8_t p[8];
    store_le64(p, strtoull(text, NULL, 0));
    buf_add(b, p, bytes);
}

static inline void build_word(struct buf *b, const char *word, size_t n)
{
    char text[512];
    if (n >= sizeof text) {
        abort();
    }
    memcpy(text, word, n);
    text[n] = 0;
    char *arg = strchr(text, ':');
    if (!arg) {
        abort();
    }
    *arg++ = 0;
    size_t count = strtoull(arg, NULL, 0);
    if (strcmp(text, "H") == 0) {
        buf_adds(b, "GGUF");
        build_number(b, "3", 4);
        build_number(b, arg, 8);
        build_number(b, strchr(arg, ':') + 1, 8);
    } else if (text[0] == 'u') {
        build_number(b, arg, strtoull(text + 1, NULL, 10) / 8);
    } else if (strcmp(text, "s") == 0 || strcmp(text, "raw") == 0) {
        uint8_t length[8];
        store_le64(length, strlen(arg));
        buf_add(b, length, text[0] == 's' ? 8 : 0);
        buf_adds(b, arg);
    } else if (strcmp(text, "x") == 0) {
        for (; arg[0]; arg += 2) {
            char pair[3] = {arg[0], arg[1], 0};
            buf_addc(b, (char)strtoul(pair, NULL, 16));
        }
    } else if (strcmp(text, "pad") == 0) {
        while (b->n % count != 0) {
            buf_addc(b, 0);
        }
    } else if (strcmp(text, "a") == 0 || strcmp(text, "z") == 0) {
        for (size_t i = 0; i < count; i++) {
            buf_addc(b, text[0] == 'a' ? 'a' : 0);
        }
    } else {
        abort();
    }
}

/* Appends what the script says to b. */
static inline void gguf_build(struct buf *b, const char *script)
{
    while (*script) {
        size_t n = strcspn(script, " ");
        build_word(b, script, n);
        script += n;
        script += strspn(script, " ");
    }
}

#endif
