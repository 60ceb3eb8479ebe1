/* The rules by which the loss's scale moves. */
#include "phases/loss_scale.h"

#include "test.h"

static const struct loss_scaling rules = { .initial = 1024, .min = 256, .window = 3, .hysteresis = 2 };

/* "+": an update without an overflow, "-": one with; returns the last one's result. */
static int go(struct loss_scale *s, const struct loss_scaling *o, const char *updates)
{
    int result = 0;

    for (; *updates; updates++)
        result = loss_scale_step(s, o, *updates == '-');
    return result;
}

static void check(void **test_state, const char *updates, double value, int64_t skipped)
{
    struct loss_scale s;

    loss_scale_init(&s, &rules);
    CHECK_EQ(go(&s, &rules, updates), 0);
    CHECK_NEAR(s.value, value, 0);
    CHECK_EQ(s.skipped, skipped);
}

TEST(it_doubles_after_a_window)
{
    check(test_state, "", 1024, 0);
    check(test_state, "++", 1024, 0);
    check(test_state, "+++", 2048, 0);
    check(test_state, "+++++", 2048, 0);
    check(test_state, "++++++", 4096, 0);
}

TEST(an_overflow_begins_the_window_anew)
{
    check(test_state, "++-++", 1024, 1);
    check(test_state, "++-+++", 2048, 1);
}

TEST(it_halves_when_hysteresis_is_used_up)
{
    check(test_state, "-", 1024, 1);
    check(test_state, "--", 512, 2);
    check(test_state, "---", 256, 3); /* no mercy until it has doubled */
    check(test_state, "-++-", 512, 2);
    check(test_state, "--+++", 1024, 2);
    check(test_state, "--+++-", 1024, 3);
    check(test_state, "--+++--", 512, 4);
}

TEST(without_hysteresis_each_overflow_halves)
{
    const struct loss_scaling o = { .initial = 1024, .min = 256, .window = 3, .hysteresis = 1 };
    struct loss_scale s;

    loss_scale_init(&s, &o);
    CHECK_EQ(go(&s, &o, "-"), 0);
    CHECK_NEAR(s.value, 512, 0);
    CHECK_EQ(go(&s, &o, "+++-"), 0);
    CHECK_NEAR(s.value, 512, 0);
}

TEST(at_the_minimum_an_overflow_is_the_end)
{
    struct loss_scale s;

    loss_scale_init(&s, &rules);
    CHECK_EQ(go(&s, &rules, "---"), 0);
    const struct loss_scale before = s;
    CHECK_EQ(go(&s, &rules, "-"), -1);
    CHECK_EQ(memcmp(&s, &before, sizeof s), 0);
    CHECK_EQ(go(&s, &rules, "+++-"), 0); /* it has doubled: hysteresis again */
    CHECK_NEAR(s.value, 512, 0);
}

TEST(it_does_not_fall_below_the_minimum)
{
    const struct loss_scaling o = { .initial = 1024, .min = 600, .window = 3, .hysteresis = 1 };
    struct loss_scale s;

    loss_scale_init(&s, &o);
    CHECK_EQ(go(&s, &o, "-"), 0);
    CHECK_NEAR(s.value, 600, 0);
}

TEST(no_scaling_is_a_scale_of_one_that_stays)
{
    const struct loss_scaling none = { 0 };
    struct loss_scale s;

    loss_scale_init(&s, &none);
    CHECK_EQ(go(&s, &none, "++++++"), 0);
    CHECK_NEAR(s.value, 1, 0);
    CHECK_EQ(go(&s, &none, "-"), -1);
}

TEST_MAIN(CASE(it_doubles_after_a_window), CASE(an_overflow_begins_the_window_anew),
          CASE(it_halves_when_hysteresis_is_used_up), CASE(without_hysteresis_each_overflow_halves),
          CASE(at_the_minimum_an_overflow_is_the_end), CASE(it_does_not_fall_below_the_minimum),
          CASE(no_scaling_is_a_scale_of_one_that_stays))
