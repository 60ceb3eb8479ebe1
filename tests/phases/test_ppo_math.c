/* PPO's arithmetic: against golden numbers, which make their masks from ids, and by hand where the conventions differ. */
#include "phases/ppo_math.h"

#include <math.h>

#include "base/json.h"
#include "test.h"

#define MAX_B 8
#define MAX_T 32
#define PAD 2

struct fixture {
    json_t *json;
    struct ppo_options options;
    struct ppo_row rows[MAX_B];
    int32_t ids[MAX_B * MAX_T];
    float logp[MAX_B * MAX_T], ref[MAX_B * MAX_T], values[MAX_B * MAX_T], scores[MAX_B];
    float rewards[MAX_B * MAX_T], advantages[MAX_B * MAX_T], returns[MAX_B * MAX_T];
    float new_logp[MAX_B * MAX_T], new_values[MAX_B * MAX_T];
    struct ppo_steps steps;
};

static double real(const json_t *json, const char *key)
{
    return json_number_value(json_object_get(json, key));
}

static double cell(const json_t *json, const char *key, int64_t b, int64_t t)
{
    return json_number_value(json_array_get(json_array_get(json_object_get(json, key), (size_t)b), (size_t)t));
}

/* DeepSpeed-Chat's way: what is not 2 is real, and the answer begins in column P. */
static struct ppo_row row_of_ids(const int32_t *ids, int64_t P, int64_t T)
{
    int64_t first = 0, n = 0;

    while (ids[first] == PAD)
        first++;
    while (P + n < T && ids[P + n] != PAD)
        n++;
    struct ppo_row r = ppo_math_row(PPO_DEEPSPEED_CHAT, first - 1, P - first + 1, n, P + n < T);
    r.kept = true; /* the file counts short answers too */
    return r;
}

static void fill(struct fixture *f, const char *key, float *out)
{
    for (int64_t b = 0; b < f->steps.B; b++)
        for (int64_t t = 0; t + 1 < f->steps.T; t++)
            out[b * f->steps.T + t] = (float)cell(f->json, key, b, t);
}

static void open_file(void **test_state, struct fixture *f, const char *folder)
{
    char path[512];
    struct err err = { 0 };

    *f = (struct fixture){ 0 };
    snprintf(path, sizeof path, "%s/ppo/arithmetic.json", folder);
    f->json = json_read(path, 1 << 24, &err);
    if (!f->json)
        fail_msg("%s; %s", err.what, err.where);
    const json_t *ids = json_object_get(f->json, "input_ids");
    f->steps = (struct ppo_steps){
        .B = (int64_t)json_array_size(ids),
        .T = (int64_t)json_array_size(json_array_get(ids, 0)),
        .rows = f->rows,
        .logp = f->logp,
        .ref_logp = f->ref,
        .scores = f->scores,
        .values = f->values,
        .rewards = f->rewards,
        .advantages = f->advantages,
        .returns = f->returns,
    };
    CHECK(f->steps.B <= MAX_B && f->steps.T <= MAX_T);
    for (int64_t b = 0; b < f->steps.B; b++) {
        for (int64_t t = 0; t < f->steps.T; t++)
            f->ids[b * f->steps.T + t] = (int32_t)cell(f->json, "input_ids", b, t);
        f->rows[b] = row_of_ids(&f->ids[b * f->steps.T], (int64_t)real(f->json, "prompt_length"), f->steps.T);
        f->scores[b] = (float)json_number_value(json_array_get(json_object_get(f->json, "scores"), (size_t)b));
    }
    f->options = (struct ppo_options){ PPO_DEEPSPEED_CHAT,
                                       real(f->json, "kl_ctl"),
                                       real(f->json, "clip_reward_value"),
                                       0,
                                       0,
                                       real(f->json, "cliprange"),
                                       real(f->json, "cliprange_value"),
                                       real(f->json, "gamma"),
                                       real(f->json, "lam") };
    fill(f, "logprobs", f->logp);
    fill(f, "ref_logprobs", f->ref);
    fill(f, "values", f->values);
    fill(f, "new_logprobs", f->new_logp);
    fill(f, "new_values", f->new_values);
}

/* Columns of the file's array begin at step `first`. */
static void compare(const struct fixture *f, const char *key, const float *got, int64_t first)
{
    double largest = 0;

    for (int64_t b = 0; b < f->steps.B; b++)
        for (int64_t t = first; t + 1 < f->steps.T; t++)
            largest = fmax(largest, fabs(cell(f->json, key, b, t - first)));
    for (int64_t b = 0; b < f->steps.B; b++)
        for (int64_t t = first; t + 1 < f->steps.T; t++) {
            const double want = cell(f->json, key, b, t - first), have = (double)got[b * f->steps.T + t];
            if (!(fabs(have - want) <= 1e-6 * largest))
                fail_msg("%s[%d][%d] is %.9g, expected %.9g", key, (int)b, (int)(t - first), have, want);
        }
}

