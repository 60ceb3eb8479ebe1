#include "backend/cpu/simd.h"

#include <math.h>

#include "base/rng.h"
#include "test.h"

static double apart(float x)
{
    const double want = exp((double)x);

    return fabs((double)simd_exp(x) - want) / want;
}

TEST(exponential_is_within_two_ulp)
{
    double worst = 0;

    for (float x = -86.6f; x < 88.7f; x += 0.000173f)
        worst = fmax(worst, apart(x));
    for (float x = -1e-3f; x < 1e-3f; x += 1e-8f)
        worst = fmax(worst, apart(x));
    CHECK(worst < 1.2e-7);
    CHECK_NEAR(simd_exp(0), 1, 0);
}

TEST(exponential_of_extremes)
{
    CHECK_NEAR(simd_exp(-INFINITY), 0, 0);
    CHECK_NEAR(simd_exp(-1e30f), 0, 0);
    CHECK(isinf(simd_exp(INFINITY)) && isinf(simd_exp(1e30f)));
    CHECK(isnan(simd_exp(NAN)));
    CHECK(simd_exp(88.7f) > 3e38f && !isinf(simd_exp(88.7f)));
}

TEST(rows_convert_as_single_values_do)
{
    float x[1000], back[1000];
    uint16_t h[1000];
    struct rng rng = { .seed = 1 };

    for (int i = 0; i < 1000; i++) {
        const uint32_t bits = rng_u32(&rng);

        memcpy(&x[i], &bits, 4); /* any bits at all: NaN and infinity too */
    }
    simd_to_bf16(h, x, 1000);
    simd_from_bf16(back, h, 1000);
    for (int i = 0; i < 1000; i++) {
        const float want = bf16_to_f32(bf16_from_f32(x[i]));

        CHECK_EQ(h[i], bf16_from_f32(x[i]));
        CHECK_EQ(memcmp(&back[i], &want, 4), 0);
    }
    for (int i = 0; i < 1000; i += 2) /* most bits are out of fp16's range */
        x[i] = ldexpf(x[i] / fabsf(x[i]) + (float)i * 0.002f, i % 40 - 24);
    simd_to_f16(h, x, 1000);
    simd_from_f16(back, h, 1000);
    for (int i = 0; i < 1000; i++) {
        const float want = f16_to_f32(f16_from_f32(x[i]));

        CHECK_EQ(h[i], f16_from_f32(x[i]));
        CHECK_EQ(memcmp(&back[i], &want, 4), 0);
    }
}

TEST(parts_cover_all_once)
{
    for (int64_t n = 0; n < 200; n += 7)
        for (int parts = 1; parts < 9; parts++) {
            int64_t at = 0;

            for (int i = 0; i < parts; i++) {
                const struct simd_part p = simd_part(n, 16, i, parts);

                CHECK_EQ(p.begin, at);
                CHECK(p.begin % 16 == 0 || p.begin == n);
                at = p.end;
            }
            CHECK_EQ(at, n);
        }
}

TEST_MAIN(CASE(exponential_is_within_two_ulp), CASE(exponential_of_extremes), CASE(rows_convert_as_single_values_do),
          CASE(parts_cover_all_once))
