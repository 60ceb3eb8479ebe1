#include "study_fixture.h"

#include "base/mem.h"
#include "report/ratios.h"
#include "report/recorded.h"

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    if (!f || fputs(text, f) < 0 || fclose(f) != 0)
        fail_msg("could not write %s", path);
}

#define RUN(label, seconds, joules, state)                                                                             \
    "{\"label\":" label ",\"command\":[\"python3\",\"x.py\"],\"started\":\"2026-01-01T00:00:00Z\",\"version\":\"1\","  \
    "\"seconds\":" seconds ",\"exit_status\":0,\"peak_bytes\":1000,\"cpu_seconds\":1,\"energy\":{\"joules\":" joules   \
    ",\"state\":\"" state "\",\"reason\":\"r\",\"hint\":\"h\",\"domains\":[{\"name\":\"package-0\",\"counted\":true}," \
    "{\"name\":\"core\",\"counted\":false}]},\"machine\":{\"cpu\":\"c\"}}\n"

static const char runs[] = RUN("\"plain\"", "2", "10", "measured") RUN("\"fast\"", "1", "5", "measured")
    RUN("\"plain\"", "2.02", "10.1", "measured") RUN("null", "3", "null", "unavailable")
        RUN("\"fast\"", "1.01", "5.1", "measured");

TEST(labels_become_cells)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct comparisons c;
    struct loaded l;
    struct err err = { 0 };

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/runs.jsonl", folder);
    put(path, runs);
    CHECK_OK(load_study(&l, path, &err), &err);
    CHECK_OK(ratios_build(&c, &l, &err), &err);
    CHECK_EQ(l.n_cells, 3);
    CHECK_STR(l.cells[2].name, "python3 x.py");
    CHECK_EQ(c.n, 2);
    CHECK_EQ(c.rows[0].ratios[RATIO_SPEED].e.n, 2);
    CHECK(!c.rows[0].ratios[RATIO_SPEED].e.paired);
    CHECK_NEAR(c.rows[0].ratios[RATIO_SPEED].e.value, 2, 1e-9);
    CHECK_NEAR(c.rows[0].ratios[RATIO_ENERGY].e.value, 1.99, 0.01);
    CHECK_STR(l.runs[0].energy_domains, "package-0");
    CHECK_EQ(c.rows[1].ratios[RATIO_ENERGY].source, RATIO_UNAVAILABLE);
    CHECK_STR(c.rows[1].ratios[RATIO_ENERGY].reason, "r. h");
    ratios_free(&c);
    load_free(&l);
    fixture_remove(folder);
    CHECK_EQ(mem_live_bytes(MEM_RECORD), 0);
}

TEST(what_is_no_record_is_refused_with_its_line)
{
    static const struct {
        const char *text, *says, *where;
    } cases[] = { { "{}\n", "no \"seconds\"", "line 1" },
                  { RUN("\"a\"", "1", "1", "measured") "{\"seconds\":-1}\n", "\"seconds\" is -1", "line 2" },
                  { RUN("\"a\"", "1", "1", "measured") "{\"sec", "not valid JSON", "line 2" } };
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/runs.jsonl", folder);
    for (int i = 0; i < COUNT_OF(cases); i++) {
        struct loaded l;
        struct err err;

        put(path, cases[i].text);
        CHECK_ERR(load_study(&l, path, &err), &err, ERR_INPUT, cases[i].says);
        CHECK(strstr(err.where, cases[i].where) != NULL && l.n_runs == 0);
    }
    fixture_remove(folder);
}

TEST(survives_every_failed_allocation)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/runs.jsonl", folder);
    put(path, runs);
    for (int64_t n = 1;; n++) {
        struct loaded l;
        struct err err = { 0 };

        mem_fail_at(n);
        const int result = load_study(&l, path, &err);
        mem_fail_at(0);
        load_free(&l);
        CHECK_EQ(mem_live_bytes(MEM_RECORD), 0);
        if (result == 0)
            break;
        CHECK_EQ(err.code, ERR_MEMORY);
    }
    fixture_remove(folder);
}

TEST_MAIN(CASE(labels_become_cells), CASE(what_is_no_record_is_refused_with_its_line),
          CASE(survives_every_failed_allocation))
