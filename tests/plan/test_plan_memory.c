/* What techniques promise about memory, as the plan tells it for opt-350m: who shrinks what, and by how much. */
#include "engine.h"
#include "plan/print.h"
#include "store/hf_config.h"

static bool no_files; /* of what is planned: else they are assumed to have what the plan wants */

static void plan_of(void **test_state, struct plan *p, const char *words, int ranks, const char *size)
{
    struct technique_values values;
    struct hf_config config;
    struct build b = { .phase = &phase_sft,
                       .models = { { .prefix = "", .techniques = &values, .assumed = !no_files } },
                       .n_models = 1,
                       .extents = { [EXTENTS_TRAIN] = { .B = 4, .T = 512, .times = 1 } },
                       .micro_steps = 1,
                       .ranks = ranks };
    struct err err = { 0 };
    struct backend backend;
    struct exec exec;
    struct comm comm;

    comm_alone(&comm);
    CHECK_OK(hf_config_named(&config, size, &err), &err);
    CHECK_OK(build_shape(&config, 0, &b.models[0].shape, &err), &err);
    CHECK_OK(engine_techniques(&values, words, &err), &err);
    CHECK_OK(build_plan(&b, p, &err), &err);
    CHECK_OK(backend_open(&backend, "cpu", 1, &err), &err);
    CHECK_OK(exec_prepare(&exec, p, &backend, &comm, &err), &err);
    exec_free(&exec);
    backend.close(&backend);
    hf_config_free(&config);
}

#define PARAMETERS 331196416.0

TEST(state_is_counted_to_the_parameter)
{
    struct plan p;

    plan_of(test_state, &p, "", 1, "opt-350m");
    CHECK_NEAR((double)p.kind_bytes[KIND_PARAM], 4 * PARAMETERS, 256);
    CHECK_NEAR((double)p.kind_bytes[KIND_GRAD], 4 * PARAMETERS, 256);
    CHECK_NEAR((double)p.kind_bytes[KIND_OPTIMIZER], 8 * PARAMETERS, 512);
    CHECK_EQ(p.kind_bytes[KIND_MASTER], 0);
    plan_free(&p);
    plan_of(test_state, &p, "--dtype bf16", 1, "opt-350m");
    CHECK_NEAR((double)p.kind_bytes[KIND_PARAM], 2 * PARAMETERS, 256);
    CHECK_NEAR((double)p.kind_bytes[KIND_GRAD], 2 * PARAMETERS, 256);
    CHECK_NEAR((double)p.kind_bytes[KIND_MASTER], 2 * PARAMETERS, 256);
    plan_free(&p);
}

TEST(zero_shards_state)
{
    struct plan p;

    plan_of(test_state, &p, "--zero_stage 1 --dtype bf16", 4, "opt-350m");
    CHECK_NEAR((double)p.kind_bytes[KIND_OPTIMIZER], 8 * PARAMETERS / 4, 512);
    CHECK_NEAR((double)p.kind_bytes[KIND_MASTER], 2 * PARAMETERS / 4, 512);
    CHECK_NEAR((double)p.kind_bytes[KIND_PARAM], 2 * PARAMETERS, 256);
    CHECK(p.kind_bytes[KIND_COMM] > 0 && p.kind_bytes[KIND_COMM] < (size_t)64 << 20);
    const struct op_cost c = cost_update(&p);
    CHECK_NEAR(c.comm_bytes, 2 * 2 * PARAMETERS * 3 / 4, 1e4); /* as much as one all-reduce */
    plan_free(&p);
}

#define SMALL 319488.0 /* biases and norms: whole on every rank in stage 3 */
#define GATHERED_ONCE                                                                                                  \
    (2099200.0 + 524288) /* positions: their backward pass reads no weights; project_out: stays for it */

/* Bytes of the kinds that a stage shards, as the paper's table 1 has them, of each of R ranks; and what it sends. */
TEST(stages_of_zero_take_what_their_formulas_say)
{
    for (int ranks = 1; ranks <= 4; ranks++)
        for (int stage = 1; stage <= 3; stage++) {
            const double R = ranks, all = PARAMETERS;
            const double param = stage >= 3 ? (all - SMALL) / R + SMALL : all, grad = stage >= 2 ? all / R : all;
            const double sent = stage >= 3 ? 3 * all - GATHERED_ONCE - SMALL : 2 * all;
            char words[64];
            struct plan p;

            snprintf(words, sizeof words, "--dtype bf16%s%.0d", ranks > 1 ? " --zero_stage " : "",
                     ranks > 1 ? stage : 0);
            plan_of(test_state, &p, words, ranks, "opt-350m");
            CHECK_NEAR((double)p.kind_bytes[KIND_PARAM], 2 * param, 2e4);
            CHECK_NEAR((double)p.kind_bytes[KIND_GRAD], 2 * grad, 2e4);
            CHECK_NEAR((double)p.kind_bytes[KIND_MASTER], 2 * all / R, 2e4);
            CHECK_NEAR((double)p.kind_bytes[KIND_OPTIMIZER], 8 * all / R, 2e4);
            CHECK_NEAR(cost_update(&p).comm_bytes, 2 * sent * (R - 1) / R, 1e4);
            plan_free(&p);
        }
}

