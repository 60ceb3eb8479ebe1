#include "test.h"

#include "base/json.h"
#include "base/mem.h"
#include "data/batcher.h"
#include "data/shuffle.h"

/* Sample i is 2, 100+i, 100+i, ..., of 2 + i % 7 ids, and so tells its number. */
static struct samples numbered(enum sample_kind kind, int n)
{
    struct err err = { 0 };
    struct samples s;

    assert_int_equal(samples_init(&s, kind, 12, 2, &err), 0);
    for (int i = 0; i < n; i++) {
        int32_t row[12] = { 2 }, other[12] = { 2 };
        for (int t = 1; t < 12; t++) {
            row[t] = 100 + i;
            other[t] = 1000 + i;
        }
        assert_int_equal(samples_add(&s, row, 2 + i % 7, kind == SAMPLE_PAIR ? other : NULL, 3, &err), 0);
    }
    return s;
}

static struct batcher start(const struct samples *s, struct batcher_options o)
{
    struct err err = { 0 };
    struct batcher b;

    if (batcher_init(&b, s, &o, &err) != 0)
        fail_msg("%s", err.what);
    return b;
}

static void check_ints(const int32_t *got, const int32_t *wanted, int n)
{
    for (int i = 0; i < n; i++)
        assert_int_equal(got[i], wanted[i]);
}

TEST(a_row_in_every_convention)
{
    const int32_t ids[] = { 2, 100, 100, 2, 2, 2 }, positions[] = { 2, 3, 4, 1, 1, 1 };
    const int32_t targets[] = { 100, 100, -100, -100, -100, -100 }, old[] = { 100, 100, 2, 2, 2, -100 };
    const int32_t left_ids[] = { 2, 2, 2, 2, 100, 100 }, left_positions[] = { 1, 1, 1, 2, 3, 4 };
    const int32_t left_targets[] = { -100, -100, -100, 100, 100, -100 };
    const int32_t text[] = { 2, 100, 100 };
    struct err err = { 0 };
    struct samples s;
    struct batcher b;

    CHECK_OK(samples_init(&s, SAMPLE_TEXT, 6, 2, &err), &err);
    CHECK_OK(samples_add(&s, text, 3, NULL, 0, &err), &err);
    b = start(&s, (struct batcher_options){ .B = 4, .T = 6, .ranks = 1 });
    CHECK_EQ(batcher_step(&b, &err), 1);
    CHECK_EQ(b.batch.B, 1);
    CHECK_EQ(b.batch.T, 6);
    check_ints(b.batch.ids, ids, 6);
    check_ints(b.batch.positions, positions, 6);
    check_ints(b.batch.targets, targets, 6);
    check_ints(b.batch.spans, (const int32_t[]){ 0, 3 }, 2);
    CHECK_EQ(b.batch.n_targets, 2);
    CHECK_EQ(b.batch.n_tokens, 3);
    CHECK_EQ(batcher_step(&b, &err), 0);
    batcher_free(&b);

    b = start(&s, (struct batcher_options){ .B = 4, .T = 6, .ranks = 1, .convention = CONVENTION_PAPER });
    CHECK_EQ(batcher_step(&b, &err), 1);
    check_ints(b.batch.targets, old, 6);
    check_ints(b.batch.spans, (const int32_t[]){ 0, 3 }, 2);
    CHECK_EQ(b.batch.n_targets, 5);
    CHECK_EQ(b.batch.n_tokens, 3);
    batcher_free(&b);

    b = start(&s, (struct batcher_options){ .B = 4, .T = 6, .ranks = 1, .left_pad = true });
    CHECK_EQ(batcher_step(&b, &err), 1);
    check_ints(b.batch.ids, left_ids, 6);
    check_ints(b.batch.positions, left_positions, 6);
    check_ints(b.batch.targets, left_targets, 6);
    check_ints(b.batch.spans, (const int32_t[]){ 3, 6 }, 2);
    batcher_free(&b);
    samples_free(&s);
}

/* The sample's number that a row tells. */
static int number(const struct batch *batch, int64_t row)
{
    return batch->ids[row * batch->T + 1] - 100;
}

