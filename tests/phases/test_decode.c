/* Decoding through caches gives what the whole text at once gives: for every form of the model, for rows of unlike lengths,
 * padded on either side, in both types, on both backends. */
#include <math.h>

#include "engine.h"

#define B_MAX 3
#define S_MAX 24
#define V_MAX 37

static int add_logits(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    const int logits = head_logits(g, o, opt_trunk(g, o, x));

    g->values[logits].input = true;
    return -1;
}

static const struct phase_program programs[] = {
    { "actor/", "whole", false, EXTENTS_EVAL, add_logits },
    { "actor/", "prefill", false, EXTENTS_PREFILL, opt_prefill },
    { "actor/", "decode", false, EXTENTS_DECODE, opt_decode },
    { 0 },
};
static const struct phase phase_decode = { .name = "decode", .programs = programs };

/* Rows of ids in columns begin .. end-1, the first n_prompt of which are a prompt. */
struct rows {
    int64_t B, n_columns;
    int32_t begin[B_MAX], end[B_MAX], n_prompt[B_MAX];
};

struct decoder {
    struct technique_values techniques;
    struct plan plan;
    struct backend backend;
    struct comm comm;
    struct exec exec;
    int64_t V;
    float whole[B_MAX * S_MAX * V_MAX]; /* [B,n_columns,V] */
};

static int32_t id_at(const struct decoder *d, int64_t b, int64_t s)
{
    return (int32_t)((b * 11 + s * s * 7 + 3) % d->V);
}

static const struct opt_shape post = { .C = 24, .L = 3, .H = 3, .F = 40, .E = 12, .V = 33, .position_rows = 32 };
static const struct opt_shape pre = {
    .C = 24, .L = 2, .H = 2, .F = 64, .E = 24, .V = 37, .position_rows = 32, .norm_before = true, .final_norm = true
};

static void fill_params(struct decoder *d)
{
    for (int i = 0; i < d->plan.n_buffers; i++) {
        const struct buffer *b = &d->plan.buffers[i];
        struct rng rng = { .seed = 5, .stream = (uint32_t)i };
        char *at = exec_address(&d->exec, i);

        for (int64_t k = 0; b->kind == KIND_PARAM && b->parent < 0 && !b->derived && k < b->count; k++) {
            const double x = 0.3 * rng_normal(&rng);
            dtype_convert(at + (size_t)k * dtype_bytes(b->dtype), b->dtype, &x, F64, 1);
        }
    }
}

static void run(void **test_state, struct decoder *d, const char *program, int64_t B, int64_t T)
{
    const struct run_context c = { .B = B, .T = T, .row_step = 1, .training = true };
    struct err err = { 0 };

    CHECK_OK(exec_run(&d->exec, plan_find_program(&d->plan, "actor/", program), &c, &err), &err);
}

static void decoder_open(void **test_state, struct decoder *d, const struct opt_shape *o, const char *backend,
                         const char *words)
{
    struct build b = { .phase = &phase_decode,
                       .models = { { "actor/", *o, &d->techniques } },
                       .n_models = 1,
                       .extents = { [EXTENTS_EVAL] = { .B = B_MAX, .T = S_MAX },
                                    [EXTENTS_PREFILL] = { .B = B_MAX, .T = 16, .S = S_MAX },
                                    [EXTENTS_DECODE] = { .B = B_MAX, .T = 1, .S = S_MAX } },
                       .micro_steps = 1,
                       .ranks = 1 };
    struct err err = { 0 };

    *d = (struct decoder){ .V = o->V };
    comm_alone(&d->comm);
    CHECK_OK(engine_techniques(&d->techniques, words, &err), &err);
    CHECK_OK(build_plan(&b, &d->plan, &err), &err);
    CHECK_OK(backend_open(&d->backend, backend, 2, &err), &err);
    CHECK_OK(exec_prepare(&d->exec, &d->plan, &d->backend, &d->comm, &err), &err);
    CHECK_OK(exec_allocate(&d->exec, &err), &err);
    fill_params(d);
    if (plan_find_program(&d->plan, "actor/", "quantize") >= 0)
        run(test_state, d, "quantize", 1, 1);
}

static void decoder_close(struct decoder *d)
{
    exec_free(&d->exec);
    d->backend.close(&d->backend);
    plan_free(&d->plan);
}

