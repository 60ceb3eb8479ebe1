#include "test.h"

#include "base/mem.h"
#include "study/cells.h"
#include "techniques/technique.h"

static const struct cells_choice as_it_is = { 0 };

static int index_of(const struct cells *s, const char *name, int64_t ranks)
{
    for (int i = 0; i < s->n_cells; i++)
        if (strcmp(s->cells[i].name, name) == 0 && s->cells[i].ranks == ranks)
            return i;
    return -1;
}

static int count(const struct cells *s, const char *phase)
{
    int n = 0;

    for (int i = 0; i < s->n_cells; i++)
        n += strcmp(s->cells[i].phase, phase) == 0;
    return n;
}

TEST(builtin_study_is_whole)
{
    struct err err = { 0 };
    struct cells s;

    CHECK_OK(cells_builtin(&s, &err), &err);
    CHECK_OK(cells_finish(&s, &as_it_is, &err), &err);
    CHECK_EQ(count(&s, "sft"), 16 + 7);
    CHECK_EQ(count(&s, "reward"), 13 + 5);
    CHECK_EQ(count(&s, "ppo"), 13 + 5);
    CHECK_EQ(index_of(&s, "zero-1", 1), -1);
    const struct cell *zero = &s.cells[index_of(&s, "zero-1", 2)];
    CHECK(words_have(&zero->argv, "--zero_stage=1") && words_have(&zero->argv, "--dtype=fp32"));
    CHECK(words_have(&zero->argv, "--no-flash_attention") && zero->exact);
    const struct cell *two = &s.cells[index_of(&s, "zero-2", 2)];
    CHECK(words_have(&two->argv, "--zero_stage=2") && !words_have(&two->argv, "--zero_stage=0"));
    const struct cell *all = &s.cells[index_of(&s, "everything", 1)];
    CHECK(words_have(&all->argv, "--zero_stage=0") && words_have(&all->argv, "--dtype=bf16") && !all->exact);
    CHECK(words_have(&s.cells[index_of(&s, "everything", 2)].techniques, "zero-1"));
    CHECK_EQ(cells_baseline(&s, index_of(&s, "zero-1", 2)), index_of(&s, "baseline", 2));
    cells_free(&s);
    CHECK_EQ(mem_live_bytes(MEM_RECORD), 0);
}

/* The study may not include techniques/, so it has a table of its own: each technique has its word there. */
TEST(every_technique_has_a_word)
{
    for (int i = 0; techniques[i]; i++) {
        struct technique_values v = { 0 };
        if (technique_ways(i) > 0)
            technique_choose(&v, i, 0);
        const char *name = technique_name(&v, i);
        bool found = false;
        for (const struct technique_word *w = technique_words; w->name; w++)
            found = found || (strncmp(w->name, name, strlen(name)) == 0 && w->exact == techniques[i]->exact);
        if (!found)
            fail_msg("give %s a word in study/cells.c", name);
        CHECK(found);
    }
}

/* What only PPO has is no word of other phases' command lines. */
TEST(a_technique_of_one_phase_stays_there)
{
    struct err err = { 0 };
    struct cells s;

    CHECK_OK(cells_builtin(&s, &err), &err);
    CHECK_OK(cells_finish(&s, &as_it_is, &err), &err);
    for (int i = 0; i < s.n_cells; i++) {
        const bool ppo = strcmp(s.cells[i].phase, "ppo") == 0;
        const bool on = words_have(&s.cells[i].techniques, "frozen_bf16");

        CHECK_EQ(words_have(&s.cells[i].argv, "--frozen_dtype=bf16"), on);
        CHECK_EQ(words_have(&s.cells[i].argv, "--frozen_dtype=fp32"), ppo && !on);
    }
    cells_free(&s);
    CHECK_OK(cells_init(&s, "wrong", &err), &err);
    struct cell *c = cells_add(&s, "x", "sft", "x", &err);
    CHECK_OK(words_add(&c->techniques, &err, "frozen_bf16"), &err);
    CHECK_ERR(cells_finish(&s, &as_it_is, &err), &err, ERR_USAGE, "is of phase ppo");
    cells_free(&s);
}

