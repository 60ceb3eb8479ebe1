/* Products of few rows, by every instruction set that this processor has. */
#include "backend/cpu/narrow.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "test.h"

#define N_MAX 301
#define K_MAX 200

struct sample {
    struct matmul_shape shape;
    float x[NARROW_ROWS * K_MAX], w[N_MAX * K_MAX], bias[N_MAX]; /* exact in both types of 16 bits: */
    uint16_t x16[2][NARROW_ROWS * K_MAX], w16[2][N_MAX * K_MAX], bias16[2][N_MAX];
    float y[NARROW_ROWS * N_MAX + 1];
    uint16_t y16[NARROW_ROWS * N_MAX + 1];
    _Alignas(64) float scratch[NARROW_ROWS * (K_MAX + 80)];
};

/* x16: in bf16, then in fp16. */
static void fill(float *x, uint16_t *bf16, uint16_t *fp16, int64_t n, struct rng *rng)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = f16_to_f32(f16_from_f32(bf16_to_f32(bf16_from_f32((float)rng_normal(rng)))));
        bf16[i] = bf16_from_f32(x[i]);
        fp16[i] = f16_from_f32(x[i]);
    }
}

static struct sample *sample_new(int64_t M, int64_t N, int64_t K)
{
    struct sample *s = calloc(1, sizeof *s);
    struct rng rng = { .seed = 3 };

    assert_non_null(s);
    s->shape = (struct matmul_shape){ .M = M, .N = N, .K = K, .b_transposed = true, .ab = F32, .c = F32, .bias = true };
    fill(s->x, s->x16[0], s->x16[1], NARROW_ROWS * K, &rng);
    fill(s->w, s->w16[0], s->w16[1], N * K, &rng);
    fill(s->bias, s->bias16[0], s->bias16[1], N, &rng);
    return s;
}

static void run(struct sample *s, enum cpu_isa isa, int threads)
{
    const bool narrow = s->shape.ab != F32, narrow_y = s->shape.c != F32;
    const int type = s->shape.ab == F16;
    const int64_t end = s->shape.M * s->shape.N;

    assert_true(narrow_scratch(&s->shape) <= sizeof s->scratch);
    s->y[end] = 77;
    s->y16[end] = 77;
    narrow_run(isa, threads, &s->shape, narrow ? (void *)s->x16[type] : s->x, narrow ? (void *)s->w16[type] : s->w,
               narrow ? (void *)s->bias16[type] : s->bias, narrow_y ? (void *)s->y16 : s->y, s->scratch);
    assert_true(s->y[end] == 77 && s->y16[end] == 77);
}

static double wanted(const struct sample *s, int64_t m, int64_t n)
{
    double sum = s->shape.bias ? (double)s->bias[n] : 0;

    for (int64_t k = 0; k < s->shape.K; k++)
        sum += (double)s->x[m * s->shape.K + k] * (double)s->w[n * s->shape.K + k];
    return s->shape.relu && sum < 0 ? 0 : sum;
}

static void check_numbers(const struct sample *s, enum cpu_isa isa)
{
    for (int64_t m = 0; m < s->shape.M; m++)
        for (int64_t n = 0; n < s->shape.N; n++) {
            const int64_t at = m * s->shape.N + n;
            const double is = (double)(s->shape.c == F32 ? s->y[at] : half_to_f32(s->y16[at], s->shape.c)),
                         want = wanted(s, m, n);
            const double scale = sqrt((double)s->shape.K) + fabs(want);

            if (!(fabs(is - want) <= (s->shape.c == F32 ? 1e-6 : s->shape.c == F16 ? 0x1p-11 : 0x1p-8) * scale))
                fail_msg("%s %s to %s, %d x %d x %d: row %d, column %d is %.8g, must be %.8g", matmul_isa_name(isa),
                         dtype_name(s->shape.ab), dtype_name(s->shape.c), (int)s->shape.M, (int)s->shape.N,
                         (int)s->shape.K, (int)m, (int)n, is, want);
        }
}

