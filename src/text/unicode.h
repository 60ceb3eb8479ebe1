/* text/unicode.h - UTF-8 by hand, and the alphabet of byte-level BPE.
 * Malformed UTF-8 is what Unicode 15 table 3-7 says it is: no surrogates, no overlong forms, nothing above U+10FFFF. */
#ifndef TUNEUP_TEXT_UNICODE_H
#define TUNEUP_TEXT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

/* The character at s (n > 0 bytes are readable): its length 1..4, and *code. Malformed: minus the length of the maximal
 * subpart, the bytes that one U+FFFD stands for. */
int unicode_step(const char *s, size_t n, uint32_t *code);
/* The offset of the first malformed byte, n if there is none. */
size_t unicode_check(const char *s, size_t n);
/* Copies s with U+FFFD for each maximal malformed subpart; out NULL only counts. Returns the bytes of the result. */
size_t unicode_repair(const char *s, size_t n, char *out);
/* Writes a character, at most 4 bytes; returns how many. */
int unicode_put(uint32_t code, char *out);

/* Byte-level BPE spells each byte as a printable character: 33-126, 161-172 and 174-255 as themselves, the other 68 in
 * increasing order as U+0100 and up (so a space is U+0120). unicode_to_byte: -1 for other characters. */
uint32_t unicode_of_byte(unsigned char byte);
int unicode_to_byte(uint32_t code);

#endif