/* Of all weights only a layer's and the embedding's are whole at once. */
TEST(zero_3_frees_weights_as_it_goes)
{
    struct plan two, three;

    plan_of(test_state, &two, "--zero_stage 2", 2, "opt-350m");
    plan_of(test_state, &three, "--zero_stage 3", 2, "opt-350m");
    const double less = (double)two.tier_bytes[TIER_DEVICE] - (double)three.tier_bytes[TIER_DEVICE];
    CHECK(less > 4 * PARAMETERS / 2 - 4 * 50272 * 512 - 4 * 12596224);
    plan_free(&two);
    plan_free(&three);
}

/* Of all gradients only a layer's and the embedding's live at once, where without ZeRO-2 all do. */
TEST(zero_2_frees_gradients_as_it_goes)
{
    struct plan one, two;

    plan_of(test_state, &one, "--zero_stage 1", 2, "opt-350m");
    plan_of(test_state, &two, "--zero_stage 2", 2, "opt-350m");
    const double less = (double)one.tier_bytes[TIER_DEVICE] - (double)two.tier_bytes[TIER_DEVICE];
    CHECK(less > 4 * PARAMETERS / 2 - 4 * 50272 * 512 - 2 * 4 * 12596224);
    plan_free(&one);
    plan_free(&two);
}

/* A byte for each moment and 1/64 of one for its scale; biases and norms, 0.08 % of the weights, stay in fp32. */
TEST(moments_in_8_bits_are_counted_with_their_scales)
{
    struct plan p;

    plan_of(test_state, &p, "--optimizer_bits 8", 1, "opt-350m");
    CHECK_NEAR((double)p.kind_bytes[KIND_OPTIMIZER] / PARAMETERS, 2.03125, 0.006);
    CHECK_NEAR((double)p.kind_bytes[KIND_PARAM], 4 * PARAMETERS, 256);
    plan_free(&p);
    plan_of(test_state, &p, "--optimizer_bits 8 --zero_stage 1 --dtype bf16", 3, "opt-350m");
    CHECK_NEAR((double)p.kind_bytes[KIND_OPTIMIZER] / PARAMETERS, 2.03125 / 3, 0.002);
    for (int i = 0; i < p.programs[plan_find_program(&p, "", "update")].n_steps; i++) {
        const struct op_step *s = &p.programs[plan_find_program(&p, "", "update")].steps[i];
        if (s->op == OP_ADAMW8)
            CHECK_EQ(p.buffers[s->out[4]].count, (s->attrs.count + STATE_BLOCK - 1) / STATE_BLOCK);
    }
    plan_free(&p);
}

/* State in files: none of it in memory but for what is being moved, which lies where activations do. */
TEST(offload_takes_state_out_of_memory)
{
    struct plan plain, p;

    plan_of(test_state, &plain, "--dtype bf16", 1, "opt-350m");
    plan_of(test_state, &p, "--dtype bf16 --offload", 1, "opt-350m");
    CHECK_EQ(p.kind_bytes[KIND_OPTIMIZER] + p.kind_bytes[KIND_MASTER], 0);
    CHECK_NEAR((double)p.tier_bytes[TIER_FILE], 10 * PARAMETERS, 6 * PLAN_FILE_BLOCK);
    CHECK_NEAR((double)p.tier_bytes[TIER_DEVICE], (double)plain.tier_bytes[TIER_DEVICE] - 10 * PARAMETERS,
               2 * PLAN_FILE_BLOCK);
    CHECK_EQ(plain.tier_bytes[TIER_FILE], 0);
    CHECK_NEAR(cost_update(&p).file_bytes, 2 * 10 * PARAMETERS, 1e4);
    CHECK_NEAR(cost_update(&plain).file_bytes, 0, 0);
    plan_free(&p);
    plan_free(&plain);
    plan_of(test_state, &p, "--offload --zero_stage 1 --optimizer_bits 8", 4, "opt-350m");
    CHECK_EQ(p.kind_bytes[KIND_OPTIMIZER], 0);
    CHECK_NEAR((double)p.tier_bytes[TIER_FILE] / PARAMETERS, 2.03125 / 4, 0.002);
    plan_free(&p);
    plan_of(test_state, &p, "--offload --dtype bf16", 8, "opt-66b"); /* pieces of a large model are larger, not more */
    CHECK(p.programs[plan_find_program(&p, "", "update")].n_steps < 100000);
    plan_free(&p);
}

