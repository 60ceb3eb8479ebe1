/* A/A studies: all cells are the same, so every ratio is 1 and "better" or "worse" is a false verdict. Simulated with the noise
 * of real ones: residuals of ln(seconds) over their block's mean, as bench/aa printed them on a two-thread virtual machine with
 * much else at work (10 studies of 4 cells and 5 blocks). Blocks drift, as machines do: pairing has to take that away. */
#include "test.h"

#include <math.h>

#include "base/rng.h"
#include "report/stats.h"

enum { STUDIES = 100, CELLS = 20, BLOCKS = 5 };

static const double thousandths[] = {
    -108.8, -126.9, 54.6,   181.1,  90.4,   27.1,   -23.9,  -93.6,  -20.1,  -65.9,  102.4,  -16.3,  160.6,  -1.7,
    -60.7,  -98.1,  -24.8,  96.6,   -36.0,  -35.9,  -15.1,  -63.8,  30.4,   48.5,   19.4,   -35.1,  -95.8,  111.5,
    -62.0,  0.1,    47.0,   14.9,   -24.7,  -35.9,  118.0,  -57.3,  -271.1, -264.4, 211.1,  324.4,  -66.0,  101.3,
    -79.7,  44.4,   -172.4, 20.3,   6.9,    145.2,  -117.5, 112.5,  141.6,  -136.6, 180.6,  -182.6, -0.4,   2.4,
    90.3,   -74.8,  40.1,   -55.6,  -184.5, -64.1,  206.1,  42.5,   -121.1, 63.1,   63.4,   -5.4,   25.0,   -46.3,
    6.4,    14.9,   -291.9, 302.6,  124.6,  -135.4, 88.9,   -172.2, -40.4,  123.6,  -93.7,  15.9,   115.1,  -37.3,
    66.0,   -240.7, 94.5,   80.2,   -3.6,   -77.2,  118.3,  -37.5,  22.5,   93.6,   -36.3,  -79.7,  -75.1,  -200.5,
    76.1,   199.5,  -29.9,  258.3,  -138.3, -90.2,  -221.4, 61.6,   275.6,  -115.9, -43.1,  -212.6, 136.0,  119.7,
    -166.6, 375.3,  -309.3, 100.5,  -205.4, 40.2,   241.0,  -75.8,  243.1,  130.5,  -70.8,  -302.8, -28.1,  23.9,
    133.8,  -129.7, 272.8,  -365.9, -42.4,  135.5,  -22.4,  -303.4, -68.6,  394.4,  97.7,   111.1,  -131.9, -76.8,
    -157.3, 184.7,  -260.0, 232.6,  -102.1, 54.7,   -6.3,   53.6,   24.5,   -193.3, 107.5,  61.3,   74.2,   43.8,
    -75.8,  -42.2,  -104.9, -303.4, 319.4,  88.9,   349.3,  -285.4, -318.9, 255.0,  233.5,  -84.1,  63.9,   -213.3,
    50.2,   6.0,    -175.9, 119.7,  -14.5,  -299.9, -10.4,  324.7,  -25.4,  193.2,  -177.5, 9.6,    156.5,  -199.5,
    24.6,   18.4,   124.2,  0.1,    -51.1,  -73.1,  154.7,  -162.2, -163.4, 170.9,  83.1,   -108.7, 53.6,   -28.0,
    90.9,   -35.7,  28.4,   -83.6,
};

/* Of one block: what a cell takes, or its whole study when the drift is none of a block's. */
static double draw(struct rng *r, double drift)
{
    return exp(drift + 1e-3 * thousandths[rng_below(r, COUNT_OF(thousandths))]);
}

struct tally {
    int n, covered, wrong, wrong_holm, studies_wrong;
};

static void judge_study(struct tally *t, struct estimate *e)
{
    struct estimate *family[CELLS];
    bool any = false;

    for (int i = 0; i < CELLS; i++)
        family[i] = &e[i];
    stats_holm(family, CELLS);
    for (int i = 0; i < CELLS; i++) {
        const bool wrong = e[i].verdict == VERDICT_BETTER || e[i].verdict == VERDICT_WORSE;

        t->n++;
        t->covered += e[i].low <= 1 && e[i].high >= 1;
        t->wrong += wrong;
        t->wrong_holm += wrong && e[i].p_holm < 0.05;
        any = any || (wrong && e[i].p_holm < 0.05);
    }
    t->studies_wrong += any;
}

/* drift: the deviation of a block's common part. */
static struct tally simulate(bool paired, double drift)
{
    struct tally t = { 0 };

    for (int s = 0; s < STUDIES; s++) {
        struct rng r = { .seed = 99, .purpose = RNG_STUDY, .stream = (uint32_t)s };
        double seconds[CELLS + 1][BLOCKS];
        struct estimate e[CELLS];

        for (int b = 0; b < BLOCKS; b++) {
            const double common = drift * rng_normal(&r);

            for (int c = 0; c <= CELLS; c++)
                seconds[c][b] = draw(&r, common);
        }
        for (int c = 0; c < CELLS; c++)
            e[c] = paired ? stats_paired(seconds[0], seconds[c + 1], BLOCKS)
                          : stats_unpaired(seconds[0], BLOCKS, seconds[c + 1], BLOCKS);
        judge_study(&t, e);
    }
    return t;
}

TEST(intervals_cover_as_often_as_they_say)
{
    const struct tally t = simulate(true, 0.05);

    print_message(
        "paired: %.1f %% of %d intervals cover 1, %.1f %% of verdicts are better or worse, %.1f %% after Holm\n",
        100.0 * t.covered / t.n, t.n, 100.0 * t.wrong / t.n, 100.0 * t.wrong_holm / t.n);
    CHECK_EQ(t.n, STUDIES * CELLS);
    CHECK(t.covered >= 0.93 * t.n && t.covered <= 0.97 * t.n);
    CHECK(t.wrong <= 0.05 * t.n);
    CHECK(t.studies_wrong <= 0.05 * STUDIES);
}

TEST(unpaired_intervals_do_too_where_nothing_drifts)
{
    const struct tally t = simulate(false, 0);

    print_message("unpaired: %.1f %% of %d intervals cover 1, %.1f %% of verdicts are better or worse\n",
                  100.0 * t.covered / t.n, t.n, 100.0 * t.wrong / t.n);
    CHECK(t.covered >= 0.93 * t.n && t.wrong <= 0.05 * t.n);
}

TEST_MAIN(CASE(intervals_cover_as_often_as_they_say), CASE(unpaired_intervals_do_too_where_nothing_drifts))
