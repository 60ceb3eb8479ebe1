/* Every op of the table: its gradient op against finite differences on ref, cpu against ref, the same bits twice. The ops
 * come from the table, so one that has no case, or no kernel, fails here. */
#include "backend/op_fixture.h"
#include "backend/row_loss.h"

/* Ops with neither a gradient nor one they are the gradient of that finite differences could see: own tests below. */
static const enum op alone[] = { OP_ADD, OP_CONVERT,    OP_SUMSQ,        OP_GRAD_SCALE, OP_ADAMW,     OP_ADAMW8,
                                 OP_EMA, OP_ACCUMULATE, OP_KV_ATTENTION, OP_QUANTIZE,   OP_LINEAR_Q8, OP_LIVE_ROWS };

static const enum op by_exec[] = { OP_ALL_REDUCE, OP_REDUCE_SCATTER, OP_ALL_GATHER, OP_WAIT,
                                   OP_FILE_READ,  OP_FILE_WRITE,     OP_FILE_WAIT };

static const struct op_attrs plain = {
    .heads = 2, .p = 0.1f, .site = 3, .skip_row = -1, .chunk = 3, .clip = 0.5, .scale = -0.75, .count = 50
};

static bool listed(const enum op *list, int n, enum op op)
{
    for (int i = 0; i < n; i++)
        if (list[i] == op)
            return true;
    return false;
}

TEST(every_op_has_a_case)
{
    struct op_form form;

    for (int op = 0; op < OP_N; op++) {
        bool linked = listed(alone, COUNT_OF(alone), (enum op)op);

        for (int i = 0; i < COUNT_OF(links); i++)
            linked = linked || links[i].forward == (enum op)op || links[i].gradient == (enum op)op;
        if (operands_form((enum op)op, &form) != linked)
            fail_msg("op \"%s\" has operands but no test, or the other way round", op_rule((enum op)op)->name);
        if (!linked && !listed(by_exec, COUNT_OF(by_exec), (enum op)op))
            fail_msg("op \"%s\" has no operands in backend/operands.c", op_rule((enum op)op)->name);
        if (linked && (form.n_in != op_rule((enum op)op)->n_in || form.n_out != op_rule((enum op)op)->n_out))
            fail_msg("op \"%s\" has %d inputs and %d outputs here, %d and %d in the table", op_rule((enum op)op)->name,
                     form.n_in, form.n_out, op_rule((enum op)op)->n_in, op_rule((enum op)op)->n_out);
    }
    CHECK(true);
}

/* What the gradient op differentiates: its cotangents (random, in its own inputs) times the forward's outputs. */
static double objective(const struct gradient_link *link, const struct fixture *forward, const struct fixture *gradient)
{
    double sum = 0;
    bool any = false;

    for (int i = 0; i < gradient->form.n_in; i++) {
        const int out = forward->form.n_in + link->in[3 * i + 1] - '0';

        if (link->in[3 * i] != 'd' || !gradient->data[i])
            continue;
        any = true;
        for (int64_t k = 0; k < forward->used[out]; k++)
            sum += get(gradient, i, k) * get(forward, out, k);
    }
    return any ? sum : get(forward, forward->form.n_in, 0);
}

static double slope(const struct gradient_link *link, struct fixture *forward, const struct fixture *gradient,
                    int input, int64_t at, struct backend *b)
{
    const double x = get(forward, input, at), h = 1e-5;
    double side[2];

    for (int i = 0; i < 2; i++) {
        put(forward, input, at, i == 0 ? x - h : x + h);
        fixture_run(forward, b);
        side[i] = objective(link, forward, gradient);
    }
    put(forward, input, at, x);
    return (side[1] - side[0]) / (2 * h);
}

static void check_gradient(const struct gradient_link *link, bool bare, bool frozen, struct backend *b)
{
    const struct sample s = { .op = link->gradient,
                              .attrs = plain,
                              .type = F64,
                              .B = 5,
                              .T = 4,
                              .C = 8,
                              .K = 5,
                              .M = 4,
                              .V = 7,
                              .E = 3,
                              .bare = bare,
                              .frozen = frozen };
    struct fixture forward, gradient;

    fixture_init(&gradient, &s);
    fill_from_forward(&gradient, link, &forward, b);
    fixture_run(&gradient, b);
    for (int o = 0; link->out[o]; o++) {
        const int input = link->out[o] - '0', output = gradient.form.n_in + o;

        if (link->out[o] == '.' || !gradient.data[output] || !forward.data[input])
            continue;
        for (int64_t at = 0; at < gradient.used[output]; at++) {
            const double want = slope(link, &forward, &gradient, input, at, b), is = get(&gradient, output, at);

            if (!(fabs(is - want) <= 1e-7 * fmax(1, fabs(want))))
                fail_msg("%s: gradient of operand %d, element %d of %s is %.9g, finite differences say %.9g",
                         op_rule(link->gradient)->name, input, (int)at, op_rule(link->forward)->name, is, want);
        }
    }
    fixture_free(&forward);
    fixture_free(&gradient);
}

TEST(gradients_are_finite_differences)
{
    struct backend b;
    struct err err = { 0 };

    CHECK_OK(backend_open(&b, "ref", 1, &err), &err);
    for (int i = 0; i < COUNT_OF(links); i++)
        for (int bare = 0; bare < 2; bare++)
            for (int frozen = 0; frozen < 2; frozen++)
                check_gradient(&links[i], bare, frozen, &b);
    b.close(&b);
}

/* Output o of the op on a backend, for samples small enough to say what must come out. */
static struct fixture run_once(const struct sample *s, struct backend *b, struct backend *ref)
{
    struct fixture f;

    fixture_make(&f, s, ref);
    fixture_run(&f, b);
    return f;
}

