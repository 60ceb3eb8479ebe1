/* Adapters in a whole model: gradients against finite differences, nothing made for what does not learn, and models that share
 * what neither of them changes. */
#include <math.h>

#include "engine.h"

#define ROWS 3
#define IDS 10
#define VOCABULARY 23

static const struct trainer_options o = { .learning_rate = 1e-3, .total = 1 };

static struct engine engine_of(const struct phase *phase)
{
    return (struct engine){
        .phase = phase,
        .shape = { .C = 8, .L = 2, .H = 2, .F = 12, .E = 6, .V = VOCABULARY, .position_rows = IDS + 2, .dropout = 0.1 }
    };
}

static void random_weights(struct engine *e)
{
    struct rng rng = { .seed = 5, .purpose = RNG_INIT };

    for (int i = 0; i < e->plan.n_buffers; i++) {
        const struct buffer *b = &e->plan.buffers[i];
        const bool norm = strstr(b->name, "norm.weight") != NULL;
        if (b->kind != KIND_PARAM || strncmp(b->name, "flat/", 5) == 0)
            continue;
        for (int64_t k = 0; k < b->count; k++)
            ((float *)exec_address(&e->exec, i))[k] = (norm ? 1.0f : 0.0f) + 0.3f * (float)rng_normal(&rng);
    }
}

/* The loss of one batch, with dropout: its draws are the same each time. */
static double loss_of(void **test_state, struct engine *e)
{
    int32_t ids[ROWS * IDS], positions[ROWS * IDS], targets[ROWS * IDS], spans[2 * ROWS];
    struct rng rng = { .seed = 9, .purpose = RNG_TASK };
    struct batch b = { .B = ROWS, .T = IDS, .ids = ids, .positions = positions, .targets = targets, .spans = spans };
    struct run_context c = { .row_step = 1, .seed = 3, .first_micro = true };
    struct err err = { 0 };
    double loss;

    for (int64_t i = 0; i < ROWS * IDS; i++) {
        ids[i] = (int32_t)rng_below(&rng, VOCABULARY);
        positions[i] = (int32_t)(i % IDS) + 2;
        targets[i] = (int32_t)rng_below(&rng, VOCABULARY);
    }
    for (int64_t r = 0; r < ROWS; r++) {
        spans[2 * r] = 0;
        spans[2 * r + 1] = IDS;
    }
    b.n_targets = ROWS * IDS;
    CHECK_OK(engine_micro_step(e, &b, &c, &loss, &err), &err);
    return loss;
}

/* Parameter i along its own gradient: a step h there changes the loss by h |g|^2, but where it crosses a bend of ReLU,
 * and as far as fp32 losses tell. */
static void check_slope(void **test_state, struct engine *e, int param, int grad)
{
    const int64_t n = e->plan.buffers[param].count;
    float *x = exec_address(&e->exec, param), g[256], was[256];
    double square = 0, side[2];

    CHECK(n <= COUNT_OF(g));
    memcpy(g, exec_address(&e->exec, grad), (size_t)n * sizeof *g);
    memcpy(was, x, (size_t)n * sizeof *was);
    for (int64_t k = 0; k < n; k++)
        square += (double)g[k] * (double)g[k];
    const double h = 2e-3 / sqrt(square);
    for (int s = 0; s < 2; s++) {
        for (int64_t k = 0; k < n; k++)
            x[k] = was[k] + (float)(s ? h : -h) * g[k];
        side[s] = loss_of(test_state, e);
    }
    memcpy(x, was, (size_t)n * sizeof *was);
    const double want = (side[1] - side[0]) / (2 * h);
    if (!(square > 1e-10 && fabs(square - want) <= 1e-2 * square + 3e-7 / (2 * h)))
        fail_msg("%s: the gradient's square is %.6g, finite differences say %.6g", e->plan.buffers[param].name, square,
                 want);
}

