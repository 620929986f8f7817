/* utf8.h - where characters begin and end in bytes that may be anything. No state, no allocation. */
#ifndef FORESAY_UTF8_H
#define FORESAY_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Looks at n >= 1 bytes. Returns
 *   1 .. 4   they begin with a character of this many bytes,
 *   0        all n bytes are the beginning of a character whose rest is missing,
 *   -k       the first k bytes (1 .. 3) can never become a character: a maximal part in the sense of the Unicode standard,
 *            to be replaced by one U+FFFD. */
static inline int utf8_scan(const void *bytes, size_t n) {
    const uint8_t *s = (const uint8_t *)bytes;
    uint8_t low = 0x80, high = 0xBF; /* limits of the second byte; they rule out overlong forms, surrogates, and the far end */
    int len;
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4) return -1;
    if (s[0] < 0xE0) {
        len = 2;
    } else if (s[0] < 0xF0) {
        len = 3;
        if (s[0] == 0xE0) low = 0xA0;
        if (s[0] == 0xED) high = 0x9F;
    } else {
        len = 4;
        if (s[0] == 0xF0) low = 0x90;
        if (s[0] == 0xF4) high = 0x8F;
    }
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n) return 0;
        if (s[i] < low || s[i] > high) return -i;
        low = 0x80;
        high = 0xBF;
    }
    return len;
}

/* The code point of a character of len bytes that utf8_scan has found valid. */
static inline uint32_t utf8_code_point(const void *bytes, int len) {
    const uint8_t *s = (const uint8_t *)bytes;
    uint32_t code_point = len == 1 ? s[0] : s[0] & (0x7Fu >> len);
    for (int i = 1; i < len; i++) code_point = code_point << 6 | (s[i] & 0x3F);
    return code_point;
}

/* Writes the 1 to 4 bytes of a code point below 0x110000; returns their number. */
static inline int utf8_write(uint32_t code_point, char *out) {
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    int len = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code_point & 0x3F));
        code_point >>= 6;
    }
    out[0] = (char)((0xF00u >> len & 0xFF) | code_point);
    return len;
}

static inline bool utf8_valid(const char *text, size_t len) {
    for (size_t at = 0; at < len;) {
        int n = utf8_scan(text + at, len - at);
        if (n <= 0) return false;
        at += (size_t)n;
    }
    return true;
}

#endif