TEST(products_are_right)
{
    static const int64_t sizes[][2] = { { 1, 1 }, { 7, 5 }, { 33, 16 }, { 130, 64 }, { 301, 200 }, { 64, 31 } };

    for (int isa = CPU_PORTABLE; isa <= (int)matmul_isa(); isa++)
        for (int64_t M = 1; M <= NARROW_ROWS; M++)
            for (int i = 0; i < COUNT_OF(sizes); i++) {
                struct sample *s = sample_new(M, sizes[i][0], sizes[i][1]);

                for (int form = 0; form < 10; form++) {
                    s->shape.ab = form < 2 ? F32 : form < 6 ? BF16 : F16;
                    s->shape.c = form / 2 % 2 == 0 && form > 0 ? s->shape.ab : F32;
                    s->shape.bias = form % 2;
                    s->shape.relu = form % 2;
                    run(s, (enum cpu_isa)isa, 2);
                    check_numbers(s, (enum cpu_isa)isa);
                }
                free(s);
            }
    CHECK(true);
}

/* What generation relies on: a row's text depends neither on its company nor on the machine's number of cores. */
TEST(rows_do_not_feel_their_company)
{
    for (int isa = CPU_PORTABLE; isa <= (int)matmul_isa(); isa++)
        for (int type = F32; type <= F16; type++) {
            struct sample *all = sample_new(NARROW_ROWS, 301, 200), *few = sample_new(1, 301, 200);

            all->shape.ab = few->shape.ab = (enum dtype)type;
            run(all, (enum cpu_isa)isa, 3);
            for (int64_t M = 1; M < NARROW_ROWS; M++) {
                few->shape.M = M;
                run(few, (enum cpu_isa)isa, 1);
                CHECK_EQ(memcmp(few->y, all->y, (size_t)(M * 301) * sizeof(float)), 0);
            }
            free(all);
            free(few);
        }
}

TEST(what_is_no_number_stays_so)
{
    struct sample *s = sample_new(1, 40, 64);

    s->shape.relu = true;
    s->x[3] = NAN;
    run(s, matmul_isa(), 1);
    for (int64_t n = 0; n < 40; n++)
        CHECK(isnan(s->y[n]));
    free(s);
}

TEST(int8_products_are_right_in_any_company)
{
    enum { N = 37, K = 197, G = 2 };
    static int8_t q[N * K];
    static float scales[N * G], y[NARROW_ROWS * N], first[N];
    struct sample *s = sample_new(NARROW_ROWS, N, K);
    const struct narrow_q8 w = { q, scales };

    for (int i = 0; i < N * K; i++)
        q[i] = (int8_t)(i * 89 % 255 - 127);
    for (int i = 0; i < N * G; i++)
        scales[i] = 0.01f + 0.001f * (float)i;
    for (int isa = CPU_PORTABLE; isa <= (int)matmul_isa(); isa++)
        for (s->shape.M = 1; s->shape.M <= NARROW_ROWS; s->shape.M++) {
            narrow_run_q8((enum cpu_isa)isa, 2, &s->shape, s->x, &w, s->bias, y, s->scratch);
            for (int64_t i = 0; i < s->shape.M * N; i++) {
                double want = (double)s->bias[i % N];

                for (int64_t k = 0; k < K; k++)
                    want += (double)s->x[i / N * K + k] * q[i % N * K + k] * (double)scales[i % N * G + k / 128];
                CHECK_NEAR((double)y[i], want, 1e-3);
            }
            if (s->shape.M == 1)
                memcpy(first, y, sizeof first);
            CHECK_EQ(memcmp(first, y, sizeof first), 0);
        }
    free(s);
}

/* ---- a query's products with a cache, and the mix of its values */

#define CACHE_ROWS 21
#define CACHE_HEADS 3
#define D_MAX 80