TEST(ranks_together_see_the_single_process_batch)
{
    struct samples s = numbered(SAMPLE_TEXT, 37);
    struct err err = { 0 };
    int64_t order[37];

    shuffle_epoch(9, 2, 37, order);
    for (int ranks = 1; ranks <= 5; ranks++)
        for (int rank = 0; rank < ranks; rank++) {
            struct batcher b =
                start(&s, (struct batcher_options){ .B = 4, .T = 12, .rank = rank, .ranks = ranks, .seed = 9 });
            int64_t steps = 0, rows = 0;
            CHECK_OK(batcher_epoch(&b, 2, &err), &err);
            for (; batcher_step(&b, &err) == 1; steps++) {
                CHECK_EQ(b.batch.first_row, steps * 4 * ranks + rank);
                for (int64_t i = 0; i < b.batch.B; i++)
                    CHECK_EQ(number(&b.batch, i), order[(b.batch.first_row + i * b.batch.row_stride) % 37]);
                rows += b.batch.B;
            }
            CHECK_EQ(rows, (37 + ranks - 1) / ranks);
            CHECK_EQ(steps, batcher_steps(&b));
            CHECK_EQ(steps, (rows + 3) / 4);
            batcher_free(&b);
        }
    samples_free(&s);
}

TEST(more_ranks_than_samples)
{
    struct samples s = numbered(SAMPLE_TEXT, 2);
    struct err err = { 0 };
    struct batcher b = start(&s, (struct batcher_options){ .B = 3, .T = 12, .rank = 6, .ranks = 7 });

    CHECK_EQ(batcher_steps(&b), 1);
    CHECK_EQ(batcher_step(&b, &err), 1);
    CHECK_EQ(b.batch.B, 1);
    batcher_free(&b);
    samples_free(&s);
}

TEST(trimming_leaves_the_text_alone)
{
    struct samples s = numbered(SAMPLE_TEXT, 23);
    struct err err = { 0 };
    struct batcher whole = start(&s, (struct batcher_options){ .B = 2, .T = 40, .ranks = 1 });
    struct batcher trim = start(&s, (struct batcher_options){ .B = 2, .T = 40, .ranks = 1, .trim = true });
    const struct batch *w = &whole.batch, *t = &trim.batch;

    while (batcher_step(&whole, &err) == 1) {
        CHECK_EQ(batcher_step(&trim, &err), 1);
        CHECK(t->T == 8); /* no sample is longer */
        CHECK_EQ(t->n_targets, w->n_targets);
        CHECK_EQ(t->n_tokens, w->n_tokens);
        for (int64_t i = 0; i < w->B; i++) {
            check_ints(t->ids + i * t->T, w->ids + i * w->T, 8);
            check_ints(t->positions + i * t->T, w->positions + i * w->T, 8);
            check_ints(t->targets + i * t->T, w->targets + i * w->T, 8);
        }
    }
    CHECK_EQ(batcher_step(&trim, &err), 0);
    batcher_free(&whole);
    batcher_free(&trim);
    samples_free(&s);
}

TEST(seeking_gives_the_same_batch)
{
    struct samples s = numbered(SAMPLE_TEXT, 31);
    const struct batcher_options o = { .B = 3, .T = 12, .rank = 1, .ranks = 2, .seed = 4, .trim = true };
    struct err err = { 0 };
    struct batcher through = start(&s, o), jump = start(&s, o);

    for (int64_t epoch = 0; epoch < 3; epoch++) {
        CHECK_OK(batcher_epoch(&through, epoch, &err), &err);
        for (int64_t step = 0; batcher_step(&through, &err) == 1; step++) {
            CHECK_OK(batcher_seek(&jump, (epoch + 1) % 3, 0, &err), &err);
            CHECK_OK(batcher_seek(&jump, epoch, step, &err), &err);
            CHECK_EQ(batcher_step(&jump, &err), 1);
            CHECK_EQ(jump.batch.B, through.batch.B);
            CHECK_EQ(jump.batch.T, through.batch.T);
            check_ints(jump.batch.ids, through.batch.ids, (int)(jump.batch.B * jump.batch.T));
        }
    }
    CHECK_OK(batcher_seek(&jump, 0, batcher_steps(&jump), &err), &err);
    CHECK_EQ(batcher_step(&jump, &err), 0);
    CHECK_ERR(batcher_seek(&jump, 0, batcher_steps(&jump) + 1, &err), &err, ERR_INPUT, "no step");
    batcher_free(&through);
    batcher_free(&jump);
    samples_free(&s);
}