TEST(chosen_cells_keep_their_baseline)
{
    struct err err = { 0 };
    struct cells s;

    CHECK_OK(cells_builtin(&s, &err), &err);
    CHECK_OK(cells_finish(&s,
                          &(struct cells_choice){ .phases = "sft", .cells = "bf16,zero-1", .ranks = "2", .blocks = 3 },
                          &err),
             &err);
    CHECK_EQ(s.n_cells, 3);
    CHECK_EQ(s.blocks, 3);
    CHECK_STR(s.cells[0].name, "baseline");
    cells_free(&s);
}

TEST(wrong_choices_are_refused)
{
    static const struct {
        struct cells_choice choice;
        const char *says;
    } cases[] = { { { .cells = "bf17" }, "bf17" },
                  { { .ranks = "1,x" }, "no list" },
                  { { .ranks = "0" }, "no list" },
                  { { .ranks = "1,1" }, "two sft cells" },
                  { { .phases = "sft,pretrain" }, "no phase \"pretrain\"" },
                  { { .cells = "zero-1", .ranks = "1" }, "more ranks" } };

    for (int i = 0; i < COUNT_OF(cases); i++) {
        struct err err;
        struct cells s;

        CHECK_OK(cells_builtin(&s, &err), &err);
        CHECK_ERR(cells_finish(&s, &cases[i].choice, &err), &err, ERR_USAGE, cases[i].says);
        cells_free(&s);
    }
}

TEST(every_block_holds_every_cell_in_an_order_of_its_own)
{
    struct err err = { 0 };
    struct cells s;
    int first[CELLS_MAX], order[CELLS_MAX], same = 0;

    CHECK_OK(cells_builtin(&s, &err), &err);
    CHECK_OK(cells_finish(&s, &as_it_is, &err), &err);
    cells_order(&s, 0, first);
    for (int64_t block = -1; block < 20; block++) {
        bool seen[CELLS_MAX] = { false };

        cells_order(&s, block, order);
        for (int i = 0; i < s.n_cells; i++) {
            CHECK(order[i] >= 0 && order[i] < s.n_cells && !seen[order[i]]);
            seen[order[i]] = true;
        }
        same += memcmp(first, order, (size_t)s.n_cells * sizeof *order) == 0;
    }
    CHECK_EQ(same, 1); /* block 0 itself: the same seed gives the same order */
    cells_free(&s);
}

TEST(a_difference_is_named)
{
    struct err err = { 0 };
    struct cells a, b;
    char text[640];

    CHECK_OK(cells_builtin(&a, &err), &err);
    CHECK_OK(cells_finish(&a, &as_it_is, &err), &err);
    CHECK_OK(cells_builtin(&b, &err), &err);
    CHECK_OK(cells_finish(&b, &as_it_is, &err), &err);
    json_t *before = cells_json(&a), *same = cells_json(&b);
    CHECK(!cells_difference(before, same, text, sizeof text));
    b.seed = 99;
    json_t *now = cells_json(&b);
    CHECK(cells_difference(before, now, text, sizeof text));
    CHECK(strstr(text, "seed was 1234 and is now 99") != NULL);
    json_decref(before);
    json_decref(same);
    json_decref(now);
    cells_free(&a);
    cells_free(&b);
}

TEST(survives_every_failed_allocation)
{
    for (int64_t n = 1;; n++) {
        struct err err = { 0 };
        struct cells s = { 0 };

        mem_fail_at(n);
        const int made = cells_builtin(&s, &err);
        const int finished = made == 0 ? cells_finish(&s, &as_it_is, &err) : -1;
        mem_fail_at(0);
        cells_free(&s);
        CHECK_EQ(mem_live_bytes(MEM_RECORD), 0);
        if (finished == 0)
            break;
        CHECK_EQ(err.code, ERR_MEMORY);
    }
}

TEST_MAIN(CASE(builtin_study_is_whole), CASE(every_technique_has_a_word), CASE(a_technique_of_one_phase_stays_there),
          CASE(chosen_cells_keep_their_baseline), CASE(wrong_choices_are_refused),
          CASE(every_block_holds_every_cell_in_an_order_of_its_own), CASE(a_difference_is_named),
          CASE(survives_every_failed_allocation))