/* Columns `first` .. first+T-1 of all rows; columns before a row's begin and from its end on hold what nobody may see. */
static void set_columns(struct decoder *d, const struct rows *r, const int32_t *first, int64_t T)
{
    int32_t *ids = exec_buffer(&d->exec, "ids"), *positions = exec_buffer(&d->exec, "positions");
    int32_t *spans = exec_buffer(&d->exec, "spans"), *at = exec_buffer(&d->exec, "at");

    for (int64_t b = 0; b < r->B; b++) {
        spans[2 * b] = r->begin[b];
        spans[2 * b + 1] = r->end[b];
        at[b] = first[b];
        for (int64_t t = 0; t < T; t++) {
            const int64_t s = first[b] + t;
            const bool there = s >= r->begin[b] && s < r->end[b];

            ids[b * T + t] = there ? id_at(d, b, s) : 1;
            positions[b * T + t] = there ? (int32_t)(s - r->begin[b] + 2) : 1;
        }
    }
}

static void run_whole(void **test_state, struct decoder *d, const struct rows *r)
{
    const int32_t zero[B_MAX] = { 0 };
    const int logits = plan_find(&d->plan, "head.logits");
    const int64_t n = r->B * r->n_columns * d->V;

    set_columns(d, r, zero, r->n_columns);
    run(test_state, d, "whole", r->B, r->n_columns);
    dtype_convert(d->whole, F32, exec_address(&d->exec, logits), d->plan.buffers[logits].dtype, n);
}

static void compare_step(struct decoder *d, const struct rows *r, const int32_t *column, double tolerance)
{
    const float *logits = exec_buffer(&d->exec, "logits");

    for (int64_t b = 0; b < r->B; b++)
        for (int64_t v = 0; v < d->V; v++) {
            const double want = (double)d->whole[(b * r->n_columns + column[b]) * d->V + v];
            const double is = (double)logits[b * d->V + v];

            if (!(fabs(is - want) <= tolerance))
                fail_msg("row %d, column %d, id %d: decoding says %.7g, the whole text %.7g", (int)b, (int)column[b],
                         (int)v, is, want);
        }
}

/* The prompt in pieces of at most `piece` columns, then one id a row, the prompt's last one first. */
static void check_rows(void **test_state, struct decoder *d, const struct rows *r, int64_t piece, double tolerance)
{
    int32_t column[B_MAX] = { 0 };
    int64_t longest = 0;

    run_whole(test_state, d, r);
    for (int64_t b = 0; b < r->B; b++)
        longest = r->begin[b] + r->n_prompt[b] > longest ? r->begin[b] + r->n_prompt[b] : longest;
    for (int64_t first = 0; first < longest; first += piece) {
        const int64_t T = longest - first < piece ? longest - first : piece;

        for (int64_t b = 0; b < r->B; b++)
            column[b] = (int32_t)first;
        set_columns(d, r, column, T);
        run(test_state, d, "prefill", r->B, T);
    }
    for (int64_t b = 0; b < r->B; b++)
        column[b] = r->begin[b] + r->n_prompt[b] - 1;
    for (bool more = true; more;) {
        set_columns(d, r, column, 1);
        run(test_state, d, "decode", r->B, 1);
        compare_step(d, r, column, tolerance);
        more = false;
        for (int64_t b = 0; b < r->B; b++)
            if (column[b] + 1 < r->end[b]) {
                column[b]++;
                more = true;
            }
    }
}

static const struct rows one = { 1, 20, { 0 }, { 20 }, { 9 } };
static const struct rows right_padded = { 3, 19, { 0, 0, 0 }, { 19, 13, 17 }, { 1, 5, 16 } };
static const struct rows left_padded = { 3, 21, { 0, 7, 3 }, { 21, 21, 21 }, { 12, 5, 9 } };
static const struct rows ragged = { 2, 24, { 2, 0 }, { 24, 11 }, { 10, 3 } };

static void check_model(void **test_state, const struct opt_shape *shape, const char *backend, const char *words,
                        double tolerance)
{
    const struct rows *const all[] = { &one, &right_padded, &left_padded, &ragged };
    struct opt_shape o = *shape;
    struct decoder d;

    o.dropout = 0; /* of the whole text; decoding has none */
    decoder_open(test_state, &d, &o, backend, words);
    for (int i = 0; i < COUNT_OF(all); i++) {
        check_rows(test_state, &d, all[i], 16, tolerance);
        check_rows(test_state, &d, all[i], 5, tolerance);
    }
    decoder_close(&d);
}

