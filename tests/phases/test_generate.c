/* The token loop: what ends a row, what a draw depends on, what is kept from run to run. Golden answers are in tests/golden. */
#include <math.h>

#include "answerer.h"
#include "base/mem.h"

#define ROWS 4
#define COLUMNS 28

static const struct opt_shape shape = {
    .C = 16, .L = 2, .H = 2, .F = 24, .E = 8, .V = 40, .position_rows = COLUMNS + 2
};

static const struct generate_options sampled = {
    .max_new_tokens = 12, .sampling = { .temperature = 1, .top_p = 1, .seed = 3 }, .end_id = 2, .pad_id = 1
};
static const struct generate_options greedy = {
    .max_new_tokens = 12, .sampling = { .top_p = 1 }, .end_id = -1, .pad_id = 1
};

/* Large enough that the answers differ from row to row and from id to id. */
static void fill_params(struct answerer *a)
{
    for (int i = 0; i < a->plan.n_buffers; i++) {
        const struct buffer *b = &a->plan.buffers[i];
        struct rng r = { .seed = 9, .purpose = RNG_INIT, .stream = (uint32_t)i };
        float *x = exec_address(&a->exec, i);
        const bool norm = strstr(b->name, "norm.weight") != NULL;
        for (int64_t k = 0; b->kind == KIND_PARAM && k < b->count; k++)
            x[k] = (float)(norm + 0.5 * rng_normal(&r));
    }
}

static void open_answerer(void **test_state, struct answerer *a, const struct generate_options *o)
{
    struct err err = { 0 };

    *a = (struct answerer){ .shape = shape };
    CHECK_OK(answerer_open(a, "cpu", "", ROWS, 6, COLUMNS, o, &err), &err);
    fill_params(a);
}

/* Right-padded prompts of 9, 1, 5, 7 ids. */
static const int32_t ids[ROWS * 9] = { 2, 5, 9, 33, 21, 7, 8, 30, 12, 2,  0, 0, 0, 0,  0,  0, 0, 0,
                                       2, 6, 9, 38, 3,  0, 0, 0,  0,  17, 9, 4, 3, 11, 12, 8, 0, 0 };
static const int32_t begins[ROWS], ends[ROWS] = { 9, 1, 5, 7 };
static const int64_t numbers[ROWS] = { 100, 7, 12345678901, 3 };
static const struct prompts all_rows = { ROWS, 9, ids, begins, ends, numbers, 0 };

static void run(void **test_state, struct answerer *a, const struct prompts *p)
{
    struct err err = { 0 };

    CHECK_OK(generator_run(&a->generator, p, &err), &err);
}

static const int32_t *answer_of(const struct generated *r, int64_t b)
{
    return r->ids + b * r->S + r->prompt_end[b];
}

TEST(answers_do_not_depend_on_the_company)
{
    struct answerer together, alone;
    int different = 0;

    open_answerer(test_state, &together, &sampled);
    open_answerer(test_state, &alone, &sampled);
    run(test_state, &together, &all_rows);
    const struct generated *want = &together.generator.result, *got = &alone.generator.result;
    for (int64_t b = 0; b < ROWS; b++) {
        const struct prompts one = { 1, 9, ids + 9 * b, begins, ends + b, numbers + b, 0 };
        run(test_state, &alone, &one);
        const int32_t n = got->end[0] - got->prompt_end[0];
        CHECK_EQ(n, want->end[b] - want->prompt_end[b]);
        CHECK(memcmp(answer_of(got, 0), answer_of(want, b), (size_t)n * sizeof(int32_t)) == 0);
        different += b > 0 && memcmp(answer_of(want, b), answer_of(want, 0), 2 * sizeof(int32_t)) != 0;
    }
    CHECK(different > 0);
    answerer_close(&together);
    answerer_close(&alone);
}

static int count_steps(void *context, const struct generated *g, int64_t step, struct err *err)
{
    (void)g;
    (void)err;
    *(int64_t *)context = step;
    return 0;
}

