/* Seconds and joules of plans: what is more work, or a slower machine, never takes less. */
#include "plan/predict.h"

#include <math.h>

#include "engine.h"

static const struct opt_shape shape = {
    .C = 64, .L = 2, .H = 4, .F = 256, .E = 64, .V = 512, .position_rows = 130, .norm_before = true, .final_norm = true
};

static void make_plan(struct plan *p, const char *words, int64_t B, int64_t T, int ranks)
{
    struct technique_values v;
    const struct build b = { .phase = &phase_sft,
                             .models = { { "", shape, &v } },
                             .n_models = 1,
                             .extents = { [EXTENTS_TRAIN] = { .B = B, .T = T, .times = 1 } },
                             .micro_steps = 1,
                             .ranks = ranks };
    struct err err = { 0 };
    void **test_state = NULL;

    CHECK_OK(engine_techniques(&v, words, &err), &err);
    CHECK_OK(build_plan(&b, p, &err), &err);
    cost_fill(p);
}

static struct prediction predicted(const struct profile *machine, const char *words, int64_t B, int64_t T, int ranks)
{
    struct plan p;
    struct predictor m;
    struct err err = { 0 };
    void **test_state = NULL;

    make_plan(&p, words, B, T, ranks);
    CHECK_OK(predict_open(&m, machine, ranks, ranks, 0, &err), &err);
    const struct prediction out = predict_update(&m, &p);
    predict_close(&m);
    plan_free(&p);
    return out;
}

TEST(more_work_takes_longer)
{
    const struct profile *m = profile_find("h100-sxm");

    CHECK(predicted(m, "", 4, 64, 1).seconds > predicted(m, "", 2, 64, 1).seconds);
    CHECK(predicted(m, "", 2, 128, 1).seconds > predicted(m, "", 2, 64, 1).seconds);
    CHECK(predicted(m, "--gradient_checkpointing", 4, 64, 1).seconds > predicted(m, "", 4, 64, 1).seconds);
    CHECK(predicted(m, "", 4, 64, 1).joules > predicted(m, "", 2, 64, 1).joules);
}

TEST(a_better_machine_is_never_slower)
{
    static const enum profile_figure rates[] = { PROFILE_FP32_FLOPS,        PROFILE_BF16_FLOPS,
                                                 PROFILE_BANDWIDTH,         PROFILE_LINK_BANDWIDTH,
                                                 PROFILE_MATMUL_EFFICIENCY, PROFILE_ATTENTION_EFFICIENCY,
                                                 PROFILE_OTHER_EFFICIENCY,  PROFILE_NETWORK_BANDWIDTH };
    const struct profile *m = profile_find("laptop");

    for (int ranks = 1; ranks <= 2; ranks++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            const char *words = bf16 ? "--dtype bf16" : "";
            const double before = predicted(m, words, 4, 64, ranks).seconds;
            for (int i = 0; i < COUNT_OF(rates); i++) {
                struct profile better = *m;
                better.figures[rates[i]].value *= 2;
                const double now = predicted(&better, words, 4, 64, ranks).seconds;
                CHECK(now <= before);
                CHECK(rates[i] != PROFILE_BANDWIDTH || now < 0.99 * before);
            }
            struct profile slower = *m;
            slower.figures[PROFILE_OP_OVERHEAD].value *= 2;
            CHECK(predicted(&slower, words, 4, 64, ranks).seconds > before);
        }
}

TEST(ranks_talk_and_share)
{
    const struct profile *own = profile_find("h100-sxm"), *shared = profile_find("laptop");

    CHECK(predicted(own, "", 4, 64, 1).communication_s == 0);
    CHECK(predicted(own, "", 4, 64, 2).communication_s > 0);
    CHECK(predicted(own, "", 4, 64, 16).communication_s > predicted(own, "", 4, 64, 8).communication_s); /* network */
    const double alone = predicted(shared, "", 4, 64, 1).seconds;
    CHECK(predicted(shared, "", 4, 64, 2).seconds > alone);
    CHECK(predicted(own, "", 4, 64, 2).joules > 1.9 * predicted(own, "", 4, 64, 1).joules); /* two devices */
}

