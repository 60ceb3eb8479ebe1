#include "study/recorder.h"

#include <math.h>

#include "measure/fixture.h"
#include "report/ratios.h"

static struct job_record record(double seconds, double joules)
{
    struct job_record r = { .seconds = seconds,
                            .peak_bytes = (int64_t)(1000 * seconds),
                            .peak_pss_bytes = -1,
                            .load_before = NAN,
                            .steal_seconds = NAN,
                            .gpus = { .peak_bytes = -1 },
                            .energy = { .state = METER_MEASURED, .joules = joules, .n_domains = 1 } };

    r.energy.domains[0] = (struct energy_domain){ .name = "gpu0", .counted = true, .integrated = true };
    return r;
}

static void add(const char *path, const char *label, const struct job_record *r, const struct steps *s,
                const struct steps_window *w)
{
    struct recorder rec;
    struct err err = { 0 };
    const struct machine machine = { .host = "here", .n_cpus = 2 };
    json_t *command = json_pack("[s]", "prog");

    if (recorder_open(&rec, path, &err) != 0 || recorder_add(&rec, label, command, &machine, r, s, w, &err) != 0)
        fail_msg("%s", err.what);
    recorder_close(&rec);
    json_decref(command);
}

TEST(labels_are_cells_and_the_first_is_the_baseline)
{
    const struct fixture f = fixture_new();
    char path[128];
    struct loaded l;
    struct comparisons c;
    struct err err = { 0 };
    snprintf(path, sizeof path, "%s/runs.db", f.root);
    for (int i = 0; i < 3; i++) {
        const struct job_record base = record(10 + 0.01 * i, 100), better = record(5 + 0.01 * i, 25);
        add(path, "base", &base, NULL, NULL);
        add(path, "better", &better, NULL, NULL);
    }
    CHECK_OK(load_study(&l, path, &err), &err);
    CHECK_STR(l.design, "recorded");
    CHECK_EQ(l.n_cells, 2);
    CHECK_EQ(l.n_runs, 6);
    CHECK_EQ(l.blocks, 3);
    CHECK_STR(l.runs[0].energy_domains, "gpu0 (integrated)");
    CHECK_OK(ratios_build(&c, &l, &err), &err);
    CHECK_EQ(c.n, 1);
    CHECK_NEAR(c.rows[0].ratios[RATIO_SPEED].e.value, 2, 0.01);
    CHECK_NEAR(c.rows[0].ratios[RATIO_ENERGY].e.value, 4, 1e-9);
    CHECK(!c.rows[0].ratios[RATIO_SPEED].e.paired);
    ratios_free(&c);
    load_free(&l);
    fixture_free(&f);
}

TEST(steps_and_numbers_are_kept)
{
    const struct fixture f = fixture_new();
    char path[128];
    struct loaded l;
    struct err err = { 0 };
    struct steps_one items[] = { { 1, 10, 5, 3.0, 101, 50 }, { 2, 10, 5, 2.5, 103, 90 } };
    const struct steps s = { .items = items, .n = 2, .start_s = 100 };
    struct steps_window w = {
        .n = 1, .warmup = 1, .seconds = 2, .joules = 40, .tokens = 10, .final_loss = 2.5, .allocated_bytes = 5
    };
    struct job_record r = record(4, 120);
    r.n_switches = 7;
    r.gpus.peak_bytes = 12345;
    timeline_add(&r.timeline, &(struct timeline_point){ 0.2, 1000, -1, NAN });
    timeline_add(&r.timeline, &(struct timeline_point){ 0.4, 3000, 77, 55 });
    snprintf(path, sizeof path, "%s/runs.db", f.root);
    add(path, "a", &r, &s, &w);
    CHECK_OK(load_study(&l, path, &err), &err);
    CHECK_EQ(l.runs[0].n_steps, 2);
    CHECK_NEAR(l.runs[0].steps[1].seconds, 2, 0);
    CHECK_NEAR(l.runs[0].steps[1].loss, 2.5, 0);
    CHECK_NEAR(l.runs[0].steady_s, 2, 0);
    CHECK_NEAR(l.runs[0].steady_j, 40, 0);
    CHECK_STR(l.runs[0].steady_energy_state, "measured");
    CHECK_NEAR(load_metric(&l.runs[0], 0, "context_switches"), 7, 0);
    CHECK_NEAR(load_metric(&l.runs[0], 0, "gpu_peak_bytes"), 12345, 0);
    const struct load_point *p = l.runs[0].trace;
    CHECK_EQ(l.runs[0].n_trace, 2);
    CHECK(p[0].memory_bytes == 1000 && p[0].gpu_bytes == -1 && isnan(p[0].watts));
    CHECK(p[1].memory_bytes == 3000 && p[1].gpu_bytes == 77 && p[1].watts == 55 && p[1].seconds == 0.4);
    CHECK_NEAR(load_metric(&l.runs[0], 0, "allocated_bytes"), 5, 0);
    load_free(&l);
    fixture_free(&f);
}

