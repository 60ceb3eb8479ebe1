/* Products of every orientation, type and ending against plain sums in double precision. */
#include "test.h"

#include <math.h>

#include "backend/cpu/matmul.h"
#include "base/mem.h"
#include "base/rng.h"

struct operands {
    void *a, *b, *bias, *c, *scratch;
    double *want;
    size_t scratch_bytes;
};

static double get(const void *x, enum dtype t, int64_t i)
{
    return t == F32 ? (double)((const float *)x)[i] : (double)half_to_f32(((const uint16_t *)x)[i], t);
}

static void fill(void *x, enum dtype t, int64_t n, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        const float f = (float)(int32_t)rng_philox(seed, 0, (uint32_t)i, 0, 0, 0).v[0] / 2147483648.0f;

        if (t == F32)
            ((float *)x)[i] = f;
        else
            ((uint16_t *)x)[i] = half_from_f32(f, t);
    }
}

static void *make(int64_t n, enum dtype t, uint32_t seed)
{
    void *x = NULL;

    MUST(posix_memalign(&x, 64, (size_t)n * dtype_bytes(t) + 64) == 0);
    fill(x, t, n, seed);
    return x;
}

static void product_wanted(const struct matmul_shape *s, struct operands *o)
{
    for (int64_t m = 0; m < s->M; m++)
        for (int64_t n = 0; n < s->N; n++) {
            double sum = s->add ? get(o->c, s->c, m * s->N + n) : 0;

            for (int64_t k = 0; k < s->K; k++)
                sum += get(o->a, s->ab, s->a_transposed ? k * s->M + m : m * s->K + k) *
                       get(o->b, s->ab, s->b_transposed ? n * s->K + k : k * s->N + n);
            sum += s->bias ? get(o->bias, s->ab, n) : 0;
            o->want[m * s->N + n] = s->relu && sum < 0 ? 0 : sum;
        }
}

static double worst(const struct matmul_shape *s, const struct operands *o)
{
    double worst_far = 0;

    for (int64_t i = 0; i < s->M * s->N; i++) {
        const double far = fabs(get(o->c, s->c, i) - o->want[i]);

        worst_far = far > worst_far || isnan(far) ? far : worst_far;
    }
    return worst_far;
}

/* The largest error of one product. */
static double error_of(struct matmul *m, const struct matmul_shape *s)
{
    struct err err = { 0 };
    struct operands o = { .a = make(s->M * s->K, s->ab, 1),
                          .b = make(s->K * s->N, s->ab, 2),
                          .bias = make(s->N, s->ab, 3),
                          .c = make(s->M * s->N, s->c, 4),
                          .want = mem_array(s->M, s->N, sizeof(double), MEM_OTHER, &err) };

    product_wanted(s, &o);
    if (matmul_prepare(m, s, &o.scratch_bytes, &err) != 0)
        fail_msg("%s; %s", err.what, err.where);
    MUST(posix_memalign(&o.scratch, 64, o.scratch_bytes + 64) == 0);
    if (matmul_run(m, s, o.a, o.b, s->bias ? o.bias : NULL, o.c, o.scratch, o.scratch_bytes, &err) != 0)
        fail_msg("%s; %s", err.what, err.where);
    const double far = worst(s, &o);
    free(o.a);
    free(o.b);
    free(o.bias);
    free(o.c);
    free(o.scratch);
    mem_free(o.want);
    return far;
}

/* Sums of K products of numbers below 1: fp32 rounds at about sqrt(K) 2^-24, bf16's result at 2^-9 of itself, fp16's at
 * 2^-12. */
static double allowed(const struct matmul_shape *s)
{
    return s->c == F32 ? 1e-5 * (1 + sqrt((double)s->K))
                       : (s->c == F16 ? 0x1p-11 : 0x1p-8) * (2 + 2 * sqrt((double)s->K));
}

static void check_all_forms(void **test_state, struct matmul *m, enum dtype ab, enum dtype c, int64_t M, int64_t N,
                            int64_t K)
{
    for (int form = 0; form < 32; form++) {
        const struct matmul_shape s = { .M = M,
                                        .N = N,
                                        .K = K,
                                        .a_transposed = form & 1,
                                        .b_transposed = form & 2,
                                        .ab = ab,
                                        .c = c,
                                        .bias = form & 4,
                                        .relu = form & 8,
                                        .add = form & 16 };

        CHECK_NEAR(error_of(m, &s), 0, allowed(&s));
    }
}

static void check_types(void **test_state, struct matmul *m)
{
    const enum dtype types[][2] = { { F32, F32 }, { BF16, BF16 }, { BF16, F32 }, { F16, F16 }, { F16, F32 } };

    for (int i = 0; i < COUNT_OF(types); i++) {
        check_all_forms(test_state, m, types[i][0], types[i][1], 37, 50, 65);
        check_all_forms(test_state, m, types[i][0], types[i][1], 1, 16, 3);
        check_all_forms(test_state, m, types[i][0], types[i][1], 5, 1, 1);
        check_all_forms(test_state, m, types[i][0], types[i][1], 9, 50, 150);
        check_all_forms(test_state, m, types[i][0], types[i][1], 99, 48, 40); /* oneDNN on AMX: in parts */
    }
}

