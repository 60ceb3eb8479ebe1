/* Phase 3 against golden numbers: log-probabilities, values and scores of fixed rows, the gradients of both losses, and inner
 * updates of actor and critic on one experience, with their final weights and the actor's moving average. */
#include "golden.h"
#include "graph/optimizer.h"
#include "phases/ppo.h"

#define ROWS_MAX 4
#define T_MAX 32

enum { ACTOR, REFERENCE, CRITIC, REWARD, N_MODELS };
static const char *const prefixes[N_MODELS] = { "actor/", "reference/", "critic/", "reward/" };
static const char *const keys[N_MODELS] = { "actor", "reference", "critic", "reward" };

static const char *const variants[] = {
    "--no-flash_attention --no-chunked_loss --no-fused_kernels",
    "--flash_attention --chunked_loss --chunked_loss_rows 7 --fused_kernels",
    "--gradient_checkpointing",
    "--remove_padding",
    "--remove_padding --no-flash_attention --no-chunked_loss --no-fused_kernels --gradient_checkpointing",
};

struct four {
    struct golden golden;
    struct model_dir models[N_MODELS];
    struct technique_values techniques;
    struct plan plan;
    struct backend backend;
    struct comm comm;
    struct exec exec;
    struct trainer actor, critic;
    struct ppo ppo;
    struct ppo_experience experience;
    int n_gradients; /* compared so far */
};

static void open_models(void **test_state, struct four *f, const char *folder, const char *name)
{
    char path[600];
    struct err err = { 0 };

    f->golden.json = golden_json(folder, name);
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, name);
    CHECK_OK(safetensors_open(&f->golden.arrays, path, &err), &err);
    for (int i = 0; i < N_MODELS; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, json_string_value(json_object_get(f->golden.json, keys[i])));
        CHECK_OK(model_dir_open(&f->models[i], path, &err), &err);
    }
}

static void load_weights(void **test_state, struct four *f, const char *prefix, const struct model_dir *m)
{
    struct err err = { 0 };

    CHECK_OK(weights_load(&f->exec, prefix, m, false, &err), &err);
}

static void open_plan(void **test_state, struct four *f, const char *backend, const char *words, int64_t B, int64_t T)
{
    struct err err = { 0 };
    struct build b = { .phase = &phase_ppo,
                       .n_models = N_MODELS,
                       .extents = { [EXTENTS_SCORE] = { .B = B, .T = T }, [EXTENTS_TRAIN] = { .B = B, .T = T } },
                       .micro_steps = 1,
                       .ranks = 1,
                       .averaged = "actor/",
                       .average = "actor_ema/",
                       .average_decay = 0.992 };

    comm_alone(&f->comm);
    CHECK_OK(engine_techniques(&f->techniques, words, &err), &err);
    for (int i = 0; i < N_MODELS; i++) {
        b.models[i].prefix = prefixes[i];
        b.models[i].techniques = &f->techniques;
        CHECK_OK(build_shape(&f->models[i].config, 0, &b.models[i].shape, &err), &err);
    }
    CHECK_OK(build_plan(&b, &f->plan, &err), &err);
    CHECK_OK(backend_open(&f->backend, backend, 2, &err), &err);
    CHECK_OK(exec_prepare(&f->exec, &f->plan, &f->backend, &f->comm, &err), &err);
    CHECK_OK(exec_allocate(&f->exec, &err), &err);
    for (int i = 0; i < N_MODELS; i++)
        load_weights(test_state, f, prefixes[i], &f->models[i]);
    load_weights(test_state, f, "actor_ema/", &f->models[ACTOR]);
}

/* One update an experience; the golden numbers follow the reference. */
static void open_ppo(struct four *f)
{
    const json_t *run = json_object_get(f->golden.json, "train");
    const struct ppo_settings s = { .math = { .convention = PPO_DEEPSPEED_CHAT,
                                              .kl_coef = 0.1,
                                              .reward_clip = 5,
                                              .clip = PPO_CLIP,
                                              .value_clip = PPO_CLIP,
                                              .gamma = 1,
                                              .lambda = 0.95 },
                                    .epochs = 1,
                                    .micro_steps = 1 };
    struct trainer_options o = golden_options(run);

    o.learning_rate = golden_real(run, "actor_learning_rate");
    trainer_init(&f->actor, &f->exec, "actor/", &o);
    o.learning_rate = golden_real(run, "critic_learning_rate");
    trainer_init(&f->critic, &f->exec, "critic/", &o);
    ppo_open(&f->ppo, &f->exec, &s);
    f->ppo.actor = &f->actor;
    f->ppo.critic = &f->critic;
}