/* Weights that learn, too: what stays are the gradients, biases and norms. */
TEST(weights_in_files_leave_the_gradients)
{
    struct plan state, p;

    plan_of(test_state, &state, "--offload", 1, "opt-350m");
    plan_of(test_state, &p, "--offload --offload_params", 1, "opt-350m");
    CHECK(p.kind_bytes[KIND_PARAM] < (size_t)2 << 20);
    CHECK_NEAR((double)p.kind_bytes[KIND_GRAD], 4 * PARAMETERS, 256);
    CHECK_NEAR((double)p.tier_bytes[TIER_FILE], 12 * PARAMETERS, 4e6);
    CHECK(p.tier_bytes[TIER_DEVICE] < state.tier_bytes[TIER_DEVICE] - ((size_t)1 << 30));
    plan_free(&p);
    plan_free(&state);
}

/* Bytes of memory, and in files, of a reward model that only scores. */
static size_t frozen_bytes(void **test_state, const char *words, size_t *in_files)
{
    struct technique_values values;
    struct hf_config config;
    struct build b = { .phase = &phase_reward,
                       .models = { { .prefix = "", .techniques = &values } },
                       .n_models = 1,
                       .extents = { [EXTENTS_SCORE] = { .B = 1, .T = 128 } },
                       .micro_steps = 1,
                       .ranks = 1 };
    struct err err = { 0 };
    struct plan p;

    CHECK_OK(hf_config_named(&config, "opt-350m", &err), &err);
    CHECK_OK(build_shape(&config, 0, &b.models[0].shape, &err), &err);
    CHECK_OK(engine_techniques(&values, words, &err), &err);
    CHECK_OK(build_plan(&b, &p, &err), &err);
    CHECK_OK(layout_assign(&p, &err), &err);
    const size_t bytes = p.tier_bytes[TIER_DEVICE];
    *in_files = p.tier_bytes[TIER_FILE];
    plan_free(&p);
    hf_config_free(&config);
    return bytes;
}

/* It keeps biases and norms, and of its matrices those that are being read: a layer's, and the embedding. */
TEST(weights_in_files_leave_a_layer_in_memory)
{
    size_t in_files, none;
    const size_t plain = frozen_bytes(test_state, "", &none);
    const size_t bytes = frozen_bytes(test_state, "--offload_params", &in_files);

    CHECK_EQ(none, 0);
    CHECK_NEAR((double)in_files, 4 * PARAMETERS, 2e6);
    CHECK((double)plain > 4 * PARAMETERS);
    CHECK(bytes < (size_t)280 << 20);
}

/* What does not learn is in no rank's memory, however the rest of it is cut; or it is where it was. */
TEST(mapped_weights_are_not_in_memory)
{
    static const struct {
        const char *words, *map;
        int ranks;
        double size; /* of a weight */
    } cases[] = {
        { "--lora_dim 8 --only_optimize_lora", "--map_frozen", 1, 4 },
        { "--lora_dim 8 --only_optimize_lora --dtype bf16", "--map_frozen", 2, 2 },
        { "--lora_dim 8 --only_optimize_lora", "--map_frozen --zero_stage 3", 4, 4 },
        { "--lora_dim 8 --only_optimize_lora", "--map_frozen --offload --offload_params", 1, 4 },
    };
    char words[256];

    for (int i = 0; i < COUNT_OF(cases); i++) {
        struct plan plain, p;
        snprintf(words, sizeof words, "%s %s", cases[i].words, cases[i].map);
        plan_of(test_state, &plain, cases[i].words, cases[i].ranks, "opt-350m");
        plan_of(test_state, &p, words, cases[i].ranks, "opt-350m");
        CHECK_EQ(plain.tier_bytes[TIER_MAPPED], 0);
        CHECK_NEAR((double)p.tier_bytes[TIER_MAPPED], cases[i].size * PARAMETERS, 0);
        CHECK(p.kind_bytes[KIND_PARAM] < (size_t)32 << 20);
        CHECK(p.tier_bytes[TIER_DEVICE] <= plain.tier_bytes[TIER_DEVICE] - p.tier_bytes[TIER_MAPPED]);
        CHECK(p.tier_bytes[TIER_FILE] < (size_t)100 << 20);
        CHECK_EQ(p.unmapped_bytes, 0);
        plan_free(&p);
        no_files = true;
        plan_of(test_state, &p, words, cases[i].ranks, "opt-350m");
        CHECK_EQ(p.tier_bytes[TIER_MAPPED], 0);
        CHECK_NEAR((double)p.unmapped_bytes, cases[i].size * PARAMETERS, 0);
        no_files = false;
        plan_free(&p);
        plan_free(&plain);
    }
}

