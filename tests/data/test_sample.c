#include "test.h"

#include "base/mem.h"
#include "data/sample.h"

static const int32_t counting[] = { 2, 10, 11, 12, 13, 14, 15, 16, 17, 18 };

TEST(rows_are_cut_and_counted)
{
    struct err err = { 0 };
    struct samples s;
    struct sample_stats stats;

    CHECK_OK(samples_init(&s, SAMPLE_TEXT, 4, 2, &err), &err);
    CHECK_OK(samples_add(&s, counting, 3, NULL, 0, &err), &err);
    CHECK_OK(samples_add(&s, counting, 10, NULL, 0, &err), &err);
    CHECK_EQ(s.n, 2);
    CHECK_EQ(s.rows[1].at, 3);
    CHECK_EQ(s.rows[1].n, 4);
    CHECK_EQ(s.rows[1].n_whole, 10);
    CHECK_EQ(s.ids[6], 12);
    CHECK_OK(samples_stats(&s, &stats, &err), &err);
    CHECK_EQ(stats.total, 13);
    CHECK_EQ(stats.n_cut, 1);
    CHECK_EQ(stats.total_cut, 6);
    CHECK_NEAR(stats.padding, 1.0 / 8, 1e-12);
    samples_free(&s);
    samples_free(&s);
}

TEST(long_prompts_are_dropped)
{
    struct err err = { 0 };
    struct samples s;

    CHECK_OK(samples_init(&s, SAMPLE_PROMPT, 4, 2, &err), &err);
    CHECK_OK(samples_add(&s, counting, 4, NULL, 0, &err), &err);
    CHECK_OK(samples_add(&s, counting, 5, NULL, 0, &err), &err);
    CHECK_EQ(s.n, 1);
    CHECK_EQ(s.n_dropped, 1);
    samples_free(&s);
    CHECK_ERR(samples_init(&s, SAMPLE_TEXT, 1, 2, &err), &err, ERR_USAGE, "nothing to predict");
}

TEST(pairs_stay_together_when_shuffled)
{
    struct err err = { 0 };
    struct samples s;

    CHECK_OK(samples_init(&s, SAMPLE_PAIR, 8, 2, &err), &err);
    for (int i = 0; i < 10; i++) {
        const int32_t chosen[] = { 2, i }, rejected[] = { 2, 100 + i, 2 };
        CHECK_OK(samples_add(&s, chosen, 2, rejected, 3, &err), &err);
    }
    CHECK_OK(samples_shuffle(&s, 0, &err), &err);
    CHECK_EQ(s.ids[s.rows[0].at + 1], 2); /* numpy's order of ten with seed 0 begins 2 8 */
    CHECK_EQ(s.ids[s.rows[2].at + 1], 8);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(s.ids[s.rows[2 * i].at + 1] + 100, s.ids[s.rows[2 * i + 1].at + 1]);
    samples_free(&s);
}

TEST(quantiles)
{
    struct sample_stats stats;
    int64_t lengths[200];

    for (int64_t i = 0; i < 200; i++)
        lengths[i] = 200 - i;
    sample_stats_of(lengths, 200, 100, &stats);
    CHECK_EQ(stats.p10, 20);
    CHECK_EQ(stats.p50, 100);
    CHECK_EQ(stats.p90, 180);
    CHECK_EQ(stats.p99, 198);
    CHECK_EQ(stats.longest, 200);
    CHECK_EQ(stats.n_cut, 100);
    CHECK_EQ(stats.total_cut, 5050);
    CHECK_NEAR(stats.padding, 4950.0 / 20000, 1e-12);
    sample_stats_of((int64_t[]){ 30, 10, 20 }, 3, 100, &stats);
    CHECK_EQ(stats.p10, 10);
    CHECK_EQ(stats.p50, 20);
    CHECK_EQ(stats.p90, 30);
    sample_stats_of(lengths, 1, 100, &stats);
    CHECK_EQ(stats.p10, stats.p99);
    sample_stats_of(lengths, 0, 100, &stats);
    CHECK_EQ(stats.longest, 0);
}

static int fill(struct samples *s, struct err *err)
{
    struct sample_stats stats;

    if (samples_init(s, SAMPLE_TEXT, 16, 2, err) != 0)
        return -1;
    for (int i = 0; i < 3; i++)
        if (samples_add(s, counting, 10, NULL, 0, err) != 0)
            return -1;
    return samples_shuffle(s, 1, err) != 0 ? -1 : samples_stats(s, &stats, err);
}

TEST(no_memory_leaves_a_whole_set)
{
    struct samples s = { 0 };
    int result = -1;

    for (int n = 1; result != 0; n++) {
        struct err err = { 0 };
        CHECK(n < 50);
        mem_fail_at(n);
        result = fill(&s, &err);
        mem_fail_at(0);
        CHECK_EQ(err.code, result == 0 ? ERR_NONE : ERR_MEMORY);
        for (int64_t i = 0; i < s.n; i++)
            CHECK_EQ(s.ids[s.rows[i].at + 9], 18);
        samples_free(&s);
        CHECK_EQ(mem_live_bytes(MEM_DATA), 0);
    }
}

TEST(equal_pairs_are_counted_as_they_are_cut)
{
    const int32_t ids[] = { 2, 5, 6, 7 };
    struct err err = { 0 };
    struct samples s;

    CHECK_OK(samples_init(&s, SAMPLE_PAIR, 3, 2, &err), &err);
    CHECK_EQ(samples_equal_pairs(&s), 0);
    CHECK_OK(samples_add(&s, ids, 2, ids, 3, &err), &err);
    CHECK_OK(samples_add(&s, ids, 3, ids, 3, &err), &err);
    CHECK_OK(samples_add(&s, ids, 3, ids, 4, &err), &err);
    CHECK_OK(samples_add(&s, ids, 3, ids + 1, 3, &err), &err);
    CHECK_EQ(samples_equal_pairs(&s), 2);
    samples_free(&s);
}

TEST_MAIN(CASE(rows_are_cut_and_counted), CASE(long_prompts_are_dropped), CASE(pairs_stay_together_when_shuffled),
          CASE(quantiles), CASE(no_memory_leaves_a_whole_set), CASE(equal_pairs_are_counted_as_they_are_cut))