TEST(gradients_are_finite_differences)
{
    static const char *const words[] = { "--lora_dim 3 --lora_alpha 2 --lora_dropout 0.2",
                                         "--lora_dim 2 --only_optimize_lora --no-fused_kernels --no-chunked_loss" };
    struct err err = { 0 };

    for (int w = 0; w < COUNT_OF(words); w++) {
        struct engine e = engine_of(NULL);
        int n = 0;
        comm_alone(&e.comm);
        CHECK_OK(engine_open(&e, "ref", words[w], ROWS, IDS, 1, &o, &err), &err);
        random_weights(&e);
        for (int i = 0; i < e.plan.n_buffers; i++) {
            char name[192];
            snprintf(name, sizeof name, "grad/%s", e.plan.buffers[i].name);
            const int grad = e.plan.buffers[i].kind == KIND_PARAM ? plan_find(&e.plan, name) : -1;
            /* keys' biases have no gradient but rounding */
            if (grad < 0 || strstr(name, "k_proj.bias"))
                continue;
            loss_of(test_state, &e);
            check_slope(test_state, &e, i, grad);
            n++;
        }
        CHECK_EQ(n, w == 0 ? 24 + 2 * 5 + 2 * 4 + 4 : 24);
        engine_close(&e);
    }
}

static bool step_reads_or_writes(const struct op_step *s, int buffer)
{
    for (int k = 0; k < OP_MAX_IN; k++)
        if (s->in[k] == buffer)
            return true;
    for (int k = 0; k < OP_MAX_OUT; k++)
        if (s->out[k] == buffer)
            return true;
    return false;
}

/* With adapters in the second layer alone, no backward step belongs to the first one, and none to the embedding. */
TEST(no_gradient_below_what_learns)
{
    struct engine e = engine_of(NULL);
    struct err err = { 0 };
    int n_backward = 0;

    comm_alone(&e.comm);
    CHECK_OK(engine_open(&e, "ref", "--lora_dim 2 --only_optimize_lora --lora_module_name layers.1.fc", ROWS, IDS, 1,
                         &o, &err),
             &err);
    const struct program *train = &e.plan.programs[plan_find_program(&e.plan, "", "train")];
    for (int i = 0; i < train->n_steps; i++) {
        const struct op_step *s = &train->steps[i];
        if (s->pass != PASS_BACKWARD)
            continue;
        n_backward++;
        CHECK(s->layer != 0 && s->op != OP_EMBED_GRAD && s->op != OP_FLASH_ATTENTION_GRAD);
        for (int b = 0; b < e.plan.n_buffers; b++)
            if (e.plan.buffers[b].kind == KIND_GRAD && e.plan.buffers[b].group != GROUP_LORA)
                CHECK(!step_reads_or_writes(s, b));
    }
    CHECK(n_backward > 6 && n_backward < 24);
    engine_close(&e);
}

/* The head of a reward model learns whatever is frozen. */
TEST(a_reward_head_learns_with_adapters_alone)
{
    struct engine e = engine_of(&phase_reward);
    struct err err = { 0 };

    comm_alone(&e.comm);
    CHECK_OK(engine_open(&e, "cpu", "--lora_dim 2 --only_optimize_lora", 2, IDS, 1, &o, &err), &err);
    CHECK(plan_find(&e.plan, "grad/v_head.weight") >= 0);
    CHECK_EQ(plan_find(&e.plan, "grad/layers.0.fc1.weight"), -1);
    CHECK_EQ(plan_find(&e.plan, "grad/layers.0.fc1.bias"), -1);
    engine_close(&e);
}

TEST(what_names_nothing_is_refused)
{
    struct engine e = engine_of(NULL);
    struct err err = { 0 };

    comm_alone(&e.comm);
    CHECK_ERR(engine_open(&e, "ref", "--lora_dim 2 --lora_target_modules proj", 2, IDS, 1, &o, &err), &err, ERR_USAGE,
              "--lora_target_modules \"proj\" names no linear layer");
    CHECK_ERR(engine_open(&e, "ref", "--lora_adapter /nowhere", 2, IDS, 1, &o, &err), &err, ERR_INPUT, "/nowhere");
}

