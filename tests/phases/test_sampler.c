/* Draws against the distributions they come from (chi-square, at fixed seeds), and the cases in which a draw is no draw. */
#include "phases/sampler.h"

#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "test.h"

#define N_IDS 12
#define DRAWS 20000

static const float uneven[N_IDS] = { 0.3f, -1, 2, 0, 1.5f, 2, -4, 0.7f, -0.2f, 1, -2.5f, 1.2f };

static struct sampler sampler(void **test_state, double temperature, int64_t top_k, double top_p, int64_t n_ids)
{
    const struct sampler_options o = { .temperature = temperature, .top_k = top_k, .top_p = top_p, .seed = 77 };
    struct sampler s;
    struct err err = { 0 };

    CHECK_OK(sampler_init(&s, &o, n_ids, &err), &err);
    return s;
}

static int32_t pick(void **test_state, struct sampler *s, const float *logits, int64_t row, int64_t position,
                    int32_t forbidden)
{
    struct err err = { 0 };
    int32_t id = -1;

    CHECK_OK(sampler_pick(s, logits, row, position, forbidden, &id, &err), &err);
    CHECK(id >= 0 && id < s->V && id != forbidden);
    return id;
}

/* The definition, by sorting: temperature, top-k, top-p. */
static void expect(double p[N_IDS], double temperature, int64_t top_k, double top_p, int32_t forbidden)
{
    int order[N_IDS], n = 0;
    double sum = 0, before = 0;

    for (int i = 0; i < N_IDS; i++) {
        int at = n;
        p[i] = 0;
        if (i == forbidden)
            continue;
        for (; at > 0 && uneven[order[at - 1]] < uneven[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
        n++;
    }
    n = top_k > 0 && top_k < n ? (int)top_k : n;
    for (int i = 0; i < n; i++)
        sum += exp((double)uneven[order[i]] / temperature);
    for (int i = 0; i < n && before < top_p * sum; i++)
        before += p[order[i]] = exp((double)uneven[order[i]] / temperature);
    for (int i = 0; i < N_IDS; i++)
        p[i] /= before;
}

/* 99.9 % of a chi-square of up to 11 degrees lies below 31.3. */
static void check_distribution(void **test_state, double temperature, int64_t top_k, double top_p, int32_t forbidden)
{
    struct sampler s = sampler(test_state, temperature, top_k, top_p, N_IDS);
    int n[N_IDS] = { 0 };
    double p[N_IDS], chi = 0;

    expect(p, temperature, top_k, top_p, forbidden);
    for (int i = 0; i < DRAWS; i++)
        n[pick(test_state, &s, uneven, i % 100, i / 100, forbidden)]++;
    for (int i = 0; i < N_IDS; i++) {
        if (p[i] <= 0)
            CHECK_EQ(n[i], 0);
        else
            chi += (n[i] - DRAWS * p[i]) * (n[i] - DRAWS * p[i]) / (DRAWS * p[i]);
    }
    CHECK(chi < 31.3);
    sampler_free(&s);
}

TEST(draws_follow_the_distribution)
{
    check_distribution(test_state, 1, 0, 1, -1);
    check_distribution(test_state, 0.5, 0, 1, -1);
    check_distribution(test_state, 3, 0, 1, 4);
    check_distribution(test_state, 1, 5, 1, -1);
    check_distribution(test_state, 1, N_IDS + 7, 1, -1);
    check_distribution(test_state, 1, 0, 0.8, -1);
    check_distribution(test_state, 0.7, 0, 0.95, 2);
    check_distribution(test_state, 2, 6, 0.7, -1);
    check_distribution(test_state, 2, 6, 0.7, 5);
}

/* More ids than are summed at a time: uniform, by halves. */
TEST(draws_reach_a_whole_vocabulary)
{
    enum { N = 5000 };
    static float flat[N];
    struct sampler s = sampler(test_state, 1, 0, 1, N), nearly = sampler(test_state, 1, 0, 0.5, N);
    int low = 0;

    for (int i = 0; i < DRAWS; i++) {
        low += pick(test_state, &s, flat, 0, i, -1) < N / 2;
        if (i < 200)
            CHECK(pick(test_state, &nearly, flat, 0, i, -1) <= N / 2);
    }
    CHECK_NEAR(low, DRAWS / 2, 4 * sqrt(DRAWS / 4.0));
    sampler_free(&s);
    sampler_free(&nearly);
}

/* Ids 2 and 5 tie for the largest. */
TEST(greedy_takes_the_lowest_id_of_the_largest_logit)
{
    static const double forms[][3] = { { 0, 0, 1 }, { 1, 1, 1 }, { 1, 0, 1e-9 }, { 0, 7, 0.3 }, { 5, 2, 1e-9 } };
    static const float zeros[N_IDS] = { -1, -0.0f, 0, -0.0f };

    for (int f = 0; f < COUNT_OF(forms); f++) {
        struct sampler s = sampler(test_state, forms[f][0], (int64_t)forms[f][1], forms[f][2], N_IDS);
        for (int i = 0; i < 50; i++) {
            CHECK_EQ(pick(test_state, &s, uneven, i, 3, -1), 2);
            CHECK_EQ(pick(test_state, &s, uneven, i, 3, 2), 5);
            CHECK_EQ(pick(test_state, &s, zeros, i, 3, -1), 1);
        }
        sampler_free(&s);
    }
}

TEST(a_tiny_temperature_is_greedy_but_for_ties)
{
    struct sampler s = sampler(test_state, 1e-300, 0, 1, N_IDS);

    for (int i = 0; i < 50; i++) {
        const int32_t id = pick(test_state, &s, uneven, i, 0, -1);
        CHECK(id == 2 || id == 5);
        CHECK_EQ(pick(test_state, &s, uneven, i, 0, 5), 2);
    }
    sampler_free(&s);
}

TEST(a_draw_depends_on_seed_row_and_position_alone)
{
    struct sampler a = sampler(test_state, 1, 0, 1, N_IDS), b = sampler(test_state, 1, 0, 1, N_IDS);
    int same_row = 0, same_position = 0;

    for (int i = 0; i < 200; i++) {
        const int32_t id = pick(test_state, &a, uneven, 3, i, -1);
        CHECK_EQ(pick(test_state, &b, uneven, 3, 199 - i, -1), pick(test_state, &a, uneven, 3, 199 - i, -1));
        same_row += id == pick(test_state, &b, uneven, 4, i, -1);
        same_position += id == pick(test_state, &b, uneven, 3, i + 1, -1);
    }
    CHECK(same_row < 100 && same_position < 100);
    CHECK(sampler_uniform(1, 2, 3) != sampler_uniform(1, 3, 2));
    CHECK(sampler_uniform(1, 2, 3) != sampler_uniform((uint64_t)1 << 32 | 1, 2, 3));
    CHECK(sampler_uniform(1, 2, 3) != sampler_uniform(1, ((int64_t)1 << 32) + 2, 3));
    sampler_free(&a);
    sampler_free(&b);
}

TEST(logits_that_are_no_numbers_are_an_error)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    struct sampler s = sampler(test_state, 0, 0, 1, N_IDS);
    struct err err;
    int32_t id;

    for (int i = 0; i < COUNT_OF(bad); i++)
        for (int at = 0; at < N_IDS; at++) {
            float logits[N_IDS];
            char where[16];
            memcpy(logits, uneven, sizeof logits);
            logits[at] = bad[i];
            snprintf(where, sizeof where, "id %d,", at);
            CHECK_ERR(sampler_pick(&s, logits, 0, 0, -1, &id, &err), &err, ERR_RUN, "\"logits\"");
            CHECK(strstr(err.where, where));
        }
    sampler_free(&s);
}

TEST(log_probability_and_entropy)
{
    double sum = 0, entropy = 0;
    float logprob, got;

    for (int i = 0; i < N_IDS; i++)
        sum += exp((double)uneven[i]);
    for (int i = 0; i < N_IDS; i++)
        entropy -= exp((double)uneven[i]) / sum * ((double)uneven[i] - log(sum));
    for (int i = 0; i < N_IDS; i++) {
        sampler_describe(uneven, N_IDS, i, &logprob, &got);
        CHECK_NEAR(logprob, (double)uneven[i] - log(sum), 1e-6);
        CHECK_NEAR(got, entropy, 1e-6);
    }
}

TEST(logits_may_be_as_large_as_floats_are)
{
    static const float wide[N_IDS] = { -3e38f, 3e38f, 0, -3e38f, 2.9e38f };
    static const double forms[][2] = { { 0, 1 }, { 40, 1 }, { 0, 0.5 }, { 3, 0.9 } };
    float logprob, entropy;

    for (int f = 0; f < COUNT_OF(forms); f++) {
        struct sampler s = sampler(test_state, 1e-3, (int64_t)forms[f][0], forms[f][1], N_IDS);
        CHECK_EQ(pick(test_state, &s, wide, 1, 2, -1), 1);
        CHECK_EQ(pick(test_state, &s, wide, 1, 2, 1), 4);
        sampler_free(&s);
    }
    sampler_describe(wide, N_IDS, 1, &logprob, &entropy);
    CHECK_NEAR(logprob, 0, 0);
    CHECK_NEAR(entropy, 0, 0);
}

/* Five of thousands, in every bin of the histogram: each of them comes, and no other. */
TEST(the_largest_are_found_among_many)
{
    enum { N = 4000, K = 5 };
    static float many[N];
    struct sampler s = sampler(test_state, 1000, K, 1, N);
    struct rng r = { .seed = 4, .purpose = RNG_TASK };
    int seen[N] = { 0 }, n_seen = 0;

    for (int i = 0; i < N; i++)
        many[i] = (float)(-100 * rng_uniform(&r));
    for (int i = 0; i < K; i++)
        many[(i * 1237 + 11) % N] = (float)(1 + i % 2);
    for (int i = 0; i < 300; i++)
        seen[pick(test_state, &s, many, i, 0, -1)]++;
    for (int i = 0; i < N; i++) {
        n_seen += seen[i] > 0;
        CHECK(seen[i] == 0 || many[i] >= 1);
    }
    CHECK_EQ(n_seen, K);
    sampler_free(&s);
}

TEST(options_out_of_range_are_refused)
{
    static const struct sampler_options bad[] = {
        { .temperature = -1, .top_p = 1 },  { .temperature = NAN, .top_p = 1 },
        { .temperature = 1, .top_p = 0 },   { .temperature = 1, .top_p = 1.5 },
        { .temperature = 1, .top_p = NAN }, { .temperature = 1, .top_p = 1, .top_k = -1 },
    };
    const struct sampler_options good = { .temperature = 1, .top_p = 1 };
    struct sampler s;
    struct err err;

    for (int i = 0; i < COUNT_OF(bad); i++)
        CHECK_ERR(sampler_init(&s, &bad[i], N_IDS, &err), &err, ERR_USAGE, "must be");
    CHECK_ERR(sampler_init(&s, &good, 0, &err), &err, ERR_USAGE, "0 ids");
    for (int n = 1; n <= 2; n++) {
        mem_fail_at(n);
        CHECK_ERR(sampler_init(&s, &good, N_IDS, &err), &err, ERR_MEMORY, "");
        mem_fail_at(0);
        CHECK(!s.weights && !s.keys);
    }
}

TEST_MAIN(CASE(draws_follow_the_distribution), CASE(draws_reach_a_whole_vocabulary),
          CASE(greedy_takes_the_lowest_id_of_the_largest_logit), CASE(a_tiny_temperature_is_greedy_but_for_ties),
          CASE(a_draw_depends_on_seed_row_and_position_alone), CASE(logits_that_are_no_numbers_are_an_error),
          CASE(log_probability_and_entropy), CASE(logits_may_be_as_large_as_floats_are),
          CASE(the_largest_are_found_among_many), CASE(options_out_of_range_are_refused))