/* What was measured by some threads, or by two ranks with a thread each, is predicted of just those. */
TEST(threads_are_those_that_were_measured)
{
    struct profile_sample samples[] = { { OP_LINEAR, PROFILE_FP32, 1, 1e9, 1e7, 0.02, 1 },
                                        { OP_LINEAR, PROFILE_FP32, 2, 1e9, 1e7, 0.03, 1 } };
    const int64_t peaks_by[] = { 1, 2 };
    struct err err = { 0 };

    for (int i = 0; i < COUNT_OF(peaks_by); i++)
        for (int ranks = 1; ranks <= 2; ranks++) {
            struct profile m = *profile_find("laptop");
            struct predictor with;
            struct prediction out = { 0 };
            struct plan p = { 0 };
            m.cpus = 2;
            m.threads = peaks_by[i];
            m.samples = samples;
            m.n_samples = COUNT_OF(samples);
            plan_init(&p, 0, ranks);
            const struct shape x = shape_of(2, 500, 1000), w = shape_of(2, 1000, 1000);
            const int program = plan_add_program(&p, "", "eval", 1, 500, &err);
            struct op_step s = plan_step(OP_LINEAR, "model");
            s.in[0] = plan_add_buffer(&p, &(struct buffer){ .name = "x", .shape = x, .parent = -1 }, &err);
            s.in[1] = plan_add_buffer(&p, &(struct buffer){ .name = "w", .shape = w, .parent = -1 }, &err);
            s.out[0] = plan_add_buffer(&p, &(struct buffer){ .name = "y", .shape = x, .parent = -1 }, &err);
            CHECK_OK(plan_insert(&p, program, 0, &s, &err), &err);
            CHECK_OK(predict_open(&with, &m, ranks, ranks, 1, &err), &err);
            predict_program(&with, &p, 0, &(struct plan_extents){ 0 }, &out);
            CHECK_NEAR(out.seconds, ranks == 1 ? 0.02 : 0.03, 0.001);
            predict_close(&with);
            plan_free(&p);
        }
}

TEST(energy_is_static_power_and_work)
{
    struct profile m = *profile_find("laptop");

    m.figures[PROFILE_DYNAMIC_POWER].value = 0;
    const struct prediction idle = predicted(&m, "", 4, 64, 1);
    CHECK_NEAR(idle.joules, m.figures[PROFILE_STATIC_POWER].value * idle.seconds, 1e-9);
    m.figures[PROFILE_DYNAMIC_POWER].value = 10;
    const struct prediction busy = predicted(&m, "", 4, 64, 1);
    CHECK_NEAR(busy.joules, idle.joules + 10 * busy.busy_s, 1e-9);
    CHECK(busy.busy_s > 0 && busy.busy_s <= busy.seconds);
}

/* A sample of every op in the plan at its very size: the prediction is their sum. */
TEST(samples_are_believed)
{
    struct profile m = *profile_find("laptop");
    struct profile_sample samples[512];
    struct plan p;
    double sum = 0;

    make_plan(&p, "--dtype bf16", 4, 64, 1);
    for (int g = 0; g < p.n_programs; g++)
        for (int i = 0; i < p.programs[g].n_steps; i++) {
            const struct op_step *s = &p.programs[g].steps[i];
            if (op_is_collective(s->op))
                continue;
            int k = 0;
            while (k < m.n_samples && (samples[k].op != (int)s->op || samples[k].flops != s->cost.flops ||
                                       samples[k].bytes != fmax(s->cost.bytes_moved, 1)))
                k++;
            if (k == m.n_samples)
                samples[m.n_samples++] = (struct profile_sample){ (int)s->op,
                                                                  (int)predict_type(&p, s),
                                                                  1,
                                                                  s->cost.flops,
                                                                  fmax(s->cost.bytes_moved, 1),
                                                                  1e-4 * (k + 1),
                                                                  0 };
            sum += samples[k].seconds;
        }
    m.samples = samples;
    plan_free(&p);
    CHECK_NEAR(predicted(&m, "--dtype bf16", 4, 64, 1).seconds / sum, 1, 0.05);
}

