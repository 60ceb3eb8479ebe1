/* Which places are live: ends by keys, targets and what pairs compare; a round number of them; and never more than planned. */
#include "backend/live_rows.h"

#include "test.h"

#define ROWS 4
#define IDS 24

struct lines {
    int32_t spans[2 * ROWS], targets[ROWS * IDS], pairs[ROWS / 2 * PAIR_N], ids[ROWS * IDS];
    struct live_row live[ROWS];
    int32_t places[ROWS * IDS];
    struct buffer buffers[2];
    struct plan plan;
    struct op_step step;
    struct kernel kernel;
    struct run_context c;
};

static void lines_init(struct lines *l, int64_t planned)
{
    *l = (struct lines){ 0 };
    memset(l->targets, -1, sizeof l->targets);
    l->buffers[1].shape = shape_of(1, planned);
    l->plan = (struct plan){ .buffers = l->buffers, .n_buffers = 2 };
    l->step = plan_step(OP_LIVE_ROWS, "test");
    l->step.out[0] = 0;
    l->step.out[1] = 1;
    l->kernel = (struct kernel){ .plan = &l->plan, .step = &l->step };
    l->c = (struct run_context){ .B = ROWS, .T = IDS };
    for (int b = 0; b < ROWS; b++)
        l->spans[2 * b + 1] = 3 + b; /* 3 4 5 6 */
}

static int find(struct lines *l, bool targets, bool pairs, struct err *err)
{
    void *in[OP_MAX_IN] = { l->spans, targets ? l->targets : NULL, pairs ? l->pairs : NULL, l->ids };
    void *out[OP_MAX_OUT] = { l->live, l->places };

    return live_rows_find(&l->kernel, in, out, &l->c, err);
}

/* Rows follow each other, from their first place on. */
static void check_table(void **test_state, const struct lines *l, const int *ends)
{
    int n = 0;

    for (int b = 0; b < ROWS; b++) {
        CHECK_EQ(l->live[b].begin, n);
        CHECK_EQ(l->live[b].first, 0);
        CHECK_EQ(l->live[b].end, ends[b]);
        CHECK_EQ(l->live[b].shares, -1);
        for (int t = 0; t < ends[b]; t++)
            CHECK_EQ(l->places[n++], b * IDS + t);
    }
}

TEST(keys_are_live_and_padding_rounds)
{
    struct err err = { 0 };
    struct lines l;

    lines_init(&l, ROWS * IDS);
    CHECK_OK(find(&l, true, false, &err), &err);
    check_table(test_state, &l, (int[]){ 3, 4, 5, 20 }); /* 18, and 14 of padding */
    l.spans[7] = IDS;
    CHECK_OK(find(&l, true, false, &err), &err);
    check_table(test_state, &l, (int[]){ 3, 4, 17, 24 }); /* the last row has none: the one before gives it */
}

TEST(what_is_read_is_live)
{
    struct err err = { 0 };
    struct lines l;

    lines_init(&l, ROWS * IDS);
    l.targets[1 * IDS + 10] = 0;
    CHECK_OK(find(&l, true, false, &err), &err);
    check_table(test_state, &l, (int[]){ 3, 11, 5, 13 });
    l.pairs[PAIR_CHOSEN_BEGIN] = 2;
    l.pairs[PAIR_REJECTED_BEGIN] = 1;
    l.pairs[PAIR_TERMS] = 6;
    l.pairs[PAIR_CHOSEN_LAST] = IDS - 1;
    l.pairs[PAIR_REJECTED_LAST] = 5;
    l.pairs[PAIR_N + PAIR_CHOSEN_BEGIN] = 20; /* compares nothing */
    CHECK_OK(find(&l, false, true, &err), &err);
    check_table(test_state, &l, (int[]){ 8, 4, 6, 14 });
}

TEST(empty_and_full_batches_have_rows)
{
    struct err err = { 0 };
    struct lines l;

    lines_init(&l, ROWS * IDS);
    memset(l.spans, 0, sizeof l.spans);
    CHECK_OK(find(&l, true, false, &err), &err);
    check_table(test_state, &l, (int[]){ 0, 0, 0, 16 });
    for (int b = 0; b < ROWS; b++)
        l.spans[2 * b + 1] = IDS;
    CHECK_OK(find(&l, true, false, &err), &err);
    check_table(test_state, &l, (int[]){ IDS, IDS, IDS, IDS });
    l.c.B = 1; /* one row of one id */
    l.c.T = 1;
    l.spans[1] = 1;
    CHECK_OK(find(&l, true, false, &err), &err);
    CHECK_EQ(l.live[0].end, 1);
}

static void check_row(void **test_state, const struct lines *l, int row, int begin, int first, int end, int shares)
{
    CHECK_EQ(l->live[row].begin, begin);
    CHECK_EQ(l->live[row].first, first);
    CHECK_EQ(l->live[row].end, end);
    CHECK_EQ(l->live[row].shares, shares);
}

/* Rows 2 and 3 are the rejected ones of 0 and 1. */
TEST(rejected_rows_leave_what_they_share)
{
    struct err err = { 0 };
    struct lines l;

    lines_init(&l, ROWS * IDS);
    l.step.attrs.shares = true;
    l.ids[1 * IDS + 2] = 9; /* row 3 has other ids from its third on */
    CHECK_OK(find(&l, false, true, &err), &err);
    check_row(test_state, &l, 0, 0, 0, 3, -1);
    check_row(test_state, &l, 1, 3, 0, 4, -1);
    check_row(test_state, &l, 2, 7, 3, 5, 0); /* as far as the shorter one goes */
    check_row(test_state, &l, 3, 9, 2, 9, 1); /* with padding to 16 */
    CHECK_EQ(l.places[7], 2 * IDS + 3);
    CHECK_EQ(l.places[9], 3 * IDS + 2);
    l.pairs[PAIR_REJECTED_BEGIN] = 1; /* what is compared is the row's own */
    l.pairs[PAIR_REJECTED_LAST] = 4;
    l.pairs[PAIR_TERMS] = 1;
    l.spans[2] = l.spans[6] = 0;
    CHECK_OK(find(&l, false, true, &err), &err);
    CHECK_EQ(l.live[2].first, 1);
    l.spans[0] = 1; /* another key is the first: nothing is alike */
    CHECK_OK(find(&l, false, true, &err), &err);
    check_row(test_state, &l, 2, 7, 0, 5, -1);
}

/* Sharing alone: padding stays. */
TEST(padding_may_stay)
{
    struct err err = { 0 };
    struct lines l;

    lines_init(&l, ROWS * IDS);
    l.step.attrs.shares = l.step.attrs.padding = true;
    CHECK_OK(find(&l, false, true, &err), &err);
    check_row(test_state, &l, 0, 0, 0, IDS, -1);
    check_row(test_state, &l, 3, 2 * IDS + IDS - 3, 4, IDS, 1);
}

TEST(more_than_planned_is_refused)
{
    struct err err = { 0 };
    struct lines l;

    lines_init(&l, 18);
    CHECK_OK(find(&l, true, false, &err), &err);
    check_table(test_state, &l, (int[]){ 3, 4, 5, 6 });
    lines_init(&l, 17);
    CHECK_ERR(find(&l, true, false, &err), &err, ERR_RUN, "18 ids of a batch are not padding, 17 were planned");
}

TEST_MAIN(CASE(keys_are_live_and_padding_rounds), CASE(what_is_read_is_live), CASE(empty_and_full_batches_have_rows),
          CASE(rejected_rows_leave_what_they_share), CASE(padding_may_stay), CASE(more_than_planned_is_refused))
