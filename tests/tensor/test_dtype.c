/* fp32 numbers in two halves, of which one is their bf16 rounding; and fp16. */
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

/* The value of an fp16 by the definition of IEEE 754. */
static double fp16_value(uint16_t h)
{
    const int exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    const double magnitude = exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
                             : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                            : ldexp(fraction, -24);

    return h & 0x8000 ? -magnitude : magnitude;
}

TEST(every_fp16_goes_to_fp32_and_back)
{
    for (uint32_t h = 0; h < 0x10000u; h++) {
        const double want = fp16_value((uint16_t)h);
        const float f = f16_to_f32((uint16_t)h);

        if (isnan(want)) {
            CHECK(isnan(f) && isnan(fp16_value(f16_from_f32(f))));
            continue;
        }
        CHECK((double)f == want && (signbit(f) != 0) == (h >> 15 != 0));
        CHECK_EQ(f16_from_f32(f), h);
    }
}

/* Half way between neighbours goes to the even one; a bit off, to the nearer. */
TEST(fp16_rounds_to_nearest_even)
{
    for (uint32_t h = 0; h < 0x7bffu; h++) {
        const float low = f16_to_f32((uint16_t)h), high = f16_to_f32((uint16_t)(h + 1)), half = (low + high) / 2;

        CHECK_EQ(f16_from_f32(half), h + (h & 1u));
        CHECK_EQ(f16_from_f32(nextafterf(half, 0)), h);
        CHECK_EQ(f16_from_f32(nextafterf(half, INFINITY)), h + 1);
        CHECK_EQ(f16_from_f32(-half), 0x8000u | (h + (h & 1u)));
    }
}

TEST(what_fp16_has_no_room_for)
{
    CHECK_EQ(f16_from_f32(65504), 0x7bff);
    CHECK_EQ(f16_from_f32(nextafterf(65520, 0)), 0x7bff);
    CHECK_EQ(f16_from_f32(65520), 0x7c00);
    CHECK_EQ(f16_from_f32(-1e30f), 0xfc00);
    CHECK_EQ(f16_from_f32(INFINITY), 0x7c00);
    CHECK_EQ(f16_from_f32(0x1p-24f), 1);
    CHECK_EQ(f16_from_f32(0x1p-25f), 0);
    CHECK_EQ(f16_from_f32(-0x1.000002p-25f), 0x8001);
    CHECK_EQ(f16_from_f32(1e-40f), 0);
    CHECK_EQ(f16_from_f32(of_bits(0x7f800001u)) & 0x7e00, 0x7e00);
    CHECK_EQ(f16_from_f32(of_bits(0xffffffffu)) & 0x7e00, 0x7e00);
}

TEST_MAIN(CASE(every_fp16_goes_to_fp32_and_back), CASE(fp16_rounds_to_nearest_even), CASE(what_fp16_has_no_room_for),
          CASE(halves_give_a_number_back), CASE(half_way_moves_to_the_weight_by_one_bit),
          CASE(what_is_not_finite_stays_so))
