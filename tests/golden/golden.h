/* tests/golden/golden.h - expected numbers, made with PyTorch and transformers in double precision, and the engine on the model
 * they belong to. A set is a folder: tests/golden/data is the project's own and always there; ../shared/golden, larger and
 * of the same form, is looked at where a checkout has it. Tolerance: 20 times what the library's own fp32 strayed, or 1e-6
 * of the largest value, whichever is larger. */
#ifndef TUNEUP_TESTS_GOLDEN_H
#define TUNEUP_TESTS_GOLDEN_H

#include <math.h>

#include "base/json.h"
#include "engine.h"
#include "run/weights.h"

#define GOLDEN_OWN "tests/golden/data"

struct golden {
    json_t *json;
    struct safetensors arrays;
    struct model_dir model;
};

/* The set beside the checkout; without one the test is skipped, and says so. */
static inline const char *golden_shared(void)
{
    static char folder[512];

    if (!test_shared()) {
        print_message("no ../shared/golden here: only %s is looked at\n", GOLDEN_OWN);
        skip();
    }
    snprintf(folder, sizeof folder, "%s/golden", test_shared());
    return folder;
}

static inline json_t *golden_json(const char *folder, const char *file)
{
    char path[1200];
    struct err err = { 0 };

    snprintf(path, sizeof path, "%s/%s.json", folder, file);
    json_t *json = json_read(path, 1 << 26, &err);
    if (!json)
        fail_msg("%s; %s", err.what, err.where);
    return json;
}

/* FOLDER/FILE.json and .safetensors, and FOLDER/models/MODEL. */
static inline void golden_open(void **test_state, struct golden *g, const char *folder, const char *file,
                               const char *model)
{
    char path[1200];
    struct err err = { 0 };

    *g = (struct golden){ .json = golden_json(folder, file) };
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, file);
    CHECK_OK(safetensors_open(&g->arrays, path, &err), &err);
    snprintf(path, sizeof path, "%s/models/%s", folder, model);
    CHECK_OK(model_dir_open(&g->model, path, &err), &err);
}

static inline void golden_close(struct golden *g)
{
    json_decref(g->json);
    safetensors_close(&g->arrays);
    model_dir_close(&g->model);
}

