/* fuzz_kv_header.c - any bytes as the header of a stored KV file, as they are and with a right
 * checksum, and as a file name. What the parser accepts keeps its promises: sections inside the
 * file, in order, without a gap; writing it again gives the same bytes. links: kv */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "kv/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_header(const unsigned char *b, uint64_t bytes)
{
    static struct kv_header h, again;
    const char *why = NULL;
    if (kv_header_parse(&h, b, bytes, &why) != KV_CHECK_OK) {
        assert(why);
        return;
    }
    assert(h.file_bytes == bytes && bytes <= KV_MAX_FILE && h.n_sections <= KV_MAX_SECTIONS);
    uint64_t at = KV_HEADER_BYTES;
    for (uint32_t i = 0; i < h.n_sections; i++) {
        assert(h.section[i].offset == at && h.section[i].layer < KV_MAX_LAYERS);
        at += align_up(h.section[i].length, KV_ALIGN);
        assert(at <= bytes);
    }
    assert(at == bytes && h.count <= h.page_tokens && h.first % h.page_tokens == 0);
    assert(kv_header_is(&h, &h, NULL) == KV_CHECK_OK);
    unsigned char out[KV_HEADER_BYTES];
    kv_header_write(&h, out);
    assert(memcmp(out, b, sizeof out) == 0);
    assert(kv_header_parse(&again, out, bytes, NULL) == KV_CHECK_OK);
    assert(memcmp(&again, &h, sizeof h) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char b[KV_HEADER_BYTES] = {0};
    if (size > 0) {
        memcpy(b, data, MIN(size, sizeof b));
    }
    check_header(b, load_le64(b + 16));
    memset(b + 240, 0, 16);
    xxh128(b, sizeof b, b + 240);
    check_header(b, load_le64(b + 16));
    check_header(b, size);
    char text[128];
    size_t n = MIN(size, sizeof text - 1);
    if (n > 0) {
        memcpy(text, data, n);
    }
    text[n] = 0;
    struct kv_name name;
    char again[KV_NAME_MAX];
    if (kv_name_parse(text, &name) && name.kind != KV_TEMP) {
        kv_name_make(&name, again);
        assert(strcmp(again, text) == 0);
    }
    kv_dir_name_valid(text);
    return 0;
}
