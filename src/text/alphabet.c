/* alphabet.c - the byte alphabet of stored token texts (docs/tokenizer.md, "Byte alphabet").
 * Vocabulary files hold bytes as printable code points: 188 bytes stand for themselves (as
 * Latin-1 code points), the other 68, in increasing order, are U+0100..U+0143. The map is
 * computed, not tabled: both directions are a few comparisons, and loading is the only user.
 * Invariant: alphabet_decode(alphabet_encode(s)) == s for all byte strings. */
#include "text/vocab.h"

static bool stands_for_itself(uint32_t b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
}

/* The k-th byte that does not stand for itself: 0..32, 127..160, 173. */
static int shifted_byte(uint32_t k)
{
    return k < 33 ? (int)k : k < 67 ? (int)(k - 33 + 127) : k == 67 ? 173 : -1;
}

void alphabet_encode(struct buf *out, struct slice s)
{
    for (size_t i = 0; i < s.n; i++) {
        uint32_t b = (unsigned char)s.p[i], cp = b;
        if (!stands_for_itself(b)) {
            cp = 256 + (b < 33 ? b : b < 161 ? b - 127 + 33 : 67);
        }
        char utf8[4];
        buf_add(out, utf8, (size_t)utf8_encode(cp, utf8));
    }
}

bool alphabet_decode(struct buf *out, struct slice s)
{
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        int len = utf8_decode(s.p + i, s.n - i, &cp);
        if (len == 0 || cp == UTF8_BAD) {
            return false;
        }
        int b = cp < 256 ? (stands_for_itself(cp) ? (int)cp : -1) : shifted_byte(cp - 256);
        if (b < 0) {
            return false;
        }
        buf_addc(out, (char)b);
        i += (size_t)len;
    }
    return true;
}
