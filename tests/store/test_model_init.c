/* Moments of the draws, what is fixed, and that any cut of a tensor gives the same values. */
#include "store/model_init.h"

#include <math.h>

#include "test.h"

#define N 200000

static float a[N], b[N];

static struct hf_config tiny(void)
{
    struct err err = { 0 };
    struct hf_config c;

    assert_int_equal(hf_config_named(&c, "opt-tiny", &err), 0);
    return c;
}

static void moments(const float *x, double *mean, double *deviation, double *fourth)
{
    double sum = 0, squares = 0, fourths = 0;

    for (int i = 0; i < N; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
        fourths += pow((double)x[i], 4);
    }
    *mean = sum / N;
    *deviation = sqrt(squares / N);
    *fourth = fourths / N / pow(*deviation, 4);
}

TEST(weights_are_normal)
{
    struct hf_config c = tiny();
    double mean, deviation, fourth, product = 0;

    model_init_fill(&c, 1, "layers.0.fc1.weight", 0, N, a);
    moments(a, &mean, &deviation, &fourth);
    CHECK_NEAR(mean, 0, 5 * 0.02 / sqrt(N));
    CHECK_NEAR(deviation, 0.02, 0.0002);
    CHECK_NEAR(fourth, 3, 0.1);
    model_init_fill(&c, 1, "layers.1.fc1.weight", 0, N, b);
    for (int i = 0; i < N; i++)
        product += (double)a[i] * (double)b[i];
    CHECK_NEAR(product / N / 0.0004, 0, 5 / sqrt(N)); /* another tensor is another stream */
    for (int lag = 1; lag < 5; lag++) {
        product = 0;
        for (int i = lag; i < N; i++)
            product += (double)a[i] * (double)a[i - lag];
        CHECK_NEAR(product / N / 0.0004, 0, 5 / sqrt(N));
    }
    hf_config_free(&c);
}

TEST(fixed_values)
{
    struct hf_config c = tiny();

    model_init_fill(&c, 1, "layers.3.fc2.bias", 5, 10, a);
    model_init_fill(&c, 1, "layers.3.self_attn_layer_norm.weight", 0, 10, b);
    CHECK(a[0] == 0 && a[9] == 0 && b[0] == 1 && b[9] == 1);
    model_init_fill(&c, 1, "embed_tokens.weight", 0, 512, a);
    for (int i = 0; i < 512; i++)
        CHECK_EQ(a[i] == 0, i / 128 == 1);
    model_init_fill(&c, 1, "embed_tokens.weight", 200, 100, b);
    CHECK(memcmp(a + 200, b, 100 * sizeof *a) == 0);
    model_init_fill(&c, 1, "v_head.weight", 0, 128, a);
    double largest = 0;
    for (int i = 0; i < 128; i++)
        largest = fmax(largest, fabs((double)a[i]));
    CHECK(largest < 1 / sqrt(128) && largest > 0.9 / sqrt(128));
    hf_config_free(&c);
}

TEST(any_cut_gives_the_same)
{
    struct hf_config c = tiny();

    model_init_fill(&c, 7, "project_in.weight", 0, N, a);
    for (int64_t at = 0, n = 1; at < 50000; at += n, n = n * 3 % 10007 + 1) {
        model_init_fill(&c, 7, "project_in.weight", at, n, b);
        CHECK(memcmp(a + at, b, (size_t)n * sizeof *a) == 0);
    }
    model_init_fill(&c, 8, "project_in.weight", 0, 10, b);
    CHECK(memcmp(a, b, 10 * sizeof *a) != 0);
    hf_config_free(&c);
}

TEST_MAIN(CASE(weights_are_normal), CASE(fixed_values), CASE(any_cut_gives_the_same))