TEST(optimizer_ops_do_as_their_formulas_say)
{
    struct backend b;
    struct err err = { 0 };
    struct sample s = { .op = OP_ADAMW, .attrs = plain, .type = F64 };
    struct fixture f, before;

    CHECK_OK(backend_open(&b, "ref", 1, &err), &err);
    s.attrs.begin = 7;
    fixture_make(&before, &s, &b);
    f = run_once(&s, &b, &b);
    for (int64_t i = 0; i < s.attrs.count; i++) { /* sum 6.25: norm 2.5, limit 1 */
        const double g = get(&before, 0, i + 7) / (2.5 + 1e-6), m = 0.9 * get(&before, 4, i) + 0.1 * g;
        const double v = 0.95 * get(&before, 5, i) + 0.05 * g * g, p = get(&before, 6, i);
        const double want = p - 1e-3 * (m / 0.271 / (sqrt(v / 0.142625) + 1e-8) + 0.1 * p);

        CHECK_NEAR(get(&f, 4, i), m, 1e-12);
        CHECK_NEAR(get(&f, 5, i), v, 1e-12);
        CHECK_NEAR(get(&f, 6, i), want, 1e-12);
        CHECK_NEAR(get(&f, 3, i + 7), want, 1e-12);
    }
    CHECK_NEAR(get(&f, 3, 6), get(&before, 3, 6), 0);
    CHECK_NEAR(get(&f, 3, 57), get(&before, 3, 57), 0);
    fixture_free(&f);
    fixture_free(&before);
    b.close(&b);
}

/* Gradients made at scale 4, and their sum of squares, against those at scale 1. */
static void check_scaled(struct backend *b, struct backend *ref, enum op op)
{
    const struct sample s = { .op = op, .attrs = plain, .type = F32 };
    struct fixture plain_one, scaled;
    int g = 0, hyper = 1, sum = 2;

    if (op == OP_GRAD_SCALE) {
        g = 2;
        hyper = 1;
        sum = 0;
    }
    fixture_make(&plain_one, &s, ref);
    fixture_make(&scaled, &s, ref);
    for (int64_t i = 0; i < scaled.used[g]; i++)
        put(&scaled, g, i, 4 * get(&plain_one, g, i));
    put(&scaled, sum, 0, 16 * get(&plain_one, sum, 0));
    put(&scaled, hyper, HYPER_LOSS_SCALE, 4);
    fixture_run(&plain_one, b);
    fixture_run(&scaled, b);
    for (int o = scaled.form.n_in; o < n_operands(&scaled); o++)
        for (int64_t i = 0; i < s.attrs.count; i++)
            assert_true(fabs(get(&scaled, o, i) - get(&plain_one, o, i)) <= 1e-6 * fabs(get(&plain_one, o, i)));
    fixture_free(&plain_one);
    fixture_free(&scaled);
}

TEST(the_scale_of_the_loss_is_undone)
{
    static const enum op ops[] = { OP_ADAMW, OP_GRAD_SCALE };
    struct backend ref, cpu;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    CHECK_OK(backend_open(&cpu, "cpu", 2, &err), &err);
    for (int i = 0; i < COUNT_OF(ops); i++) {
        check_scaled(&ref, &ref, ops[i]);
        check_scaled(&cpu, &ref, ops[i]);
    }
    cpu.close(&cpu);
    ref.close(&ref);
}

/* Against an update with whole fp32 masters: the same weights, in half the memory. */
static void check_halves(struct backend *b, struct backend *ref)
{
    struct sample s = { .op = OP_ADAMW, .attrs = plain, .type = BF16 };
    struct fixture whole, halves;

    s.attrs.begin = 7;
    fixture_make(&whole, &s, ref);
    fixture_make(&halves, &s, ref);
    halves.buffers[6].dtype = REST16;
    memset(halves.data[6], 0xff, halves.buffers[6].bytes);
    int16_t *rest = halves.data[6];
    const uint16_t *param = halves.data[3];
    for (int64_t i = 0; i < s.attrs.count; i++) {
        rest[i] = (int16_t)(1201 * i - 30000);
        put(&whole, 6, i, (double)fp32_whole(param[i + 7], rest[i]));
    }
    fixture_run(&whole, b);
    fixture_run(&halves, b);
    for (int64_t i = 0; i < s.attrs.count; i++) {
        assert_true(get(&halves, 3, i + 7) == get(&whole, 3, i + 7));
        assert_true(fabs((double)fp32_whole(param[i + 7], rest[i]) / get(&whole, 6, i) - 1) < 2e-7);
    }
    fixture_free(&whole);
    fixture_free(&halves);
}

TEST(masters_in_halves_learn_alike)
{
    struct backend ref, cpu;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    CHECK_OK(backend_open(&cpu, "cpu", 2, &err), &err);
    check_halves(&ref, &ref);
    check_halves(&cpu, &ref);
    cpu.close(&cpu);
    ref.close(&ref);
}

/* Also where the average is finer than what is averaged, as it had better be: bf16 would not notice a hundredth. */
static void check_average(struct backend *b, struct backend *ref, enum dtype param)
{
    struct sample s = { .op = OP_EMA, .attrs = plain, .type = F32 };
    struct fixture before, f;

    s.attrs.begin = 5;
    s.attrs.p = 0.875f;
    fixture_make(&before, &s, ref);
    fixture_make(&f, &s, ref);
    f.buffers[0].dtype = before.buffers[0].dtype = param;
    f.buffers[0].bytes = (size_t)f.used[0] * dtype_bytes(param);
    for (int64_t i = 0; i < f.used[0]; i++) {
        put(&f, 0, i, (double)i / 16);
        put(&before, 0, i, (double)i / 16);
    }
    fixture_run(&f, b);
    for (int64_t i = 0; i < f.used[1]; i++) {
        const bool in = i >= 5 && i < 55;
        const double old = get(&before, 1, i), want = in ? 0.875 * old + 0.125 * get(&before, 0, i) : old;

        assert_true(fabs(get(&f, 1, i) - want) < 1e-6);
    }
    fixture_free(&before);
    fixture_free(&f);
}

TEST(averages_keep_to_their_range)
{
    struct backend ref, cpu;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    CHECK_OK(backend_open(&cpu, "cpu", 2, &err), &err);
    for (int type = F32; type <= F16; type++) {
        check_average(&ref, &ref, (enum dtype)type);
        check_average(&cpu, &ref, (enum dtype)type);
    }
    cpu.close(&cpu);
    ref.close(&ref);
}