/* The end id is one that greedy answers of some rows come to; the others take their places, and go on as before. */
TEST(rows_end_by_themselves_and_the_run_when_all_have)
{
    struct answerer a;
    int64_t steps = 0, longest = 0, n_ended = 0;
    int32_t endless[ROWS * COLUMNS];

    open_answerer(test_state, &a, &greedy);
    run(test_state, &a, &all_rows);
    struct generated *r = &a.generator.result;
    for (int64_t b = 0; b < ROWS; b++)
        CHECK(!r->ended[b] && r->end[b] == r->prompt_end[b] + greedy.max_new_tokens);
    memcpy(endless, r->ids, sizeof endless);
    a.generator.options.end_id = answer_of(r, 2)[3];
    a.generator.options.hook = count_steps;
    a.generator.options.hook_context = &steps;
    run(test_state, &a, &all_rows);
    for (int64_t b = 0; b < ROWS; b++) {
        const int32_t n = r->end[b] - r->prompt_end[b], *answer = answer_of(r, b);
        CHECK(memcmp(&endless[b * COLUMNS], &r->ids[b * r->S], (size_t)r->end[b] * sizeof *endless) == 0);
        for (int32_t t = 0; t < n; t++)
            CHECK_EQ(answer[t] == a.generator.options.end_id, r->ended[b] && t == n - 1);
        for (int64_t s = r->end[b]; s < r->S; s++)
            CHECK_EQ(r->ids[b * r->S + s], greedy.pad_id);
        longest = n > longest ? n : longest;
        n_ended += r->ended[b];
    }
    CHECK_EQ(steps, longest);
    CHECK(n_ended >= 1 && r->ended[2] && r->end[2] <= r->prompt_end[2] + 4);
    answerer_close(&a);
}

TEST(all_rows_may_end_at_once)
{
    struct answerer a;
    int64_t steps = 0;

    open_answerer(test_state, &a, &greedy);
    const struct prompts same = { 1, 9, ids, begins, ends, NULL, 0 };
    run(test_state, &a, &same);
    a.generator.options.end_id = answer_of(&a.generator.result, 0)[0];
    a.generator.options.hook = count_steps;
    a.generator.options.hook_context = &steps;
    run(test_state, &a, &same);
    CHECK_EQ(steps, 1);
    CHECK(a.generator.result.ended[0]);
    a.generator.options.min_new_tokens = 3;
    run(test_state, &a, &same);
    CHECK(steps >= 4);
    for (int t = 0; t < 3; t++)
        CHECK(answer_of(&a.generator.result, 0)[t] != a.generator.options.end_id);
    answerer_close(&a);
}

TEST(a_row_ends_in_the_last_column)
{
    struct answerer a;

    open_answerer(test_state, &a, &greedy);
    a.generator.options.max_new_tokens = 1000;
    run(test_state, &a, &all_rows);
    for (int64_t b = 0; b < ROWS; b++)
        CHECK_EQ(a.generator.result.end[b], COLUMNS);
    answerer_close(&a);
}

/* Going on from an answer, with its columns or without, is the same. */
TEST(cached_columns_are_as_good_as_new_ones)
{
    struct answerer a;
    int32_t longer[COLUMNS], first[8];
    const int32_t n_prompt = 9, n = n_prompt + 5 + 3;

    open_answerer(test_state, &a, &greedy);
    const struct generated *r = &a.generator.result;
    const struct prompts start = { 1, 9, ids, begins, ends, NULL, 0 };
    a.generator.options.max_new_tokens = 5;
    run(test_state, &a, &start);
    memcpy(longer, r->ids, sizeof longer);
    for (int32_t t = n_prompt + 5; t < n; t++)
        longer[t] = 3 + t;
    a.generator.options.max_new_tokens = 8;
    const struct prompts cached = { 1, COLUMNS, longer, begins, &n, NULL, n_prompt + 4 };
    run(test_state, &a, &cached);
    memcpy(first, answer_of(r, 0), sizeof first);
    const struct prompts fresh = { 1, COLUMNS, longer, begins, &n, NULL, 0 };
    run(test_state, &a, &fresh);
    CHECK(memcmp(first, answer_of(r, 0), sizeof first) == 0);
    answerer_close(&a);
}

