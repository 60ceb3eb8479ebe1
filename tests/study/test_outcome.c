#include "study_fixture.h"

#include "base/mem.h"

static const char whole_run[] =
    "{\"schema_version\":1,\"phase\":\"sft\",\"planned\":{\"memory\":{\"param\":100,\"comm\":7},\"peak_bytes\":500,"
    "\"flops\":1e9,\"bytes_moved\":2e9,\"comm_bytes\":3},\"measured\":{\"steps\":4,\"warmup_steps\":2,\"tokens\":4096,"
    "\"tokens_per_second\":1024.5,\"peak_bytes\":1000,\"peak_bytes_per_rank\":[400,600],\"allocated\":{\"param\":100},"
    "\"energy\":{\"joules\":null,\"state\":\"unavailable\",\"reason\":\"no RAPL\"},\"final_loss\":8.5}}";
static const char whole_metrics[] = "{\"step\":1,\"phase\":\"sft\",\"loss\":9,\"lr\":1e-4,\"grad_norm\":1,\"tokens\":"
                                    "1024,\"seconds\":5,\"joules\":null,\"peak_bytes\":9}\n"
                                    "{\"step\":2,\"loss\":8.9,\"seconds\":3,\"joules\":null}\n"
                                    "{\"eval_loss\":8.8}\n\n"
                                    "{\"step\":3,\"loss\":8.7,\"seconds\":1.5,\"joules\":null}\n"
                                    "{\"step\":4,\"loss\":8.5,\"seconds\":1.25,\"joules\":null}";

static void put(const char *folder, const char *name, const char *text)
{
    char path[FILE_PATH_MAX + 32];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0)
        fail_msg("could not write %s", path);
}

TEST(reads_what_a_run_leaves)
{
    char folder[FILE_PATH_MAX];
    struct outcome o;
    struct err err = { 0 };

    fixture_folder(folder);
    put(folder, "run.json", whole_run);
    put(folder, "metrics.jsonl", whole_metrics);
    CHECK_OK(outcome_read(&o, folder, &err), &err);
    CHECK_EQ(o.n_steps, 4);
    CHECK_NEAR(o.steady_s, 2.75, 1e-12); /* the last two steps */
    CHECK(isnan(o.steady_j) && isnan(o.eval_loss));
    CHECK_STR(o.energy_state, "unavailable");
    CHECK_STR(o.energy_reason, "no RAPL");
    CHECK_EQ(o.planned[0], 100);
    CHECK_EQ(o.planned[1], -1);
    CHECK_EQ(o.planned[6], 7);
    CHECK_EQ(o.n_ranks, 2);
    CHECK_EQ(o.rank_peak_bytes[1], 600);
    CHECK_STR(o.run_json, whole_run);
    outcome_free(&o);
    fixture_remove(folder);
}

TEST(what_a_phase_tells_beside_is_kept)
{
    char folder[FILE_PATH_MAX];
    struct outcome o;
    struct err err = { 0 };

    fixture_folder(folder);
    put(folder, "run.json", "{\"measured\":{\"tokens\":5,\"accuracy\":0.75,\"energy\":{},\"margin\":null}}");
    put(folder, "metrics.jsonl",
        "{\"step\":1,\"phase\":\"ppo\",\"reward_mean\":-0.25,\"kl\":1e-3,\"seconds\":2,\"generate_seconds\":1.5}\n"
        "{\"step\":1,\"eval_loss\":3,\"accuracy\":1}\n");
    CHECK_OK(outcome_read(&o, folder, &err), &err);
    CHECK_EQ(o.n_steps, 1);
    CHECK(isnan(o.steps[0].loss));
    CHECK_EQ(o.n_metrics, 4);
    CHECK(o.metrics[0].step == 0 && o.metrics[1].step == 1);
    CHECK_STR(o.metrics[0].name, "accuracy");
    CHECK_STR(o.metrics[3].name, "generate_seconds");
    CHECK_NEAR(o.metrics[3].value, 1.5, 0);
    outcome_free(&o);
    fixture_remove(folder);
}

TEST(energy_counts_only_when_every_steady_step_has_it)
{
    char folder[FILE_PATH_MAX];
    struct outcome o;
    struct err err = { 0 };
    const char *run =
        "{\"measured\":{\"warmup_steps\":1,\"energy\":{\"joules\":60,\"state\":\"measured\",\"reason\":\"\"}}}";

    fixture_folder(folder);
    put(folder, "run.json", run);
    put(folder, "metrics.jsonl",
        "{\"loss\":1,\"seconds\":1,\"joules\":null}\n{\"loss\":1,\"seconds\":1,\"joules\":20}\n"
        "{\"loss\":1,\"seconds\":1,\"joules\":21}\n");
    CHECK_OK(outcome_read(&o, folder, &err), &err);
    CHECK_NEAR(o.steady_j, 41, 1e-12);
    CHECK_STR(o.energy_state, "measured");
    outcome_free(&o);
    put(folder, "metrics.jsonl",
        "{\"loss\":1,\"seconds\":1,\"joules\":3}\n{\"loss\":1,\"seconds\":1,\"joules\":null}\n");
    CHECK_OK(outcome_read(&o, folder, &err), &err);
    CHECK(isnan(o.steady_j));
    CHECK_STR(o.energy_state, "unavailable");
    outcome_free(&o);
    fixture_remove(folder);
}

TEST(what_is_no_record_is_refused)
{
    static const struct {
        const char *run, *metrics, *says;
    } cases[] = { { "{", "", "not valid JSON" },
                  { "[]", "", "no \"measured\"" },
                  { "{\"measured\":{\"tokens\":-4}}", "", "\"tokens\" is -4" },
                  { "{\"measured\":{\"peak_bytes\":0}}", "", "\"peak_bytes\"" },
                  { "{\"measured\":{}}", "{\"loss\":1,\"seconds\":-1}\n", "\"seconds\"" },
                  { "{\"measured\":{}}", "{\"loss\":1,\"seconds\":1}\n{\"lo", "line 2" } };
    char folder[FILE_PATH_MAX];

    fixture_folder(folder);
    for (int i = 0; i < COUNT_OF(cases); i++) {
        struct outcome o;
        struct err err;

        put(folder, "run.json", cases[i].run);
        put(folder, "metrics.jsonl", cases[i].metrics);
        CHECK_ERR(outcome_read(&o, folder, &err), &err, ERR_INPUT, cases[i].says);
        CHECK(!o.steps && !o.run_json);
    }
    fixture_remove(folder);
}

TEST(survives_every_failed_allocation)
{
    char folder[FILE_PATH_MAX];

    fixture_folder(folder);
    put(folder, "run.json", whole_run);
    put(folder, "metrics.jsonl", whole_metrics);
    for (int64_t n = 1;; n++) {
        struct outcome o;
        struct err err = { 0 };

        mem_fail_at(n);
        const int result = outcome_read(&o, folder, &err);
        mem_fail_at(0);
        outcome_free(&o);
        CHECK_EQ(mem_live_bytes(MEM_RECORD), 0);
        if (result == 0)
            break;
        CHECK_EQ(err.code, ERR_MEMORY);
    }
    fixture_remove(folder);
}

TEST_MAIN(CASE(reads_what_a_run_leaves), CASE(what_a_phase_tells_beside_is_kept),
          CASE(energy_counts_only_when_every_steady_step_has_it), CASE(what_is_no_record_is_refused),
          CASE(survives_every_failed_allocation))
