/* Phase 1 against numbers made with PyTorch and transformers in fp64: loss, gradients, AdamW, accumulation. The files lie
 * beside a checkout (../shared/golden) and, smaller, in tests/golden/data. Tolerance: 20 times what the library's own fp32
 * strayed, or 1e-6 of the largest value, whichever is larger. */
#include <math.h>

#include "base/json.h"
#include "engine.h"
#include "run/weights.h"

struct golden {
    char folder[512], name[16];
    json_t *json;
    struct safetensors arrays;
    struct model_dir model;
};

static void golden_open(void **test_state, struct golden *g, const char *name)
{
    const char *shared = test_shared();
    char path[1200];
    struct err err = { 0 };

    if (!shared)
        skip();
    snprintf(g->folder, sizeof g->folder, "%s/golden", shared);
    snprintf(g->name, sizeof g->name, "%s", name);
    snprintf(path, sizeof path, "%s/sft/%s.json", g->folder, name);
    g->json = json_read(path, 1 << 26, &err);
    if (!g->json)
        fail_msg("%s", err.what);
    snprintf(path, sizeof path, "%s/sft/%s.safetensors", g->folder, name);
    CHECK_OK(safetensors_open(&g->arrays, path, &err), &err);
    snprintf(path, sizeof path, "%s/models/%s", g->folder, name);
    CHECK_OK(model_dir_open(&g->model, path, &err), &err);
}

static void golden_close(struct golden *g)
{
    json_decref(g->json);
    safetensors_close(&g->arrays);
    model_dir_close(&g->model);
}

static void engine_of(void **test_state, struct engine *e, const struct golden *g, const char *backend,
                      const char *words, int64_t B, int64_t T, int64_t micro_steps, const struct trainer_options *o)
{
    struct err err = { 0 };

    *e = (struct engine){ 0 };
    comm_alone(&e->comm);
    CHECK_OK(build_shape(&g->model.config, 0, &e->shape, &err), &err);
    CHECK_OK(engine_open(e, backend, words, B, T, micro_steps, o, &err), &err);
    CHECK_OK(weights_load(&e->exec, &g->model, false, &err), &err);
}

#define MAX_ROWS 8
#define MAX_IDS 64
struct rows {
    struct batch batch;
    int32_t ids[MAX_ROWS * MAX_IDS], positions[MAX_ROWS * MAX_IDS], targets[MAX_ROWS * MAX_IDS], spans[MAX_ROWS * 2];
};

/* Rows of ids and masks -> a batch: labels are ids where the mask is 1, or everywhere if padding counts. */
static void rows_from(struct rows *r, const json_t *ids, const json_t *mask, bool padding_counts)
{
    const int64_t B = (int64_t)json_array_size(ids), T = (int64_t)json_array_size(json_array_get(ids, 0));

    *r = (struct rows){
        .batch = { .B = B, .T = T, .ids = r->ids, .positions = r->positions, .targets = r->targets, .spans = r->spans }
    };
    for (int64_t b = 0; b < B; b++) {
        int32_t seen = 0;
        int64_t first = T, last = -1;
        for (int64_t t = 0; t < T; t++) {
            const bool real = json_integer_value(json_array_get(json_array_get(mask, (size_t)b), (size_t)t)) == 1;
            r->ids[b * T + t] = (int32_t)json_integer_value(json_array_get(json_array_get(ids, (size_t)b), (size_t)t));
            r->positions[b * T + t] = real ? ++seen + 1 : 1;
            first = real && t < first ? t : first;
            last = real ? t : last;
        }
        r->spans[2 * b] = (int32_t)first;
        r->spans[2 * b + 1] = (int32_t)last + 1;
        for (int64_t t = 0; t < T; t++) {
            const bool real = t + 1 < T && r->positions[b * T + t] != 1 && r->positions[b * T + t + 1] != 1;
            const bool counts = t + 1 < T && (padding_counts || real);
            r->targets[b * T + t] = counts ? r->ids[b * T + t + 1] : -100;
            r->batch.n_targets += counts;
        }
    }
}