/* Over what there was, or to it; and between types. */
static void check_accumulate(struct backend *b, struct backend *ref, enum dtype x, enum accumulate how)
{
    struct sample s = { .op = OP_ACCUMULATE, .attrs = plain, .type = F32 };
    struct fixture before, f;

    s.attrs.begin = 5;
    s.attrs.count = 2500;
    s.attrs.accumulate = how;
    s.later_micro = true;
    fixture_make(&before, &s, ref);
    fixture_make(&f, &s, ref);
    f.buffers[0].dtype = x;
    f.buffers[0].bytes = (size_t)f.used[0] * dtype_bytes(x);
    for (int64_t i = 0; i < f.used[0]; i++)
        put(&f, 0, i, (double)(i % 200));
    fixture_run(&f, b);
    for (int64_t i = 0; i < f.used[1]; i++) {
        const double old = get(&before, 1, i), sum = how == ACCUMULATE_NO ? 0 : old;
        const double want = i >= 5 && i < 2505 ? sum + (double)(i % 200) : old;

        assert_true(fabs(get(&f, 1, i) - want) < 1e-4);
    }
    fixture_free(&before);
    fixture_free(&f);
}

TEST(accumulating_keeps_to_its_range)
{
    static const enum accumulate how[] = { ACCUMULATE_NO, ACCUMULATE_YES, ACCUMULATE_UNLESS_FIRST };
    struct backend ref, cpu;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    CHECK_OK(backend_open(&cpu, "cpu", 2, &err), &err);
    for (int type = F32; type <= F16; type++)
        for (int i = 0; i < COUNT_OF(how); i++) {
            check_accumulate(&ref, &ref, (enum dtype)type, how[i]);
            check_accumulate(&cpu, &ref, (enum dtype)type, how[i]);
        }
    cpu.close(&cpu);
    ref.close(&ref);
}

/* Rows that there are, from one type to the other; those behind them stay: fixture_run looks. */
static void check_convert(struct backend *b, enum dtype from, enum dtype to)
{
    struct sample s = { .op = OP_CONVERT, .attrs = plain, .type = from, .B = 2, .T = 700, .C = 3, .planned_B = 3 };
    struct err err = { 0 };
    struct fixture f;

    fixture_init(&f, &s);
    fixture_fill(&f, 1);
    mem_free(f.data[1]);
    f.buffers[1].dtype = to;
    f.buffers[1].bytes = (size_t)f.buffers[1].count * dtype_bytes(to);
    f.data[1] = mem_array((int64_t)f.buffers[1].bytes, 1, 1, MEM_OTHER, &err);
    assert_non_null(f.data[1]);
    memset(f.data[1], 0xff, f.buffers[1].bytes);
    fixture_run(&f, b);
    for (int64_t i = 0; i < f.used[1]; i++) {
        const double x = get(&f, 0, i), want = to == BF16 ? (double)bf16_to_f32(bf16_from_f32((float)x)) : x;

        assert_true(get(&f, 1, i) == want);
    }
    fixture_free(&f);
}

TEST(conversion_rounds_once)
{
    struct backend ref, cpu;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    CHECK_OK(backend_open(&cpu, "cpu", 2, &err), &err);
    for (int from = F32; from <= BF16; from++)
        for (int to = F32; to <= BF16; to++) {
            check_convert(&ref, (enum dtype)from, (enum dtype)to);
            check_convert(&cpu, (enum dtype)from, (enum dtype)to);
        }
    cpu.close(&cpu);
    ref.close(&ref);
}

static void check_range_ops(struct backend *b, struct backend *ref)
{
    struct sample s = { .op = OP_SUMSQ, .attrs = plain, .type = F32 };
    double want = 0;

    s.attrs.begin = 11;
    s.attrs.accumulate = ACCUMULATE_YES;
    struct fixture f = run_once(&s, b, ref);
    for (int64_t i = 11; i < 61; i++)
        want += get(&f, 0, i) * get(&f, 0, i);
    assert_true(fabs(get(&f, 1, 0) - 6.25 - want) < 1e-6);
    fixture_free(&f);

    struct fixture before;

    s.op = OP_GRAD_SCALE;
    fixture_make(&before, &s, ref);
    f = run_once(&s, b, ref);
    for (int64_t i = 0; i < f.used[2]; i++) {
        const double factor = i >= 11 && i < 61 ? 1 / (2.5 + 1e-6) : 1;

        assert_true(fabs(get(&f, 2, i) - get(&before, 2, i) * factor) < 1e-6);
    }
    fixture_free(&f);
    fixture_free(&before);
}

TEST(ranges_hold_to_their_ends)
{
    struct backend ref;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    check_range_ops(&ref, &ref);
    ref.close(&ref);
}