static void open_experience(void **test_state, struct four *f, int64_t B, int64_t T)
{
    const json_t *ids = json_object_get(f->golden.json, "input_ids");
    const int64_t P = (int64_t)golden_real(f->golden.json, "prompt_length");
    struct err err = { 0 };

    CHECK_OK(ppo_experience_init(&f->experience, B, T, &err), &err);
    for (int64_t b = 0; b < B; b++) {
        int32_t row[T_MAX];
        int64_t first = 0, n = 0;
        for (int64_t t = 0; t < T; t++)
            row[t] = golden_id(ids, b, t);
        /* The begin id is one more 2 before what is not 2; a row that has no padding begins with it. */
        while (row[first] == 2)
            first++;
        while (P + n < T && row[P + n] != 2)
            n++;
        const int64_t at = first > 0 ? first - 1 : 0;
        ppo_experience_add(&f->experience, PPO_DEEPSPEED_CHAT, row, T, at, P - at, n, P + n < T, b);
    }
}

static void close_four(struct four *f)
{
    ppo_experience_free(&f->experience);
    exec_free(&f->exec);
    f->backend.close(&f->backend);
    plan_free(&f->plan);
    for (int i = 0; i < N_MODELS; i++)
        model_dir_close(&f->models[i]);
    json_decref(f->golden.json);
    safetensors_close(&f->golden.arrays);
}

/* Steps begin .. end-1 of every row; columns of the file's array begin at step `first`. */
static void compare_steps(const struct four *f, const char *key, const char *error, const float *got, int64_t first,
                          bool actions)
{
    const json_t *rows = json_object_get(f->golden.json, key);
    const int64_t T = f->experience.T;

    for (int64_t b = 0; b < f->experience.n; b++) {
        const struct ppo_row *r = &f->experience.rows[b];
        float want[T_MAX];
        const int64_t end = actions ? r->actions_end : r->end;
        for (int64_t t = r->begin; t < end; t++)
            want[t] = (float)json_number_value(json_array_get(json_array_get(rows, (size_t)b), (size_t)(t - first)));
        golden_compare(&f->golden, error, key, &got[b * T + r->begin], &want[r->begin], end - r->begin);
    }
}

static void check_experience(void **test_state, struct four *f)
{
    const struct ppo_experience *x = &f->experience;
    const json_t *scores = json_object_get(f->golden.json, "scores"), *ends = json_object_get(f->golden.json, "ends");
    const int64_t start = (int64_t)golden_real(f->golden.json, "start");
    float want[ROWS_MAX];

    for (int64_t b = 0; b < x->n; b++) {
        want[b] = (float)json_number_value(json_array_get(scores, (size_t)b));
        const int64_t end = json_integer_value(json_array_get(ends, (size_t)b));
        CHECK_EQ(x->rows[b].begin, start);
        CHECK_EQ(x->rows[b].end, end < x->T ? end : x->T - 1);
    }
    golden_compare(&f->golden, "scores", "scores", x->scores, want, x->n);
    compare_steps(f, "logprobs", "logprobs", x->logp, 0, true);
    compare_steps(f, "ref_logprobs", "logprobs", x->ref_logp, 0, true);
    compare_steps(f, "old_values", "values", x->values, 0, false);
    compare_steps(f, "rewards", "advantages", x->rewards, 0, false);
    compare_steps(f, "advantages", "advantages", x->advantages, start, false);
    compare_steps(f, "returns", "advantages", x->returns, start, false);
}

/* Every array "KIND.PREFIX.NAME" of the file against the buffer OURS + NAME. */
static int compare_arrays(const struct four *f, const char *prefix, const char *inner, const char *ours,
                          const char *error)
{
    int n = 0;

    for (int i = 0; i < f->golden.arrays.n_tensors; i++) {
        const struct stored_tensor *t = &f->golden.arrays.tensors[i];
        char name[192];
        if (strncmp(t->name, prefix, strlen(prefix)) != 0)
            continue;
        const char *stem = t->name + strlen(prefix);
        if (golden_is_zero(&f->golden, stem))
            continue;
        snprintf(name, sizeof name, "%s%s", ours,
                 strncmp(stem, inner, strlen(inner)) == 0 ? stem + strlen(inner) : stem);
        golden_compare(&f->golden, error, t->name, exec_buffer(&f->exec, name), t->data, shape_count(&t->shape));
        n++;
    }
    return n;
}

/* Gradients are looked at when their norm is taken: clipping comes after it. */
static void compare_gradients(void *context, const struct program *program, const struct op_step *step, double seconds)
{
    struct four *f = context;

    (void)seconds;
    if (step->op != OP_SUMSQ || step->attrs.group != GROUP_DECAY)
        return;
    f->n_gradients += strcmp(program->model, "actor/") == 0
                          ? compare_arrays(f, "actor_grad.", "model.decoder.", "grad/actor/", "actor_grads")
                          : compare_arrays(f, "critic_grad.", "rwtransformer.decoder.", "grad/critic/", "critic_grads");
}

static double entry(const json_t *run, const char *key, int i)
{
    return json_number_value(json_array_get(json_object_get(run, key), (size_t)i));
}