TEST(pairs_are_chosen_rows_then_rejected_rows)
{
    struct samples s = numbered(SAMPLE_PAIR, 5);
    struct err err = { 0 };
    struct batcher b = start(&s, (struct batcher_options){ .B = 2, .T = 12, .ranks = 1 });
    int64_t pairs = 0;

    CHECK_EQ(batcher_steps(&b), 3);
    while (batcher_step(&b, &err) == 1) {
        const int64_t n = b.batch.B / 2;
        for (int64_t i = 0; i < n; i++)
            CHECK_EQ(number(&b.batch, n + i), number(&b.batch, i) + 900);
        pairs += n;
    }
    CHECK_EQ(pairs, 5);
    batcher_free(&b);
    samples_free(&s);
}

TEST(impossible_options_are_refused)
{
    struct samples s = numbered(SAMPLE_TEXT, 3), none = numbered(SAMPLE_TEXT, 0);
    struct batcher_options o = { .B = 1, .T = 12, .ranks = 1 };
    struct batcher b;
    struct err err;

    CHECK_ERR(batcher_init(&b, &none, &o, &err), &err, ERR_INPUT, "no sample");
    o.T = 11;
    CHECK_ERR(batcher_init(&b, &s, &o, &err), &err, ERR_INPUT, "do not fit");
    o = (struct batcher_options){ .B = 0, .T = 12, .ranks = 1 };
    CHECK_ERR(batcher_init(&b, &s, &o, &err), &err, ERR_USAGE, "nothing to predict");
    o = (struct batcher_options){ .B = 1, .T = 12, .ranks = 1, .trim = true, .convention = CONVENTION_PAPER };
    CHECK_ERR(batcher_init(&b, &s, &o, &err), &err, ERR_USAGE, "padding");
    samples_free(&s);
    samples_free(&none);
}

TEST(golden_order_of_every_rank)
{
    const char *key;
    const json_t *value;
    struct err err = { 0 };
    char path[4096];

    if (!test_shared())
        skip();
    snprintf(path, sizeof path, "%s/golden/data.json", test_shared());
    json_t *golden = json_read(path, 1 << 24, &err);
    CHECK(golden);
    struct samples s = numbered(SAMPLE_TEXT, 40); /* phase 1 has 40 */
    json_object_foreach(json_object_get(golden, "sampler_over_phase_1"), key, value)
    {
        struct batcher_options o = { .B = 12, .T = 12, .reference_order = true };
        CHECK_EQ(sscanf(key, "rank %d of %d", &o.rank, &o.ranks), 2);
        struct batcher b = start(&s, o);
        CHECK_OK(batcher_epoch(&b, 3, &err), &err);
        CHECK_EQ(batcher_step(&b, &err), 1);
        for (size_t i = 0; i < json_array_size(value); i++)
            CHECK_EQ(number(&b.batch, (int64_t)i), json_integer_value(json_array_get(value, i)));
        batcher_free(&b);
    }
    samples_free(&s);
    json_decref(golden);
}

TEST(no_memory_leaves_nothing)
{
    struct samples s = numbered(SAMPLE_TEXT, 3);
    const struct batcher_options o = { .B = 1, .T = 12, .ranks = 1 };
    struct batcher b;

    for (int n = 1; n <= 5; n++) {
        struct err err = { 0 };
        mem_fail_at(n);
        const int result = batcher_init(&b, &s, &o, &err);
        mem_fail_at(0);
        CHECK_EQ(result, -1);
        CHECK_EQ(err.code, ERR_MEMORY);
        CHECK_EQ(mem_live_bytes(MEM_BATCH), 0);
    }
    samples_free(&s);
}

TEST(in_order_is_as_they_stand)
{
    struct samples s = numbered(SAMPLE_TEXT, 9);
    struct batcher b = start(&s, (struct batcher_options){ .B = 4, .T = 12, .rank = 1, .ranks = 2, .in_order = true });
    struct err err = { 0 };

    for (int64_t epoch = 0; epoch < 2; epoch++) {
        CHECK_OK(batcher_epoch(&b, epoch, &err), &err);
        CHECK_EQ(batcher_step(&b, &err), 1);
        for (int64_t i = 0; i < 4; i++)
            CHECK_EQ(b.batch.ids[i * b.batch.T + 1], 100 + 1 + 2 * i);
    }
    batcher_free(&b);
    samples_free(&s);
}

TEST_MAIN(CASE(a_row_in_every_convention), CASE(ranks_together_see_the_single_process_batch),
          CASE(more_ranks_than_samples), CASE(trimming_leaves_the_text_alone), CASE(seeking_gives_the_same_batch),
          CASE(pairs_are_chosen_rows_then_rejected_rows), CASE(impossible_options_are_refused),
          CASE(golden_order_of_every_rank), CASE(no_memory_leaves_nothing), CASE(in_order_is_as_they_stand))