TEST(every_form)
{
    struct err err = { 0 };
    struct matmul *m;

    CHECK_OK(matmul_open(&m, &err), &err);
    check_types(test_state, m);
    matmul_close(m);
}

static bool can(struct matmul_ways w)
{
    if (w.tiles)
        return matmul_isa() >= CPU_AMX;
    return !w.native_bf16 || matmul_isa() >= CPU_AVX512; /* oneDNN has no bf16 below */
}

TEST(every_way_of_bf16)
{
    const struct matmul_ways ways[] = {
        { .tiles = true }, { 0 }, { .native_bf16 = true }, { .native_bf16 = true, .transpose_first = true }
    };
    struct err err = { 0 };
    struct matmul *m;

    CHECK_OK(matmul_open(&m, &err), &err);
    for (int i = 0; i < COUNT_OF(ways); i++) {
        if (!can(ways[i]))
            continue;
        matmul_set_ways(m, ways[i]);
        check_types(test_state, m);
    }
    matmul_close(m);
}

TEST(panels_meet)
{
    const struct matmul_shape wide = { .M = 3, .N = 1100, .K = 2100, .ab = BF16, .c = BF16, .bias = true, .add = true };
    const struct matmul_shape tall = { .M = 5000, .N = 3, .K = 9, .a_transposed = true, .ab = BF16, .c = F32 };
    const struct matmul_shape deep = { .M = 130, .N = 50, .K = 4100, .ab = F32, .c = F32, .add = true };
    const struct matmul_shape pieces = { .M = 4100, .N = 33, .K = 2080, .a_transposed = true, .ab = BF16, .c = BF16 };
    const struct matmul_shape deep16 = { .M = 130, .N = 50, .K = 1100, .ab = BF16, .c = BF16, .relu = true };
    const struct matmul_shape fp16 = { .M = 1030, .N = 40, .K = 1100, .ab = F16, .c = F16, .bias = true, .add = true };
    struct err err = { 0 };
    struct matmul *m;

    CHECK_OK(matmul_open(&m, &err), &err);
    CHECK_NEAR(error_of(m, &fp16), 0, allowed(&fp16));
    CHECK_NEAR(error_of(m, &deep), 0, allowed(&deep));
    CHECK_NEAR(error_of(m, &deep16), 0, allowed(&deep16));
    CHECK_NEAR(error_of(m, &wide), 0, allowed(&wide));
    CHECK_NEAR(error_of(m, &tall), 0, allowed(&tall));
    CHECK_NEAR(error_of(m, &pieces), 0, allowed(&pieces));
    matmul_close(m);
}

/* oneDNN may want more for fewer rows. */
static void check_scratch(void **test_state, struct matmul *m, struct matmul_shape *s, int64_t *rows)
{
    struct err err = { 0 };
    size_t most = 0;

    CHECK_OK(matmul_prepare(m, s, &most, &err), &err);
    for (s->add = false; *rows > 0; *rows -= 31) {
        size_t bytes = 0;

        CHECK_OK(matmul_prepare(m, s, &bytes, &err), &err);
        CHECK(bytes <= most);
    }
}

TEST(fewer_rows_fit_the_scratch_of_more)
{
    const struct matmul_ways ways[] = {
        { .tiles = true }, { 0 }, { .native_bf16 = true }, { .native_bf16 = true, .transpose_first = true }
    };
    struct err err = { 0 };
    struct matmul *m;

    CHECK_OK(matmul_open(&m, &err), &err);
    for (int i = 0; i < 3 * COUNT_OF(ways); i++) {
        const enum dtype type = (enum dtype)(i % 3); /* F32, BF16, F16 */
        struct matmul_shape s = { .M = 1200, .N = 1040, .K = 40, .b_transposed = true, .ab = type, .c = type };
        struct matmul_shape dw = {
            .M = 520, .N = 512, .K = 256, .a_transposed = true, .ab = type, .c = F32, .add = true
        };

        if (!can(ways[i / 3]))
            continue;
        matmul_set_ways(m, ways[i / 3]);
        check_scratch(test_state, m, &s, &s.M);
        check_scratch(test_state, m, &dw, &dw.K);
    }
    matmul_close(m);
}

TEST(no_memory)
{
    struct err err = { 0 };
    struct matmul *m = NULL;

    mem_fail_at(1);
    CHECK_ERR(matmul_open(&m, &err), &err, ERR_MEMORY, "allocate");
    mem_fail_at(0);
    CHECK(m == NULL);
    matmul_close(m);
}

TEST_MAIN(CASE(every_form), CASE(every_way_of_bf16), CASE(panels_meet), CASE(fewer_rows_fit_the_scratch_of_more),
          CASE(no_memory))
