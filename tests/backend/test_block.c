/* The small matrices of every instruction set that this processor has, against plain sums in double precision. */
#include "test.h"

#include <math.h>

#include "backend/cpu/block.h"
#include "base/rng.h"

#define SIDE 96

struct data {
    float a[SIDE * SIDE], b[SIDE * SIDE], c[SIDE * SIDE], before[SIDE * SIDE];
};

static void fill(float *x, uint32_t seed)
{
    for (uint32_t i = 0; i < SIDE * SIDE; i++)
        x[i] = (float)(int32_t)rng_philox(seed, 0, i, 0, 0, 0).v[0] / 2147483648.0f;
}

static struct data data_of(void)
{
    struct data d;

    fill(d.a, 1);
    fill(d.b, 2);
    fill(d.c, 3);
    memcpy(d.before, d.c, sizeof d.c);
    return d;
}

static void check_product(void **test_state, const struct block *block, int64_t m, int64_t n, int64_t k, bool turned)
{
    struct data d = data_of();
    const int64_t am = turned ? 1 : SIDE, ak = turned ? SIDE : 1;

    block->product(d.c, SIDE, d.a, am, ak, d.b, SIDE, m, n, k, true);
    for (int64_t i = 0; i < SIDE; i++)
        for (int64_t j = 0; j < SIDE; j++) {
            double want = (double)d.before[i * SIDE + j];

            for (int64_t l = 0; l < k && i < m && j < n; l++)
                want += (double)d.a[i * am + l * ak] * (double)d.b[l * SIDE + j];
            CHECK_NEAR((double)d.c[i * SIDE + j], want, 2e-5);
        }
}

/* Two steps over 40 and 27 columns, of which some are hidden, against one in double precision. */
static void check_softmax(void **test_state, const struct block *block)
{
    struct data d = data_of();
    const int32_t first[3] = { 0, 7, 5 }, end[3] = { 40, 30, 5 }, from[3] = { 0, 0, 0 }, to[3] = { 27, 1, 0 };
    float max[3] = { -INFINITY, -INFINITY, -INFINITY }, sum[3] = { 0 }, factor[3];

    d.c[41] = d.before[41] = 2; /* raises row 0's maximum */
    block->softmax(d.c, SIDE, 3, 40, first, end, max, sum, factor);
    block->softmax(d.c + 40, SIDE, 3, 27, from, to, max, sum, factor);
    for (int i = 0; i < 3; i++) {
        const float *x = d.before + i * SIDE;
        double want = 0;

        for (int j = 0; j < 40 + to[i]; j++)
            if (j >= 40 || (j >= first[i] && j < end[i]))
                want += exp((double)x[j]);
        CHECK_NEAR(i == 2 ? (double)sum[i] : log((double)sum[i]) + (double)max[i], i == 2 ? 0 : log(want), 1e-6);
        for (int j = 0; j < to[i]; j++)
            CHECK_NEAR((double)d.c[i * SIDE + 40 + j], exp((double)x[40 + j] - (double)max[i]), 2e-7);
        CHECK_NEAR((double)d.c[i * SIDE + 39], i == 0 ? exp((double)x[39] - (double)max[0]) / (double)factor[0] : 0,
                   1e-6);
    }
}

static void check_far_values(void **test_state, const struct block *block)
{
    float x[4] = { -200, -88, -87, NAN }, lse = 0;
    const int32_t first = 0, end = 4;

    block->exponential(x, 4, 1, 4, &first, &end, &lse);
    CHECK(x[0] == 0 && x[1] == 0 && isnan(x[3]));
    CHECK_NEAR((double)x[2] / exp(-87), 1, 1e-6);
}

static void check_turning(void **test_state, const struct block *block, enum dtype type)
{
    struct data d = data_of();
    uint16_t half[SIDE * SIDE];

    for (int i = 0; i < SIDE * SIDE; i++)
        half[i] = half_from_f32(d.a[i], type);
    block->widen_transposed(d.c, SIDE, half, type, SIDE, 21, 13, 32);
    for (int j = 0; j < 13; j++)
        for (int i = 0; i < 32; i++)
            CHECK_NEAR((double)d.c[j * SIDE + i], i < 21 ? (double)half_to_f32(half[i * SIDE + j], type) : 0, 0);
    CHECK_NEAR((double)d.c[13 * SIDE], (double)d.before[13 * SIDE], 0);
}

TEST(every_instruction_set)
{
    for (int isa = CPU_PORTABLE; isa <= (int)matmul_isa(); isa++) {
        const struct block *block = block_of((enum cpu_isa)isa);

        for (int turned = 0; turned < 2; turned++) {
            check_product(test_state, block, 64, 64, 64, turned);
            check_product(test_state, block, 1, 32, 1, turned);
            check_product(test_state, block, 29, 96, 37, turned);
        }
        check_softmax(test_state, block);
        check_far_values(test_state, block);
        check_turning(test_state, block, BF16);
        check_turning(test_state, block, F16);
    }
}

TEST_MAIN(CASE(every_instruction_set))
