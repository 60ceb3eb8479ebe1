/* Adapters against golden numbers: loss, gradients of what learns and of nothing else, training with and without the rest of
 * the model, and the sum that is saved. Their file has the factors as DeepSpeed-Chat keeps them, the other way round. */
#include "base/file.h"
#include "golden.h"
#include "run/adapter.h"

#define RIGHT ".lora_right_weight"
#define LEFT ".lora_left_weight"

static const struct run_context first_micro = { .row_step = 1, .first_micro = true };

static bool ends(const char *name, const char *tail)
{
    const size_t n = strlen(name), t = strlen(tail);

    return n > t && strcmp(name + n - t, tail) == 0;
}

/* "PREFIXmodel.decoder.layers.0.fc1.lora_right_weight" -> "OURSlayers.0.fc1.lora_A.weight" */
static void our_name(const char *name, const char *ours, char out[192])
{
    const bool right = ends(name, RIGHT), left = ends(name, LEFT);
    const char *canonical = golden_canonical(name);
    const size_t cut = right ? strlen(RIGHT) : left ? strlen(LEFT) : 0;

    snprintf(out, 192, "%s%.*s%s", ours, (int)(strlen(canonical) - cut), canonical,
             right  ? ".lora_A.weight"
             : left ? ".lora_B.weight"
                    : "");
}

static void transpose(const struct stored_tensor *t, float *out)
{
    const int64_t rows = t->shape.dim[0], columns = t->shape.dim[1];

    for (int64_t i = 0; i < rows * columns; i++)
        out[i % columns * rows + i / columns] = ((const float *)t->data)[i];
}

static void set_adapters(void **test_state, const struct golden *g, const struct engine *e)
{
    char name[192];
    int n = 0;

    for (int i = 0; i < g->arrays.n_tensors; i++) {
        const struct stored_tensor *t = &g->arrays.tensors[i];
        if (strncmp(t->name, "lora.", 5) != 0)
            continue;
        our_name(t->name + 5, "", name);
        transpose(t, exec_buffer(&e->exec, name));
        n++;
    }
    CHECK_EQ(n, 2 * json_integer_value(json_object_get(g->json, "modules")));
}

static void compare_gradients(void **test_state, const struct golden *g, const struct engine *e, bool only)
{
    float turned[64 * 64];
    char name[192];
    int n = 0;

    for (int i = 0; i < g->arrays.n_tensors; i++) {
        const struct stored_tensor *t = &g->arrays.tensors[i];
        if (strncmp(t->name, "grad.", 5) != 0)
            continue;
        const bool adapter = ends(t->name, RIGHT) || ends(t->name, LEFT);
        our_name(t->name + 5, "grad/", name);
        if (!adapter && only) {
            CHECK_EQ(plan_find(&e->plan, name), -1);
            continue;
        }
        if (adapter)
            transpose(t, turned);
        golden_compare(g, "grads", name, exec_buffer(&e->exec, name), adapter ? turned : t->data,
                       shape_count(&t->shape));
        n++;
    }
    for (int i = 0; i < e->plan.n_buffers; i++)
        n -= e->plan.buffers[i].kind == KIND_GRAD && strncmp(e->plan.buffers[i].name, "grad/", 5) == 0;
    CHECK_EQ(n, 0);
}

static void open_set(void **test_state, struct golden *g, struct engine *e, const char *backend, const char *words,
                     const char *run, const struct golden_rows *r)
{
    struct trainer_options o = golden_options(json_object_get(g->json, run));
    struct err err = { 0 };
    char all[256];

    snprintf(all, sizeof all, "--lora_dim 4 --lora_learning_rate %g %s",
             golden_real(json_object_get(g->json, run), "lora_learning_rate"), words);
    *e = (struct engine){ 0 };
    comm_alone(&e->comm);
    CHECK_OK(golden_engine(e, &g->model, backend, all, r->batch.B, r->batch.T, 1, &o, &err), &err);
    set_adapters(test_state, g, e);
}

