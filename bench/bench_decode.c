/* What a step of decoding reaches: one id a row through an OPT of any size, random weights, caches filled to a given length.
 * Prints milliseconds a step, tokens/s and the weights' GB/s for batches of 1, 2, 4 and 8 rows, with our products of few rows
 * and with the vendor library's (with --int8_generation ours again), beside what plain reading of the same weights gives;
 * then the time by op.
 *
 *     bench_decode --dtype bf16 --context 384 --rounds 9
 *
 * All are taken in turn, round after round, and medians are shown: a neighbour's load then falls on all alike. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <omp.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/narrow.h"
#include "base/mem.h"
#include "base/rng.h"
#include "exec/exec.h"
#include "run/build.h"

#define ROUNDS_MAX 99
#define BATCHES 4

static const int64_t batches[BATCHES] = { 1, 2, 4, 8 };

static struct decode_options {
    const char *size;
    int64_t context, rounds, threads;
} options;

static const struct option table[] = {
    { .name = "size",
      .type = OPTION_STRING,
      .offset = offsetof(struct decode_options, size),
      .fallback = "opt-350m",
      .value = "SIZE",
      .help = "opt-125m, opt-350m, ..." },
    { .name = "context",
      .type = OPTION_INT,
      .offset = offsetof(struct decode_options, context),
      .fallback = "384",
      .min = 1,
      .max = 2048,
      .value = "N",
      .help = "ids that a row sees, the new one among them" },
    { .name = "rounds",
      .type = OPTION_INT,
      .offset = offsetof(struct decode_options, rounds),
      .fallback = "9",
      .min = 1,
      .max = ROUNDS_MAX,
      .value = "N",
      .help = "steps of each kind" },
    { .name = "threads",
      .type = OPTION_INT,
      .offset = offsetof(struct decode_options, threads),
      .fallback = "0",
      .min = 0,
      .max = 1024,
      .value = "N",
      .help = "0 = one a core" },
    { 0 },
};

struct decode_bench {
    struct plan plan;
    struct backend backend;
    struct comm comm;
    struct exec exec;
    size_t weight_bytes; /* read by a step */
    double read[ROUNDS_MAX], ours[BATCHES][ROUNDS_MAX], vendors[BATCHES][ROUNDS_MAX];
    double op_seconds[BATCHES][OP_N];
};

static const struct phase_program programs[] = { { "", "decode", false, EXTENTS_DECODE, opt_decode }, { 0 } };
static const struct phase phase_decode = { .name = "decode", .programs = programs };

