/* Models in the forms that people have them, and one with OPT's whole vocabulary: golden losses and gradients. The sets lie
 * beside a checkout alone; where there is none, tests/store makes such files itself. */
#include "golden.h"

static const struct trainer_options plain_options = { .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .clip = 1 };

static double norm_of(const struct engine *e, const char *name)
{
    const int i = plan_find(&e->plan, name);
    const float *x = exec_buffer(&e->exec, name);
    double sum = 0;

    for (int64_t k = 0, n = shape_count(&e->plan.buffers[i].shape); k < n; k++)
        sum += (double)x[k] * (double)x[k];
    return sqrt(sum);
}

/* Zero gradients (key biases) are rounding noise here: hence the floor. */
static void compare_norms(void **test_state, const struct golden *g, const struct engine *e)
{
    const char *name;
    const json_t *norm;
    int n = 0;

    json_object_foreach((json_t *)json_object_get(g->json, "grad_norms"), name, norm)
    {
        char ours[192];
        snprintf(ours, sizeof ours, "grad/%s", name + strlen("model.decoder."));
        const double got = norm_of(e, ours), want = json_number_value(norm);
        if (!(fabs(got - want) <= 1e-5 * want + 1e-6))
            fail_msg("the norm of %s is %.9g, expected %.9g", ours, got, want);
        n++;
    }
    CHECK(n > 30);
}

/* The vocabulary's gradient is stored for some rows: those that occur, and some that only the head reaches. */
static void compare_embedding(void **test_state, const struct golden *g, const struct engine *e)
{
    const json_t *rows = json_object_get(g->json, "embedding_grad_rows");
    const struct stored_tensor *t = safetensors_find(&g->arrays, "embedding_grad_rows");
    const float *grad = exec_buffer(&e->exec, "grad/embed_tokens.weight"), *want = t ? t->data : NULL;
    const int64_t E = e->shape.E;

    CHECK(want && shape_count(&t->shape) == (int64_t)json_array_size(rows) * E);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const int64_t row = json_integer_value(json_array_get(rows, i));
        for (int64_t k = 0; k < E; k++)
            CHECK_NEAR(grad[row * E + k], want[i * (size_t)E + (size_t)k], 1e-5);
    }
}

static void compare_gradients(void **test_state, const struct golden *g, const struct engine *e)
{
    int n = 0;

    for (int i = 0; i < g->arrays.n_tensors; i++) {
        const struct stored_tensor *t = &g->arrays.tensors[i];
        char name[192];
        if (sscanf(t->name, "grad.model.decoder.%100s", name) != 1)
            continue;
        memmove(name + strlen("grad/"), name, strlen(name) + 1);
        memcpy(name, "grad/", strlen("grad/"));
        const float *got = exec_buffer(&e->exec, name), *want = t->data;
        for (int64_t k = 0; k < shape_count(&t->shape); k++)
            CHECK_NEAR(got[k], want[k], 1e-5);
        n++;
    }
    CHECK(n > 30);
}

static void check_wide(void **test_state, const char *words)
{
    struct golden g;
    struct engine e = { 0 };
    struct golden_rows r;
    struct err err = { 0 };
    struct run_context c = { .row_step = 1, .first_micro = true };
    double loss;

    golden_open(test_state, &g, golden_shared(), "wide", "wide");
    golden_rows_of(&r, g.json, "", false, 0, 1);
    CHECK_EQ(r.batch.n_targets, json_integer_value(json_object_get(g.json, "targets")));
    comm_alone(&e.comm);
    CHECK_OK(golden_engine(&e, &g.model, "cpu", words, r.batch.B, r.batch.T, 1, &plain_options, &err), &err);
    CHECK_OK(sft_micro_step(&e.sft, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, golden_real(g.json, "loss"), golden_tolerance(&g, "loss", loss));
    compare_norms(test_state, &g, &e);
    compare_embedding(test_state, &g, &e);
    compare_gradients(test_state, &g, &e);
    engine_close(&e);
    golden_close(&g);
}

TEST(whole_vocabulary_matches)
{
    check_wide(test_state, "--no-chunked_loss --no-flash_attention --no-fused_kernels");
    check_wide(test_state, "--chunked_loss");
    check_wide(test_state, "--chunked_loss --chunked_loss_rows 5");
}

/* The stored 16-bit weights are exact in fp32, so the losses are as near as those of fp32 files. */
TEST(every_form_of_a_model_matches)
{
    const char *folder = golden_shared(), *form;
    json_t *variants = golden_json(folder, "variants");
    const json_t *want;
    struct golden_rows r;
    int n = 0;

    golden_rows_of(&r, variants, "", false, 0, 1);
    json_object_foreach(json_object_get(variants, "sft_loss"), form, want)
    {
        struct engine e = { 0 };
        struct model_dir m;
        struct err err = { 0 };
        struct run_context c = { .row_step = 1 };
        char path[1200];
        double loss;

        snprintf(path, sizeof path, "%s/models/variants/%s", folder, form);
        comm_alone(&e.comm);
        CHECK_OK(model_dir_open(&m, path, &err), &err);
        CHECK_OK(golden_engine(&e, &m, "cpu", "", r.batch.B, r.batch.T, 1, &plain_options, &err), &err);
        CHECK_OK(sft_eval_step(&e.sft, &r.batch, &c, &loss, &err), &err);
        if (!(fabs(loss - json_number_value(want)) <= 1e-6 * loss))
            fail_msg("%s: the loss is %.9g, expected %.9g", form, loss, json_number_value(want));
        engine_close(&e);
        model_dir_close(&m);
        n++;
    }
    CHECK_EQ(n, 3);
    json_decref(variants);
}

TEST_MAIN(CASE(whole_vocabulary_matches), CASE(every_form_of_a_model_matches))
