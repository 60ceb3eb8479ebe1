/* fp32 numbers in two halves, of which one is their bf16 rounding. */
#include <math.h>

#include "test.h"

#include "tensor/dtype.h"

static float of_bits(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t bits_of(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof u);
    return u;
}

TEST(halves_give_a_number_back)
{
    for (uint32_t u = 0; u < 0xff7f0000u; u += 4093) { /* an odd step: all sorts of low halves */
        const float f = of_bits(u);
        const uint16_t h = bf16_from_f32(f);

        if (!isfinite(f))
            continue;
        const uint32_t back = bits_of(fp32_whole(h, fp32_rest(f, h)));
        CHECK(back == u || ((u & 0x1ffffu) == 0x8000u && back == u - 1));
    }
}

TEST(half_way_moves_to_the_weight_by_one_bit)
{
    for (uint32_t high = 0x3f80u; high < 0x3f90u; high++) {
        const float f = of_bits(high << 16 | 0x8000u);
        const uint16_t h = bf16_from_f32(f);
        const float back = fp32_whole(h, fp32_rest(f, h));

        CHECK_EQ(h & 1u, 0); /* to even */
        CHECK(bits_of(back) == bits_of(f) - (high % 2 == 0 ? 1u : 0u));
        CHECK_EQ(bf16_from_f32(back), h);
    }
}

TEST(what_is_not_finite_stays_so)
{
    const float odd[] = { INFINITY, -INFINITY, NAN, of_bits(0x7f800001u), of_bits(0xffffffffu) };

    for (int i = 0; i < COUNT_OF(odd); i++) {
        const uint16_t h = bf16_from_f32(odd[i]);

        CHECK(!isfinite(fp32_whole(h, fp32_rest(odd[i], h))) == !isfinite(odd[i]));
    }
}

TEST_MAIN(CASE(halves_give_a_number_back), CASE(half_way_moves_to_the_weight_by_one_bit),
          CASE(what_is_not_finite_stays_so))