static void check_masks(void **test_state, const struct fixture *f, int64_t start)
{
    const int64_t T = f->steps.T;
    int32_t positions[MAX_T], span[2], targets[MAX_T];

    for (int64_t b = 0; b < f->steps.B; b++) {
        const struct ppo_row *r = &f->rows[b];
        CHECK_EQ(r->begin, start);
        /* The file's end of a row without an end id is one past its steps. */
        CHECK_EQ(r->end,
                 fmin((double)(T - 1), json_number_value(json_array_get(json_object_get(f->json, "ends"), (size_t)b))));
        ppo_math_inputs(r, T, positions, span);
        ppo_math_targets(r, r->actions_end, &f->ids[b * T], T, targets);
        int32_t seen = 0;
        for (int64_t t = 0; t < T; t++) {
            const bool visible = cell(f->json, "attention_mask", b, t) != 0;
            seen += visible;
            CHECK_EQ(positions[t], visible ? seen + 1 : 1);
            CHECK_EQ(visible, t >= span[0] && t < span[1]);
            const bool action = t >= start && t + 1 < T && cell(f->json, "action_mask", b, t - start) != 0;
            CHECK_EQ(targets[t], action ? f->ids[b * T + t + 1] : PPO_NO_TARGET);
        }
    }
}

static void check_file(void **test_state, const char *folder)
{
    struct fixture f;
    float gradient[MAX_B * MAX_T];
    struct ppo_ratios ratios;

    open_file(test_state, &f, folder);
    const int64_t start = (int64_t)real(f.json, "start");
    check_masks(test_state, &f, start);
    ppo_math_advantages(&f.options, &f.steps);
    compare(&f, "rewards", f.rewards, 0);
    compare(&f, "old_values", f.values, 0);
    compare(&f, "advantages", f.advantages, start);
    compare(&f, "returns", f.returns, start);

    const double n = (double)ppo_math_actions(f.rows, f.steps.B);
    const double actor = real(f.json, "actor_loss"), critic = real(f.json, "critic_loss");
    CHECK_NEAR(ppo_math_policy_loss(&f.options, &f.steps, f.new_logp, n, gradient), actor, 1e-6 * fabs(actor));
    compare(&f, "grad_new_logprobs", gradient, 0);
    CHECK_NEAR(ppo_math_value_loss(&f.options, &f.steps, f.new_values, n, gradient), critic, 1e-6 * fabs(critic));
    compare(&f, "grad_new_values", gradient, 0);
    ppo_math_ratios_begin(&ratios);
    ppo_math_ratios(&f.options, &f.steps, f.new_logp, &ratios);
    CHECK_NEAR(ratios.clipped / ratios.actions, real(f.json, "clip_fraction"), 1e-12);
    CHECK(ratios.lowest < 0.8 && ratios.highest > 1.2);
    json_decref(f.json);
}

TEST(arithmetic_is_the_references)
{
    check_file(test_state, "tests/golden/data");
}

TEST(arithmetic_is_the_shared_references)
{
    char folder[512];

    if (!test_shared())
        skip();
    snprintf(folder, sizeof folder, "%s/golden", test_shared());
    check_file(test_state, folder);
}

/* prompt ids 0..3, answer 10 11, then its end in column 6 of 8. */
TEST(conventions_differ_where_they_should)
{
    const int32_t ids[8] = { 2, 5, 6, 7, 10, 11, 2, 2 };
    const struct ppo_row own = ppo_math_row(PPO_TUNEUP, 0, 4, 2, true);
    const struct ppo_row theirs = ppo_math_row(PPO_DEEPSPEED_CHAT, 0, 4, 2, true);
    int32_t positions[8], span[2], targets[8];

    ppo_math_inputs(&own, 8, positions, span);
    ppo_math_targets(&own, own.actions_end, ids, 8, targets);
    CHECK_EQ(span[0], 0);
    CHECK_EQ(span[1], 7);
    CHECK_EQ(positions[0], 2);
    CHECK_EQ(positions[6], 8);
    CHECK_EQ(positions[7], 1);
    CHECK_EQ(targets[5], 2); /* the end is an action */
    CHECK_EQ(targets[6], PPO_NO_TARGET);
    CHECK_EQ(own.score_at, 5);
    CHECK_EQ(ppo_math_actions(&own, 1), 3);

    ppo_math_inputs(&theirs, 8, positions, span);
    ppo_math_targets(&theirs, theirs.actions_end, ids, 8, targets);
    CHECK_EQ(span[0], 1);
    CHECK_EQ(span[1], 6);
    CHECK_EQ(positions[0], 1);
    CHECK_EQ(positions[1], 2);
    CHECK_EQ(targets[4], 11);
    CHECK_EQ(targets[5], PPO_NO_TARGET);
    CHECK_EQ(theirs.end, own.end); /* yet it has a reward */
    CHECK_EQ(theirs.score_at, 5);
    CHECK_EQ(ppo_math_actions(&theirs, 1), 2);
}

