/* Phase 2 against golden numbers: scores, losses of pairs, gradients, AdamW, on both backends and in each form that techniques
 * give the same numbers. Files without a "masked" and an "end" have numbers of DeepSpeed-Chat's loss alone. */
#include "golden.h"

static const struct trainer_options plain_options = { .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .clip = 1 };
static const struct run_context first_micro = { .row_step = 1, .first_micro = true };

/* The numbers of DeepSpeed-Chat's loss stand in the file itself, those of the others under their names. */
static const struct {
    enum reward_loss loss;
    const char *key, *arrays;
} losses[] = {
    { REWARD_DEEPSPEED_CHAT, NULL, "grad." },
    { REWARD_MASKED, "masked", "masked_grad." },
    { REWARD_END, "end", "end_grad." },
};

static void open_set(void **test_state, struct golden *g, const char *folder, const char *model)
{
    char file[32], with_head[32];

    snprintf(file, sizeof file, "reward/%s", model);
    snprintf(with_head, sizeof with_head, "%s-reward", model);
    golden_open(test_state, g, folder, file, with_head);
}

static struct engine reward_engine(const struct golden *g, enum reward_loss loss)
{
    const int64_t leading = json_integer_value(json_object_get(g->json, "num_padding_at_beginning"));

    return (struct engine){ .phase = &phase_reward,
                            .reward_options = { .loss = loss, .pad = 2, .num_padding_at_beginning = leading } };
}

static void open_engine(void **test_state, struct engine *e, const struct golden *g, const char *backend,
                        const char *words, const struct batch *b)
{
    struct err err = { 0 };

    comm_alone(&e->comm);
    CHECK_OK(golden_engine(e, &g->model, backend, words, b->B, b->T, 1, &plain_options, &err), &err);
}

/* The scores of all rows, also where they end, as far as they are looked at: what is compared there is part of the definition.
 * Where padding is removed, the others are 0. */
static void compare_pairs(void **test_state, const struct golden *g, const struct engine *e, const struct batch *b)
{
    const json_t *pairs = json_object_get(g->json, "pairs");
    const struct stored_tensor *t = safetensors_find(&g->arrays, "scores");

    CHECK(t && shape_count(&t->shape) == b->B * b->T);
    for (int64_t i = 0; i < b->B * b->T; i++)
        if (e->exec.plan->programs[e->reward.step.train].live < 0 || e->reward.scores[i] != 0)
            golden_compare(g, "scores", "scores", e->reward.scores + i, (const float *)t->data + i, 1);
    CHECK_EQ(json_array_size(pairs), b->B / 2);
    for (int64_t p = 0; p < b->B / 2; p++) {
        const json_t *want = json_array_get(pairs, (size_t)p);
        struct reward_pair is;
        struct err err = { 0 };

        CHECK_OK(reward_pair_of(&e->reward.options, b, p, &is, &err), &err);
        CHECK_EQ(is.chosen_end + 1, json_integer_value(json_object_get(want, "c_ind")));
        CHECK_EQ(is.rejected_end + 1, json_integer_value(json_object_get(want, "r_ind")));
        CHECK_EQ(is.compared[PAIR_CHOSEN_BEGIN], json_integer_value(json_object_get(want, "divergence")));
        CHECK_EQ(is.compared[PAIR_REJECTED_BEGIN] + is.compared[PAIR_TERMS],
                 json_integer_value(json_object_get(want, "end")));
        CHECK_NEAR(e->reward.scores[p * b->T + is.chosen_end], golden_real(want, "chosen_score"),
                   golden_tolerance(g, "scores", 1));
    }
}

/* What an evaluation gives, against o's numbers. */
static void check_sums(void **test_state, const struct golden *g, struct engine *e, const struct batch *b,
                       const json_t *o)
{
    struct run_context c = first_micro;
    struct reward_sums sums = { 0 };
    struct err err = { 0 };
    double loss;

    CHECK_OK(reward_eval_step(&e->reward, b, &c, &loss, &err), &err);
    CHECK_NEAR(loss, golden_real(o, "loss"), golden_tolerance(g, "loss", loss));
    reward_count(&e->reward, b, loss, &sums);
    const double n = (double)sums.pairs;
    CHECK_EQ(sums.pairs, b->B / 2);
    CHECK_EQ(sums.equal, 1);
    CHECK_NEAR(sums.loss / n, loss, 1e-12);
    CHECK_NEAR((double)sums.correct / n, golden_real(o, "accuracy"), 1e-12);
    CHECK_NEAR(sums.chosen / n, golden_real(o, "mean_chosen_score"), golden_tolerance(g, "scores", 1));
    CHECK_NEAR(sums.rejected / n, golden_real(o, "mean_rejected_score"), golden_tolerance(g, "scores", 1));
}

