/* One function knows well-formed UTF-8, unicode_step; checking and repairing are loops over it. */
#include "text/unicode.h"

#include <string.h>

int unicode_step(const char *text, size_t n, uint32_t *code)
{
    const unsigned char *s = (const unsigned char *)text, lead = s[0];
    unsigned low = 0x80, high = 0xBF; /* of the second byte: narrower after four of the lead bytes */
    int length;

    if (lead < 0x80) {
        *code = lead;
        return 1;
    }
    if (lead < 0xC2 || lead > 0xF4)
        return -1;
    length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (lead == 0xE0)
        low = 0xA0;
    else if (lead == 0xED)
        high = 0x9F;
    else if (lead == 0xF0)
        low = 0x90;
    else if (lead == 0xF4)
        high = 0x8F;
    *code = lead & (0xFFu >> (length + 1));
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n || s[i] < low || s[i] > high)
            return -i;
        *code = *code << 6 | (s[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

size_t unicode_check(const char *s, size_t n)
{
    size_t at = 0;

    while (at < n) {
        uint64_t eight;
        uint32_t code;

        if (n - at >= sizeof eight) { /* most text is ASCII */
            memcpy(&eight, s + at, sizeof eight);
            if (!(eight & 0x8080808080808080u)) {
                at += sizeof eight;
                continue;
            }
        }
        const int length = unicode_step(s + at, n - at, &code);
        if (length < 0)
            return at;
        at += (size_t)length;
    }
    return n;
}

size_t unicode_repair(const char *s, size_t n, char *out)
{
    size_t to = 0;

    for (size_t at = 0; at < n;) {
        uint32_t code;
        const int length = unicode_step(s + at, n - at, &code);
        const size_t taken = (size_t)(length < 0 ? -length : length);

        if (out)
            memcpy(out + to, length < 0 ? "\xEF\xBF\xBD" : s + at, length < 0 ? 3 : taken);
        to += length < 0 ? 3 : taken;
        at += taken;
    }
    return to;
}

int unicode_put(uint32_t code, char *out)
{
    const int length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = { 0, 0, 0xC0, 0xE0, 0xF0 };

    for (int i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    out[0] = (char)(lead[length] | code);
    return length;
}

static int is_itself(uint32_t code)
{
    return (code >= 33 && code <= 126) || (code >= 161 && code <= 255 && code != 173);
}

uint32_t unicode_of_byte(unsigned char byte)
{
    if (is_itself(byte))
        return byte;
    return 256 + (byte <= 32 ? byte : byte == 173 ? 67u : 33u + byte - 127u);
}

int unicode_to_byte(uint32_t code)
{
    if (code < 256)
        return is_itself(code) ? (int)code : -1;
    if (code > 256 + 67)
        return -1;
    const int nth = (int)code - 256;
    return nth <= 32 ? nth : nth == 67 ? 173 : nth - 33 + 127;
}
