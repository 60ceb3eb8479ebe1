/* bench/bench_ops.c - what each kernel reaches on this machine, at the shapes of training OPT-350m.
 *
 *     bench_ops --dtype bf16 --only linear --threads 1
 *
 * The peaks come first: multiply-adds out of the first-level cache, plain reading, a large square product. Then each op:
 * milliseconds, GFLOP/s (by the op's own cost rule) and their share of the square product's, GB/s (each operand counted
 * once). All cases run in turn, round after round, and the medians are shown, and the best: a neighbour's load then falls on
 * all alike. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <omp.h>

#include "backend/cpu/block.h"
#include "backend/cpu/cpu.h"
#include "backend/operands.h"
#include "base/mem.h"
#include "base/option.h"
#include "graph/optimizer.h"

#define ROUNDS_MAX 99

struct options {
    int dtype;
    int64_t threads, rounds, rows, tokens, chunk;
    const char *only;
    bool native_bf16, transpose_first, compare;
};

static const struct option table[] = {
    { .name = "dtype",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct options, dtype),
      .fallback = "fp32",
      .choices = "fp32|bf16",
      .value = "TYPE",
      .help = "the working type" },
    { .name = "threads",
      .type = OPTION_INT,
      .offset = offsetof(struct options, threads),
      .fallback = "0",
      .min = 0,
      .max = 1024,
      .value = "N",
      .help = "0 = one a core" },
    { .name = "rounds",
      .type = OPTION_INT,
      .offset = offsetof(struct options, rounds),
      .fallback = "5",
      .min = 1,
      .max = ROUNDS_MAX,
      .value = "N",
      .help = "runs of each" },
    { .name = "rows",
      .type = OPTION_INT,
      .offset = offsetof(struct options, rows),
      .fallback = "4",
      .min = 1,
      .max = 1 << 20,
      .value = "B",
      .help = "rows of a batch" },
    { .name = "tokens",
      .type = OPTION_INT,
      .offset = offsetof(struct options, tokens),
      .fallback = "512",
      .min = 1,
      .max = 1 << 20,
      .value = "T",
      .help = "tokens a row" },
    { .name = "chunk",
      .type = OPTION_INT,
      .offset = offsetof(struct options, chunk),
      .fallback = "256",
      .min = 1,
      .max = 1 << 20,
      .value = "N",
      .help = "rows of logits at a time" },
    { .name = "only",
      .type = OPTION_STRING,
      .offset = offsetof(struct options, only),
      .value = "TEXT",
      .help = "cases whose name has this in it" },
    { .name = "native_bf16",
      .type = OPTION_FLAG,
      .offset = offsetof(struct options, native_bf16),
      .value = NULL,
      .help = "bf16 products by oneDNN even where it is slow" },
    { .name = "transpose_first",
      .type = OPTION_FLAG,
      .offset = offsetof(struct options, transpose_first),
      .value = NULL,
      .help = "with --native_bf16: transpose dY before a weight gradient" },
    { .name = "compare",
      .type = OPTION_FLAG,
      .offset = offsetof(struct options, compare),
      .value = NULL,
      .help = "what goes by tiles also without them, by oneDNN and in fp32: * after its name" },
    { 0 },
};

/* The letters of graph/op.h; N is rows times tokens. */
static const struct bench_case {
    const char *name;
    enum op op;
    int64_t C, K, M;
    bool relu;
} cases[] = {
    { "linear 1024 -> 1024", OP_LINEAR, 0, 1024, 1024, false },
    { "linear 1024 -> 4096, relu", OP_LINEAR, 0, 1024, 4096, true },
    { "linear 4096 -> 1024", OP_LINEAR, 0, 4096, 1024, false },
    { "linear_dx 1024 -> 1024", OP_LINEAR_DX, 0, 1024, 1024, false },
    { "linear_dx 1024 -> 4096", OP_LINEAR_DX, 0, 1024, 4096, false },
    { "linear_dx 4096 -> 1024", OP_LINEAR_DX, 0, 4096, 1024, false },
    { "linear_dw 1024 -> 1024", OP_LINEAR_DW, 0, 1024, 1024, false },
    { "linear_dw 1024 -> 4096", OP_LINEAR_DW, 0, 1024, 4096, false },
    { "linear_dw 4096 -> 1024", OP_LINEAR_DW, 0, 4096, 1024, false },
    { "linear_ce", OP_LINEAR_CE, 0, 0, 0, false },
    { "linear_ce_train", OP_LINEAR_CE_TRAIN, 0, 0, 0, false },
    { "attention", OP_ATTENTION, 1024, 0, 0, false },
    { "attention_grad", OP_ATTENTION_GRAD, 1024, 0, 0, false },
    { "flash_attention", OP_FLASH_ATTENTION, 1024, 0, 0, false },
    { "flash_attention_grad", OP_FLASH_ATTENTION_GRAD, 1024, 0, 0, false },
    { "embed", OP_EMBED, 1024, 0, 0, false },
    { "embed_grad", OP_EMBED_GRAD, 1024, 0, 0, false },
    { "add", OP_ADD, 1024, 0, 0, false },
    { "relu", OP_RELU, 4096, 0, 0, false },
    { "relu_grad", OP_RELU_GRAD, 4096, 0, 0, false },
    { "dropout", OP_DROPOUT, 1024, 0, 0, false },
    { "layernorm", OP_LAYERNORM, 1024, 0, 0, false },
    { "layernorm_grad", OP_LAYERNORM_GRAD, 1024, 0, 0, false },
    { "add_norm", OP_ADD_NORM, 1024, 0, 0, false },
    { "add_norm_grad", OP_ADD_NORM_GRAD, 1024, 0, 0, false },
    { "sumsq 12M", OP_SUMSQ, 0, 0, 0, false },
    { "grad_scale 12M", OP_GRAD_SCALE, 0, 0, 0, false },
    { "adamw 12M", OP_ADAMW, 0, 0, 0, false },
    { "adamw8 12M", OP_ADAMW8, 0, 0, 0, false },
};

