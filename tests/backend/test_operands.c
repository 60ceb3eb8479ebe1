#include "backend/op_fixture.h"

static void check_refused(struct fixture *f, const char *text)
{
    void **test_state = NULL;
    struct err err = { 0 };

    CHECK_ERR(operands_check(&f->plan, &f->step, "cpu", false, &err), &err, ERR_RUN, text);
}

static struct fixture step_of(enum op op, enum dtype type)
{
    const struct sample s = { .op = op,
                              .attrs = { .heads = 2, .chunk = 4, .clip = 0.2, .count = 8, .begin = 2 },
                              .type = type,
                              .B = 2,
                              .T = 3,
                              .C = 4,
                              .K = 5,
                              .M = 6,
                              .V = 7,
                              .E = 8 };
    struct fixture f;

    fixture_init(&f, &s);
    f.plan.buffers = NULL; /* set by the caller: f moves */
    return f;
}

TEST(forms_are_as_the_table_says)
{
    struct op_form f;

    CHECK(operands_form(OP_LINEAR_DW, &f));
    CHECK_EQ(f.n_in, 2);
    CHECK_EQ(f.n_out, 2);
    CHECK(f.out[1].optional && f.out[1].adds && !f.out[0].optional && f.out[0].adds && !f.in[0].adds);
    CHECK_STR(f.out[0].extent, "MK");
    CHECK(!operands_form(OP_ALL_REDUCE, &f));
}

TEST(good_steps_pass)
{
    struct err err = { 0 };
    struct op_form form;

    for (int op = 0; op < OP_N; op++)
        for (int type = F32; operands_form((enum op)op, &form) && type <= F16; type++) {
            struct fixture f = step_of((enum op)op, (enum dtype)type);

            f.plan.buffers = f.buffers;
            CHECK_OK(operands_check(&f.plan, &f.step, "cpu", false, &err), &err);
            fixture_free(&f);
        }
}

TEST(operands_that_do_not_go_together_are_refused)
{
    struct fixture f = step_of(OP_LINEAR, F32);

    f.plan.buffers = f.buffers;
    f.buffers[1].shape.dim[1] = 9;
    check_refused(&f, "\"operand 1\" [6,9]");
    f.buffers[1].shape.dim[1] = 5;
    f.buffers[1].dtype = BF16;
    check_refused(&f, "bf16: not a type");
    f.buffers[1].dtype = F32;
    f.step.in[1] = -1;
    check_refused(&f, "lacks an operand");
    f.step.in[1] = 1;
    f.buffers[0].shape.rank = 1;
    check_refused(&f, "the shape does not go");
    fixture_free(&f);
    f = step_of(OP_RELU, F64);
    f.plan.buffers = f.buffers;
    check_refused(&f, "fp64: not a type");
    fixture_free(&f);
    CHECK(true);
}

TEST(attributes_out_of_range_are_refused)
{
    struct fixture f = step_of(OP_ATTENTION, F32);

    f.plan.buffers = f.buffers;
    f.step.attrs.heads = 3;
    check_refused(&f, "attention");
    fixture_free(&f);
    f = step_of(OP_ADAMW, BF16);
    f.plan.buffers = f.buffers;
    f.step.attrs.begin = 6; /* of 2 + 8 + 3 elements */
    check_refused(&f, "the range ends beyond it");
    fixture_free(&f);
    f = step_of(OP_LINEAR_CE, BF16);
    f.plan.buffers = f.buffers;
    f.step.attrs.clip = 0;
    check_refused(&f, "linear_ce with the clip 0");
    f.step.in[5] = -1;
    check_refused(&f, "one of old and advantage");
    fixture_free(&f);
    CHECK(true);
}

TEST(ids_outside_of_the_vocabulary_are_named)
{
    const int32_t ids[] = { 0, 3, -1, 7 };
    struct err err = { 0 };

    CHECK_OK(operands_check_ids(ids, 2, 0, 7, "token", &err), &err);
    CHECK_OK(operands_check_ids(ids, 3, INT32_MIN, 7, "target", &err), &err);
    CHECK_ERR(operands_check_ids(ids, 4, 0, 7, "token", &err), &err, ERR_RUN, "token 2 is -1");
    CHECK_ERR(operands_check_ids(ids, 4, INT32_MIN, 7, "target", &err), &err, ERR_RUN, "target 3 is 7");
}

TEST(pairs_outside_of_their_rows_are_named)
{
    const int32_t pairs[] = { 0, 9, 8, 7, 7, 2, 2, 1, 7, 8 }; /* begins may lie behind the row */
    const int32_t odd[][PAIR_N] = { { -1, 0, 1, 7, 7 }, { 0, 0, 9, 7, 7 }, { 0, 0, -1, 7, 7 }, { 0, 0, 1, -1, 7 } };
    struct err err = { 0 };

    CHECK_OK(operands_check_pairs(pairs, 2, 8, &err), &err);
    CHECK_ERR(operands_check_pairs(pairs, 4, 8, &err), &err, ERR_RUN, "pair 1 compares");
    CHECK_ERR(operands_check_pairs(pairs, 3, 8, &err), &err, ERR_RUN, "3 rows");
    for (int i = 0; i < COUNT_OF(odd); i++)
        CHECK_ERR(operands_check_pairs(odd[i], 2, 8, &err), &err, ERR_RUN, "pair 0 compares");
}

TEST(scores_that_make_no_pairs_are_refused)
{
    struct fixture f = step_of(OP_PAIR_LOSS, F32);

    f.plan.buffers = f.buffers;
    f.buffers[0].shape.dim[0]--;
    check_refused(&f, "in 1 pairs of rows");
    fixture_free(&f);
    CHECK(true);
}

TEST_MAIN(CASE(forms_are_as_the_table_says), CASE(good_steps_pass), CASE(operands_that_do_not_go_together_are_refused),
          CASE(attributes_out_of_range_are_refused), CASE(ids_outside_of_the_vocabulary_are_named),
          CASE(pairs_outside_of_their_rows_are_named), CASE(scores_that_make_no_pairs_are_refused))