TEST(reference_decodes_what_it_reads)
{
    check_model(test_state, &post, "ref", "", 3e-6);
    check_model(test_state, &pre, "ref", "", 3e-6);
    check_model(test_state, &pre, "ref", "--no-fused_kernels --no-flash_attention", 3e-6);
    check_model(test_state, &post, "ref", "--dtype bf16", 0.05);
    check_model(test_state, &post, "ref", "--dtype fp16", 0.05 / 8);
}

TEST(processor_decodes_what_it_reads)
{
    check_model(test_state, &post, "cpu", "", 3e-6);
    check_model(test_state, &pre, "cpu", "", 3e-6);
    check_model(test_state, &post, "cpu", "--dtype bf16", 0.05);
    check_model(test_state, &pre, "cpu", "--dtype bf16", 0.05);
    check_model(test_state, &post, "cpu", "--dtype fp16", 0.05 / 8); /* three bits more */
    check_model(test_state, &pre, "cpu", "--dtype fp16", 0.05 / 8);
}

/* A weight of 0.3 times a normal number is off by up to 1/254 of the largest of its group, so by 0.6 % of 0.3 on the average;
 * a dozen products one after the other make of it a few hundredths of logits that are about 2. */
TEST(weights_in_int8_decode_nearly_the_same)
{
    static const char *const backends[] = { "ref", "cpu" };

    for (int i = 0; i < COUNT_OF(backends); i++) {
        check_model(test_state, &post, backends[i], "--int8_generation", 0.15);
        check_model(test_state, &pre, backends[i], "--int8_generation", 0.15);
        check_model(test_state, &pre, backends[i], "--int8_generation --dtype bf16", 0.2);
        check_model(test_state, &pre, backends[i], "--int8_generation --dtype fp16", 0.16);
    }
}

/* Every product of decoding reads the copy; the others read the weights, which alone are loaded and saved. */
TEST(only_decoding_reads_int8)
{
    struct decoder d;
    int n_copies = 0;

    decoder_open(test_state, &d, &post, "ref", "--int8_generation");
    for (int p = 0; p < d.plan.n_programs; p++)
        for (int i = 0; i < d.plan.programs[p].n_steps; i++) {
            const enum op op = d.plan.programs[p].steps[i].op;
            const bool decodes = p == plan_find_program(&d.plan, "actor/", "decode");
            CHECK(op != (decodes ? OP_LINEAR : OP_LINEAR_Q8));
            n_copies += op == OP_QUANTIZE;
        }
    CHECK_EQ(n_copies, 6 * 3 + 2 + 1);
    const struct buffer *copy = &d.plan.buffers[plan_find(&d.plan, "actor/layers.1.fc2.weight.int8")];
    CHECK(copy->derived && copy->kind == KIND_PARAM && copy->bytes == 24 * 40);
    decoder_close(&d);
}

TEST(programs_share_caches_and_drop_what_nobody_reads)
{
    struct opt_shape o = post;
    struct decoder d;
    int n_caches = 0;

    o.dropout = 0.1;
    decoder_open(test_state, &d, &o, "ref", "--dtype bf16");
    for (int i = 0; i < d.plan.n_buffers; i++)
        n_caches += d.plan.buffers[i].kind == KIND_KV;
    CHECK_EQ(n_caches, 2 * 3);
    CHECK_EQ(d.plan.buffers[plan_find(&d.plan, "actor/kv/layers.2.v")].dtype, BF16);
    CHECK_EQ(d.plan.kind_bytes[KIND_KV], 2 * 3 * B_MAX * S_MAX * 24 * 2);
    const struct program *prefill = &d.plan.programs[plan_find_program(&d.plan, "actor/", "prefill")];
    CHECK_EQ(prefill->steps[prefill->n_steps - 1].op, OP_KV_ATTENTION);
    for (int p = 0; p < d.plan.n_programs; p++)
        for (int i = 0; p != plan_find_program(&d.plan, "actor/", "whole") && i < d.plan.programs[p].n_steps; i++)
            CHECK_NEAR(d.plan.programs[p].steps[i].attrs.p, 0, 0);
    decoder_close(&d);
}

TEST_MAIN(CASE(weights_in_int8_decode_nearly_the_same), CASE(only_decoding_reads_int8),
          CASE(reference_decodes_what_it_reads), CASE(processor_decodes_what_it_reads),
          CASE(programs_share_caches_and_drop_what_nobody_reads))
