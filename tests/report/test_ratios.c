#include "study_fixture.h"

#include "base/mem.h"
#include "report/ratios.h"

static void load_fixture(struct loaded *l, struct comparisons *c, int64_t blocks, const struct fixture *f)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct err err = { 0 };
    void **test_state = NULL;

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    fixture_study(path, blocks, f);
    CHECK_OK(load_study(l, path, &err), &err);
    CHECK_OK(ratios_build(c, l, &err), &err);
    fixture_remove(folder);
}

static const struct comparison *row(const struct loaded *l, const struct comparisons *c, const char *name,
                                    int64_t ranks)
{
    for (int i = 0; i < c->n; i++)
        if (strcmp(l->cells[c->rows[i].cell].name, name) == 0 && l->cells[c->rows[i].cell].ranks == ranks)
            return &c->rows[i];
    fail_msg("no row %s", name);
    return NULL;
}

TEST(ratios_are_base_over_variant)
{
    struct loaded l;
    struct comparisons c;

    load_fixture(&l, &c, 5, &(struct fixture){ .energy = true, .fail_cell = -1 });
    CHECK_EQ(c.n, l.n_cells - 2); /* all but the baselines, one for each number of ranks */
    const struct comparison *r = row(&l, &c, "gradient_checkpointing", 2);
    CHECK_NEAR(r->ratios[RATIO_SPEED].e.value, 1 / 1.3, 1e-9);
    CHECK_EQ(r->ratios[RATIO_SPEED].e.verdict, VERDICT_WORSE);
    CHECK_NEAR(r->ratios[RATIO_MEMORY].e.value, 1 / 0.7, 1e-6);
    CHECK_EQ(r->ratios[RATIO_MEMORY].e.verdict, VERDICT_BETTER);
    CHECK_NEAR(r->ratios[RATIO_ENERGY].e.value, 1 / 1.3, 1e-9);
    CHECK_NEAR(r->ratios[RATIO_POWER].e.value, 1, 1e-9);
    CHECK_STR(r->category, "red: slower at equal power");
    CHECK_EQ(r->ratios[RATIO_SPEED].e.n, 5);
    CHECK_NEAR(r->loss_gap, 0, 0);
    CHECK(!r->loss_flagged);
    r = row(&l, &c, "bf16", 1);
    CHECK_NEAR(r->ratios[RATIO_WHOLE].e.value, 1.25, 1e-9);
    CHECK(r->loss_gap > 0.001 && r->loss_gap < 0.002 && !r->loss_flagged); /* not exact: shown, not flagged */
    ratios_free(&c);
    load_free(&l);
    CHECK_EQ(mem_live_bytes(MEM_RECORD), 0);
}

TEST(each_phase_has_its_own_baseline_and_quality)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct err err = { 0 };
    struct comparisons c;
    struct loaded l;

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    fixture_phases(path, 3, &(struct fixture){ .fail_cell = -1 });
    CHECK_OK(load_study(&l, path, &err), &err);
    CHECK_OK(ratios_build(&c, &l, &err), &err);
    for (int i = 0; i < c.n; i++) {
        const struct comparison *r = &c.rows[i];
        const bool ppo = strcmp(l.cells[r->cell].phase, "ppo") == 0, sft = strcmp(l.cells[r->cell].phase, "sft") == 0;

        CHECK_STR(l.cells[r->base].phase, l.cells[r->cell].phase);
        CHECK_EQ(ratios_has(&l.cells[r->cell], RATIO_GENERATE), ppo);
        CHECK_EQ(r->n_qualities, ppo ? 2 : sft ? 0 : 1);
        if (!ppo || strcmp(l.cells[r->cell].name, "bf16") != 0)
            continue;
        CHECK_NEAR(r->ratios[RATIO_GENERATE].e.value, 1.25, 1e-9);
        CHECK_EQ(r->ratios[RATIO_TRAIN].e.n, 3);
        CHECK_STR(r->qualities[1].name, "KL");
        CHECK_NEAR(r->qualities[1].value, 0.035, 1e-12);
        CHECK_NEAR(r->loss_gap, 0.01 / 0.6, 1e-9); /* of the reward, relative to the largest */
    }
    ratios_free(&c);
    load_free(&l);
    fixture_remove(folder);
}

TEST(without_energy_there_is_a_reason_and_no_number)
{
    struct loaded l;
    struct comparisons c;

    load_fixture(&l, &c, 3, &(struct fixture){ .fail_cell = -1 });
    const struct ratio *e = &row(&l, &c, "bf16", 1)->ratios[RATIO_ENERGY];
    CHECK_EQ(e->source, RATIO_UNAVAILABLE);
    CHECK(isnan(e->e.value) && strstr(e->reason, "no RAPL here") != NULL);
    CHECK_EQ(row(&l, &c, "bf16", 1)->ratios[RATIO_POWER].source, RATIO_UNAVAILABLE);
    CHECK(row(&l, &c, "bf16", 1)->category == NULL);
    ratios_free(&c);
    load_free(&l);
}