TEST(short_and_absent_answers_are_counted)
{
    const struct ppo_row rows[] = { ppo_math_row(PPO_DEEPSPEED_CHAT, 0, 3, 1, true),
                                    ppo_math_row(PPO_DEEPSPEED_CHAT, 0, 3, 3, false),
                                    ppo_math_row(PPO_TUNEUP, 0, 3, 0, true), ppo_math_no_row() };
    float zero[4 * 6] = { 0 }, scores[4] = { 100, 3, -1, 100 };
    struct ppo_steps s = {
        .B = 4, .T = 6, .rows = rows, .logp = zero, .ref_logp = zero, .values = zero, .returns = zero, .scores = scores
    };
    struct ppo_sums sums = { 0 };

    ppo_math_sums(&s, &sums);
    CHECK_EQ(sums.rows, 2);
    CHECK_EQ(sums.left_out, 1);
    CHECK_EQ(sums.empty, 1);
    CHECK_EQ(sums.ended, 1);
    CHECK_EQ(sums.answer_ids, 3);
    CHECK_EQ(sums.actions, 4);
    CHECK_NEAR(sums.score, 2, 0);
    CHECK(isnan(ppo_math_explained(&sums)));
}

TEST(moments_of_two_halves_are_those_of_the_whole)
{
    const struct ppo_row rows[] = { ppo_math_row(PPO_TUNEUP, 0, 2, 2, true), ppo_math_row(PPO_TUNEUP, 0, 3, 2, false) };
    float advantages[2 * 6] = { 9, 1, 2, 6, 9, 9, 9, 9, -4, 5, 9, 9 };
    struct ppo_steps s = { .B = 2, .T = 6, .rows = rows, .advantages = advantages };
    struct ppo_steps first = { .B = 1, .T = 6, .rows = rows, .advantages = advantages };
    struct ppo_steps second = { .B = 1, .T = 6, .rows = &rows[1], .advantages = &advantages[6] };
    double whole[3] = { 0 }, halves[3] = { 0 };

    ppo_math_moments(&s, whole);
    ppo_math_moments(&first, halves);
    ppo_math_moments(&second, halves);
    for (int i = 0; i < 3; i++)
        CHECK_NEAR(whole[i], halves[i], 0);
    ppo_math_normalize(&s, whole);
    double after[3] = { 0 };
    ppo_math_moments(&s, after);
    CHECK_NEAR(after[1], 0, 1e-6);
    CHECK_NEAR(after[2] / after[0], 1, 1e-6);
    CHECK_NEAR((double)advantages[0], 9, 0); /* what is no action stays */
}

/* The values explain nothing, everything, or a known share of the returns. */
TEST(explained_variance)
{
    const struct ppo_row row = ppo_math_row(PPO_TUNEUP, 0, 1, 4, false);
    float zero[5] = { 0 }, returns[5] = { 1, 2, 3, 4, 0 }, values[5] = { 1.5f, 1.5f, 3.5f, 3.5f, 0 }, score = 0;
    struct ppo_steps s = { .B = 1,
                           .T = 5,
                           .rows = &row,
                           .logp = zero,
                           .ref_logp = zero,
                           .values = zero,
                           .returns = returns,
                           .scores = &score };
    struct ppo_sums sums = { 0 };

    ppo_math_sums(&s, &sums);
    CHECK_NEAR(ppo_math_explained(&sums), 0, 1e-12);
    sums = (struct ppo_sums){ 0 };
    s.values = returns;
    ppo_math_sums(&s, &sums);
    CHECK_NEAR(ppo_math_explained(&sums), 1, 1e-12);
    sums = (struct ppo_sums){ 0 };
    s.values = values;
    ppo_math_sums(&s, &sums);
    CHECK_NEAR(ppo_math_explained(&sums), 1 - 0.25 / 1.25, 1e-12);
}

TEST(an_answer_that_is_cut_off_can_be_made_to_cost)
{
    const float scores[2] = { 1, 1 };
    const struct ppo_row rows[2] = { ppo_math_row(PPO_TUNEUP, 0, 1, 1, true),
                                     ppo_math_row(PPO_TUNEUP, 0, 1, 1, false) };
    float values[8] = { 0 }, rewards[8], advantages[8], returns[8], zero[8] = { 0 };
    struct ppo_steps s = { .B = 2,
                           .T = 4,
                           .rows = rows,
                           .logp = zero,
                           .ref_logp = zero,
                           .scores = scores,
                           .values = values,
                           .rewards = rewards,
                           .advantages = advantages,
                           .returns = returns };
    const struct ppo_options o = {
        .convention = PPO_TUNEUP, .reward_clip = 5, .gamma = 1, .lambda = 1, .missing_end_penalty = 3
    };

    ppo_math_advantages(&o, &s);
    CHECK_NEAR(rewards[1], 1, 1e-6); /* with the end id */
    CHECK_NEAR(rewards[4], -2, 1e-6);
}

TEST_MAIN(CASE(an_answer_that_is_cut_off_can_be_made_to_cost), CASE(arithmetic_is_the_references),
          CASE(arithmetic_is_the_shared_references), CASE(conventions_differ_where_they_should),
          CASE(short_and_absent_answers_are_counted), CASE(moments_of_two_halves_are_those_of_the_whole),
          CASE(explained_variance))
