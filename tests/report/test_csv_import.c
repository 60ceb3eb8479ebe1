/* Other tools' tables become runs; what they did not measure stays unknown, and what is no table is refused by its line. */
#include "study_fixture.h"

#include "base/mem.h"
#include "report/csv_import.h"
#include "report/load.h"
#include "report/ratios.h"

static const char codecarbon[] =
    "timestamp,project_name,run_id,duration,emissions,cpu_energy,gpu_energy,ram_energy,energy_consumed,os,cpu_model,"
    "gpu_model\r\n"
    "2024-01-01T00:00:00,plain,a,100,0.1,0.002,0.01,0.001,0.013,Linux,\"Xeon, big\",A100\r\n"
    "2024-01-01T00:10:00,fast,b,50,0.1,0.001,0.005,0.0005,0.0065,Linux,\"Xeon, big\",A100\r\n"
    "2024-01-01T00:20:00,none,c,50,0,0,0,0,0,Linux,\"Xeon, big\",A100\r\n";
static const char zeus[] = "start_time,window_name,elapsed_time,gpu0_energy,gpu1_energy\n"
                           "1700000000.5,plain,10,1000,1100\n1700000100,zero1,8,900,950\n1700000200,zero1,8.2,,950\n";
static const char plain[] =
    "\xef\xbb\xbflabel,seconds,peak_mib,joules,loss,note\n"
    "a,10,100,,2.5,\"two\nlines, \"\"quoted\"\"\"\n\na,10.2,100,,2.5,\nb,5,50,,2.4,x\nb,5.1,50,,2.4,y";

static void put(char path[FILE_PATH_MAX + 16], const char *folder, const char *name, const char *text)
{
    snprintf(path, FILE_PATH_MAX + 16, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0)
        fail_msg("could not write %s", path);
}

static void load(struct loaded *l, const char *folder, const char *text)
{
    char path[FILE_PATH_MAX + 16];
    struct err err = { 0 };
    void **test_state = NULL;

    put(path, folder, "runs.csv", text);
    CHECK_OK(load_study(l, path, &err), &err);
}

TEST(codecarbon_is_an_estimate)
{
    char folder[FILE_PATH_MAX];
    struct comparisons c;
    struct loaded l;
    struct err err = { 0 };

    fixture_folder(folder);
    load(&l, folder, codecarbon);
    CHECK_EQ(l.n_cells, 3);
    CHECK_STR(l.cells[1].name, "fast");
    CHECK_STR(l.runs[0].energy_state, "estimated");
    CHECK_STR(l.runs[0].energy_domains, "cpu + gpu + ram");
    CHECK_NEAR(l.runs[0].joules, 0.013 * 3.6e6, 1e-6);
    CHECK_STR(l.runs[0].machine, "Xeon, big A100 Linux");
    CHECK_STR(l.runs[2].energy_state, "unavailable");
    CHECK(isnan(l.runs[2].joules) && l.runs[0].peak_bytes == -1);
    CHECK_OK(ratios_build(&c, &l, &err), &err);
    CHECK_EQ(c.rows[0].ratios[RATIO_ENERGY].source, RATIO_ESTIMATED);
    CHECK_NEAR(c.rows[0].ratios[RATIO_ENERGY].e.value, 2, 1e-9);
    CHECK_EQ(c.rows[1].ratios[RATIO_ENERGY].source, RATIO_UNAVAILABLE);
    ratios_free(&c);
    load_free(&l);
    fixture_remove(folder);
}

TEST(zeus_adds_its_devices_up_and_nothing_that_is_missing)
{
    char folder[FILE_PATH_MAX];
    struct loaded l;

    fixture_folder(folder);
    load(&l, folder, zeus);
    CHECK_EQ(l.n_runs, 3);
    CHECK_NEAR(l.runs[1].joules, 1850, 1e-9);
    CHECK_STR(l.runs[1].energy_state, "measured");
    CHECK_STR(l.runs[1].energy_domains, "gpu0 + gpu1");
    CHECK_STR(l.runs[2].energy_state, "unavailable");
    load_free(&l);
    fixture_remove(folder);
}

TEST(any_table_with_seconds_will_do)
{
    char folder[FILE_PATH_MAX];
    struct comparisons c;
    struct loaded l;
    struct err err = { 0 };

    fixture_folder(folder);
    load(&l, folder, plain);
    CHECK_EQ(l.n_runs, 4);
    CHECK_EQ(l.runs[0].peak_bytes, 100 << 20);
    CHECK_NEAR(l.runs[3].final_loss, 2.4, 0);
    CHECK_OK(ratios_build(&c, &l, &err), &err);
    CHECK_EQ(c.rows[0].ratios[RATIO_SPEED].e.verdict, VERDICT_BETTER);
    CHECK_NEAR(c.rows[0].ratios[RATIO_MEMORY].e.value, 2, 1e-9);
    ratios_free(&c);
    load_free(&l);
    fixture_remove(folder);
}

TEST(of_several_files_each_is_a_cell)
{
    char folder[FILE_PATH_MAX], first[FILE_PATH_MAX + 16], second[FILE_PATH_MAX + 16];
    struct loaded l;
    struct err err = { 0 };

    fixture_folder(folder);
    put(first, folder, "base.csv", "seconds\n10\n11\n");
    put(second, folder, "zero1.csv", zeus);
    CHECK_OK(load_runs(&l, (const char *const[]){ first, second }, 2, &err), &err);
    CHECK_EQ(l.n_cells, 2);
    CHECK_STR(l.cells[0].name, "base");
    CHECK_STR(l.cells[1].name, "zero1");
    CHECK_EQ(l.n_runs, 5);
    load_free(&l);
    fixture_remove(folder);
}

TEST(what_is_no_table_is_refused_with_its_line)
{
    static const struct {
        const char *text, *says, *where;
    } cases[] = { { "a,b\n1,2\n", "no table of runs", "runs.csv" },
                  { "seconds\n1\nx\n", "\"seconds\" is \"x\"", "line 3" },
                  { "seconds,joules\n1,-2\n", "at least 0", "line 2" },
                  { "seconds\n\"1\n", "does not end", "line 2" },
                  { "seconds,label\n,a\n", "no \"seconds\"", "line 2" },
                  { "seconds\nnan\n", "must be a number", "line 2" },
                  { "label,seconds\n\xff,1\n", "UTF-8", "line 2" },
                  { "seconds\n", "holds no runs", "runs.csv" },
                  { "", "no table of runs", "runs.csv" } };
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];

    fixture_folder(folder);
    for (int i = 0; i < COUNT_OF(cases); i++) {
        struct loaded l;
        struct err err;

        put(path, folder, "runs.csv", cases[i].text);
        CHECK_ERR(load_study(&l, path, &err), &err, ERR_INPUT, cases[i].says);
        CHECK(strstr(err.where, cases[i].where) != NULL && l.n_runs == 0);
    }
    fixture_remove(folder);
}

TEST(survives_every_failed_allocation)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];

    fixture_folder(folder);
    put(path, folder, "runs.csv", codecarbon);
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

TEST_MAIN(CASE(codecarbon_is_an_estimate), CASE(zeus_adds_its_devices_up_and_nothing_that_is_missing),
          CASE(any_table_with_seconds_will_do), CASE(of_several_files_each_is_a_cell),
          CASE(what_is_no_table_is_refused_with_its_line), CASE(survives_every_failed_allocation))