TEST(an_exact_technique_that_changes_the_loss_is_flagged)
{
    struct loaded l;
    struct comparisons c;

    load_fixture(&l, &c, 2, &(struct fixture){ .bad_exact = true, .fail_cell = -1 });
    CHECK(row(&l, &c, "flash_attention", 1)->loss_flagged);
    CHECK(row(&l, &c, "all exact", 2)->loss_flagged);
    CHECK(!row(&l, &c, "chunked_loss", 1)->loss_flagged);
    CHECK(!row(&l, &c, "everything", 1)->loss_flagged);
    ratios_free(&c);
    load_free(&l);
}

static void set_text(char **field, const char *text)
{
    struct err err;

    mem_free(*field);
    *field = mem_strdup(text, MEM_RECORD, &err);
}

/* Each unlikeness is told by the field that differs, and there is no number then. */
TEST(unlike_runs_are_not_compared)
{
    static const char *const fields[] = { "machine", "steps", "tokens", "covers", "estimated" };

    for (int i = 0; i < COUNT_OF(fields); i++) {
        struct comparisons c;
        struct loaded l;
        struct err err = { 0 };

        load_fixture(&l, &c, 2, &(struct fixture){ .energy = true, .fail_cell = -1 });
        const int cell = row(&l, &c, "bf16", 1)->cell;
        ratios_free(&c);
        for (int k = 0; k < l.n_runs; k++) {
            struct load_run *r = &l.runs[k];

            if (i == 0)
                set_text(&r->machine, r->cell == cell ? "a, 2 CPUs" : "b, 2 CPUs");
            if (r->cell != cell)
                continue;
            r->n_steps -= i == 1;
            r->tokens += i == 2;
            if (i == 3)
                set_text(&r->energy_domains, "package-0 + dram");
            if (i == 4 && r->block == 1)
                set_text(&r->steady_energy_state, "estimated");
        }
        CHECK_OK(ratios_build(&c, &l, &err), &err);
        const struct comparison *r = row(&l, &c, "bf16", 1);
        const struct ratio *judged = &r->ratios[i < 3 ? RATIO_SPEED : RATIO_ENERGY];
        CHECK_EQ(judged->source, RATIO_UNAVAILABLE);
        CHECK(isnan(judged->e.value) && strstr(judged->reason, "not comparable") && strstr(judged->reason, fields[i]));
        if (i >= 3)
            CHECK_EQ(r->ratios[RATIO_SPEED].source, RATIO_MEASURED);
        ratios_free(&c);
        load_free(&l);
    }
}

TEST(products_are_of_their_parts)
{
    struct loaded l;
    struct comparisons c;

    load_fixture(&l, &c, 3, &(struct fixture){ .energy = true, .fail_cell = -1, .noise = 0.01 });
    const struct comparison *r = row(&l, &c, "bf16", 1);
    CHECK_NEAR(r->ratios[RATIO_ENERGY_DELAY].e.value, r->ratios[RATIO_SPEED].e.value * r->ratios[RATIO_ENERGY].e.value,
               1e-9);
    CHECK_NEAR(r->ratios[RATIO_MEMORY_TIME].e.value, r->ratios[RATIO_SPEED].e.value * r->ratios[RATIO_MEMORY].e.value,
               1e-9);
    ratios_free(&c);
    load_free(&l);
}

/* Counters that move once in a while cannot tell small differences in a short window, however alike the runs are. */
TEST(the_grain_of_a_counter_widens_its_interval)
{
    struct loaded l;
    struct comparisons c;
    struct err err = { 0 };

    load_fixture(&l, &c, 5, &(struct fixture){ .energy = true, .fail_cell = -1 });
    const struct ratio *e = &row(&l, &c, "bf16", 1)->ratios[RATIO_ENERGY];
    CHECK_NEAR(e->grain, sqrt(1 / 2e3 * 1 / 2e3 + 1 / 1.6e3 * 1 / 1.6e3), 1e-9); /* windows of 2 and 1.6 s, 1 ms each */
    CHECK(e->e.low < 1.25 && e->e.high > 1.25 && e->e.low > 1.24 && e->e.verdict == VERDICT_BETTER);
    ratios_free(&c);
    for (int k = 0; k < l.n_runs; k++)
        set_text(&l.runs[k].energy_domains, "gpu0");
    CHECK_OK(ratios_build(&c, &l, &err), &err);
    e = &row(&l, &c, "bf16", 1)->ratios[RATIO_ENERGY];
    CHECK(e->e.low < 1.2 && e->e.high > 1.3); /* 2 s are 20 updates: nothing can be told */
    CHECK(e->e.verdict == VERDICT_UNDECIDED && strstr(e->reason, "50 updates") != NULL);
    ratios_free(&c);
    load_free(&l);
}