static int stop_or_fail(void *context, const struct generated *g, int64_t step, struct err *err)
{
    const int what = *(int *)context;

    if (g->end[0] != g->prompt_end[0] + step)
        return err_set(err, ERR_RUN, "a row is not as long as the steps say");
    if (step < 4)
        return 0;
    return what > 0 ? 1 : err_set(err, ERR_SYSTEM, "the hook has failed");
}

TEST(the_hook_may_stop_or_fail)
{
    struct answerer a;
    struct err err = { 0 };
    int what = 1;

    open_answerer(test_state, &a, &greedy);
    a.generator.options.hook = stop_or_fail;
    a.generator.options.hook_context = &what;
    run(test_state, &a, &all_rows);
    CHECK_EQ(a.generator.result.end[3], ends[3] + 4);
    what = -1;
    CHECK_ERR(generator_run(&a.generator, &all_rows, &err), &err, ERR_SYSTEM, "the hook");
    answerer_close(&a);
}

TEST(log_probabilities_are_of_the_ids_that_were_drawn)
{
    struct generate_options o = sampled;
    struct answerer a;

    o.describe = true;
    o.sampling.temperature = 0.5;
    open_answerer(test_state, &a, &o);
    run(test_state, &a, &all_rows);
    const struct generated *r = &a.generator.result;
    for (int64_t b = 0; b < ROWS; b++) {
        const int64_t last = b * r->S + r->end[b] - 1;
        for (int64_t at = b * r->S + r->prompt_end[b]; at <= last; at++)
            CHECK(r->logprobs[at] < 0 && r->entropies[at] > 0 && (double)r->entropies[at] < log(40));
    }
    /* The last step's logits are still there. */
    const struct prompts one = { 1, 9, ids, begins, ends, NULL, 0 };
    float logprob, entropy;
    run(test_state, &a, &one);
    const int64_t at = r->end[0] - 1;
    sampler_describe(a.generator.logits, a.generator.V, r->ids[at], &logprob, &entropy);
    CHECK_NEAR(r->logprobs[at], logprob, 0);
    CHECK_NEAR(r->entropies[at], entropy, 0);
    answerer_close(&a);
}

TEST(bad_prompts_and_weights_are_refused)
{
    static const int32_t none[ROWS] = { 9, 0, 5, 7 }, too_long = COLUMNS;
    static int32_t many[COLUMNS];
    struct answerer a;
    struct err err;

    open_answerer(test_state, &a, &greedy);
    const struct prompts empty = { ROWS, 9, ids, begins, none, NULL, 0 };
    CHECK_ERR(generator_run(&a.generator, &empty, &err), &err, ERR_USAGE, "prompt 1 is empty");
    const struct prompts full = { 1, COLUMNS, many, begins, &too_long, NULL, 0 };
    CHECK_ERR(generator_run(&a.generator, &full, &err), &err, ERR_USAGE, "no room");
    *(float *)exec_buffer(&a.exec, "layers.1.fc2.bias") = NAN;
    CHECK_ERR(generator_run(&a.generator, &all_rows, &err), &err, ERR_RUN, "\"logits\"");
    answerer_close(&a);
}

TEST(every_allocation_may_fail)
{
    struct generate_options o = sampled;
    struct answerer a;
    struct generator g;
    struct err err = { 0 };
    int n = 0, result;

    o.describe = true;
    open_answerer(test_state, &a, &o);
    do {
        mem_fail_at(++n);
        result = generator_init(&g, &a.exec, "", &o, &err);
        mem_fail_at(0);
        CHECK(result == 0 || (err.code == ERR_MEMORY && !g.result.ids));
    } while (result != 0);
    CHECK_EQ(n, 11);
    generator_free(&g);
    answerer_close(&a);
}

TEST_MAIN(CASE(answers_do_not_depend_on_the_company), CASE(rows_end_by_themselves_and_the_run_when_all_have),
          CASE(all_rows_may_end_at_once), CASE(a_row_ends_in_the_last_column),
          CASE(cached_columns_are_as_good_as_new_ones), CASE(the_hook_may_stop_or_fail),
          CASE(log_probabilities_are_of_the_ids_that_were_drawn), CASE(bad_prompts_and_weights_are_refused),
          CASE(every_allocation_may_fail))