TEST(between_samples_is_between)
{
    struct profile m = *profile_find("laptop");
    struct profile_sample samples[] = { { OP_ADD, PROFILE_FP32, 1, 0, 1e4, 2e-5, 0 },
                                        { OP_ADD, PROFILE_FP32, 1, 0, 1e8, 1e-2, 0 } };
    struct plan p;
    struct predictor with;
    struct err err = { 0 };

    m.samples = samples;
    m.n_samples = 2;
    CHECK_OK(predict_open(&with, &m, 1, 1, 0, &err), &err);
    CHECK_EQ(with.first[OP_ADD + 1] - with.first[OP_ADD], 2);
    CHECK_EQ(with.first[OP_N], 2);
    double last = 0;
    for (int64_t rows = 1; rows <= 64; rows *= 2) { /* adds alone grow with the rows */
        struct prediction out = { 0 };
        make_plan(&p, "", rows, 64, 1);
        predict_program(&with, &p, 0, &(struct plan_extents){ 0 }, &out);
        plan_free(&p);
        CHECK(out.seconds > last);
        last = out.seconds;
    }
    predict_close(&with);
}

TEST(fewer_tokens_take_less)
{
    const struct profile *m = profile_find("laptop");
    struct prediction whole = { 0 }, half = { 0 }, planned = { 0 };
    struct predictor with;
    struct plan p, small;
    struct err err = { 0 };

    make_plan(&p, "", 4, 64, 1);
    make_plan(&small, "", 2, 32, 1);
    CHECK_OK(predict_open(&with, m, 1, 1, 0, &err), &err);
    predict_program(&with, &p, 0, &(struct plan_extents){ 4, 64, 0 }, &whole);
    predict_program(&with, &p, 0, &(struct plan_extents){ 2, 32, 0 }, &half);
    predict_program(&with, &small, 0, &(struct plan_extents){ 0 }, &planned);
    CHECK(half.seconds < whole.seconds);
    CHECK_NEAR(half.flops / planned.flops, 1, 1e-9); /* the same as a plan of those extents */
    CHECK_NEAR(half.bytes_moved / planned.bytes_moved, 1, 0.02);
    predict_close(&with);
    plan_free(&p);
    plan_free(&small);
}

/* Packed rows count as they are, whatever was planned; attention apart, as a plan of so many places. */
TEST(padding_takes_nothing_where_it_is_removed)
{
    const struct profile *m = profile_find("laptop");
    struct prediction whole = { 0 }, live = { 0 }, small = { 0 };
    struct predictor with;
    struct plan p, fewer;
    struct err err = { 0 };

    CHECK_OK(predict_open(&with, m, 1, 1, 0, &err), &err);
    make_plan(&p, "--remove_padding", 4, 64, 1);
    make_plan(&fewer, "--remove_padding", 4, 24, 1);
    predict_program(&with, &p, 0, &(struct plan_extents){ 4, 64, 0 }, &whole);
    predict_program(&with, &p, 0, &(struct plan_extents){ 4, 64, 96 }, &live);
    predict_program(&with, &fewer, 0, &(struct plan_extents){ 0 }, &small);
    CHECK(live.seconds < 0.7 * whole.seconds);
    CHECK_NEAR(live.flops / small.flops, 1, 1e-9);
    CHECK_NEAR(live.bytes_moved / small.bytes_moved, 1, 0.02);
    plan_free(&p);
    p = (struct plan){ 0 };
    make_plan(&p, "", 4, 64, 1); /* nothing is packed: padding is worked on */
    struct prediction padded = { 0 }, same = { 0 };
    predict_program(&with, &p, 0, &(struct plan_extents){ 4, 64, 96 }, &padded);
    predict_program(&with, &p, 0, &(struct plan_extents){ 0 }, &same);
    CHECK(padded.seconds == same.seconds);
    p.programs[0].usual = (struct plan_extents){ 2, 32, 0 }; /* an update is predicted as it usually is */
    CHECK(predict_update(&with, &p).flops < 0.6 * same.flops);
    predict_close(&with);
    plan_free(&p);
    plan_free(&fewer);
}

TEST_MAIN(CASE(more_work_takes_longer), CASE(a_better_machine_is_never_slower), CASE(ranks_talk_and_share),
          CASE(threads_are_those_that_were_measured), CASE(energy_is_static_power_and_work), CASE(samples_are_believed),
          CASE(between_samples_is_between), CASE(fewer_tokens_take_less),
          CASE(padding_takes_nothing_where_it_is_removed))