/* K = 128 beside all linear layers: 56,623,104 numbers; what is frozen has weights and nothing else. */
TEST(adapters_are_all_that_has_state)
{
    const double adapters = 56623104, rest = 85829632 - adapters;
    struct plan p;

    plan_of(test_state, &p, "--lora_dim 128 --only_optimize_lora", 1, "opt-350m");
    CHECK_NEAR((double)p.kind_bytes[KIND_PARAM], 4 * (PARAMETERS + adapters), 64 * 400);
    CHECK_NEAR((double)p.kind_bytes[KIND_GRAD], 4 * adapters, 256);
    CHECK_NEAR((double)p.kind_bytes[KIND_OPTIMIZER], 8 * adapters, 512);
    plan_free(&p);
    plan_of(test_state, &p, "--lora_dim 128 --dtype bf16 --zero_stage 1", 2, "opt-350m");
    CHECK_NEAR((double)p.kind_bytes[KIND_PARAM], 2 * (PARAMETERS + adapters), 64 * 400);
    CHECK_NEAR((double)p.kind_bytes[KIND_MASTER], 2 * (adapters + rest) / 2, 512);
    CHECK_NEAR((double)p.kind_bytes[KIND_GRAD], 2 * (adapters + rest), 512);
    plan_free(&p);
}

/* Each technique alone lowers what it is for, against the plain plan. */
TEST(each_technique_lowers_what_it_is_for)
{
    static const char *const plain_words =
        "--no-flash_attention --no-chunked_loss --no-fused_kernels --no-recompute_norms ";
    static const char *const on[] = { "--flash_attention", "--chunked_loss", "--gradient_checkpointing",
                                      "--recompute_norms", "--dtype bf16",   "--activation_compression" };
    struct plan plain, p;
    char words[256];

    plan_of(test_state, &plain, plain_words, 1, "opt-350m");
    for (int i = 0; i < COUNT_OF(on); i++) {
        snprintf(words, sizeof words, "%s%s", plain_words, on[i]);
        plan_of(test_state, &p, words, 1, "opt-350m");
        if (p.kind_bytes[KIND_ACTIVATION] >= plain.kind_bytes[KIND_ACTIVATION])
            fail_msg("%s does not lower activations: %zu, without %zu", on[i], p.kind_bytes[KIND_ACTIVATION],
                     plain.kind_bytes[KIND_ACTIVATION]);
        plan_free(&p);
    }
    plan_of(test_state, &p, "--gradient_checkpointing", 1, "opt-350m");
    CHECK(p.kind_bytes[KIND_ACTIVATION] < (size_t)700 << 20);
    plan_free(&p);
    plan_free(&plain);
}

TEST(work_is_the_models)
{
    struct plan p;

    /* 657,555,456 flops a token forward and three times that with the backward pass, attention's own beside it. */
    plan_of(test_state, &p, "", 1, "opt-350m");
    CHECK_NEAR(cost_update(&p).flops / (3 * 657555456.0 * 2048), 1.04, 0.03);
    plan_free(&p);
}

TEST_MAIN(CASE(state_is_counted_to_the_parameter), CASE(zero_shards_state),
          CASE(stages_of_zero_take_what_their_formulas_say), CASE(zero_2_frees_gradients_as_it_goes),
          CASE(zero_3_frees_weights_as_it_goes), CASE(moments_in_8_bits_are_counted_with_their_scales),
          CASE(offload_takes_state_out_of_memory), CASE(weights_in_files_leave_a_layer_in_memory),
          CASE(weights_in_files_leave_the_gradients), CASE(each_technique_lowers_what_it_is_for),
          CASE(adapters_are_all_that_has_state), CASE(mapped_weights_are_not_in_memory), CASE(work_is_the_models))
