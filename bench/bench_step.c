/* One training step of an OPT of any size, whole: forward, backward, norm, clipping, AdamW, on random weights and ids, of
 * phase 1 or 2; a pair of phase 2 is two rows that part half way. Prints seconds, tokens/s, GFLOP/s and the time by op; --json
 * prints one line for bench/compare_pytorch. */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/rng.h"
#include "exec/exec.h"
#include "measure/memory.h"
#include "phases/reward.h"
#include "phases/sft.h"
#include "phases/trainer.h"
#include "plan/print.h"
#include "run/build.h"

static struct step_options {
    const char *size;
    int64_t rows, ids, steps, warmup, threads;
    int phase;
    bool json;
} options;

enum { PHASE_SFT, PHASE_REWARD };

static const struct option table[] = {
    { .name = "phase",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct step_options, phase),
      .fallback = "sft",
      .choices = "sft|reward",
      .help = "whose step" },
    { .name = "size",
      .type = OPTION_STRING,
      .offset = offsetof(struct step_options, size),
      .fallback = "opt-350m",
      .value = "SIZE",
      .help = "opt-125m, opt-350m, ..." },
    { .name = "rows",
      .type = OPTION_INT,
      .offset = offsetof(struct step_options, rows),
      .fallback = "4",
      .min = 1,
      .max = 4096,
      .value = "N",
      .help = "rows of a batch; pairs with --phase reward" },
    { .name = "ids",
      .type = OPTION_INT,
      .offset = offsetof(struct step_options, ids),
      .fallback = "512",
      .min = 2,
      .max = 2048,
      .value = "N",
      .help = "ids of a row" },
    { .name = "steps",
      .type = OPTION_INT,
      .offset = offsetof(struct step_options, steps),
      .fallback = "3",
      .min = 1,
      .max = 1000,
      .value = "N",
      .help = "steps that are timed" },
    { .name = "warmup",
      .type = OPTION_INT,
      .offset = offsetof(struct step_options, warmup),
      .fallback = "1",
      .min = 0,
      .max = 1000,
      .value = "N",
      .help = "steps before them" },
    { .name = "threads",
      .type = OPTION_INT,
      .offset = offsetof(struct step_options, threads),
      .fallback = "0",
      .min = 0,
      .max = 1024,
      .value = "N",
      .help = "threads; 0: all cores" },
    { .name = "json", .type = OPTION_FLAG, .offset = offsetof(struct step_options, json), .help = "one line of JSON" },
    { 0 },
};

struct step_bench {
    struct plan plan;
    struct backend backend;
    struct comm comm;
    struct exec exec;
    struct sft sft;
    struct reward reward;
    struct trainer trainer;
    struct batch batch;
    double op_seconds[OP_N];
};

