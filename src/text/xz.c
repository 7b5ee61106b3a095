/* xz.c - decompression of tokenizer.json.xz; the only user of liblzma.
 * The input is not trusted: output stops at the caller's limit, the decoder's own memory at
 * XZ_MEMORY, and one complete stream with nothing behind it is required.
 * Read next: vocab_json.c, which parses the result. */
#include "text/vocab.h"

#include <lzma.h>

#include "base/mem.h"

enum { XZ_MEMORY = 128 << 20, XZ_STEP = 1 << 20 };

bool xz_detect(const char *p, size_t n)
{
    return n >= 6 && memcmp(p,
                            "\xFD"
                            "7zXZ",
                            6) == 0;
}

static const char *reason(lzma_ret rc)
{
    switch (rc) {
    case LZMA_FORMAT_ERROR: return "not an .xz file";
    case LZMA_DATA_ERROR: return "the compressed data is damaged";
    case LZMA_BUF_ERROR:
    case LZMA_OK: return "the compressed data is cut short";
    case LZMA_MEMLIMIT_ERROR: return "decompression would need too much memory";
    default: return "the compressed data is of an unsupported kind";
    }
}

int xz_decode(struct buf *out, const char *p, size_t n, const char *label, fathom_err *err)
{
    lzma_stream s = LZMA_STREAM_INIT;
    if (lzma_stream_decoder(&s, XZ_MEMORY, 0) != LZMA_OK) {
        return err_nomem(err, "xz decoder", 0);
    }
    s.next_in = (const uint8_t *)p;
    s.avail_in = n;
    lzma_ret rc = LZMA_OK;
    while (rc == LZMA_OK) {
        size_t room = MIN((size_t)XZ_STEP, out->max_bytes - out->n);
        if (room == 0) {
            lzma_end(&s);
            return err_set(err, FATHOM_ELIMIT, "%s: more than %zu bytes when decompressed",
                           label, out->max_bytes);
        }
        if (!buf_reserve(out, room)) {
            lzma_end(&s);
            return err_nomem(err, label, out->n + room);
        }
        s.next_out = (uint8_t *)out->p + out->n;
        s.avail_out = room;
        rc = lzma_code(&s, LZMA_FINISH);
        out->n += room - s.avail_out;
        out->p[out->n] = 0;
    }
    size_t left = s.avail_in;
    lzma_end(&s);
    if (rc != LZMA_STREAM_END) {
        return err_set(err, FATHOM_EFORMAT, "%s: %s", label, reason(rc));
    }
    if (left != 0) {
        return err_set(err, FATHOM_EFORMAT, "%s: %zu bytes follow the compressed data", label,
                       left);
    }
    return 0;
}