struct cache_sample {
    float x[CACHE_HEADS * D_MAX], spread[CACHE_HEADS * D_MAX], w[CACHE_ROWS * CACHE_HEADS * D_MAX];
    uint16_t x16[2][CACHE_HEADS * D_MAX], w16[2][CACHE_ROWS * CACHE_HEADS * D_MAX];
    float p[CACHE_HEADS * CACHE_ROWS], out[CACHE_HEADS * D_MAX + 1];
};

/* The cache's heads from `head` on: p and out are theirs. */
static void use_cache(struct cache_sample *s, enum cpu_isa isa, enum dtype type, int64_t n, int64_t D, int64_t head,
                      int64_t heads)
{
    const struct narrow *k = narrow_of(isa);
    const struct narrow_cache c = {
        type == F32 ? (void *)(s->w + head * D) : s->w16[type == F16] + head * D, type, CACHE_HEADS * D, n, heads, D
    };

    for (int64_t h = 0; h < heads; h++) {
        if (type != F32)
            k->spread(s->spread + h * D, s->x16[type == F16] + (head + h) * D, type, D);
        else
            memcpy(s->spread + h * D, s->x + (head + h) * D, (size_t)D * sizeof(float));
    }
    s->out[heads * D] = 77;
    k->products(s->p, n, s->spread, &c);
    k->mix(s->out, s->p, n, &c);
    assert_true(s->out[heads * D] == 77);
}

static void check_cache(void **test_state, const struct cache_sample *s, int64_t n, int64_t D)
{
    for (int64_t h = 0; h < CACHE_HEADS; h++) {
        double mixed[D_MAX] = { 0 };

        for (int64_t r = 0; r < n; r++) {
            const float *w = s->w + (r * CACHE_HEADS + h) * D;
            double dot = 0;

            for (int64_t d = 0; d < D; d++)
                dot += (double)s->x[h * D + d] * (double)w[d];
            CHECK_NEAR((double)s->p[h * n + r], dot, 1e-6 * (10 + fabs(dot)));
            for (int64_t d = 0; d < D; d++)
                mixed[d] += dot * (double)w[d];
        }
        for (int64_t d = 0; d < D; d++)
            CHECK_NEAR((double)s->out[h * D + d], mixed[d], 1e-5 * (10 + fabs(mixed[d])));
    }
}

TEST(caches_are_read_right_and_heads_do_not_feel_their_company)
{
    static const int64_t channels[] = { 5, 16, 64, 80 }, rows[] = { 1, 7, 8, 21 };
    static struct cache_sample all, one;
    struct rng rng = { .seed = 5 };

    fill(all.x, all.x16[0], all.x16[1], COUNT_OF(all.x), &rng);
    fill(all.w, all.w16[0], all.w16[1], COUNT_OF(all.w), &rng);
    for (int isa = CPU_PORTABLE; isa <= (int)matmul_isa(); isa++)
        for (int i = 0; i < 3 * COUNT_OF(channels) * COUNT_OF(rows); i++) {
            const enum dtype type = (enum dtype)(i % 3); /* F32, BF16, F16 */
            const int64_t D = channels[i / 3 % COUNT_OF(channels)], n = rows[i / 3 / COUNT_OF(channels)];

            use_cache(&all, (enum cpu_isa)isa, type, n, D, 0, CACHE_HEADS);
            check_cache(test_state, &all, n, D);
            one = all;
            use_cache(&one, (enum cpu_isa)isa, type, n, D, 2, 1);
            CHECK_EQ(memcmp(one.p, all.p + 2 * n, (size_t)n * sizeof(float)), 0);
            CHECK_EQ(memcmp(one.out, all.out + 2 * D, (size_t)D * sizeof(float)), 0);
        }
}

TEST_MAIN(CASE(int8_products_are_right_in_any_company), CASE(products_are_right), CASE(rows_do_not_feel_their_company),
          CASE(what_is_no_number_stays_so), CASE(caches_are_read_right_and_heads_do_not_feel_their_company))
