/* The 8-bit code against its definition in double precision, and AdamW on it: the same bits on every backend. */
#include "backend/dynamic8.h"

#include "backend/op_fixture.h"

/* The definition: the middles of 2^i cells in each decade, and 1. */
static double value_of(int code, int last_decade)
{
    int i = 0;

    if (code == 0 || code == (2 << last_decade) - 1)
        return code == 0 ? 0 : 1;
    while (2 << i <= code)
        i++;
    return pow(10, i - last_decade) * (0.1 + 0.9 * (code - (1 << i) + 0.5) / (1 << i));
}

static void check_code(void **test_state, int last_decade)
{
    const int n = 2 << last_decade;

    for (int c = 0; c < n; c++) {
        const double x = value_of(c, last_decade), is = (double)dynamic8_value(c, last_decade);

        CHECK_NEAR(is / (x > 0 ? x : 1), c > 0, 1e-6);
        CHECK_EQ(dynamic8_code((float)x, last_decade), c);
        if (c == 0)
            continue;
        const double below = value_of(c - 1, last_decade), half = (below + x) / 2;
        CHECK(below < x);
        CHECK_EQ(dynamic8_code((float)(half + 1e-5 * (x - below)), last_decade), c);
        CHECK_EQ(dynamic8_code((float)(half - 1e-5 * (x - below) - 2e-7 * x), last_decade), c - 1);
    }
    CHECK_EQ(dynamic8_code(1.0001f, last_decade), n - 1); /* 1 / scale rounds */
}

TEST(each_number_gets_the_nearest_code)
{
    check_code(test_state, DYNAMIC8_SIGNED);
    check_code(test_state, DYNAMIC8_UNSIGNED);
}

TEST(signs_and_what_is_next_to_nothing_are_kept)
{
    for (int q = -127; q <= 127; q++)
        CHECK_EQ(dynamic8_to_signed(dynamic8_signed(q, 3.0f), 1 / 3.0f), q);
    for (int q = 0; q <= 255; q++)
        CHECK_EQ(dynamic8_to_unsigned(dynamic8_unsigned(q, 0.25f), 4.0f), q);
    CHECK_EQ(dynamic8_to_unsigned(1e-30f, 1), 1);
    CHECK_EQ(dynamic8_to_unsigned(0, 1), 0);
    CHECK_EQ(dynamic8_to_signed(1e-30f, 1), 0);
    CHECK(isnan(dynamic8_scale(INFINITY)) && isnan(dynamic8_scale(NAN)) && dynamic8_scale(1e-37f) == 0);
    CHECK(dynamic8_scale(2) == 2);
}

/* Half a step in a cell; between the last of a decade and the first of the next, half of their distance. */
TEST(errors_are_bounded_by_the_code)
{
    struct rng rng = { .seed = 5 };

    for (int i = 0; i < 20000; i++) {
        const double x = pow(10, -4 * rng_uniform(&rng));
        const int decade = (int)ceil(log10(x)); /* x is in 0.1 .. 1 of 10^decade */
        const double unit = pow(10, decade), cell = 0.9 * unit / ldexp(1, DYNAMIC8_SIGNED + decade);
        const float m = (float)x;

        CHECK(fabs((double)dynamic8_signed(dynamic8_to_signed(-m, 1), 1) + x) <= 0.76 * cell);
        CHECK(fabs((double)dynamic8_unsigned(dynamic8_to_unsigned(m, 1), 1) - x) <= 0.76 * cell / 2);
    }
}

struct variant {
    enum dtype type;
    bool bare, halves;
    int64_t count;
};

/* Several updates, each with the state that the one before left. */
static struct fixture updated(const struct variant *v, struct backend *b, struct backend *ref)
{
    const struct sample s = {
        .op = OP_ADAMW8, .attrs = { .begin = 5, .count = v->count, .skip_row = -1 }, .type = v->type, .bare = v->bare
    };
    struct fixture f;

    fixture_make(&f, &s, ref);
    if (v->halves) {
        f.buffers[6].dtype = REST16;
        f.buffers[6].bytes = (size_t)v->count * sizeof(int16_t);
        f.data[6] = memset(f.data[6], 0, f.buffers[6].bytes);
    }
    for (int i = 4; i <= 8; i++)
        if (f.data[i] && i != 6)
            memset(f.data[i], 0, f.buffers[i].bytes);
    for (int n = 0; n < 4; n++)
        fixture_run(&f, b);
    return f;
}

TEST(backends_give_the_same_bits)
{
    static const struct variant variants[] = { { F32, true, false, 5003 },  { F32, false, false, 256 },
                                               { BF16, true, false, 1 },    { BF16, false, false, 3000 },
                                               { BF16, false, true, 5003 }, { F32, true, false, 70001 } };
    struct backend ref, cpu;
    struct err err = { 0 };

    CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
    CHECK_OK(backend_open(&cpu, "cpu", 3, &err), &err);
    for (int i = 0; i < COUNT_OF(variants); i++) {
        struct fixture want = updated(&variants[i], &ref, &ref), is = updated(&variants[i], &cpu, &ref);

        for (int k = 0; k < n_operands(&want); k++)
            if (want.data[k] && memcmp(want.data[k], is.data[k], want.buffers[k].bytes) != 0)
                fail_msg("variant %d: operand %d differs", i, k);
        fixture_free(&want);
        fixture_free(&is);
    }
    cpu.close(&cpu);
    ref.close(&ref);
}

TEST(blocks_without_a_finite_number_are_marked)
{
    static const char *const names[] = { "ref", "cpu" };
    const struct sample s = { .op = OP_ADAMW8, .attrs = { .count = 600, .skip_row = -1 }, .type = F32, .bare = true };

    for (int i = 0; i < COUNT_OF(names); i++) {
        struct backend b, ref;
        struct err err = { 0 };
        struct fixture f;

        CHECK_OK(backend_open(&ref, "ref", 1, &err), &err);
        CHECK_OK(backend_open(&b, names[i], 1, &err), &err);
        fixture_make(&f, &s, &ref);
        put(&f, 0, 300, NAN);
        fixture_run(&f, &b);
        for (int scale = 7; scale <= 8; scale++) {
            CHECK(get(&f, scale, 0) > 0 && get(&f, scale, 2) > 0);
            CHECK(isnan(get(&f, scale, 1)));
        }
        CHECK_NEAR(get(&f, 4, 256), 0, 0);
        fixture_free(&f);
        b.close(&b);
        ref.close(&ref);
    }
}

TEST(scales_that_lack_are_refused)
{
    const struct sample s = { .op = OP_ADAMW8, .attrs = { .count = 257, .skip_row = -1 }, .type = F32, .bare = true };
    struct fixture f;
    struct err err = { 0 };

    fixture_init(&f, &s);
    CHECK_OK(operands_check(&f.plan, &f.step, "cpu", false, &err), &err);
    f.buffers[7].shape.dim[0] = f.buffers[8].shape.dim[0] = 1;
    CHECK_ERR(operands_check(&f.plan, &f.step, "cpu", false, &err), &err, ERR_RUN, "blocks lack a scale");
    fixture_free(&f);
}

TEST_MAIN(CASE(each_number_gets_the_nearest_code), CASE(signs_and_what_is_next_to_nothing_are_kept),
          CASE(errors_are_bounded_by_the_code), CASE(backends_give_the_same_bits),
          CASE(blocks_without_a_finite_number_are_marked), CASE(scales_that_lack_are_refused))