static int64_t batch_rows(void)
{
    return options.phase == PHASE_REWARD ? 2 * options.rows : options.rows;
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void note_op(void *context, const struct program *program, const struct op_step *s, double seconds)
{
    (void)program;
    ((double *)context)[s->op] += seconds;
}

static void fill_weights(struct step_bench *b)
{
    for (int i = 0; i < b->plan.n_buffers; i++) {
        const struct buffer *p = &b->plan.buffers[i];
        void *x = exec_address(&b->exec, i);
        const bool norm = strstr(p->name, "norm.weight") != NULL;
        if (p->kind != KIND_PARAM || strncmp(p->name, "flat/", 5) == 0)
            continue;
#pragma omp parallel for schedule(static)
        for (int64_t k = 0; k < p->count; k++) {
            const struct rng_block r = rng_philox((uint32_t)i, RNG_INIT, (uint32_t)k, (uint32_t)(k >> 32), 0, 0);
            const float v = norm ? 1.0f : 0.02f * ((float)r.v[0] * 0x1p-31f - 1.0f);
            if (p->dtype == BF16)
                ((uint16_t *)x)[k] = bf16_from_f32(v);
            else
                ((float *)x)[k] = v;
        }
    }
}

static int fill_batch(struct step_bench *b, int64_t V, struct err *err)
{
    const int64_t B = batch_rows(), T = options.ids;
    int32_t *ids = mem_array(B, 3 * T + 2, sizeof *ids, MEM_BATCH, err);
    struct rng rng = { .seed = 1, .purpose = RNG_TASK };

    if (!ids)
        return -1;
    b->batch = (struct batch){ .B = B,
                               .T = T,
                               .ids = ids,
                               .positions = ids + B * T,
                               .targets = ids + 2 * B * T,
                               .spans = ids + 3 * B * T,
                               .n_targets = B * (T - 1),
                               .n_tokens = B * T };
    for (int64_t i = 0; i < B * T; i++) {
        b->batch.ids[i] = (int32_t)rng_below(&rng, (uint32_t)V);
        b->batch.positions[i] = (int32_t)(i % T) + 2;
    }
    for (int64_t r = options.rows; r < B; r++)
        memcpy(ids + r * T, ids + (r - options.rows) * T, (size_t)(T / 2) * sizeof *ids);
    for (int64_t i = 0; i < B * T; i++)
        b->batch.targets[i] = i % T + 1 < T ? b->batch.ids[i + 1] : -100;
    for (int64_t r = 0; r < B; r++) {
        b->batch.spans[2 * r] = 0;
        b->batch.spans[2 * r + 1] = (int32_t)T;
    }
    return 0;
}

static int open_bench(struct step_bench *b, const struct technique_values *techniques_on, struct err *err)
{
    const struct trainer_options o = {
        .learning_rate = 1e-5, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .clip = 1, .schedule = SCHEDULE_CONSTANT
    };
    struct build build = { .phase = options.phase == PHASE_REWARD ? &phase_reward : &phase_sft,
                           .models = { { .prefix = "", .techniques = techniques_on } },
                           .n_models = 1,
                           .extents = { [EXTENTS_TRAIN] = { .B = batch_rows(), .T = options.ids, .times = 1 } },
                           .micro_steps = 1,
                           .ranks = 1 };
    struct hf_config config = { 0 };
    const int threads = options.threads > 0 ? (int)options.threads : omp_get_num_procs();

    comm_alone(&b->comm);
    if (hf_config_named(&config, options.size, err) != 0 || build_shape(&config, 0, &build.models[0].shape, err) != 0 ||
        build_plan(&build, &b->plan, err) != 0 || backend_open(&b->backend, "cpu", threads, err) != 0 ||
        exec_prepare(&b->exec, &b->plan, &b->backend, &b->comm, err) != 0 || exec_allocate(&b->exec, err) != 0 ||
        fill_batch(b, config.vocab_size, err) != 0)
        return -1;
    fill_weights(b);
    if (options.phase == PHASE_REWARD)
        reward_init(&b->reward, &b->exec, &(struct reward_options){ .loss = REWARD_MASKED });
    else
        sft_init(&b->sft, &b->exec);
    trainer_init(&b->trainer, &b->exec, "", &o);
    hf_config_free(&config);
    return 0;
}

static int one_step(struct step_bench *b, double *seconds, struct err *err)
{
    struct run_context c = { .row_step = 1, .first_micro = true };
    const double start_s = now_s();
    double loss, norm, rate;

    if ((options.phase == PHASE_REWARD ? reward_micro_step(&b->reward, &b->batch, &c, &loss, err)
                                       : sft_micro_step(&b->sft, &b->batch, &c, &loss, err)) != 0 ||
        trainer_step(&b->trainer, &c, &norm, &rate, err) != 0)
        return -1;
    *seconds = now_s() - start_s;
    return 0;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void print(const struct step_bench *b, double *seconds)
{
    const struct op_cost cost = cost_update(&b->plan);
    struct memory_reading memory = { 0 };
    double all = 0, matmul = 0, matmul_flops = 0;
    struct err err;

    qsort(seconds, (size_t)options.steps, sizeof *seconds, by_size);
    const double median = seconds[options.steps / 2];
    const double rate = (double)(batch_rows() * options.ids) / median;
    if (memory_self(&memory, &err) != 0)
        memory.anon_bytes = -1;
    for (int i = 0; i < OP_N; i++) {
        all += b->op_seconds[i];
        matmul += op_rule((enum op)i)->matmul ? b->op_seconds[i] : 0;
    }
    for (int g = 0; g < b->plan.n_programs; g++)
        for (int i = 0; i < b->plan.programs[g].n_steps; i++)
            if (op_rule(b->plan.programs[g].steps[i].op)->matmul)
                matmul_flops += b->plan.programs[g].steps[i].cost.flops;
    if (options.json) {
        printf("{\"seconds\": %.4f, \"tokens_per_second\": %.2f, \"gflops\": %.2f, \"matmul_share\": %.4f, "
               "\"matmul_gflops\": %.2f, \"peak_bytes\": %" PRId64 ", \"planned_bytes\": %zu}\n",
               median, rate, cost.flops / median * 1e-9, matmul / all,
               matmul_flops * (double)options.steps / matmul * 1e-9, memory.anon_bytes, b->exec.block_bytes);
        return;
    }
    printf("%s, %" PRId64 " x %" PRId64 " ids, %s\n", options.size, batch_rows(), options.ids, b->backend.describe);
    printf("median of %" PRId64
           ": %.3f s a step, %.1f tokens/s, %.1f GFLOP/s; memory %.2f GB planned, %.2f GB measured\n",
           options.steps, median, rate, cost.flops / median * 1e-9, (double)b->exec.block_bytes * 1e-9,
           (double)memory.anon_bytes * 1e-9);
    for (int i = 0; i < OP_N; i++)
        if (b->op_seconds[i] > 0)
            printf("  %-22s %9.3f s %5.1f %%\n", op_rule((enum op)i)->name, b->op_seconds[i] / (double)options.steps,
                   100 * b->op_seconds[i] / all);
    printf("matrix products: %.1f %% of the step, at %.1f GFLOP/s\n", 100 * matmul / all,
           matmul_flops * (double)options.steps / matmul * 1e-9);
}

int main(int argc, char **argv)
{
    struct option_set sets[1 + TECHNIQUES_MAX] = { { .title = "Bench", .options = table, .values = &options } };
    struct technique_values on;
    struct option_given given[64];
    struct step_bench b = { 0 };
    struct err err = { 0 };
    const char *words[1];
    int n_given, n_words;
    const int n = 1 + technique_sets(&sets[1], &on);

    option_defaults(sets, n);
    int result = option_parse(sets, n, argc, argv, given, 64, &n_given, words, 0, &n_words, &err);
    double *seconds = mem_array(options.steps, 1, sizeof *seconds, MEM_OTHER, &err);
    if (result == 0)
        result = seconds ? open_bench(&b, &on, &err) : -1;
    for (int64_t i = 0; result == 0 && i < options.warmup + options.steps; i++) {
        double ignored;
        if (i == options.warmup) {
            b.exec.hook = note_op;
            b.exec.hook_context = b.op_seconds;
        }
        result = one_step(&b, i < options.warmup ? &ignored : &seconds[i - options.warmup], &err);
    }
    if (result == 0)
        print(&b, seconds);
    else
        fprintf(stderr, "bench_step: %s (%s). %s\n", err.what, err.where, err.hint);
    mem_free(seconds);
    mem_free(b.batch.ids);
    exec_free(&b.exec);
    plan_free(&b.plan);
    if (b.backend.close)
        b.backend.close(&b.backend);
    return result == 0 ? 0 : 1;
}