static inline double golden_real(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static inline double golden_tolerance(const struct golden *g, const char *field, double largest)
{
    return fmax(20 * golden_real(json_object_get(g->json, "float32_error"), field), 1e-6 * fabs(largest));
}

static inline struct trainer_options golden_options(const json_t *run)
{
    return (struct trainer_options){
        .learning_rate = golden_real(run, "learning_rate"),
        .weight_decay = golden_real(run, "weight_decay"),
        .beta1 = 0.9,
        .beta2 = 0.95,
        .epsilon = 1e-8,
        .clip = 1,
        .schedule = SCHEDULE_COSINE,
        .warmup = (int64_t)golden_real(run, "num_warmup_steps"),
        .total = (int64_t)golden_real(run, "total_steps"),
    };
}

/* e->comm is set: comm_alone, or a rank of local_ranks.h. */
static inline int golden_engine(struct engine *e, const struct model_dir *m, const char *backend, const char *words,
                                int64_t B, int64_t T, int64_t micro_steps, const struct trainer_options *o,
                                struct err *err)
{
    if (build_shape(&m->config, 0, &e->shape, err) != 0 ||
        engine_open(e, backend, words, B, T, micro_steps, o, err) != 0)
        return -1;
    return weights_load(&e->exec, "", m, false, err);
}

#define GOLDEN_MAX_ROWS 12
#define GOLDEN_MAX_IDS 64
struct golden_rows {
    struct batch batch;
    int32_t ids[GOLDEN_MAX_ROWS * GOLDEN_MAX_IDS], positions[GOLDEN_MAX_ROWS * GOLDEN_MAX_IDS];
    int32_t targets[GOLDEN_MAX_ROWS * GOLDEN_MAX_IDS], spans[GOLDEN_MAX_ROWS * 2];
};

static inline int32_t golden_id(const json_t *rows, int64_t row, int64_t t)
{
    return (int32_t)json_integer_value(json_array_get(json_array_get(rows, (size_t)row), (size_t)t));
}

/* Row b of the batch is row `row` of the ids: positions count what the mask shows, from 2 on; hidden ones have 1. */
static inline void golden_row(struct golden_rows *r, int64_t b, const json_t *ids, const json_t *mask, int64_t row)
{
    const int64_t T = r->batch.T;
    int32_t seen = 0, *positions = &r->positions[b * T];

    r->spans[2 * b] = (int32_t)T;
    r->spans[2 * b + 1] = 0;
    for (int64_t t = 0; t < T; t++) {
        const bool real = golden_id(mask, row, t) == 1;
        r->ids[b * T + t] = golden_id(ids, row, t);
        positions[t] = real ? ++seen + 1 : 1;
        if (real && seen == 1)
            r->spans[2 * b] = (int32_t)t;
        if (real)
            r->spans[2 * b + 1] = (int32_t)t + 1;
    }
}

/* Rows rank, rank + ranks, ... of the file's "PREFIXinput_ids" and "PREFIXattention_mask". Targets are ids where the mask is
 * 1, or everywhere if padding counts; their number is the mean over all ranks, so that every rank divides by the same. */
static inline void golden_rows_of(struct golden_rows *r, const json_t *o, const char *prefix, bool padding_counts,
                                  int rank, int ranks)
{
    char key[64];

    snprintf(key, sizeof key, "%sinput_ids", prefix);
    const json_t *ids = json_object_get(o, key);
    snprintf(key, sizeof key, "%sattention_mask", prefix);
    const json_t *mask = json_object_get(o, key);
    const int64_t rows = (int64_t)json_array_size(ids), T = (int64_t)json_array_size(json_array_get(ids, 0));
    *r = (struct golden_rows){
        .batch = { .T = T, .ids = r->ids, .positions = r->positions, .targets = r->targets, .spans = r->spans }
    };
    if (rows > GOLDEN_MAX_ROWS || T > GOLDEN_MAX_IDS)
        fail_msg("%lld rows of %lld ids are too many for this test", (long long)rows, (long long)T);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t b = r->batch.B;
        if (row % ranks == rank) {
            golden_row(r, b, ids, mask, row);
            r->batch.B++;
        }
        for (int64_t t = 0; t < T; t++) {
            const bool real = t + 1 < T && golden_id(mask, row, t) == 1 && golden_id(mask, row, t + 1) == 1;
            const bool counts = t + 1 < T && (padding_counts || real);
            if (row % ranks == rank)
                r->targets[b * T + t] = counts ? golden_id(ids, row, t + 1) : -100;
            r->batch.n_targets += counts;
        }
    }
    if (r->batch.n_targets % ranks != 0)
        fail_msg("%lld targets cannot be shared by %d ranks", (long long)r->batch.n_targets, ranks);
    r->batch.n_targets /= ranks;
}

/* n numbers of the engine against stored ones. */
static inline void golden_compare(const struct golden *g, const char *field, const char *name, const float *got,
                                  const float *want, int64_t n)
{
    double largest = 0;

    for (int64_t k = 0; k < n; k++)
        largest = fmax(largest, fabs((double)want[k]));
    const double allowed = golden_tolerance(g, field, largest);
    for (int64_t k = 0; k < n; k++)
        if (!(fabs((double)got[k] - (double)want[k]) <= allowed))
            fail_msg("%s[%lld] is %.9g, expected %.9g within %.2g", name, (long long)k, (double)got[k], (double)want[k],
                     allowed);
}

static inline bool golden_is_zero(const struct golden *g, const char *name)
{
    const json_t *zeros = json_object_get(g->json, "zero_gradient_tensors");

    for (size_t i = 0; i < json_array_size(zeros); i++)
        if (strcmp(json_string_value(json_array_get(zeros, i)), name) == 0)
            return true;
    return false;
}

/* A tensor's name as the engine knows it. */
static inline const char *golden_canonical(const char *name)
{
    static const char *const outer[] = { "model.decoder.", "rwtransformer.decoder." };

    for (int i = 0; i < COUNT_OF(outer); i++)
        if (strncmp(name, outer[i], strlen(outer[i])) == 0)
            return name + strlen(outer[i]);
    return name;
}

/* Every array "PREFIX" + tensor of the file, as far as this rank holds it, against the engine's buffer "OURS" + tensor; returns their number. Weights whose
 * gradients are zero in exact arithmetic are left out: AdamW turns the rounding noise there into whole steps. */
