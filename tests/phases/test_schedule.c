/* The schedules against the numbers of the reference (spec: cosine with 10 warm-up updates of 100) and their own definitions. */
#include "phases/schedule.h"

#include "test.h"

TEST(cosine_is_the_references)
{
    static const struct {
        int64_t u;
        double factor;
    } want[] = { { 0, 0 }, { 1, 0.1 }, { 9, 0.9 }, { 10, 1 }, { 55, 0.5 }, { 99, 0.00030458649045211894 }, { 100, 0 } };

    for (int i = 0; i < COUNT_OF(want); i++)
        CHECK_NEAR(schedule_factor(SCHEDULE_COSINE, want[i].u, 10, 100, 1), want[i].factor, 1e-15);
}

TEST(no_warm_up_begins_at_the_full_rate)
{
    for (int s = SCHEDULE_LINEAR; s <= SCHEDULE_CONSTANT_WITH_WARMUP; s++)
        CHECK_NEAR(schedule_factor((enum schedule)s, 0, 0, 10, 1e-3), 1, 1e-12);
}

TEST(others_by_their_definitions)
{
    CHECK_NEAR(schedule_factor(SCHEDULE_LINEAR, 55, 10, 100, 1), 0.5, 1e-15);
    CHECK_NEAR(schedule_factor(SCHEDULE_LINEAR, 200, 10, 100, 1), 0, 0);
    CHECK_NEAR(schedule_factor(SCHEDULE_CONSTANT, 0, 10, 100, 1), 1, 0);
    CHECK_NEAR(schedule_factor(SCHEDULE_CONSTANT_WITH_WARMUP, 5, 10, 100, 1), 0.5, 1e-15);
    CHECK_NEAR(schedule_factor(SCHEDULE_COSINE_WITH_RESTARTS, 55, 10, 100, 1), 0.5, 1e-15);
    CHECK_NEAR(schedule_factor(SCHEDULE_POLYNOMIAL, 55, 10, 100, 1e-3) * 1e-3, (1e-3 - 1e-7) * 0.5 + 1e-7, 1e-15);
    CHECK_NEAR(schedule_factor(SCHEDULE_POLYNOMIAL, 101, 10, 100, 1e-3) * 1e-3, 1e-7, 1e-15);
}

TEST_MAIN(CASE(cosine_is_the_references), CASE(no_warm_up_begins_at_the_full_rate), CASE(others_by_their_definitions))