static double real_of(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static double tolerance(const struct golden *g, const char *field, double largest)
{
    const double library = 20 * real_of(json_object_get(g->json, "float32_error"), field);

    return fmax(library, 1e-6 * largest);
}

static bool exactly_zero(const struct golden *g, const char *name)
{
    const json_t *zeros = json_object_get(g->json, "zero_gradient_tensors");

    for (size_t i = 0; i < json_array_size(zeros); i++)
        if (strcmp(json_string_value(json_array_get(zeros, i)), name) == 0)
            return true;
    return false;
}

/* Every array "PREFIX.model.decoder.NAME" of the file against the engine's buffer "OURS" + NAME. */
static int compare_arrays(void **test_state, const struct golden *g, const struct engine *e, const char *prefix,
                          const char *ours, const char *field)
{
    int n = 0;

    for (int i = 0; i < g->arrays.n_tensors; i++) {
        const struct stored_tensor *t = &g->arrays.tensors[i];
        const size_t skip_bytes = strlen(prefix);
        char name[192];
        double largest = 0;

        if (strncmp(t->name, prefix, skip_bytes) != 0)
            continue;
        const char *canonical = t->name + skip_bytes + strlen("model.decoder.");
        if (strcmp(field, "train_final") == 0 && exactly_zero(g, t->name + skip_bytes))
            continue;
        snprintf(name, sizeof name, "%s%s", ours, canonical);
        const float *got = exec_buffer(&e->exec, name), *want = t->data;
        const int64_t count = shape_count(&t->shape);
        for (int64_t k = 0; k < count; k++)
            largest = fmax(largest, fabs((double)want[k]));
        const double allowed = tolerance(g, field, largest);
        for (int64_t k = 0; k < count; k++)
            if (!(fabs((double)got[k] - (double)want[k]) <= allowed))
                fail_msg("%s[%lld] is %.9g, expected %.9g within %.2g", t->name, (long long)k, (double)got[k],
                         (double)want[k], allowed);
        n++;
    }
    (void)test_state;
    return n;
}

static const struct trainer_options plain_options = {
    .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .clip = 1, .total = 1
};
static const struct run_context first_micro = { .row_step = 1, .first_micro = true };

static const char *const variants[] = {
    "--no-flash_attention --no-chunked_loss --no-fused_kernels",
    "--flash_attention --chunked_loss --chunked_loss_rows 7 --fused_kernels",
    "--gradient_checkpointing",
};
static const char *const models[] = { "post", "pre" };
static const char *const backends[] = { "ref", "cpu" };

static void check_gradients(void **test_state, const char *model, const char *backend, const char *words)
{
    struct golden g = { 0 };
    struct engine e;
    struct rows r;
    struct err err = { 0 };
    struct run_context c = first_micro;
    double loss, norm, rate;

    golden_open(test_state, &g, model);
    rows_from(&r, json_object_get(g.json, "input_ids"), json_object_get(g.json, "attention_mask"), false);
    engine_of(test_state, &e, &g, backend, words, r.batch.B, r.batch.T, 1, &plain_options);
    CHECK_EQ(r.batch.n_targets, json_integer_value(json_object_get(g.json, "targets")));
    CHECK_OK(sft_eval_step(&e.sft, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, real_of(g.json, "loss"), tolerance(&g, "loss", loss));
    CHECK_OK(sft_micro_step(&e.sft, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, real_of(g.json, "loss"), tolerance(&g, "loss", loss));
    CHECK(compare_arrays(test_state, &g, &e, "grad.", "grad/", "grads") > 30);
    CHECK_OK(trainer_step(&e.trainer, &c, &norm, &rate, &err), &err);
    CHECK_NEAR(norm, real_of(g.json, "grad_norm"), 1e-5 * norm);
    rows_from(&r, json_object_get(g.json, "input_ids"), json_object_get(g.json, "attention_mask"), true);
    engine_close(&e);

    engine_of(test_state, &e, &g, backend, words, r.batch.B, r.batch.T, 1, &plain_options);
    CHECK_OK(sft_eval_step(&e.sft, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, real_of(g.json, "loss_padding_counted"), tolerance(&g, "loss", loss));
    rows_from(&r, json_object_get(g.json, "left_input_ids"), json_object_get(g.json, "left_attention_mask"), false);
    CHECK_OK(sft_eval_step(&e.sft, &r.batch, &c, &loss, &err), &err);
    CHECK_NEAR(loss, real_of(g.json, "loss"), tolerance(&g, "loss", loss)); /* the same rows, padded on the left */
    engine_close(&e);
    golden_close(&g);
}

TEST(losses_and_gradients_match)
{
    for (int m = 0; m < COUNT_OF(models); m++)
        for (int b = 0; b < COUNT_OF(backends); b++)
            for (int v = 0; v < COUNT_OF(variants); v++)
                check_gradients(test_state, models[m], backends[b], variants[v]);
}

static struct trainer_options options_of(const json_t *run)
{
    return (struct trainer_options){
        .learning_rate = real_of(run, "learning_rate"),
        .weight_decay = real_of(run, "weight_decay"),
        .beta1 = 0.9,
        .beta2 = 0.95,
        .epsilon = 1e-8,
        .clip = 1,
        .schedule = SCHEDULE_COSINE,
        .warmup = (int64_t)real_of(run, "num_warmup_steps"),
        .total = (int64_t)real_of(run, "total_steps"),
    };
}

/* A training run of the file: micro-batches, micro_steps of them an update. */
static void check_training(void **test_state, const char *model, const char *backend, const char *words,
                           const char *key, const char *batches_key, const char *final)
{
    struct golden g = { 0 };
    struct engine e;
    struct rows r;
    struct err err = { 0 };

    golden_open(test_state, &g, model);
    const json_t *run = json_object_get(g.json, key), *batches = json_object_get(run, batches_key);
    const json_t *losses = json_object_get(run, "losses"), *rates = json_object_get(run, "learning_rates");
    const struct trainer_options o = options_of(run);
    const int64_t micro_steps =
        json_object_get(run, "gradient_accumulation_steps") ? (int64_t)real_of(run, "gradient_accumulation_steps") : 1;
    const int64_t n = (int64_t)json_array_size(losses);
    const json_t *first = batches ? json_array_get(batches, 0) : g.json;
    rows_from(&r, json_object_get(first, "input_ids"), json_object_get(first, "attention_mask"), false);
    engine_of(test_state, &e, &g, backend, words, r.batch.B, r.batch.T, micro_steps, &o);
    for (int64_t i = 0; i < n; i++) {
        const json_t *batch = batches ? json_array_get(batches, (size_t)i) : g.json;
        struct run_context c = { .row_step = 1, .first_micro = i % micro_steps == 0 };
        double loss, norm, rate;

        rows_from(&r, json_object_get(batch, "input_ids"), json_object_get(batch, "attention_mask"), false);
        CHECK_OK(sft_micro_step(&e.sft, &r.batch, &c, &loss, &err), &err);
        CHECK_NEAR(loss, json_number_value(json_array_get(losses, (size_t)i)), tolerance(&g, "train_losses", loss));
        if ((i + 1) % micro_steps != 0)
            continue;
        CHECK_OK(trainer_step(&e.trainer, &c, &norm, &rate, &err), &err);
        if (rates)
            CHECK_NEAR(rate, json_number_value(json_array_get(rates, (size_t)(i / micro_steps))), 1e-12);
    }
    if (final)
        CHECK(compare_arrays(test_state, &g, &e, final, "", "train_final") > 0);
    engine_close(&e);
    golden_close(&g);
}

TEST(training_matches)
{
    for (int m = 0; m < COUNT_OF(models); m++)
        for (int b = 0; b < COUNT_OF(backends); b++)
            for (int v = 0; v < COUNT_OF(variants); v++) {
                check_training(test_state, models[m], backends[b], variants[v], "train", "batches", "final.");
                check_training(test_state, models[m], backends[b], variants[v], "train_accumulated", "micro_batches",
                               "accumulated_final.");
                check_training(test_state, models[m], backends[b], variants[v], "train_same_batch", "none", NULL);
            }
}

TEST(bf16_stays_near)
{
    for (int m = 0; m < COUNT_OF(models); m++)
        for (int b = 0; b < COUNT_OF(backends); b++)
            for (int v = 0; v < COUNT_OF(variants); v++) {
                struct golden g = { 0 };
                struct engine e;
                struct rows r;
                struct err err = { 0 };
                struct run_context c = first_micro;
                char words[256];
                double loss;

                golden_open(test_state, &g, models[m]);
                snprintf(words, sizeof words, "--dtype bf16 %s", variants[v]);
                rows_from(&r, json_object_get(g.json, "input_ids"), json_object_get(g.json, "attention_mask"), false);
                engine_of(test_state, &e, &g, backends[b], words, r.batch.B, r.batch.T, 1, &plain_options);
                CHECK_OK(sft_micro_step(&e.sft, &r.batch, &c, &loss, &err), &err);
                CHECK_NEAR(loss, real_of(g.json, "loss"), 0.003 * loss);
                engine_close(&e);
                golden_close(&g);
            }
}

TEST_MAIN(CASE(losses_and_gradients_match), CASE(training_matches), CASE(bf16_stays_near))