/* On one thread, what the thread was given rather than what has passed: neighbours count less. */
static double now_s(void)
{
    struct timespec t;

    clock_gettime(options.threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void note_op(void *context, const struct program *program, const struct op_step *s, double seconds)
{
    (void)program;
    ((double *)context)[s->op] += seconds;
}

static void fill(struct decode_bench *b)
{
    for (int i = 0; i < b->plan.n_buffers; i++) {
        const struct buffer *p = &b->plan.buffers[i];
        void *x = exec_address(&b->exec, i);

        if ((p->kind != KIND_PARAM && p->kind != KIND_KV) || p->derived)
            continue;
#pragma omp parallel for schedule(static)
        for (int64_t k = 0; k < p->count; k++) {
            const struct rng_block r = rng_philox((uint32_t)i, RNG_INIT, (uint32_t)k, (uint32_t)(k >> 32), 0, 0);
            const float v = 0.02f * ((float)r.v[0] * 0x1p-31f - 1.0f);

            if (p->dtype == BF16)
                ((uint16_t *)x)[k] = bf16_from_f32(v);
            else
                ((float *)x)[k] = v;
        }
    }
}

/* What a step reads whole: not the embeddings that it looks rows up in, unless it multiplies with them too. */
static void count_weights(struct decode_bench *b)
{
    const struct program *decode = &b->plan.programs[0];

    for (int i = 0; i < decode->n_steps; i++)
        for (int k = 0; decode->steps[i].op != OP_EMBED && k < OP_MAX_IN; k++) {
            const int w = decode->steps[i].in[k];
            if (w >= 0 && b->plan.buffers[w].kind == KIND_PARAM)
                b->weight_bytes += b->plan.buffers[w].bytes;
        }
}

/* With --int8_generation: the copy of the weights that a step reads. */
static int quantize(struct decode_bench *b, struct err *err)
{
    const int program = plan_find_program(&b->plan, "", "quantize");
    const struct run_context c = { .B = 1, .T = 1, .row_step = 1 };
    const double start_s = now_s();

    if (program < 0)
        return 0;
    if (exec_run(&b->exec, program, &c, err) != 0)
        return -1;
    printf("weights to int8: %.0f ms\n", 1e3 * (now_s() - start_s));
    return 0;
}

static void set_inputs(struct decode_bench *b)
{
    int32_t *ids = exec_buffer(&b->exec, "ids"), *positions = exec_buffer(&b->exec, "positions");
    int32_t *spans = exec_buffer(&b->exec, "spans"), *at = exec_buffer(&b->exec, "at");

    for (int32_t r = 0; r < batches[BATCHES - 1]; r++) {
        ids[r] = 1000 * r + 3;
        at[r] = (int32_t)options.context - 1;
        positions[r] = at[r] + 2;
        spans[2 * r] = 0;
        spans[2 * r + 1] = (int32_t)options.context;
    }
}

/* Prepared for the vendor's products, whose scratch the plan must know; ours need less. */
static int open_bench(struct decode_bench *b, const struct technique_values *on, struct err *err)
{
    struct build build = {
        .phase = &phase_decode,
        .models = { { .prefix = "", .techniques = on } },
        .n_models = 1,
        .extents = { [EXTENTS_DECODE] = { .B = batches[BATCHES - 1], .T = 1, .S = options.context } },
        .micro_steps = 1,
        .ranks = 1,
    };
    struct hf_config config = { 0 };
    const int threads = options.threads > 0 ? (int)options.threads : omp_get_num_procs();

    comm_alone(&b->comm);
    if (hf_config_named(&config, options.size, err) != 0 || build_shape(&config, 0, &build.models[0].shape, err) != 0 ||
        build_plan(&build, &b->plan, err) != 0 || backend_open(&b->backend, "cpu", threads, err) != 0)
        return -1;
    hf_config_free(&config);
    cpu_of(&b->backend)->narrow_rows = 0;
    if (exec_prepare(&b->exec, &b->plan, &b->backend, &b->comm, err) != 0 || exec_allocate(&b->exec, err) != 0)
        return -1;
    fill(b);
    count_weights(b);
    set_inputs(b);
    return quantize(b, err);
}

static uint64_t sum_words(const uint64_t *x, int64_t n)
{
    uint64_t sum[8] = { 0 };

    for (int64_t i = 0; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            sum[k] ^= x[i + k];
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

static volatile uint64_t kept; /* so that reading is not for nothing */

/* Seconds to read what a step reads of weights. */
static double time_reading(const struct decode_bench *b)
{
    const double start_s = now_s();
    const int64_t n = (int64_t)(b->weight_bytes / 8), piece = 8192;
    uint64_t sum = 0;

#pragma omp parallel for schedule(dynamic) reduction(^ : sum) num_threads(b->backend.threads)
    for (int64_t i = 0; i < n; i += piece)
        sum ^= sum_words((const uint64_t *)(const void *)b->exec.block + i, n - i < piece ? n - i : piece);
    kept = sum;
    return now_s() - start_s;
}

static int time_step(struct decode_bench *b, int64_t rows, double *seconds, struct err *err)
{
    const struct run_context c = { .B = rows, .T = 1, .row_step = 1 };
    const double start_s = now_s();

    if (exec_run(&b->exec, 0, &c, err) != 0)
        return -1;
    *seconds = now_s() - start_s;
    return 0;
}

static int run_round(struct decode_bench *b, int round, struct err *err)
{
    struct cpu *cpu = cpu_of(&b->backend);

    b->read[round] = time_reading(b);
    for (int i = 0; i < BATCHES; i++) {
        cpu->narrow_rows = NARROW_ROWS;
        b->exec.hook = note_op;
        b->exec.hook_context = b->op_seconds[i];
        if (time_step(b, batches[i], &b->ours[i][round], err) != 0)
            return -1;
        cpu->narrow_rows = 0;
        b->exec.hook = NULL;
        if (time_step(b, batches[i], &b->vendors[i][round], err) != 0)
            return -1;
    }
    return 0;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *x)
{
    qsort(x, (size_t)options.rounds, sizeof *x, by_size);
    return x[options.rounds / 2];
}

static void print(struct decode_bench *b)
{
    const double gb = (double)b->weight_bytes * 1e-9, read = gb / median(b->read), best = gb / b->read[0];

    printf("%s, %" PRId64 " ids seen, %s; medians of %" PRId64 "\n", options.size, options.context, b->backend.describe,
           options.rounds);
    printf("plain reading of the %.3f GB of weights: %.1f GB/s (best %.1f)\n", gb, read, best);
    printf("rows   ms a step  tokens/s  weights GB/s  share of reading   the vendor's: ms a step  GB/s\n");
    for (int i = 0; i < BATCHES; i++) {
        const double s = median(b->ours[i]), v = median(b->vendors[i]);

        printf("%4" PRId64 "   %9.2f  %8.1f  %12.1f  %14.0f %%   %24.2f  %4.1f\n", batches[i], 1e3 * s,
               (double)batches[i] / s, gb / s, 100 * gb / s / read, 1e3 * v, gb / v);
    }
    for (int i = 0; i < BATCHES; i++) {
        double all = 0;

        for (int op = 0; op < OP_N; op++)
            all += b->op_seconds[i][op];
        printf("%" PRId64 " row%s:", batches[i], batches[i] == 1 ? "" : "s");
        for (int op = 0; op < OP_N; op++)
            if (b->op_seconds[i][op] > 0)
                printf(" %s %.1f %%", op_rule((enum op)op)->name, 100 * b->op_seconds[i][op] / all);
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    struct option_set sets[1 + TECHNIQUES_MAX] = { { .title = "Bench", .options = table, .values = &options } };
    struct technique_values on;
    struct option_given given[64];
    static struct decode_bench b;
    struct err err = { 0 };
    const char *words[1];
    int n_given, n_words;
    const int n = 1 + technique_sets(&sets[1], &on);
    double warmup;

    option_defaults(sets, n);
    int result = option_parse(sets, n, argc, argv, given, 64, &n_given, words, 0, &n_words, &err);
    if (result == 0)
        result = open_bench(&b, &on, &err);
    for (int i = 0; result == 0 && i < BATCHES; i++)
        result = time_step(&b, batches[i], &warmup, &err);
    for (int i = 0; result == 0 && i < options.rounds; i++)
        result = run_round(&b, i, &err);
    if (result == 0)
        print(&b);
    else
        fprintf(stderr, "bench_decode: %s (%s). %s\n", err.what, err.where, err.hint);
    exec_free(&b.exec);
    plan_free(&b.plan);
    if (b.backend.close)
        b.backend.close(&b.backend);
    return result == 0 ? 0 : 1;
}