/* ---- two models of the same files ---- */

static int add_logprob(struct graph *g, const struct opt_shape *s, const struct extents *x)
{
    return head_logprob(g, s, opt_trunk(g, s, x));
}

static const struct phase_program pair_programs[] = {
    { "a/", "train", true, EXTENTS_TRAIN, add_logprob },
    { "a/", "score", false, EXTENTS_SCORE, add_logprob },
    { "b/", "score", false, EXTENTS_SCORE, add_logprob },
    { 0 },
};
static const struct phase phase_pair = { .name = "pair", .programs = pair_programs };

static void plan_pair(void **test_state, struct plan *p, const char *words, bool trains, int files)
{
    struct technique_values values, frozen;
    struct engine e = engine_of(NULL);
    struct err err = { 0 };
    struct build b = { .phase = &phase_pair,
                       .models = { { "a/", e.shape, &values, 1, .assumed = true },
                                   { "b/", e.shape, &frozen, files, .assumed = true } },
                       .n_models = 2,
                       .micro_steps = 1,
                       .ranks = 1 };

    b.extents[EXTENTS_SCORE] = (struct extents){ .B = 1, .T = IDS };
    if (trains)
        b.extents[EXTENTS_TRAIN] = b.extents[EXTENTS_SCORE];
    CHECK_OK(engine_techniques(&values, words, &err), &err);
    frozen = values;
    technique_forget(&frozen);
    CHECK_OK(build_plan(&b, p, &err), &err);
    CHECK_OK(layout_assign(p, &err), &err);
}

TEST(weights_that_nobody_changes_are_there_once)
{
    static const struct {
        const char *words;
        bool trains;
        int files, n_shared; /* of 36 parameters */
    } cases[] = {
        { "", false, 1, 36 }, /* two judges of one file */
        { "", false, 2, 0 }, /* of two */
        { "", true, 1, 0 }, /* one of them learns */
        { "--lora_dim 2 --only_optimize_lora", true, 1, 36 },
        { "--lora_dim 2", true, 1, 12 },
        { "--lora_dim 2 --only_optimize_lora --dtype bf16", true, 1, 36 },
        { "--lora_dim 2 --map_frozen", true, 1, 12 },
        { "--map_frozen", false, 2, 0 },
    };

    for (int i = 0; i < COUNT_OF(cases); i++) {
        struct plan p;
        size_t bytes = 0, mapped = 0;
        int n = 0;
        plan_pair(test_state, &p, cases[i].words, cases[i].trains, cases[i].files);
        for (int k = 0; k < p.n_buffers; k++) {
            const struct buffer *b = &p.buffers[k];
            const bool shared =
                b->kind == KIND_PARAM && b->parent >= 0 && strncmp(p.buffers[b->parent].name, "flat/", 5);
            mapped += b->tier == TIER_MAPPED && b->parent < 0 ? b->bytes : 0;
            if (b->kind == KIND_PARAM && b->parent < 0 && b->tier != TIER_MAPPED)
                bytes += (b->bytes + 63) / 64 * 64;
            if (!shared)
                continue;
            CHECK_STR(b->model, "b/");
            CHECK_STR(b->name + 2, p.buffers[b->parent].name + 2);
            CHECK_EQ(b->offset, p.buffers[b->parent].offset);
            n++;
        }
        CHECK_EQ(n, cases[i].n_shared);
        CHECK_EQ(p.kind_bytes[KIND_PARAM], bytes);
        CHECK_EQ(p.tier_bytes[TIER_MAPPED], mapped);
        plan_free(&p);
    }
}

TEST_MAIN(CASE(gradients_are_finite_differences), CASE(no_gradient_below_what_learns),
          CASE(a_reward_head_learns_with_adapters_alone), CASE(what_names_nothing_is_refused),
          CASE(weights_that_nobody_changes_are_there_once))