static void check_loss(void **test_state, const struct golden *g, int which, const char *backend, const char *words)
{
    const json_t *o = losses[which].key ? json_object_get(g->json, losses[which].key) : g->json;
    struct engine e = reward_engine(g, losses[which].loss);
    struct golden_rows r;
    struct run_context c = first_micro;
    struct err err = { 0 };
    double loss, norm, rate;

    if (!o)
        return;
    golden_rows_of(&r, g->json, "", false, 0, 1);
    open_engine(test_state, &e, g, backend, words, &r.batch);
    check_sums(test_state, g, &e, &r.batch, o);
    if (!losses[which].key)
        compare_pairs(test_state, g, &e, &r.batch);
    CHECK_OK(reward_micro_step(&e.reward, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, golden_real(o, "loss"), golden_tolerance(g, "loss", loss));
    CHECK(golden_compare_arrays(g, &e, losses[which].arrays, "grad/", "grads") > 3);
    CHECK_OK(trainer_step(&e.trainer, &c, &norm, &rate, &err), &err);
    CHECK_NEAR(norm, golden_real(o, "grad_norm"), 1e-5 * norm);
    engine_close(&e);
}

static void check_losses(void **test_state, const char *folder, const char *model, const char *backend,
                         const char *words)
{
    struct golden g;

    open_set(test_state, &g, folder, model);
    for (int i = 0; i < COUNT_OF(losses); i++)
        check_loss(test_state, &g, i, backend, words);
    golden_close(&g);
}

static void check_training(void **test_state, const char *folder, const char *model, const char *backend,
                           const char *words)
{
    struct golden g;

    open_set(test_state, &g, folder, model);
    const struct engine e = reward_engine(&g, REWARD_DEEPSPEED_CHAT);
    golden_check_run(test_state, &g, e, backend, words, "train", "batches", "final.");
    golden_check_run(test_state, &g, e, backend, words, "train_same_batch", "none", NULL);
    golden_close(&g);
}

static void check_half(void **test_state, const char *folder, const char *model, const char *backend, const char *words,
                       const char *type, double near)
{
    struct golden g;
    struct golden_rows r;
    struct err err = { 0 };
    struct run_context c = first_micro;
    char all_words[256];
    double loss;

    open_set(test_state, &g, folder, model);
    struct engine e = reward_engine(&g, REWARD_DEEPSPEED_CHAT);
    snprintf(all_words, sizeof all_words, "--dtype %s %s", type, words);
    golden_rows_of(&r, g.json, "", false, 0, 1);
    open_engine(test_state, &e, &g, backend, all_words, &r.batch);
    CHECK_OK(reward_micro_step(&e.reward, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, golden_real(g.json, "loss"),
               fmax(near * loss, 2 * near / 0.003 * golden_real(g.json, "bfloat16_error")));
    engine_close(&e);
    golden_close(&g);
}

static void check_bf16(void **test_state, const char *folder, const char *model, const char *backend, const char *words)
{
    check_half(test_state, folder, model, backend, words, "bf16", 0.003);
}

/* Three bits more; and in tensors as small as these, hardly a number is too small for it. */
static void check_fp16(void **test_state, const char *folder, const char *model, const char *backend, const char *words)
{
    check_half(test_state, folder, model, backend, words, "fp16 --initial_scale_power 8", 0.003 / 8);
}

TEST(losses_and_gradients_match)
{
    golden_check_all(test_state, GOLDEN_OWN, check_losses);
}

TEST(training_matches)
{
    golden_check_all(test_state, GOLDEN_OWN, check_training);
}

TEST(bf16_stays_near)
{
    golden_check_all(test_state, GOLDEN_OWN, check_bf16);
}

TEST(shared_losses_and_gradients_match)
{
    golden_check_all(test_state, golden_shared(), check_losses);
}

TEST(shared_training_matches)
{
    golden_check_all(test_state, golden_shared(), check_training);
}

TEST(fp16_stays_nearer)
{
    golden_check_all(test_state, GOLDEN_OWN, check_fp16);
}

TEST(shared_fp16_stays_nearer)
{
    golden_check_all(test_state, golden_shared(), check_fp16);
}

TEST(shared_bf16_stays_near)
{
    golden_check_all(test_state, golden_shared(), check_bf16);
}

TEST_MAIN(CASE(losses_and_gradients_match), CASE(training_matches), CASE(bf16_stays_near),
          CASE(shared_losses_and_gradients_match), CASE(shared_training_matches), CASE(shared_bf16_stays_near),
          CASE(fp16_stays_nearer), CASE(shared_fp16_stays_nearer))