static void check_updates(void **test_state, struct four *f)
{
    const json_t *run = json_object_get(f->golden.json, "train");
    const int n = (int)golden_real(run, "inner_steps");
    struct err err = { 0 };
    struct ppo_learned learned;

    f->exec.hook = compare_gradients;
    f->exec.hook_context = f;
    for (int i = 0; i < n; i++) {
        const double actor = entry(run, "actor_losses", i), critic = entry(run, "critic_losses", i);
        const double actor_norm = entry(run, "actor_grad_norms", i), critic_norm = entry(run, "critic_grad_norms", i);

        CHECK_OK(ppo_update(&f->ppo, &f->experience, i, &learned, &err), &err);
        CHECK_EQ(learned.n_updates, 1);
        CHECK_NEAR(learned.actor_loss, actor, golden_tolerance(&f->golden, "actor_losses", actor));
        CHECK_NEAR(learned.critic_loss, critic, golden_tolerance(&f->golden, "critic_losses", critic));
        CHECK_NEAR(learned.actor_norm, actor_norm, 1e-5 * actor_norm);
        CHECK_NEAR(learned.critic_norm, critic_norm, 1e-5 * critic_norm);
        CHECK_NEAR(learned.actor_rate, entry(run, "actor_learning_rates", i), 1e-12);
        f->exec.hook = NULL;
    }
    CHECK(f->n_gradients > 60);
}

/* Everything, with the experience scored. */
static void open_set(void **test_state, struct four *f, const char *folder, const char *model, const char *backend,
                     const char *words)
{
    struct err err = { 0 };
    char name[32];

    *f = (struct four){ 0 };
    snprintf(name, sizeof name, "ppo/%s", model);
    open_models(test_state, f, folder, name);
    const json_t *ids = json_object_get(f->golden.json, "input_ids");
    const int64_t B = (int64_t)json_array_size(ids), T = (int64_t)json_array_size(json_array_get(ids, 0));
    CHECK(B <= ROWS_MAX && T <= T_MAX);
    open_plan(test_state, f, backend, words, B, T);
    open_ppo(f);
    open_experience(test_state, f, B, T);
    CHECK_OK(ppo_score(&f->ppo, &f->experience, &err), &err);
}

/* Ratios feel the rounding of the log-probabilities twice, and with it the whole loss. */
static void check_half(void **test_state, const char *folder, const char *model, const char *words, double near)
{
    struct four f;
    struct err err = { 0 };
    struct ppo_learned learned;

    open_set(test_state, &f, folder, model, "cpu", words);
    const json_t *run = json_object_get(f.golden.json, "train");
    for (int i = 0; i < (int)golden_real(run, "inner_steps"); i++) {
        const double actor = entry(run, "actor_losses", i), critic = entry(run, "critic_losses", i);

        CHECK_OK(ppo_update(&f.ppo, &f.experience, i, &learned, &err), &err);
        CHECK_NEAR(learned.actor_loss, actor, near * actor);
        CHECK_NEAR(learned.critic_loss, critic, near * critic);
    }
    close_four(&f);
}

static void check_set(void **test_state, const char *folder, const char *model, const char *backend, const char *words)
{
    struct four f;

    open_set(test_state, &f, folder, model, backend, words);
    check_experience(test_state, &f);
    check_updates(test_state, &f);
    CHECK(compare_arrays(&f, "actor_final.", "model.decoder.", "actor/", "actor_final") > 3);
    CHECK(compare_arrays(&f, "critic_final.", "rwtransformer.decoder.", "critic/", "critic_final") > 3);
    CHECK(compare_arrays(&f, "ema.", "model.decoder.", "actor_ema/", "actor_final") > 0);
    close_four(&f);
}

static void check_all(void **test_state, const char *folder)
{
    static const char *const models[] = { "post", "pre" };
    static const char *const backends[] = { "ref", "cpu" };

    for (int m = 0; m < COUNT_OF(models); m++)
        for (int b = 0; b < COUNT_OF(backends); b++)
            for (int v = 0; v < COUNT_OF(variants); v++)
                if (v == 0 || b == 1)
                    check_set(test_state, folder, models[m], backends[b], variants[v]);
}

TEST(phase_3_is_the_references)
{
    check_all(test_state, GOLDEN_OWN);
}

TEST(phase_3_is_the_shared_references)
{
    check_all(test_state, golden_shared());
}

TEST(shared_bf16_stays_near)
{
    check_half(test_state, golden_shared(), "post", "--dtype bf16", 0.03);
    check_half(test_state, golden_shared(), "pre", "--dtype bf16 --no-chunked_loss", 0.03);
}

TEST(shared_fp16_stays_nearer)
{
    check_half(test_state, golden_shared(), "post", "--dtype fp16 --initial_scale_power 8", 0.03 / 8);
    check_half(test_state, golden_shared(), "pre", "--dtype fp16 --initial_scale_power 8 --no-chunked_loss", 0.03 / 8);
}

TEST_MAIN(CASE(phase_3_is_the_references), CASE(phase_3_is_the_shared_references), CASE(shared_bf16_stays_near),
          CASE(shared_fp16_stays_nearer))
