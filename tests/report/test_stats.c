/* Quantiles: any printed table of Student's t (two-sided 95 % is 0.975). Holm: the worked example p = .01 .04 .03 .005. */
#include "test.h"

#include <math.h>

#include "report/stats.h"

TEST(t_quantiles_match_the_tables)
{
    CHECK_NEAR(stats_t_quantile(0.975, 1), 12.706204736, 1e-7);
    CHECK_NEAR(stats_t_quantile(0.975, 2), 4.3026527297, 1e-8);
    CHECK_NEAR(stats_t_quantile(0.975, 4), 2.7764451052, 1e-8);
    CHECK_NEAR(stats_t_quantile(0.975, 9), 2.2621571628, 1e-8);
    CHECK_NEAR(stats_t_quantile(0.95, 10), 1.8124611228, 1e-8);
    CHECK_NEAR(stats_t_quantile(0.995, 30), 2.7499956536, 1e-8);
    CHECK_NEAR(stats_t_quantile(0.975, 1e6), 1.9599663, 1e-5);
    CHECK_NEAR(stats_t_quantile(0.025, 4), -2.7764451052, 1e-8);
    CHECK_NEAR(stats_t_quantile(0.5, 3), 0, 1e-12);
    for (double df = 1; df < 50; df += 3.7)
        for (double p = 0.01; p < 1; p += 0.07)
            CHECK_NEAR(stats_t_below(stats_t_quantile(p, df), df), p, 1e-10);
}

TEST(incomplete_beta_has_its_known_values)
{
    CHECK_NEAR(stats_beta(1, 1, 0.3), 0.3, 1e-14);
    CHECK_NEAR(stats_beta(2, 3, 0.5), 0.6875, 1e-13); /* 11/16 */
    CHECK_NEAR(stats_beta(0.5, 0.5, 0.25), 1.0 / 3, 1e-13);
    CHECK_NEAR(stats_beta(5, 2, 0.9) + stats_beta(2, 5, 0.1), 1, 1e-13);
}

TEST(a_known_ratio)
{
    /* ln ratios .1 .2 .3: mean .2, deviation .1, half-width 4.3027 * .1 / sqrt 3 = .24841 */
    const double base[] = { exp(0.1), exp(0.2), exp(0.3) }, variant[] = { 1, 1, 1 };
    const struct estimate e = stats_paired(base, variant, 3);

    CHECK_EQ(e.n, 3);
    CHECK_NEAR(e.value, exp(0.2), 1e-12);
    CHECK_NEAR(e.low, exp(0.2 - 0.2484138), 1e-6);
    CHECK_NEAR(e.high, exp(0.2 + 0.2484138), 1e-6);
    CHECK_NEAR(e.p, 0.0741799, 1e-6);
    CHECK_EQ(e.verdict, VERDICT_UNDECIDED);
    CHECK(e.blocks_needed > 90 && e.blocks_needed < 105); /* (1.985 * .1 / .0198)^2 */
}

TEST(swapping_the_sides_inverts_all)
{
    const double a[] = { 2.1, 2.4, 2.2, 2.0, 2.6 }, b[] = { 1.1, 1.3, 1.0, 1.2, 1.25 };

    for (int paired = 0; paired < 2; paired++) {
        const struct estimate e = paired ? stats_paired(a, b, 5) : stats_unpaired(a, 5, b, 4);
        const struct estimate s = paired ? stats_paired(b, a, 5) : stats_unpaired(b, 4, a, 5);

        CHECK_NEAR(e.value * s.value, 1, 1e-12);
        CHECK_NEAR(e.low * s.high, 1, 1e-12);
        CHECK_NEAR(e.high * s.low, 1, 1e-12);
        CHECK_NEAR(e.p, s.p, 1e-12);
        CHECK_EQ(e.verdict, VERDICT_BETTER);
        CHECK_EQ(s.verdict, VERDICT_WORSE);
    }
}

