/* What a pair compares. The whole phase is tested by tests/golden and tests/equivalence. */
#include "phases/reward.h"

#include <math.h>

#include "test.h"

#define IDS 8
static const struct reward_options deepspeed = { REWARD_DEEPSPEED_CHAT, 2, 1 };
static const struct reward_options masked = { REWARD_MASKED, 2, 1 }, end = { REWARD_END, 2, 1 };

static struct batch one_pair(int32_t *ids, int32_t *spans)
{
    return (struct batch){ .B = 2, .T = IDS, .ids = ids, .spans = spans };
}

static struct reward_pair pair_of(void **test_state, const struct reward_options *o, const struct batch *b)
{
    struct reward_pair p;
    struct err err = { 0 };

    CHECK_OK(reward_pair_of(o, b, 0, &p, &err), &err);
    return p;
}

static void check_pair(void **test_state, struct reward_pair is, const int32_t *compared, int64_t chosen_end,
                       int64_t rejected_end)
{
    for (int i = 0; i < PAIR_N; i++)
        CHECK_EQ(is.compared[i], compared[i]);
    CHECK_EQ(is.chosen_end, chosen_end);
    CHECK_EQ(is.rejected_end, rejected_end);
}

/* The worked example of the definition: both rows end with padding, the chosen one later. */
static int32_t example[] = { 2, 5, 6, 7, 8, 9, 2, 2, 2, 5, 6, 10, 11, 2, 2, 2 };
static int32_t example_spans[] = { 0, 6, 0, 5 };

TEST(each_loss_compares_its_own_scores)
{
    const struct batch b = one_pair(example, example_spans);

    check_pair(test_state, pair_of(test_state, &deepspeed, &b), (int32_t[]){ 3, 3, 3, 7, 7 }, 5, 4);
    check_pair(test_state, pair_of(test_state, &masked, &b), (int32_t[]){ 3, 3, 3, 5, 4 }, 5, 4);
    check_pair(test_state, pair_of(test_state, &end, &b), (int32_t[]){ 5, 4, 1, 5, 4 }, 5, 4);
}

TEST(the_worked_example_has_its_loss)
{
    const double chosen[IDS] = { 0, .1, .2, .5, .9, 1.2, .3, .3 }, rejected[IDS] = { 0, .1, .2, .4, -.3, .2, .1, 0 };
    const struct batch b = one_pair(example, example_spans);
    const struct reward_pair p = pair_of(test_state, &deepspeed, &b);
    double sum = 0;

    for (int k = 0; k < p.compared[PAIR_TERMS]; k++)
        sum += log1p(exp(rejected[p.compared[PAIR_REJECTED_BEGIN] + k] - chosen[p.compared[PAIR_CHOSEN_BEGIN] + k]));
    CHECK_NEAR(sum / p.compared[PAIR_TERMS], 0.40698027164327494, 1e-15);
    CHECK_NEAR(chosen[p.chosen_end], 1.2, 0);
    CHECK_NEAR(rejected[p.rejected_end], -0.3, 0);
}

TEST(padding_on_the_left_changes_columns_alone)
{
    int32_t ids[] = { 2, 2, 2, 5, 6, 7, 8, 9, 2, 2, 2, 2, 5, 6, 10, 11 }, spans[] = { 2, 8, 3, 8 };
    const struct batch b = one_pair(ids, spans);

    check_pair(test_state, pair_of(test_state, &masked, &b), (int32_t[]){ 5, 6, 3, 7, 7 }, 7, 7);
}

TEST(a_text_that_goes_on_is_compared_with_an_end)
{
    int32_t ids[] = { 2, 5, 6, 2, 2, 2, 2, 2, 2, 5, 6, 10, 11, 2, 2, 2 }, spans[] = { 0, 3, 0, 5 };
    const struct batch b = one_pair(ids, spans);

    check_pair(test_state, pair_of(test_state, &masked, &b), (int32_t[]){ 3, 3, 2, 2, 4 }, 2, 4);
}

/* The end id may also be the last id of a text, or stand in a prompt: lengths know, ids do not. */
TEST(an_end_id_in_the_text_is_an_end_by_ids_alone)
{
    int32_t ids[] = { 2, 5, 2, 6, 7, 2, 2, 2, 2, 5, 2, 6, 8, 9, 2, 2 }, spans[] = { 0, 6, 0, 7 };
    const struct batch b = one_pair(ids, spans);
    const struct reward_pair by_ids = pair_of(test_state, &deepspeed, &b);

    check_pair(test_state, pair_of(test_state, &masked, &b), (int32_t[]){ 4, 4, 3, 5, 6 }, 5, 6);
    check_pair(test_state, by_ids, (int32_t[]){ 4, 4, 0, 7, 7 }, 1, 1);
    CHECK(by_ids.equal);
}

TEST(equal_texts_have_nothing_to_compare)
{
    int32_t ids[] = { 2, 5, 6, 7, 2, 2, 2, 2, 2, 5, 6, 7, 2, 2, 2, 2 }, spans[] = { 0, 4, 0, 4 };
    const struct batch b = one_pair(ids, spans);
    const struct reward_options *all[] = { &deepspeed, &masked, &end };

    for (int i = 0; i < COUNT_OF(all); i++) {
        const struct reward_pair p = pair_of(test_state, all[i], &b);
        CHECK(p.equal);
        CHECK_EQ(p.chosen_end, 3);
        CHECK_EQ(p.rejected_end, 3);
        CHECK_EQ(p.compared[PAIR_TERMS], i == 0); /* the definition: the last column, with itself */
    }
}

TEST(rows_without_a_common_beginning_are_refused_by_ids)
{
    int32_t ids[] = { 3, 5, 6, 7, 2, 2, 2, 2, 4, 5, 6, 8, 2, 2, 2, 2 }, spans[] = { 0, 4, 0, 4 };
    const struct reward_options none = { REWARD_DEEPSPEED_CHAT, 2, 0 };
    const struct batch b = one_pair(ids, spans), bos = one_pair(example, example_spans);
    struct reward_pair p;
    struct err err = { 0 };

    CHECK_ERR(reward_pair_of(&deepspeed, &b, 0, &p, &err), &err, ERR_INPUT, "no common beginning");
    CHECK_ERR(reward_pair_of(&none, &bos, 0, &p, &err), &err, ERR_INPUT, "longer than 0 of the id 2");
    check_pair(test_state, pair_of(test_state, &masked, &b), (int32_t[]){ 0, 0, 4, 3, 3 }, 3, 3);
}

TEST_MAIN(CASE(each_loss_compares_its_own_scores), CASE(the_worked_example_has_its_loss),
          CASE(padding_on_the_left_changes_columns_alone), CASE(a_text_that_goes_on_is_compared_with_an_end),
          CASE(an_end_id_in_the_text_is_an_end_by_ids_alone), CASE(equal_texts_have_nothing_to_compare),
          CASE(rows_without_a_common_beginning_are_refused_by_ids))