/* Loading takes long and is the same for both; what counts is a step. And on GPUs the memory that runs out is theirs. */
TEST(windows_and_gpu_memory_are_compared_where_all_runs_have_them)
{
    const struct fixture f = fixture_new();
    char path[128];
    struct loaded l;
    struct comparisons c;
    struct err err = { 0 };
    struct steps_one items[] = { { 1, 10, 5, 3.0, 150, 50 }, { 2, 10, 5, 3.0, 160, 90 } };
    struct steps s = { .items = items, .n = 2, .start_s = 100 };
    struct steps_window w = { .n = 1, .warmup = 1, .seconds = 10, .joules = 40, .tokens = 10, .final_loss = 3 };
    struct job_record base = record(60, 120), quick = record(55, 100);
    base.gpus.peak_bytes = 8LL << 30;
    quick.gpus.peak_bytes = 2LL << 30;
    snprintf(path, sizeof path, "%s/runs.db", f.root);
    add(path, "base", &base, &s, &w);
    w.seconds = 5;
    w.joules = 10;
    add(path, "quick", &quick, &s, &w);
    CHECK_OK(load_study(&l, path, &err), &err);
    CHECK_OK(ratios_build(&c, &l, &err), &err);
    CHECK_NEAR(c.rows[0].ratios[RATIO_SPEED].e.value, 2, 1e-9);
    CHECK_NEAR(c.rows[0].ratios[RATIO_ENERGY].e.value, 4, 1e-9);
    CHECK_NEAR(c.rows[0].ratios[RATIO_MEMORY].e.value, 4, 1e-9);
    CHECK_NEAR(c.rows[0].ratios[RATIO_WHOLE].e.value, 60.0 / 55, 1e-9);
    CHECK_STR(ratios_memory(&l, 1), "GPU");
    ratios_free(&c);
    load_free(&l);
    add(path, "quick", &quick, NULL, NULL); /* one that tells no steps: the whole runs are compared */
    CHECK_OK(load_study(&l, path, &err), &err);
    CHECK_OK(ratios_build(&c, &l, &err), &err);
    CHECK_NEAR(c.rows[0].ratios[RATIO_SPEED].e.value, 60.0 / 55, 1e-9);
    CHECK_NEAR(c.rows[0].ratios[RATIO_ENERGY].e.value, 1.2, 1e-9);
    ratios_free(&c);
    load_free(&l);
    fixture_free(&f);
}

/* Host memory of a run that left the GPU alone is no measure against the GPU memory of another. */
TEST(gpu_memory_is_not_held_against_host_memory)
{
    const struct fixture f = fixture_new();
    char path[128];
    struct loaded l;
    struct comparisons c;
    struct err err = { 0 };
    struct job_record on_gpu = record(60, 120), on_host = record(90, 150);

    on_gpu.gpus.peak_bytes = 8LL << 30;
    snprintf(path, sizeof path, "%s/runs.db", f.root);
    add(path, "gpu", &on_gpu, NULL, NULL);
    add(path, "host", &on_host, NULL, NULL);
    CHECK_OK(load_study(&l, path, &err), &err);
    CHECK_OK(ratios_build(&c, &l, &err), &err);
    CHECK_EQ(c.rows[0].ratios[RATIO_MEMORY].source, RATIO_UNAVAILABLE);
    CHECK(strstr(c.rows[0].ratios[RATIO_MEMORY].reason, "held memory of GPUs") != NULL);
    CHECK_EQ(c.rows[0].ratios[RATIO_SPEED].source, RATIO_MEASURED);
    ratios_free(&c);
    l.cells[0].baseline = l.cells[1].baseline = 1; /* the other way round host memory is what both have */
    CHECK_STR(ratios_memory(&l, 0), "host");
    CHECK_EQ(ratios_peak(&l, &l.runs[0]), l.runs[0].peak_bytes);
    load_free(&l);
    fixture_free(&f);
}

TEST(study_of_another_kind_is_refused)
{
    const struct fixture f = fixture_new();
    char path[128];
    struct recorder rec;
    struct db db;
    struct err err = { 0 };
    const struct job_record r = record(1, 1);
    snprintf(path, sizeof path, "%s/runs.db", f.root);
    add(path, "a", &r, NULL, NULL);
    CHECK_OK(db_open(&db, path, false, &err), &err);
    CHECK_OK(db_exec(&db, &err, NULL, "UPDATE study SET design = 'blocks'", ""), &err);
    db_close(&db);
    CHECK_ERR(recorder_open(&rec, path, &err), &err, ERR_USAGE, "holds a study");
    fixture_free(&f);
}

TEST_MAIN(CASE(labels_are_cells_and_the_first_is_the_baseline), CASE(steps_and_numbers_are_kept),
          CASE(windows_and_gpu_memory_are_compared_where_all_runs_have_them),
          CASE(gpu_memory_is_not_held_against_host_memory), CASE(study_of_another_kind_is_refused))
