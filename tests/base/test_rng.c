/* base/rng: the published answers of Philox4x32-10, and what is built on it. */
#include "base/rng.h"

#include <math.h>

#include "test.h"

TEST(philox_gives_the_published_answers) /* Random123's kat_vectors */
{
    const struct {
        uint32_t key[2], counter[4], want[4];
    } known[] = {
        { { 0, 0 }, { 0, 0, 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { ~0u, ~0u }, { ~0u, ~0u, ~0u, ~0u }, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0xa4093822, 0x299f31d0 },
          { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };

    for (int i = 0; i < COUNT_OF(known); i++) {
        const uint32_t *c = known[i].counter;
        const struct rng_block b = rng_philox(known[i].key[0], known[i].key[1], c[0], c[1], c[2], c[3]);

        for (int k = 0; k < 4; k++)
            CHECK_EQ(b.v[k], known[i].want[k]);
    }
}

TEST(a_stream_continues_from_its_counter)
{
    struct rng a = { .seed = 7, .purpose = RNG_TASK, .stream = 3 }, b;

    for (int i = 0; i < 5; i++)
        rng_u32(&a);
    b = (struct rng){ .seed = 7, .purpose = RNG_TASK, .stream = 3, .counter = a.counter };
    for (int i = 0; i < 20; i++)
        CHECK_EQ(rng_u32(&a), rng_u32(&b));
}

TEST(streams_differ_by_seed_purpose_and_stream)
{
    struct rng r[] = { { .seed = 1, .purpose = RNG_TASK, .stream = 0 },
                       { .seed = 2, .purpose = RNG_TASK, .stream = 0 },
                       { .seed = 1ull << 32 | 1, .purpose = RNG_TASK, .stream = 0 },
                       { .seed = 1, .purpose = RNG_STUDY, .stream = 0 },
                       { .seed = 1, .purpose = RNG_TASK, .stream = 1 } };
    uint32_t first[COUNT_OF(r)];

    for (int i = 0; i < COUNT_OF(r); i++) {
        first[i] = rng_u32(&r[i]);
        for (int k = 0; k < i; k++)
            CHECK(first[i] != first[k]);
    }
}

TEST(below_is_within_and_even)
{
    struct rng r = { .seed = 11, .purpose = RNG_TASK };
    int seen[7] = { 0 };

    for (int i = 0; i < 70000; i++)
        seen[rng_below(&r, 7)]++; /* beyond the array, a sanitizer speaks */
    for (int i = 0; i < 7; i++)
        CHECK_NEAR(seen[i], 10000, 500); /* 5 standard deviations */
    CHECK_EQ(rng_below(&r, 1), 0);
}

TEST(uniform_and_normal_have_their_moments)
{
    struct rng r = { .seed = 5, .purpose = RNG_INIT };
    const int n = 100000;
    double sum = 0, normal = 0, square = 0;

    for (int i = 0; i < n; i++) {
        const double u = rng_uniform(&r), z = rng_normal(&r);

        CHECK(u >= 0 && u < 1 && isfinite(z));
        sum += u;
        normal += z;
        square += z * z;
    }
    CHECK_NEAR(sum / n, 0.5, 0.005);
    CHECK_NEAR(normal / n, 0, 0.015);
    CHECK_NEAR(square / n, 1, 0.025);
}

TEST_MAIN(CASE(philox_gives_the_published_answers), CASE(a_stream_continues_from_its_counter),
          CASE(streams_differ_by_seed_purpose_and_stream), CASE(below_is_within_and_even),
          CASE(uniform_and_normal_have_their_moments))
