/* Phase 1 against golden numbers: logits, losses, gradients, AdamW, accumulation, on both backends and in each form that
 * techniques give the same numbers. */
#include "golden.h"

static const struct trainer_options plain_options = {
    .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .clip = 1, .total = 1
};
static const struct run_context first_micro = { .row_step = 1, .first_micro = true };

static void open_set(void **test_state, struct golden *g, const char *folder, const char *model)
{
    char file[32];

    snprintf(file, sizeof file, "sft/%s", model);
    golden_open(test_state, g, folder, file, model);
}

static void open_engine(void **test_state, struct engine *e, const struct golden *g, const char *backend,
                        const char *words, const struct batch *b, int64_t micro_steps, const struct trainer_options *o)
{
    struct err err = { 0 };

    comm_alone(&e->comm);
    CHECK_OK(golden_engine(e, &g->model, backend, words, b->B, b->T, micro_steps, o, &err), &err);
}

/* ---- logits: an evaluation program that gives them out ---- */

static int add_loss(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    return head_lm_loss(g, o, opt_trunk(g, o, x));
}

static int add_readable_logits(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    const int loss = add_loss(g, o, x), logits = graph_find(g, "head.logits");

    if (logits >= 0)
        g->values[logits].input = true;
    return loss;
}

static const struct phase_program readable_programs[] = {
    { "", "train", true, EXTENTS_TRAIN, add_loss },
    { "", "eval", false, EXTENTS_EVAL, add_readable_logits },
    { 0 },
};
static const struct phase phase_readable = { .name = "sft", .programs = readable_programs };

/* Only where the mask is 1: elsewhere nothing is promised. */
static void compare_logits(void **test_state, const struct golden *g, const struct engine *e,
                           const struct golden_rows *r, const char *name)
{
    const struct stored_tensor *t = safetensors_find(&g->arrays, name);
    const float *got = exec_buffer(&e->exec, "input/head.logits"), *want = t ? t->data : NULL;
    const int64_t V = e->shape.V, N = r->batch.B * r->batch.T;

    CHECK(want && shape_count(&t->shape) == N * V);
    for (int64_t i = 0; i < N; i++)
        if (r->positions[i] != 1)
            golden_compare(g, name, name, got + i * V, want + i * V, V);
}

static void check_logits(void **test_state, const char *folder, const char *model, const char *backend,
                         const char *words)
{
    struct golden g;
    struct engine e = { .phase = &phase_readable };
    struct golden_rows r;
    struct err err = { 0 };
    struct run_context c = first_micro;
    char all_words[256];
    double loss;

    if (strstr(words, "--remove_padding")) /* logits that are read are of whole batches */
        return;
    open_set(test_state, &g, folder, model);
    snprintf(all_words, sizeof all_words, "%s --no-chunked_loss", words);
    golden_rows_of(&r, g.json, "", false, 0, 1);
    open_engine(test_state, &e, &g, backend, all_words, &r.batch, 1, &plain_options);
    CHECK_OK(sft_eval_step(&e.sft, &r.batch, &c, &loss, &err), &err);
    compare_logits(test_state, &g, &e, &r, "logits");
    golden_rows_of(&r, g.json, "left_", false, 0, 1);
    CHECK_OK(sft_eval_step(&e.sft, &r.batch, &c, &loss, &err), &err);
    compare_logits(test_state, &g, &e, &r, "left_logits");
    engine_close(&e);
    golden_close(&g);
}

/* ---- losses and gradients ---- */

static void check_loss(void **test_state, const struct golden *g, struct engine *e, const char *prefix,
                       bool padding_counts, const char *key)
{
    struct golden_rows r;
    struct err err = { 0 };
    struct run_context c = first_micro;
    double loss;

    golden_rows_of(&r, g->json, prefix, padding_counts, 0, 1);
    CHECK_OK(sft_eval_step(&e->sft, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, golden_real(g->json, key), golden_tolerance(g, "loss", loss));
}

static void check_gradients(void **test_state, const char *folder, const char *model, const char *backend,
                            const char *words)
{
    struct golden g;
    struct engine e = { 0 };
    struct golden_rows r;
    struct err err = { 0 };
    struct run_context c = first_micro;
    double loss, norm, rate;

    open_set(test_state, &g, folder, model);
    golden_rows_of(&r, g.json, "", false, 0, 1);
    CHECK_EQ(r.batch.n_targets, json_integer_value(json_object_get(g.json, "targets")));
    open_engine(test_state, &e, &g, backend, words, &r.batch, 1, &plain_options);
    check_loss(test_state, &g, &e, "", false, "loss");
    check_loss(test_state, &g, &e, "", true, "loss_padding_counted");
    check_loss(test_state, &g, &e, "left_", false, "loss");
    CHECK_OK(sft_micro_step(&e.sft, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, golden_real(g.json, "loss"), golden_tolerance(&g, "loss", loss));
    CHECK(golden_compare_arrays(&g, &e, "grad.", "grad/", "grads") > 30);
    CHECK_OK(trainer_step(&e.trainer, &c, &norm, &rate, &err), &err);
    CHECK_NEAR(norm, golden_real(g.json, "grad_norm"), 1e-5 * norm);
    engine_close(&e);
    golden_close(&g);
}

/* ---- training ---- */

static void check_training(void **test_state, const char *folder, const char *model, const char *backend,
                           const char *words)
{
    struct golden g;

    open_set(test_state, &g, folder, model);
    golden_check_run(test_state, &g, (struct engine){ 0 }, backend, words, "train", "batches", "final.");
    golden_check_run(test_state, &g, (struct engine){ 0 }, backend, words, "train_accumulated", "micro_batches",
                     "accumulated_final.");
    golden_check_run(test_state, &g, (struct engine){ 0 }, backend, words, "train_same_batch", "none", NULL);
    golden_close(&g);
}

static void check_half(void **test_state, const char *folder, const char *model, const char *backend, const char *words,
                       const char *type, double near)
{
    struct golden g;
    struct engine e = { 0 };
    struct golden_rows r;
    struct err err = { 0 };
    struct run_context c = first_micro;
    char all_words[256];
    double loss;

    open_set(test_state, &g, folder, model);
    snprintf(all_words, sizeof all_words, "--dtype %s %s", type, words);
    golden_rows_of(&r, g.json, "", false, 0, 1);
    open_engine(test_state, &e, &g, backend, all_words, &r.batch, 1, &plain_options);
    CHECK_OK(sft_micro_step(&e.sft, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, golden_real(g.json, "loss"), near * loss);
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

TEST(logits_match)
{
    golden_check_all(test_state, GOLDEN_OWN, check_logits);
}

TEST(losses_and_gradients_match)
{
    golden_check_all(test_state, GOLDEN_OWN, check_gradients);
}

TEST(training_matches)
{
    golden_check_all(test_state, GOLDEN_OWN, check_training);
}

TEST(bf16_stays_near)
{
    golden_check_all(test_state, GOLDEN_OWN, check_bf16);
}

TEST(shared_logits_match)
{
    golden_check_all(test_state, golden_shared(), check_logits);
}

TEST(shared_losses_and_gradients_match)
{
    golden_check_all(test_state, golden_shared(), check_gradients);
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

TEST_MAIN(CASE(logits_match), CASE(losses_and_gradients_match), CASE(training_matches), CASE(bf16_stays_near),
          CASE(shared_logits_match), CASE(shared_losses_and_gradients_match), CASE(shared_training_matches),
          CASE(shared_bf16_stays_near), CASE(fp16_stays_nearer), CASE(shared_fp16_stays_nearer))