TEST(welch_by_hand)
{
    /* logs 1 2 3 and 0 0.5: va = 1/3, vb = .125/2; error = sqrt(.395833), df = .156684/(.055556+.003906) */
    const double a[] = { exp(1), exp(2), exp(3) }, b[] = { exp(0), exp(0.5) };
    const struct estimate e = stats_unpaired(a, 3, b, 2);
    const double df = (1.0 / 3 + 0.0625) * (1.0 / 3 + 0.0625) / (1.0 / 18 + 0.0625 * 0.0625);

    CHECK_NEAR(log(e.value), 1.75, 1e-12);
    CHECK_NEAR(log(e.high) - 1.75, stats_t_quantile(0.975, df) * sqrt(1.0 / 3 + 0.0625), 1e-9);
    CHECK_EQ(e.n, 2);
}

TEST(verdicts)
{
    const double one[] = { 1, 1, 1, 1 }, equal[] = { 1.001, 0.999, 1.0005, 0.9995 }, less[] = { .5, .5, .5, .5 };
    const double close[] = { .99, .99, .99, .99 }, bad[] = { 0, NAN, -1, INFINITY };
    char text[128];
    struct estimate e = stats_paired(one, equal, 4);

    CHECK_EQ(e.verdict, VERDICT_SAME);
    e = stats_paired(one, less, 4);
    CHECK_EQ(e.verdict, VERDICT_BETTER);
    CHECK_NEAR(e.low, 2, 1e-12);
    CHECK_NEAR(e.p, 0, 0);
    e = stats_paired(less, one, 4);
    CHECK_EQ(e.verdict, VERDICT_WORSE);
    e = stats_paired(one, one, 4);
    CHECK_EQ(e.verdict, VERDICT_SAME);
    CHECK_NEAR(e.p, 1, 0);
    e = stats_paired(one, close, 4);
    stats_verdict(&e, text, sizeof text);
    CHECK_STR(text, "no practical difference");
    e = stats_paired(one, less, 1);
    CHECK(e.verdict == VERDICT_NONE && isnan(e.low) && isnan(e.p) && e.value == 2);
    e = stats_paired(one, bad, 4);
    CHECK(e.n == 0 && isnan(e.value));
    e = stats_unpaired(one, 4, bad, 4);
    CHECK(e.n == 0 && isnan(e.value));
}

TEST(holm_steps_down)
{
    struct estimate e[5] = { { .p = 0.01 }, { .p = 0.04 }, { .p = 0.03 }, { .p = 0.005 }, { .p = NAN } };
    struct estimate *const family[] = { &e[0], &e[1], &e[2], &e[3], &e[4] };

    stats_holm(family, 5);
    CHECK_NEAR(e[3].p_holm, 0.02, 1e-15);
    CHECK_NEAR(e[0].p_holm, 0.03, 1e-15);
    CHECK_NEAR(e[2].p_holm, 0.06, 1e-15);
    CHECK_NEAR(e[1].p_holm, 0.06, 1e-15);
}

TEST(what_lies_apart_is_marked_and_noise_is_not)
{
    const double far[] = { 1.00, 1.01, 0.99, 1.005, 1.20, 0.995 }, noise[] = { 1.0, 1.1, 0.9, 1.05, 0.95, 1.15 };
    const double tight[] = { 1, 1, 1, 1, 1.01, 1.03 }, few[] = { 1, 1, 1, 2 }, lost[] = { 1, NAN, 1, 1, 1, 1, 2 };

    for (int i = 0; i < 6; i++) {
        CHECK_EQ(stats_outlier(far, 6, i), i == 4);
        CHECK(!stats_outlier(noise, 6, i));
        CHECK_EQ(stats_outlier(tight, 6, i), i == 5); /* 1 % is nothing, however equal the others are */
    }
    CHECK(!stats_outlier(few, 4, 3));
    CHECK(stats_outlier(lost, 7, 6) && !stats_outlier(lost, 7, 1));
}

TEST(half_width_is_relative)
{
    CHECK_NEAR(stats_half_width(&(struct estimate){ .value = 2, .low = 1.9, .high = 2.1 }), 2 / 1.9 - 1, 1e-12);
    CHECK(isnan(stats_half_width(&(struct estimate){ .value = 2, .low = NAN, .high = NAN })));
}

TEST_MAIN(CASE(what_lies_apart_is_marked_and_noise_is_not), CASE(half_width_is_relative),
          CASE(t_quantiles_match_the_tables), CASE(incomplete_beta_has_its_known_values), CASE(a_known_ratio),
          CASE(swapping_the_sides_inverts_all), CASE(welch_by_hand), CASE(verdicts), CASE(holm_steps_down))