#define RANGE 12582912 /* parameters of a layer */

struct bench {
    const struct bench_case *of;
    struct plan plan;
    struct kernel kernel;
    bool there;
    struct matmul_ways ways;
    bool vendor; /* compared with */
    void *in[OP_MAX_IN], *out[OP_MAX_OUT];
    double seconds[ROUNDS_MAX];
};

/* On one thread, what the thread was given rather than what has passed: neighbours count less. */
static double now_s(const struct options *o)
{
    struct timespec t;

    clock_gettime(o->threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *x, int64_t n)
{
    qsort(x, (size_t)n, sizeof *x, by_size);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static void *room(size_t bytes)
{
    void *p = NULL;

    if (posix_memalign(&p, 64, bytes + 64) != 0) {
        fprintf(stderr, "bench_ops: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    memset(p, 0, bytes + 64);
    return p;
}

static void check(int result, const struct err *err)
{
    if (result == 0)
        return;
    fprintf(stderr, "bench_ops: %s\n%s\n%s\n", err->what, err->where, err->hint);
    exit(1);
}

/* --- operands --- */

static int64_t extent(const struct options *o, const struct bench_case *c, char letter)
{
    switch (letter) {
    case 'N':
        return o->rows * o->tokens;
    case 'B':
        return o->rows;
    case 'T':
        return o->tokens;
    case 'H':
        return 16;
    case 'C':
        return c->C;
    case 'K':
        return c->K;
    case 'M':
        return c->M;
    case 'V':
        return 50272;
    case 'E':
        return c->C ? c->C : 512;
    case 'P':
        return HYPER_N;
    case 'Z':
        return RANGE / STATE_BLOCK;
    default:
        return letter - '0';
    }
}

static struct shape shape_for(const struct options *o, const struct bench_case *c, const char *letters)
{
    struct shape s = { 0 };

    if (letters[0] == '~')
        return shape_of(1, (int64_t)RANGE);
    if (letters[0] == '*')
        return shape_of(2, o->rows * o->tokens, c->C);
    for (; letters[s.rank]; s.rank++)
        s.dim[s.rank] = extent(o, c, letters[s.rank]);
    return s;
}

static enum dtype type_for(const struct options *o, char type)
{
    const enum dtype working = o->dtype == 0 ? F32 : BF16;

    return type == 'f' || type == 'm' ? F32 : type == 'd' ? F64 : type == 'i' ? I32 : type == 'q' ? I8 : working;
}

/* Numbers between -1 and 1, ids and spans that are in range, hyper-parameters that change little. */
static void fill(const struct options *o, const struct buffer *b, void *data, bool spans)
{
    const int64_t n = shape_count(&b->shape);
    uint32_t state = 1;

    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        const float x = (float)(int32_t)state / 2147483648.0f;

        if (b->dtype == I8)
            ((int8_t *)data)[i] = (int8_t)(state >> 24);
        else if (b->dtype == I32)
            ((int32_t *)data)[i] = spans ? (i % 2 ? (int32_t)o->tokens : 0) : (int32_t)(state >> 17);
        else if (b->dtype == F64)
            ((double *)data)[i] = 1e-3;
        else
            dtype_convert((char *)data + (size_t)i * dtype_bytes(b->dtype), b->dtype, &x, F32, 1);
    }
}

static void *operand(struct bench *e, const struct options *o, const struct operand_form *form, int *index,
                     struct err *err)
{
    const struct buffer b = { .name = form->extent,
                              .kind = KIND_ACTIVATION,
                              .dtype = type_for(o, form->type),
                              .shape = shape_for(o, e->of, form->extent),
                              .shards = 1,
                              .parent = -1 };

    if (form->optional && (form->type == 'd' || strcmp(form->extent, "N") == 0)) /* as phase 1 has it */
        return NULL;
    *index = plan_add_buffer(&e->plan, &b, err);
    check(*index < 0, err);
    void *data = room((size_t)shape_count(&b.shape) * dtype_bytes(b.dtype));
    fill(o, &b, data, form->extent[0] == 'B');
    for (int64_t i = 0; form->extent[0] == 'Z' && i < shape_count(&b.shape); i++) /* of second moments too */
        ((float *)data)[i] = 1e-3f;
    return data;
}

/* Operands are any numbers: no kernel's speed depends on them, but for ids, spans and targets. */
static void make_case(struct bench *e, const struct options *o, struct backend *b, struct err *err)
{
    struct op_form form;
    struct op_step s = plan_step(e->of->op, "bench");

    plan_init(&e->plan, 0, 1);
    MUST(operands_form(e->of->op, &form));
    for (int i = 0; i < form.n_in; i++)
        e->in[i] = operand(e, o, &form.in[i], &s.in[i], err);
    for (int i = 0; i < form.n_out; i++)
        e->out[i] = operand(e, o, &form.out[i], &s.out[i], err);
    const bool range =
        e->of->op == OP_SUMSQ || e->of->op == OP_GRAD_SCALE || e->of->op == OP_ADAMW || e->of->op == OP_ADAMW8;
    s.pass = range ? PASS_UPDATE : PASS_FORWARD; /* the cost rules ask */
    s.attrs.heads = 16;
    s.attrs.relu = e->of->relu;
    s.attrs.p = e->of->op == OP_DROPOUT || e->of->op == OP_ADD_NORM || e->of->op == OP_ADD_NORM_GRAD ? 0.1f : 0;
    s.attrs.skip_row = -1;
    s.attrs.chunk = o->chunk;
    s.attrs.count = RANGE;
    check(plan_add_program(&e->plan, "", "train", o->rows, o->tokens, err) < 0, err);
    check(plan_insert(&e->plan, 0, 0, &s, err), err);
    cost_fill(&e->plan);
    matmul_set_ways(cpu_of(b)->matmul, e->ways);
    e->there = b->prepare(b, &e->plan, &e->plan.programs[0].steps[0], &e->kernel, err) == 0;
    if (!e->there)
        fprintf(stderr, "%s: %s\n", e->of->name, err->what);
}

static void free_case(struct bench *e, struct backend *b)
{
    for (int i = 0; i < OP_MAX_IN; i++)
        free(e->in[i]);
    for (int i = 0; i < OP_MAX_OUT; i++)
        free(e->out[i]);
    if (e->there)
        b->kernel_free(b, &e->kernel);
    plan_free(&e->plan);
}

/* --- peaks --- */

/* GFLOP/s of products whose operands stay in the first-level cache. */
static double multiply_add_peak(const struct options *o)
{
    const struct block *block = block_of(matmul_isa());
    const int times = 2000;
    double best = 0;

    for (int round = 0; round < 5; round++) {
        const double begin = now_s(o);

#pragma omp parallel num_threads((int)o->threads)
        {
            float a[48 * 64] = { 0 }, b[64 * 32] = { 0 }, c[48 * 32] = { 0 };

            for (int i = 0; i < times; i++)
                block->product(c, 32, a, 64, 1, b, 32, 48, 32, 64, true);
        }
        best = fmax(best, 2.0 * 48 * 32 * 64 * times * (double)o->threads / (now_s(o) - begin) * 1e-9);
    }
    return best;
}

/* GB/s. */
static double read_peak(const struct options *o)
{
    const int64_t n = 1 << 25;
    uint64_t *x = room((size_t)n * 8);
    double best = 0;

    for (int round = 0; round < 5; round++) {
        const double begin = now_s(o);
        uint64_t sum = 0;

#pragma omp parallel for simd reduction(+ : sum) num_threads((int)o->threads) schedule(static)
        for (int64_t i = 0; i < n; i++)
            sum += x[i];
        best = fmax(best, (double)(n * 8) / (now_s(o) - begin) * 1e-9);
        x[0] += sum;
    }
    free(x);
    return best;
}

struct square {
    struct matmul_shape shape;
    void *a, *b, *c, *scratch;
    size_t scratch_bytes;
    double seconds[ROUNDS_MAX];
};

static void square_make(struct square *s, const struct options *o, struct matmul *m, struct err *err)
{
    const enum dtype type = type_for(o, 'w');

    s->shape = (struct matmul_shape){ .M = 2048, .N = 2048, .K = 2048, .ab = type, .c = type };
    check(matmul_prepare(m, &s->shape, &s->scratch_bytes, err), err);
    s->a = room(2048 * 2048 * 4);
    s->b = room(2048 * 2048 * 4);
    s->c = room(2048 * 2048 * 4);
    s->scratch = room(s->scratch_bytes);
}

/* --- the rounds --- */

static double time_square(struct square *s, const struct options *o, struct matmul *m, struct err *err)
{
    const double begin = now_s(o);

    check(matmul_run(m, &s->shape, s->a, s->b, NULL, s->c, s->scratch, s->scratch_bytes, err), err);
    return now_s(o) - begin;
}

static double time_case(struct bench *e, const struct options *o, struct backend *b, void *scratch, struct err *err)
{
    const struct run_context c = { .B = o->rows, .T = o->tokens, .row_step = 1, .training = true, .first_micro = true };
    matmul_set_ways(cpu_of(b)->matmul, e->ways);
    const double begin = now_s(o);

    check(b->run(b, &e->kernel, e->in, e->out, scratch, &c, err), err);
    return now_s(o) - begin;
}

static void print_case(struct bench *e, const struct options *o, double square)
{
    const struct op_cost *cost = &e->plan.programs[0].steps[0].cost;
    const double t = median(e->seconds, o->rounds);

    printf("%-26s%c %9.2f", e->of->name, e->vendor ? '*' : ' ', t * 1e3);
    if (cost->flops > 0)
        printf(" %9.1f %6.0f %%", cost->flops / t * 1e-9, 100 * cost->flops / t / square);
    else
        printf(" %9s %8s", "-", "-");
    printf(" %8.1f %9.2f\n", cost->bytes_moved / t * 1e-9, e->seconds[0] * 1e3); /* median has sorted them */
}

static void run_rounds(struct bench *all, int n, const struct options *o, struct backend *b, struct err *err)
{
    struct square square = { 0 };
    size_t most = 0;

    square_make(&square, o, cpu_of(b)->matmul, err);
    for (int i = 0; i < n; i++)
        most = all[i].kernel.scratch_bytes > most ? all[i].kernel.scratch_bytes : most;
    void *scratch = room(most);
    for (int64_t round = -1; round < o->rounds; round++) { /* the first warms up */
        square.seconds[round < 0 ? 0 : round] = time_square(&square, o, cpu_of(b)->matmul, err);
        for (int i = 0; i < n; i++)
            if (all[i].there)
                all[i].seconds[round < 0 ? 0 : round] = time_case(&all[i], o, b, scratch, err);
    }
    const double peak = 2.0 * 2048 * 2048 * 2048 / median(square.seconds, o->rounds);
    printf("%-27s %9.2f %9.1f\n\n%-27s %9s %9s %8s %8s %9s\n", "product of 2048 x 2048",
           square.seconds[o->rounds / 2] * 1e3, peak * 1e-9, "", "ms", "GFLOP/s", "of it", "GB/s", "best ms");
    for (int i = 0; i < n; i++)
        if (all[i].there)
            print_case(&all[i], o, peak);
    free(square.a);
    free(square.b);
    free(square.c);
    free(square.scratch);
    free(scratch);
}

static bool by_tiles(enum op op)
{
    return op_rule(op)->matmul || op == OP_FLASH_ATTENTION || op == OP_FLASH_ATTENTION_GRAD;
}

int main(int argc, char **argv)
{
    struct options o;
    struct err err = { 0 };
    const struct option_set set = { .title = "bench_ops", .options = table, .values = &o };
    struct option_given given[16];
    struct bench all[2 * COUNT_OF(cases)] = { 0 };
    struct backend b;
    int n = 0, n_given, n_words;

    option_defaults(&set, 1);
    check(option_parse(&set, 1, argc, argv, given, COUNT_OF(given), &n_given, NULL, 0, &n_words, &err), &err);
    if (o.threads == 0)
        o.threads = omp_get_num_procs();
    check(backend_cpu_open(&b, (int)o.threads, &err), &err);
    const struct matmul_ways vendor = { .native_bf16 = true,
                                        .transpose_first = o.native_bf16 ? o.transpose_first : true };
    const struct matmul_ways ways = o.native_bf16 ? vendor : matmul_ways(cpu_of(&b)->matmul);
    matmul_set_ways(cpu_of(&b)->matmul, ways);
    printf("%s; %s, %" PRId64 " x %" PRId64 " tokens, loss by %" PRId64 " rows, medians of %" PRId64 "\n", b.describe,
           dtype_name(type_for(&o, 'w')), o.rows, o.tokens, o.chunk, o.rounds);
    printf("multiply-add in cache: %.0f GFLOP/s; plain reading: %.1f GB/s\n", multiply_add_peak(&o), read_peak(&o));
    for (int i = 0; i < COUNT_OF(cases); i++)
        if (!o.only || strstr(cases[i].name, o.only)) {
            all[n] = (struct bench){ .of = &cases[i], .ways = ways };
            make_case(&all[n++], &o, &b, &err);
            if (!o.compare || !by_tiles(cases[i].op))
                continue;
            all[n] = (struct bench){ .of = &cases[i], .vendor = true, .ways = vendor };
            make_case(&all[n++], &o, &b, &err);
        }
    run_rounds(all, n, &o, &b, &err);
    for (int i = 0; i < n; i++)
        free_case(&all[i], &b);
    b.close(&b);
    return 0;
}