TEST(padding_row_of_the_embedding_gets_no_gradient)
{
    struct backend ref;
    struct err err = { 0 };
    struct sample s = { .op = OP_EMBED_GRAD, .attrs = plain, .type = F32, .B = 4, .T = 8, .C = 3, .V = 4 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    s.attrs.skip_row = 2;
    struct fixture f = run_once(&s, &ref, &ref);
    for (int c = 0; c < 3; c++) {
        CHECK_NEAR(get(&f, 2, 2 * 3 + c), 0, 0);
        CHECK(get(&f, 2, 1 * 3 + c) != 0);
    }
    fixture_free(&f);
    ref.close(&ref);
}

/* Clip 0.2 and old = 0, so that rho = exp(logp): which branch is the larger one, and whether the loss still moves. */
TEST(clipped_policy_loss_moves_one_way)
{
    static const struct {
        double rho, advantage, loss, slope;
    } cases[] = {
        { 1.0, 2, -2.0, -2.0 }, { 1.1, 2, -2.2, -2.2 }, { 0.9, -2, 1.8, 1.8 },
        { 1.5, 2, -2.4, 0 },    { 1.5, -2, 3.0, 3.0 },  { 0.5, 2, -1.0, -1.0 },
        { 0.5, -2, 1.6, 0 },    { 1.5, 0, 0, 0 },       { 1.19, 1, -1.19, -1.19 },
    };

    for (int i = 0; i < COUNT_OF(cases); i++) {
        const struct row_loss r = row_loss_policy(log(cases[i].rho), 0, cases[i].advantage, 0.2);

        CHECK_NEAR(r.loss, cases[i].loss, 1e-12);
        CHECK_NEAR(r.slope, cases[i].slope, 1e-12);
    }
    CHECK(isnan(row_loss_policy(NAN, 0, 1, 0.2).loss) && isnan(row_loss_policy(0, NAN, -1, 0.2).loss));
}

TEST(clipped_value_loss_is_the_larger_one)
{
    static const struct {
        double v, old, wanted, loss, slope;
    } cases[] = {
        { 1.0, 1.1, 3, 2.0, -2.0 }, /* inside the clip */
        { 2.0, 1.0, 0, 2.0, 2.0 }, /* further off than what it is clipped to */
        { 2.0, 1.0, 3, 1.62, 0 }, /* nearer than that: no pull */
        { 0.0, 1.0, 0, 0.32, 0 },
    };

    for (int i = 0; i < COUNT_OF(cases); i++) {
        const struct row_loss r = row_loss_value(cases[i].v, cases[i].old, cases[i].wanted, 0.2);

        CHECK_NEAR(r.loss, cases[i].loss, 1e-12);
        CHECK_NEAR(r.slope, cases[i].slope, 1e-12);
    }
    CHECK(isnan(row_loss_value(NAN, 0, 1, 0.2).loss) && isnan(row_loss_value(0, 0, NAN, 0.2).loss));
}

/* Scoring wants the log-probabilities alone: the loss is then minus their sum, as in phase 1. */
static void check_logp(enum op op, int old, int logp, struct backend *b)
{
    const struct sample s = {
        .op = op, .attrs = plain, .type = F32, .B = 3, .T = 5, .C = 8, .K = 5, .M = 4, .V = 19, .E = 6
    };
    struct fixture f;
    double sum = 0;
    int counted = 0;

    fixture_init(&f, &s);
    fixture_fill(&f, 1);
    for (int i = old; i < old + 2; i++) {
        f.step.in[i] = -1;
        mem_free(f.data[i]);
        f.data[i] = NULL;
    }
    fixture_run(&f, b);
    for (int64_t n = 0; n < 15; n++) {
        const double is = get(&f, f.form.n_in + logp, n);
        const bool counts = get(&f, old - 2, n) >= 0;

        assert_true(counts ? is < 0 : is == 0);
        sum += is;
        counted += counts;
    }
    assert_true(counted > 3 && counted < 15);
    assert_true(fabs(get(&f, f.form.n_in, 0) + 0.125 * sum) < 1e-6 * fabs(sum));
    fixture_free(&f);
}

TEST(log_probabilities_come_without_a_policy)
{
    static const char *const names[] = { "ref", "cpu" };
    struct err err = { 0 };

    for (int i = 0; i < COUNT_OF(names); i++) {
        struct backend b;

        CHECK_OK(backend_open(&b, names[i], 2, &err), &err);
        check_logp(OP_CROSS_ENTROPY, 3, 2, &b);
        check_logp(OP_LINEAR_CE, 4, 1, &b);
        check_logp(OP_LINEAR_CE_TRAIN, 4, 3, &b);
        b.close(&b);
    }
}

TEST(query_that_sees_nothing_gives_nothing)
{
    struct backend ref;
    struct err err = { 0 };
    struct sample s = { .op = OP_FLASH_ATTENTION, .attrs = plain, .type = F32, .B = 5, .T = 4, .C = 8 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    struct fixture f = run_once(&s, &ref, &ref);
    for (int64_t i = 0; i < 4 * 8; i++)
        CHECK_NEAR(get(&f, 4, 4 * 4 * 8 + i), 0, 0); /* row 4 of the fixture sees no key */
    for (int64_t i = 0; i < 2 * 4; i++)
        CHECK(isinf(get(&f, 5, 4 * 2 * 4 + i)) && get(&f, 5, 4 * 2 * 4 + i) > 0);
    fixture_free(&f);
    ref.close(&ref);
}

/* Relative to the wanted value, or to twice the rms of all, if that is larger: sums of both signs are as exact as their
 * terms. Where all is 0 but for rounding (the gradient of attention to one key), to a hundredth: operands are about 1. In
 * 16 bits, two roundings, or four where probabilities and gradients of scores are rounded before they are multiplied
 * (flash_tiles.c); and fp32 results of what was rounded on the way. fp16 has three bits more than bf16; two are asked for. */
static double allowed(const struct fixture *f, int i, double want, double rms)
{
    const double rounded = f->sample.op == OP_FLASH_ATTENTION_GRAD ? 0x1p-6 : 0x1p-7;
    const bool fp32 = f->buffers[i].dtype == F32;
    const double relative = f->sample.type == BF16  ? (fp32 ? 1e-3 : rounded)
                            : f->sample.type == F16 ? (fp32 ? 1e-3 : rounded) / 4
                                                    : 1e-5;

    return relative * fmax(fmax(2 * rms, 0.01), fabs(want));
}

static void check_same(const struct fixture *is, const struct fixture *want, const char *where)
{
    for (int i = 0; i < n_operands(want); i++) {
        double square = 0;

        if (!want->data[i] || want->buffers[i].dtype == I32)
            continue;
        for (int64_t k = 0; k < want->used[i]; k++)
            square += isinf(get(want, i, k)) ? 0 : get(want, i, k) * get(want, i, k);
        const double rms = sqrt(square / (double)(want->used[i] ? want->used[i] : 1));

        for (int64_t k = 0; k < want->used[i]; k++) {
            const double a = get(is, i, k), b = get(want, i, k);

            if (a == b || fabs(a - b) <= allowed(want, i, b, rms))
                continue;
            fail_msg("%s %s %s (B %d T %d C %d heads %d K %d M %d V %d E %d%s): operand %d, element %d is %.9g, ref "
                     "says %.9g (rms %.3g)",
                     op_rule(want->sample.op)->name, dtype_name(want->sample.type), where, (int)want->sample.B,
                     (int)want->sample.T, (int)want->sample.C, (int)want->sample.attrs.heads, (int)want->sample.K,
                     (int)want->sample.M, (int)want->sample.V, (int)want->sample.E, want->sample.bare ? ", bare" : "",
                     i, (int)k, a, b, rms);
        }
    }
}

static void check_bits(const struct fixture *a, const struct fixture *b, const char *what)
{
    for (int i = 0; i < n_operands(a); i++) {
        const size_t bytes = (size_t)a->used[i] * dtype_bytes(a->buffers[i].dtype);

        if (a->data[i] && memcmp(a->data[i], b->data[i], bytes) != 0)
            fail_msg("%s %s (B %d T %d C %d): operand %d differs in its bits %s", op_rule(a->sample.op)->name,
                     dtype_name(a->sample.type), (int)a->sample.B, (int)a->sample.T, (int)a->sample.C, i, what);
    }
}

static const struct extents {
    int64_t B, T, C, heads, K, M, V, E, count;
} extents[] = {
    { 1, 1, 8, 1, 5, 7, 11, 3, 1 },           { 1, 5, 24, 3, 24, 24, 13, 24, 77 },
    { 2, 37, 160, 2, 33, 65, 101, 40, 5003 }, { 5, 16, 128, 2, 64, 128, 256, 64, 4096 },
    { 2, 130, 64, 1, 16, 48, 64, 16, 70001 }, { 3, 2, 96, 3, 300, 72, 300, 56, 9 },
};

static struct sample sample_of(enum op op, enum dtype type, const struct extents *e)
{
    struct sample s = { .op = op,
                        .attrs = plain,
                        .type = type,
                        .B = e->B,
                        .T = e->T,
                        .C = e->C,
                        .K = e->K,
                        .M = e->M,
                        .V = e->V,
                        .E = e->E };

    s.attrs.heads = e->heads;
    s.attrs.count = e->count;
    s.attrs.begin = 3;
    s.attrs.chunk = e->V > 100 ? 64 : 3;
    return s;
}

/* The same operands in a fixture of their own, run on b. */
static struct fixture run_copy(const struct fixture *from, const struct sample *s, struct backend *b)
{
    struct fixture f;

    fixture_init(&f, s);
    for (int i = 0; i < n_operands(&f); i++)
        if (f.data[i])
            memcpy(f.data[i], from->data[i], (size_t)f.used[i] * dtype_bytes(f.buffers[i].dtype));
    fixture_run(&f, b);
    return f;
}

/* With inputs as a mapped file may have them: each one number behind a multiple of 64 bytes. */
static struct fixture run_apart(const struct fixture *from, const struct sample *s, struct backend *b)
{
    void *own[OP_MAX_IN] = { 0 }, *room[OP_MAX_IN] = { 0 };
    struct err err = { 0 };
    struct fixture f;

    fixture_init(&f, s);
    for (int i = 0; i < n_operands(&f); i++)
        if (f.data[i])
            memcpy(f.data[i], from->data[i], (size_t)f.used[i] * dtype_bytes(f.buffers[i].dtype));
    for (int i = 0; i < f.form.n_in; i++) {
        if (!f.data[i])
            continue;
        own[i] = f.data[i];
        room[i] = mem_array((int64_t)f.buffers[i].bytes + 128, 1, 1, MEM_OTHER, &err);
        assert_non_null(room[i]);
        f.data[i] = (char *)room[i] + (64 - (uintptr_t)room[i] % 64) + dtype_bytes(f.buffers[i].dtype);
        memcpy(f.data[i], own[i], f.buffers[i].bytes);
    }
    fixture_run(&f, b);
    for (int i = 0; i < f.form.n_in; i++) {
        f.data[i] = own[i];
        mem_free(room[i]);
    }
    return f;
}

/* One sample on both backends; then again, and in buffers planned for more rows, for the same bits. */
static void check_sample(struct sample s, struct backend *cpu, struct backend *ref, const char *where)
{
    struct fixture given, want, is, again, apart, roomy;

    fixture_make(&given, &s, ref);
    want = run_copy(&given, &s, ref);
    is = run_copy(&given, &s, cpu);
    again = run_copy(&given, &s, cpu);
    check_same(&is, &want, where);
    check_bits(&is, &again, "from run to run");
    apart = run_apart(&given, &s, cpu);
    check_bits(&is, &apart, "at other addresses");
    s.planned_B = s.B + 1;
    s.planned_T = s.T + 3;
    roomy = run_copy(&given, &s, cpu);
    check_same(&roomy, &want, "with fewer rows than planned");
    check_bits(&is, &roomy, "with the planned extents");
    fixture_free(&given);
    fixture_free(&want);
    fixture_free(&is);
    fixture_free(&again);
    fixture_free(&apart);
    fixture_free(&roomy);
}

static bool has_sums(enum op op, bool optional)
{
    struct op_form form;
    bool adds = false;

    operands_form(op, &form);
    for (int i = 0; i < form.n_out; i++)
        adds = adds || (form.out[i].adds && (!optional || form.out[i].optional));
    return adds;
}

/* Whether the op works on tokens that may be packed. */
static bool packs(enum op op)
{
    struct op_form form;
    bool tokens = false;

    operands_form(op, &form);
    for (int i = 0; i < form.n_in; i++)
        tokens = tokens || form.in[i].extent[0] == 'N' || form.in[i].extent[0] == '*';
    return tokens && op != OP_KV_ATTENTION && op != OP_PAIR_LOSS && op != OP_PAIR_LOSS_GRAD;
}

/* All that an op's attributes and optional operands can be; some mean nothing to some ops. */
static void check_variants(const struct sample *s, struct backend *cpu, struct backend *ref)
{
    struct sample v = *s;

    check_sample(v, cpu, ref, "plain");
    v.bare = true;
    v.attrs.relu = true;
    v.attrs.p = 0;
    check_sample(v, cpu, ref, "with relu, without dropout");
    v = *s;
    v.wide = true;
    if (s->op == OP_LINEAR || s->op == OP_LINEAR_Q8)
        check_sample(v, cpu, ref, "to fp32");
    v = *s;
    v.packed = packs(s->op);
    if (v.packed && s->type == F32)
        check_sample(v, cpu, ref, "packed");
    v = *s;
    v.attrs.relu = true;
    if (s->op == OP_LINEAR)
        check_sample(v, cpu, ref, "with relu");
    v = *s;
    v.frozen = true;
    if (has_sums(s->op, true))
        check_sample(v, cpu, ref, "frozen");
    if (!has_sums(s->op, false))
        return;
    v = *s;
    v.attrs.accumulate = ACCUMULATE_YES;
    v.attrs.skip_row = 1;
    check_sample(v, cpu, ref, "adding");
    v.attrs.accumulate = ACCUMULATE_UNLESS_FIRST;
    check_sample(v, cpu, ref, "first micro-batch");
    v.later_micro = true;
    check_sample(v, cpu, ref, "later micro-batch");
}

static void check_backend(struct backend *b, struct backend *ref, int n_extents)
{
    struct op_form form;

    for (int op = 0; op < OP_N; op++)
        for (int e = 0; operands_form((enum op)op, &form) && e < n_extents; e++)
            for (int type = F32; type <= F16; type++) {
                const struct sample s = sample_of((enum op)op, (enum dtype)type, &extents[e]);

                check_variants(&s, b, ref);
            }
}

/* quantize on b of random weights, with groups that are all 0 (row 0), tiny (row 1), and not finite (rows 2 and 3). */
static struct fixture quantized(struct backend *b, const struct sample *s, double *w)
{
    static const double odd[] = { 0, 1e-37, NAN, -INFINITY };
    struct fixture f;

    fixture_init(&f, s);
    fixture_fill(&f, 1);
    for (int64_t m = 0; m < COUNT_OF(odd); m++)
        for (int64_t k = 0; k < INT8_GROUP; k++)
            put(&f, 0, m * s->K + k, m < 2 || k == 100 ? odd[m] : 1);
    for (int64_t i = 0; i < s->M * s->K; i++)
        w[i] = get(&f, 0, i);
    fixture_run(&f, b);
    return f;
}

static void check_quantized(const struct fixture *f, const double *w)
{
    const int64_t K = f->sample.K, G = extent_of(&f->sample, 'G', false);

    for (int64_t i = 0; i < f->sample.M * K; i++) {
        const int64_t m = i / K, g = i % K / INT8_GROUP;
        const double q = get(f, 1, i), scale = get(f, 2, m * G + g);
        const bool odd = m < 4 && g == 0;

        if (odd && !(q == 0 && (m < 2 ? scale == 0 : isnan(scale))))
            fail_msg("row %d of odd weights: %g times %g", (int)m, q, scale);
        if (!odd && !(fabs(q * scale - w[i]) <= 0.5001 * scale && fabs(q) <= 127))
            fail_msg("weight %d is %g, in int8 %g times %g", (int)i, w[i], q, scale);
    }
}

/* A product with int8 weights is the plain one with what these stand for. */
static void check_q8(struct backend *b, struct backend *ref)
{
    struct sample s = { .op = OP_LINEAR_Q8, .attrs = plain, .type = F32, .B = 3, .T = 1, .K = 300, .M = 9 };
    struct fixture q8 = run_once(&s, b, ref), linear;

    s.op = OP_LINEAR;
    fixture_init(&linear, &s);
    linear.step.in[3] = -1;
    copy_operand(&linear, 0, &q8, 0);
    copy_operand(&linear, 2, &q8, 3);
    for (int64_t i = 0; i < s.M * s.K; i++)
        put(&linear, 1, i, get(&q8, 1, i) * get(&q8, 2, i / s.K * 3 + i % s.K / INT8_GROUP));
    fixture_run(&linear, ref);
    for (int64_t i = 0; i < s.B * s.M; i++)
        if (!(fabs(get(&q8, 4, i) - get(&linear, 4, i)) <= 1e-5 * 40 * sqrt((double)s.K)))
            fail_msg("element %d is %g, with full weights %g", (int)i, get(&q8, 4, i), get(&linear, 4, i));
    fixture_free(&q8);
    fixture_free(&linear);
}

TEST(int8_weights_stand_for_their_weights)
{
    static const char *const names[] = { "ref", "cpu" };
    static const enum dtype types[] = { F32, BF16, F16 };
    struct sample s = { .op = OP_QUANTIZE, .attrs = plain, .B = 1, .T = 1, .K = 300, .M = 9 };
    struct backend ref;
    struct err err = { 0 };
    double w[9 * 300];

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    for (int i = 0; i < 3 * COUNT_OF(names); i++) {
        struct backend b;

        CHECK_OK(backend_open(&b, names[i / 3], 2, &err), &err);
        s.type = types[i % 3];
        struct fixture f = quantized(&b, &s, w);
        check_quantized(&f, w);
        fixture_free(&f);
        check_q8(&b, &ref);
        b.close(&b);
    }
    ref.close(&ref);
}

/* Tokens from .. from+T-1 of all rows of whole, through the caches of *cached, must give what whole gave for them. */
static void check_cached(const struct fixture *whole, struct fixture *cached, int64_t from, struct backend *b)
{
    const int64_t T = cached->sample.T, C = cached->sample.C;

    for (int64_t i = 0; i < cached->sample.B * T * C; i++)
        for (int x = 0; x < 3; x++)
            put(cached, x, i, get(whole, x, (i / (T * C) * whole->sample.T + from) * C + i % (T * C)));
    for (int64_t row = 0; row < cached->sample.B; row++) {
        put(cached, 3, 2 * row, get(whole, 3, 2 * row));
        put(cached, 3, 2 * row + 1, get(whole, 3, 2 * row + 1));
        put(cached, 4, row, (double)from);
    }
    fixture_run(cached, b);
    for (int64_t i = 0; i < cached->sample.B * T * C; i++) {
        const double want = get(whole, 4, (i / (T * C) * whole->sample.T + from) * C + i % (T * C));

        if (fabs(get(cached, 5, i) - want) > 1e-12)
            fail_msg("element %d from token %d on is %.15g, all at once gives %.15g", (int)i, (int)from,
                     get(cached, 5, i), want);
    }
}

TEST(cached_attention_is_attention)
{
    struct backend ref;
    struct err err = { 0 };
    struct sample s = { .op = OP_ATTENTION, .attrs = plain, .type = F64, .B = 5, .T = 9, .C = 8 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    struct fixture whole = run_once(&s, &ref, &ref);
    s.op = OP_KV_ATTENTION;
    s.S = 9;
    s.T = 4;
    struct fixture prompt, step;
    fixture_make(&prompt, &s, &ref);
    check_cached(&whole, &prompt, 0, &ref);
    s.T = 1;
    fixture_make(&step, &s, &ref);
    copy_operand(&step, 6, &prompt, 6);
    copy_operand(&step, 7, &prompt, 7);
    for (int64_t t = 3; t < 9; t++) /* the prompt's last token twice, as decoding does */
        check_cached(&whole, &step, t, &ref);
    fixture_free(&prompt);
    fixture_free(&step);
    fixture_free(&whole);
    ref.close(&ref);
}

static void check_column(struct backend *b, int64_t at, const char *text)
{
    const struct sample s = { .op = OP_KV_ATTENTION, .attrs = plain, .type = F32, .B = 2, .T = 3, .C = 8, .S = 7 };
    void *in[OP_MAX_IN] = { 0 }, *out[OP_MAX_OUT] = { 0 }, **test_state = NULL;
    struct err err = { 0 };
    struct fixture f;
    struct kernel k;

    fixture_make(&f, &s, b);
    put(&f, 4, 1, (double)at);
    for (int i = 0; i < f.form.n_in; i++)
        in[i] = f.data[i];
    for (int i = 0; i < f.form.n_out; i++)
        out[i] = f.data[f.form.n_in + i];
    CHECK_OK(b->prepare(b, &f.plan, &f.step, &k, &err), &err);
    void *scratch = aligned_alloc(64, (k.scratch_bytes + 63) / 64 * 64 + 64);
    CHECK_ERR(b->run(b, &k, in, out, scratch, &f.c, &err), &err, ERR_RUN, text);
    free(scratch);
    b->kernel_free(b, &k);
    fixture_free(&f);
}

TEST(cache_has_an_end)
{
    static const char *const names[] = { "ref", "cpu" };

    for (int i = 0; i < COUNT_OF(names); i++) {
        struct backend b;
        struct err err = { 0 };

        CHECK_OK(backend_open(&b, names[i], 1, &err), &err);
        check_column(&b, 5, "row 1 is to be cached from column 5 on, which is not in 0 .. 4");
        check_column(&b, -1, "column -1");
        b.close(&b);
    }
}

/* Rows of what is not live are made such that they add nothing: 0, and no target. */
static void clear_dead(struct fixture *f, int i)
{
    const bool targets = f->sample.op != OP_EMBED && f->sample.op != OP_EMBED_GRAD;
    const int64_t N = f->sample.B * f->sample.T, width = f->used[i] / N;

    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; n % f->sample.T >= row_end(n / f->sample.T, f->sample.T) && k < width; k++)
            put(f, i, n * width + k, f->buffers[i].dtype == I32 && targets ? -1 : 0);
}

/* Operand i of the packed fixture is that of the whole one, of its live rows where it is packed. */
static void gather(struct fixture *packed, int i, const struct fixture *whole)
{
    const int64_t width = packed->used[i] / packed->n_live;

    if (packed->data[i] && !packed->buffers[i].packed)
        memcpy(packed->data[i], whole->data[i], packed->buffers[i].bytes);
    for (int64_t n = 0; packed->buffers[i].packed && packed->data[i] && n < packed->used[i]; n++)
        put(packed, i, n, get(whole, i, packed->places[n / width] * width + n % width));
}

static void check_packed(struct sample s, struct backend *b, struct backend *ref)
{
    struct fixture whole, packed, want;

    fixture_make(&whole, &s, ref);
    s.packed = true;
    fixture_init(&packed, &s);
    fixture_init(&want, &s);
    for (int i = 0; i < n_operands(&whole); i++)
        if (whole.data[i] && packed.buffers[i].packed)
            clear_dead(&whole, i);
    for (int i = 0; i < n_operands(&whole); i++)
        gather(&packed, i, &whole);
    fixture_run(&packed, b);
    fixture_run(&whole, b);
    for (int i = 0; i < n_operands(&whole); i++)
        gather(&want, i, &whole);
    for (int i = 0; i < n_operands(&want); i++)
        if (want.buffers[i].shape.rank > 2) /* by row of the batch: what is not live was not written */
            want.used[i] = 0;
    check_same(&packed, &want, "of live rows");
    fixture_free(&whole);
    fixture_free(&packed);
    fixture_free(&want);
}

TEST(live_rows_are_as_in_the_whole_batch)
{
    struct backend cpu, ref;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    CHECK_OK(backend_open(&cpu, "cpu", 2, &err), &err);
    for (int op = 0; op < OP_N; op++)
        for (int e = 1; e < COUNT_OF(extents); e++) {
            struct op_form form;
            if (!operands_form((enum op)op, &form) || !packs((enum op)op) || op == OP_PACK || op == OP_UNPACK)
                continue;
            check_packed(sample_of((enum op)op, F32, &extents[e]), &cpu, &ref);
            if (e < 3)
                check_packed(sample_of((enum op)op, F32, &extents[e]), &ref, &ref);
        }
    cpu.close(&cpu);
    ref.close(&ref);
}

/* The n-th row of operand i that a row has in common with row 1 becomes as that one, or 0. */
static void set_shared(struct fixture *f, int i, bool zero)
{
    const int64_t T = f->sample.T, width = f->used[i] / (f->sample.B * T);

    for (int64_t b = 2; b < 4; b++)
        for (int64_t k = 0; k < row_first(&f->sample, b) * width; k++)
            put(f, i, b * T * width + k, zero ? 0 : get(f, i, T * width + k));
}

/* What rows 2 and 3 give to keys that row 1 has, added to what that gives. */
static void add_shared(struct fixture *want, int i, const struct fixture *whole)
{
    const int64_t T = want->sample.T, width = want->sample.C;

    for (int64_t b = 2; b < 4; b++)
        for (int64_t k = 0; k < row_first(&want->sample, b) * width; k++) {
            const int64_t at = want->live[1].begin * width + k;
            put(want, i, at, get(want, i, at) + get(whole, i, b * T * width + k));
        }
}

struct packed_pair {
    struct fixture whole, packed, want;
};

static struct packed_pair packed_pair(struct sample s)
{
    struct packed_pair p;

    fixture_init(&p.whole, &s);
    s.packed = true;
    fixture_init(&p.packed, &s);
    fixture_init(&p.want, &s);
    fixture_fill(&p.packed, 2);
    fixture_fill(&p.want, 2);
    return p;
}

static void run_pair(struct packed_pair *p, struct backend *b, struct backend *ref)
{
    for (int i = 0; i < n_operands(&p->whole); i++)
        gather(&p->packed, i, &p->whole);
    fixture_run(&p->whole, ref);
    fixture_run(&p->packed, b);
    for (int i = 0; i < n_operands(&p->whole); i++) {
        gather(&p->want, i, &p->whole);
        if (p->want.buffers[i].shape.rank > 2)
            p->want.used[i] = 0;
    }
}

static void free_pair(struct packed_pair *p)
{
    fixture_free(&p->whole);
    fixture_free(&p->packed);
    fixture_free(&p->want);
}

static void check_shared(const struct gradient_link *link, enum dtype type, const struct extents *e, struct backend *b,
                         struct backend *ref)
{
    struct sample s = sample_of(link->forward, type, e);

    s.shares = true;
    struct packed_pair forward = packed_pair(s);
    fixture_fill(&forward.whole, 1);
    for (int i = 0; i < 3; i++) {
        clear_dead(&forward.whole, i);
        set_shared(&forward.whole, i, false);
    }
    run_pair(&forward, b, ref);
    check_same(&forward.packed, &forward.want, "of rows that share");
    s.op = link->gradient;
    struct packed_pair gradient = packed_pair(s);
    fixture_fill(&gradient.whole, 2);
    for (int i = 0; i < gradient.whole.form.n_in; i++) {
        const char *word = link->in + 3 * i;
        if (word[0] != 'd')
            copy_operand(&gradient.whole, i, &forward.whole,
                         word[1] - '0' + (word[0] == 'o' ? forward.whole.form.n_in : 0));
    }
    clear_dead(&gradient.whole, 0);
    set_shared(&gradient.whole, 0, true);
    run_pair(&gradient, b, ref);
    for (int i = 1; i < 3; i++)
        add_shared(&gradient.want, gradient.want.form.n_in + i, &gradient.whole);
    check_same(&gradient.packed, &gradient.want, "of rows that share");
    free_pair(&forward);
    free_pair(&gradient);
}

TEST(rows_share_their_beginning)
{
    static const struct extents shared[] = { { 4, 5, 24, 3, 0, 0, 0, 0, 0 },
                                             { 5, 37, 160, 2, 0, 0, 0, 0, 0 },
                                             { 5, 199, 64, 1, 0, 0, 0, 0, 0 } };
    struct backend cpu, ref;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    CHECK_OK(backend_open(&cpu, "cpu", 2, &err), &err);
    for (int i = 0; i < COUNT_OF(links); i++)
        for (int e = 0; e < COUNT_OF(shared); e++) {
            if (links[i].forward != OP_ATTENTION && links[i].forward != OP_FLASH_ATTENTION)
                continue;
            check_shared(&links[i], F32, &shared[e], &ref, &ref);
            check_shared(&links[i], F32, &shared[e], &cpu, &ref);
            if (links[i].forward == OP_FLASH_ATTENTION)
                for (int type = BF16; type <= F16; type++)
                    check_shared(&links[i], (enum dtype)type, &shared[e], &cpu, &ref);
        }
    cpu.close(&cpu);
    ref.close(&ref);
}

TEST(ref_works_on_fewer_rows_than_planned)
{
    struct backend ref;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    check_backend(&ref, &ref, 2);
    ref.close(&ref);
}

TEST(cpu_agrees_with_ref)
{
    struct backend cpu, ref;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    CHECK_OK(backend_open(&cpu, "cpu", 2, &err), &err);
    check_backend(&cpu, &ref, COUNT_OF(extents));
    cpu.close(&cpu);
    ref.close(&ref);
}

/* The steps of decoding: one token a row, caches of many lengths. */
TEST(cpu_decodes_as_ref_does)
{
    struct backend cpu, ref;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    CHECK_OK(backend_open(&cpu, "cpu", 2, &err), &err);
    for (int64_t S = 1; S < 300; S += S / 2 + 1)
        for (int type = F32; type <= F16; type++)
            for (int64_t B = 1; B <= 7; B += 3) {
                struct sample s = { .op = OP_KV_ATTENTION, .attrs = plain, .type = (enum dtype)type, .B = B, .T = 1 };

                s.S = S;
                s.attrs.heads = 5;
                s.C = 5 * (S % 2 ? 64 : 40 + S % 5);
                check_sample(s, &cpu, &ref, "decoding");
            }
    cpu.close(&cpu);
    ref.close(&ref);
}

TEST_MAIN(CASE(int8_weights_stand_for_their_weights), CASE(every_op_has_a_case), CASE(gradients_are_finite_differences),
          CASE(optimizer_ops_do_as_their_formulas_say), CASE(ranges_hold_to_their_ends),
          CASE(padding_row_of_the_embedding_gets_no_gradient), CASE(query_that_sees_nothing_gives_nothing),
          CASE(cached_attention_is_attention), CASE(cache_has_an_end), CASE(cpu_decodes_as_ref_does),
          CASE(clipped_policy_loss_moves_one_way), CASE(masters_in_halves_learn_alike),
          CASE(the_scale_of_the_loss_is_undone), CASE(averages_keep_to_their_range),
          CASE(accumulating_keeps_to_its_range), CASE(conversion_rounds_once),
          CASE(clipped_value_loss_is_the_larger_one), CASE(log_probabilities_come_without_a_policy),
          CASE(live_rows_are_as_in_the_whole_batch), CASE(rows_share_their_beginning),
          CASE(ref_works_on_fewer_rows_than_planned), CASE(cpu_agrees_with_ref))
