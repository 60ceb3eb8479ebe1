/* backend/dynamic8.h - numbers between -1 and 1 in 8 bits, as dense near 0 as near 1: the dynamic code of Dettmers et al.
 * 2021, arXiv:2110.02861, for blocks that share a scale.
 *
 * A code c > 0 whose highest bit is 2^i is the middle of cell c - 2^i of the 2^i equal cells of decade i, which goes from
 * 10^(i-D) / 10 to 10^(i-D); D is the last decade. The last code is 1 itself, so that the largest of a block stays what it
 * is from step to step; 0 is 0. Signed numbers have 7 bits for |x| (D = 6) and sign, the others 8 (D = 7).
 * All in fp32, in one order, without branches: the backends give the same bits. */
#ifndef TUNEUP_BACKEND_DYNAMIC8_H
#define TUNEUP_BACKEND_DYNAMIC8_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define DYNAMIC8_SIGNED 6 /* D */
#define DYNAMIC8_UNSIGNED 7

static inline float dynamic8_value(int32_t code, int last_decade)
{
    const float c = (float)code, unit = last_decade == DYNAMIC8_SIGNED ? 1e-6f : 1e-7f;
    uint32_t bits;
    float power; /* 2^i */

    memcpy(&bits, &c, 4);
    const uint32_t i = (bits >> 23) - 127u;
    bits &= 0x7f800000u;
    memcpy(&power, &bits, 4);
    const float fives = ((i & 1u) ? 5.0f : 1.0f) * ((i & 2u) ? 25.0f : 1.0f) * ((i & 4u) ? 625.0f : 1.0f);
    const float value = fives * unit * (0.9f * (c + 0.5f) - 0.8f * power);
    return code == 0 ? 0.0f : code == (2 << last_decade) - 1 ? 1.0f : value;
}

/* The code nearest to x of 0 .. 1. a: 1 / 0.9 of the decade's cells in units of 10^-D; the bounds between decades are half
 * way from the last middle of one to the first of the next. */
static inline int32_t dynamic8_code(float x, int last_decade)
{
    const float unit = last_decade == DYNAMIC8_SIGNED ? 1e6f : 1e7f, y = x * unit;
    const int32_t last = (2 << last_decade) - 1;
    const float almost = unit * (1.0f - 0.675f / (float)(1 << last_decade)); /* nearer to the last but one below it */
    const float most = y < almost ? (float)(last - 1) : (float)last;
    float a = (float)(1 / 0.9), power = 1;

#define DYNAMIC8_DECADE(i, ten, five)                                                                                  \
    a = y >= (float)(ten * (0.1 + 0.18 / (1 << i))) ? (float)(1 / (0.9 * five)) : a;                                   \
    power = y >= (float)(ten * (0.1 + 0.18 / (1 << i))) ? (float)(1 << i) : power
    DYNAMIC8_DECADE(1, 1e1, 5.0);
    DYNAMIC8_DECADE(2, 1e2, 25.0);
    DYNAMIC8_DECADE(3, 1e3, 125.0);
    DYNAMIC8_DECADE(4, 1e4, 625.0);
    DYNAMIC8_DECADE(5, 1e5, 3125.0);
    DYNAMIC8_DECADE(6, 1e6, 15625.0);
    if (last_decade == DYNAMIC8_UNSIGNED) {
        DYNAMIC8_DECADE(7, 1e7, 78125.0);
    }
#undef DYNAMIC8_DECADE
    float c = y * a + power * (float)(8 / 9.0);
    c = c < 2 * power - 1 ? c : 2 * power - 1;
    c = c < most ? c : most;
    return y < 0.275f ? 0 : (int32_t)c;
}

static inline float dynamic8_signed(int32_t q, float scale)
{
    const float value = dynamic8_value(q < 0 ? -q : q, DYNAMIC8_SIGNED) * scale;

    return q < 0 ? -value : value;
}

static inline int32_t dynamic8_to_signed(float x, float inverse)
{
    const int32_t code = dynamic8_code(fabsf(x) * inverse, DYNAMIC8_SIGNED);

    return x < 0 ? -code : code;
}

static inline float dynamic8_unsigned(int32_t q, float scale)
{
    return dynamic8_value(q, DYNAMIC8_UNSIGNED) * scale;
}

/* What is not 0 does not become 0: divided by its root, a first moment that is kept would make a step without bound. */
static inline int32_t dynamic8_to_unsigned(float x, float inverse)
{
    const int32_t code = dynamic8_code(x * inverse, DYNAMIC8_UNSIGNED), least = x > 0 ? 1 : 0;

    return code > least ? code : least;
}

/* Of a block with this largest magnitude: NaN if that is not finite, 0 if it is next to nothing; all codes are 0 then. */
static inline float dynamic8_scale(float largest)
{
    return largest < 1e-36f ? 0.0f : largest < INFINITY ? largest : NAN;
}

#endif