static inline int golden_compare_arrays(const struct golden *g, const struct engine *e, const char *prefix,
                                        const char *ours, const char *field)
{
    const size_t length = strlen(prefix);
    int n = 0;

    for (int i = 0; i < g->arrays.n_tensors; i++) {
        const struct stored_tensor *t = &g->arrays.tensors[i];
        char name[192];

        if (strncmp(t->name, prefix, length) != 0 || (!*ours && golden_is_zero(g, t->name + length)))
            continue;
        snprintf(name, sizeof name, "%s%s", ours, golden_canonical(t->name + length));
        int64_t first, count; /* that this rank holds */
        const float *held = exec_held(&e->exec, plan_find(&e->plan, name), &first, &count);
        golden_compare(g, field, t->name, held, (const float *)t->data + first, count);
        n++;
    }
    return n;
}

/* ---- what the tests of each phase do alike ---- */

typedef void golden_check(void **test_state, const char *folder, const char *model, const char *backend,
                          const char *words);

/* The forms that techniques give the same numbers in. The project's own models are small enough for all of them; of the
 * larger set, the oracle does the first form alone. */
static inline void golden_check_all(void **test_state, const char *folder, golden_check *each)
{
    static const char *const variants[] = {
        "--no-flash_attention --no-chunked_loss --no-fused_kernels",
        "--flash_attention --chunked_loss --chunked_loss_rows 7 --fused_kernels",
        "--gradient_checkpointing",
        "--remove_padding --share_prompts",
        "--share_prompts --no-flash_attention",
        "--remove_padding --no-flash_attention --no-chunked_loss --no-fused_kernels --gradient_checkpointing",
    };
    static const char *const models[] = { "post", "pre" }, *const backends[] = { "ref", "cpu" };

    for (int m = 0; m < COUNT_OF(models); m++)
        for (int b = 0; b < COUNT_OF(backends); b++)
            for (int v = 0; v < COUNT_OF(variants); v++)
                if (v == 0 || b == 1 || strcmp(folder, GOLDEN_OWN) == 0)
                    each(test_state, folder, models[m], backends[b], variants[v]);
}

/* A run of the file: n micro-batches, micro_steps of them an update. Without batches of its own it repeats the file's rows. */
static inline void golden_train(void **test_state, const struct golden *g, struct engine *e, const json_t *run,
                                const json_t *batches)
{
    const json_t *losses = json_object_get(run, "losses"), *rates = json_object_get(run, "learning_rates");
    const json_t *norms = json_object_get(run, "grad_norms");
    const size_t micro_steps = (size_t)e->plan.micro_steps;

    for (size_t i = 0; i < json_array_size(losses); i++) {
        struct run_context c = { .row_step = 1, .first_micro = i % micro_steps == 0 };
        const size_t update = i / micro_steps;
        struct golden_rows r;
        struct err err = { 0 };
        double loss, norm, rate;

        golden_rows_of(&r, batches ? json_array_get(batches, i) : g->json, "", false, 0, 1);
        CHECK_OK(engine_micro_step(e, &r.batch, &c, &loss, &err), &err);
        CHECK_NEAR(loss, json_number_value(json_array_get(losses, i)), golden_tolerance(g, "train_losses", loss));
        if ((i + 1) % micro_steps != 0)
            continue;
        CHECK_OK(trainer_step(&e->trainer, &c, &norm, &rate, &err), &err);
        if (norms)
            CHECK_NEAR(norm, json_number_value(json_array_get(norms, update)), 1e-4 * norm);
        if (rates)
            CHECK_NEAR(rate, json_number_value(json_array_get(rates, update)), 1e-12);
    }
}

/* The run `key` of the file in an engine of its own, of e's phase; `final` is the prefix of its last weights, or NULL. */
static inline void golden_check_run(void **test_state, const struct golden *g, struct engine e, const char *backend,
                                    const char *words, const char *key, const char *batches_key, const char *final)
{
    const json_t *run = json_object_get(g->json, key), *batches = json_object_get(run, batches_key);
    const json_t *accumulation = json_object_get(run, "gradient_accumulation_steps");
    const struct trainer_options o = golden_options(run);
    struct golden_rows r;
    struct err err = { 0 };

    golden_rows_of(&r, batches ? json_array_get(batches, 0) : g->json, "", false, 0, 1);
    comm_alone(&e.comm);
    CHECK_OK(golden_engine(&e, &g->model, backend, words, r.batch.B, r.batch.T,
                           accumulation ? json_integer_value(accumulation) : 1, &o, &err),
             &err);
    golden_train(test_state, g, &e, run, batches);
    if (final)
        CHECK(golden_compare_arrays(g, &e, final, "", "train_final") > 0);
    engine_close(&e);
}

#endif