TEST(failed_cells_have_no_ratio)
{
    struct loaded l;
    struct comparisons c;

    load_fixture(&l, &c, 2, &(struct fixture){ .fail_cell = 1 });
    const struct comparison *r = row(&l, &c, "bf16", 1);
    CHECK_EQ(r->n_failed, 2);
    CHECK_EQ(r->ratios[RATIO_SPEED].source, RATIO_UNAVAILABLE);
    CHECK_STR(r->ratios[RATIO_SPEED].reason, "all its runs failed");
    ratios_free(&c);
    load_free(&l);
}

/* As in a study that is still running: there is nothing to hold the numbers against yet. */
TEST(without_its_baseline_a_cell_is_not_judged)
{
    struct loaded l;
    struct comparisons c;

    load_fixture(&l, &c, 2, &(struct fixture){ .fail_cell = 0 });
    const struct comparison *r = row(&l, &c, "flash_attention", 1);
    CHECK(r->n_done == 2 && isnan(r->loss_gap) && !r->loss_flagged);
    CHECK_STR(r->ratios[RATIO_SPEED].reason, "the baseline has no completed run");
    ratios_free(&c);
    load_free(&l);
}

TEST(one_block_gives_no_verdict)
{
    struct loaded l;
    struct comparisons c;

    load_fixture(&l, &c, 1, &(struct fixture){ .fail_cell = -1 });
    const struct estimate *e = &row(&l, &c, "bf16", 1)->ratios[RATIO_SPEED].e;
    CHECK(e->n == 1 && isnan(e->low) && e->verdict == VERDICT_NONE);
    CHECK_NEAR(e->value, 1.25, 1e-9);
    ratios_free(&c);
    load_free(&l);
}

TEST(noise_widens_the_interval_around_the_truth)
{
    struct loaded l;
    struct comparisons c;

    load_fixture(&l, &c, 7, &(struct fixture){ .fail_cell = -1, .noise = 0.03 });
    const struct estimate *e = &row(&l, &c, "bf16", 1)->ratios[RATIO_SPEED].e;
    CHECK(e->low < 1.25 && e->high > 1.25 && e->low > 1.1 && e->high < 1.4);
    ratios_free(&c);
    load_free(&l);
}

/* One block in which the machine was busy: the run is marked, the ratio still counts it. */
TEST(a_run_that_lies_apart_is_marked_and_counted)
{
    const struct comparison *widest = NULL;
    enum ratio_kind kind = RATIO_N;
    struct loaded l;
    struct comparisons c;
    unsigned found = 0;
    int n = 0;

    load_fixture(&l, &c, 6, &(struct fixture){ .fail_cell = -1 });
    const int cell = row(&l, &c, "bf16", 1)->cell;
    for (int i = 0; i < l.n_runs; i++)
        if (l.runs[i].cell == cell && l.runs[i].block == 2)
            l.runs[i].steady_s *= 1.5;
    for (int i = 0; i < l.n_runs; i++)
        if (ratios_outlier(&l, &l.runs[i])) {
            n++;
            found = ratios_outlier(&l, &l.runs[i]);
        }
    CHECK_EQ(n, 1);
    CHECK_EQ(found, 1u << RATIO_SPEED);
    ratios_free(&c);
    struct err err = { 0 };
    CHECK_OK(ratios_build(&c, &l, &err), &err);
    CHECK_EQ(row(&l, &c, "bf16", 1)->ratios[RATIO_SPEED].e.n, 6);
    const double width = ratios_widest(&c, &widest, &kind);
    CHECK(width > 0.1 && kind == RATIO_SPEED && widest->cell == cell);
    ratios_free(&c);
    load_free(&l);
}

TEST_MAIN(CASE(a_run_that_lies_apart_is_marked_and_counted), CASE(ratios_are_base_over_variant),
          CASE(each_phase_has_its_own_baseline_and_quality), CASE(without_energy_there_is_a_reason_and_no_number),
          CASE(an_exact_technique_that_changes_the_loss_is_flagged), CASE(failed_cells_have_no_ratio),
          CASE(unlike_runs_are_not_compared), CASE(products_are_of_their_parts),
          CASE(the_grain_of_a_counter_widens_its_interval), CASE(without_its_baseline_a_cell_is_not_judged),
          CASE(one_block_gives_no_verdict), CASE(noise_widens_the_interval_around_the_truth))