static void check_gradients(void **test_state, struct golden *g, const char *backend, const char *words, bool only)
{
    struct golden_rows r;
    struct engine e;
    struct err err = { 0 };
    struct run_context c = first_micro;
    double loss;

    golden_rows_of(&r, g->json, "", false, 0, 1);
    open_set(test_state, g, &e, backend, words, "train", &r);
    CHECK_OK(sft_eval_step(&e.sft, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, golden_real(g->json, "loss"), 2e-6 * loss);
    CHECK_OK(sft_micro_step(&e.sft, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, golden_real(g->json, "loss"), 2e-6 * loss);
    compare_gradients(test_state, g, &e, only);
    engine_close(&e);
}

static void check_training(void **test_state, struct golden *g, const char *backend, const char *words, const char *key)
{
    const json_t *run = json_object_get(g->json, key), *batches = json_object_get(g->json, "batches");
    const json_t *rates = json_object_get(run, "learning_rates");
    struct golden_rows r;
    struct engine e;

    golden_rows_of(&r, json_array_get(batches, 0), "", false, 0, 1);
    open_set(test_state, g, &e, backend, words, key, &r);
    for (size_t i = 0; i < json_array_size(rates); i++) {
        const json_t *groups = json_array_get(rates, i);
        struct run_context c = first_micro;
        struct err err = { 0 };
        double loss, norm, rate;

        golden_rows_of(&r, json_array_get(batches, i), "", false, 0, 1);
        CHECK_OK(sft_micro_step(&e.sft, &r.batch, &c, &loss, &err), &err);
        CHECK_NEAR(loss, json_number_value(json_array_get(json_object_get(run, "losses"), i)), 5e-6 * loss);
        CHECK_OK(trainer_step(&e.trainer, &c, &norm, &rate, &err), &err);
        CHECK_NEAR(norm, json_number_value(json_array_get(json_object_get(run, "grad_norms"), i)), 1e-4 * norm);
        CHECK_NEAR(rate, json_number_value(json_array_get(groups, 0)), 1e-12);
        for (size_t k = 0; k < json_array_size(groups) && json_array_size(groups) == OPTIMIZER_GROUPS; k++)
            CHECK_NEAR(e.trainer.hyper[HYPER_LR + k], json_number_value(json_array_get(groups, k)), 1e-12);
    }
    engine_close(&e);
}

static void open_golden(void **test_state, struct golden *g)
{
    golden_open(test_state, g, golden_shared(), "lora/post", "post");
}

static const char *const backends[] = { "ref", "cpu", "cpu", "cpu" };
static const char *const variants[] = {
    "--no-flash_attention --no-chunked_loss --no-fused_kernels --no-recompute_norms",
    "--no-flash_attention --no-chunked_loss --no-fused_kernels --no-recompute_norms",
    "--flash_attention --chunked_loss --chunked_loss_rows 7 --fused_kernels",
    "--gradient_checkpointing",
};

TEST(shared_gradients_match)
{
    struct golden g;
    char words[256];

    open_golden(test_state, &g);
    for (int i = 0; i < COUNT_OF(variants); i++) {
        check_gradients(test_state, &g, backends[i], variants[i], false);
        snprintf(words, sizeof words, "%s --only_optimize_lora", variants[i]);
        check_gradients(test_state, &g, backends[i], words, true);
    }
    golden_close(&g);
}

TEST(shared_training_matches)
{
    struct golden g;
    char words[256];

    open_golden(test_state, &g);
    for (int i = 0; i < COUNT_OF(variants); i++) {
        check_training(test_state, &g, backends[i], variants[i], "train");
        snprintf(words, sizeof words, "%s --only_optimize_lora", variants[i]);
        check_training(test_state, &g, backends[i], words, "train_only_lora");
    }
    golden_close(&g);
}

/* The saved model is the sum, without a trace of adapters. */
TEST(shared_sums_match)
{
    char dir[] = "/tmp/test_golden_lora_XXXXXX";
    struct golden g;
    struct golden_rows r;
    struct engine e;
    struct model_dir merged;
    struct err err = { 0 };
    int n = 0;

    open_golden(test_state, &g);
    golden_rows_of(&r, g.json, "", false, 0, 1);
    open_set(test_state, &g, &e, "cpu", "", "train", &r);
    CHECK(mkdtemp(dir) != NULL);
    CHECK_OK(weights_save(&e.exec, "", &g.model.config, dir, &err), &err);
    CHECK_OK(model_dir_open(&merged, dir, &err), &err);
    CHECK_OK(model_dir_check(&merged, &err), &err);
    for (int i = 0; i < merged.n_tensors; i++)
        CHECK(!strstr(merged.tensors[i].canonical, "lora"));
    for (int i = 0; i < g.arrays.n_tensors; i++) {
        const struct stored_tensor *t = &g.arrays.tensors[i];
        if (strncmp(t->name, "fused.", 6) != 0)
            continue;
        const struct stored_tensor *is = model_dir_find(&merged, golden_canonical(t->name + 6));
        CHECK(is && shape_equal(&is->shape, &t->shape));
        golden_compare(&g, "none", t->name, is->data, t->data, shape_count(&t->shape));
        n++;
    }
    CHECK_EQ(n, 6);
    model_dir_close(&merged);
    engine_close(&e);
    golden_close(&g);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST_MAIN(CASE(shared_gradients_match), CASE(shared_training_matches), CASE(shared_sums_match))
