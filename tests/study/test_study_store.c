#include "study_fixture.h"

#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>

#include "base/mem.h"
#include "report/load.h"

static int64_t count(const char *path, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *q = NULL;
    int64_t n = -1;

    if (sqlite3_open(path, &db) == SQLITE_OK && sqlite3_prepare_v2(db, sql, -1, &q, NULL) == SQLITE_OK &&
        sqlite3_step(q) == SQLITE_ROW)
        n = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    sqlite3_close(db);
    return n;
}

static void open_builtin(struct study_store *store, struct cells *s, const char *path, int64_t blocks)
{
    struct err err = { 0 };
    void **test_state = NULL;
    bool rebuilt;

    CHECK_OK(cells_builtin(s, &err), &err);
    CHECK_OK(cells_finish(s, &(struct cells_choice){ .blocks = blocks }, &err), &err);
    CHECK_OK(study_store_open(store, path, &err), &err);
    CHECK_OK(study_store_begin(store, s, "{}", "hash", &rebuilt, &err), &err);
}

static const struct fixture plain = { .fail_cell = -1 };

TEST(a_run_is_stored_whole)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct study_store store;
    struct cells s;
    struct err err = { 0 };

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    open_builtin(&store, &s, path, 2);
    CHECK_EQ(study_store_has(&store, 3, 1, &err), 0);
    fixture_run(&store, &s, 3, 1, &plain);
    CHECK_EQ(study_store_has(&store, 3, 1, &err), 1);
    study_store_close(&store);
    CHECK_EQ(count(path, "SELECT count(*) FROM step"), 6);
    CHECK_EQ(count(path, "SELECT count(*) FROM memory"), OUTCOME_N_KINDS);
    CHECK_EQ(count(path, "SELECT count(*) FROM run WHERE joules IS NULL AND steady_j IS NULL"), 1);
    CHECK_EQ(count(path, "SELECT steady_energy_reason LIKE '%RAPL%' FROM run"), 1);
    CHECK_EQ(count(path, "SELECT run_json = '{\"schema_version\":1}' FROM run"), 1);
    cells_free(&s);
    fixture_remove(folder);
}

TEST(a_second_result_of_one_block_is_refused)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct study_store store;
    struct cells s;
    struct err err = { 0 };
    const struct study_run run = { .argv_json = "[]",
                                   .state = "done",
                                   .reason = "",
                                   .stderr_tail = "",
                                   .energy_state = "unavailable",
                                   .energy_reason = "",
                                   .energy_domains = "" };

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    open_builtin(&store, &s, path, 2);
    CHECK_OK(study_store_add(&store, 0, &run, &err), &err);
    CHECK_ERR(study_store_add(&store, 0, &run, &err), &err, ERR_USAGE, "already");
    CHECK_OK(study_store_add(&store, 1, &run, &err), &err); /* the refusal left no transaction open */
    study_store_close(&store);
    cells_free(&s);
    fixture_remove(folder);
}

TEST(a_changed_study_is_refused_and_more_blocks_are_not)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct study_store store;
    struct cells s;
    struct err err = { 0 };
    bool rebuilt;

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    open_builtin(&store, &s, path, 2);
    s.blocks = 4;
    CHECK_OK(study_store_begin(&store, &s, "{}", "other", &rebuilt, &err), &err);
    CHECK(rebuilt);
    s.blocks = 3;
    CHECK_ERR(study_store_begin(&store, &s, "{}", "hash", &rebuilt, &err), &err, ERR_USAGE,
              "blocks was 4 and is now 3");
    s.blocks = 4;
    s.seed = 5;
    CHECK_ERR(study_store_begin(&store, &s, "{}", "hash", &rebuilt, &err), &err, ERR_USAGE, "seed was 1234");
    study_store_close(&store);
    CHECK_EQ(count(path, "SELECT blocks FROM study"), 4);
    cells_free(&s);
    fixture_remove(folder);
}

TEST(newer_and_foreign_files_are_refused)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct study_store store;
    struct loaded l;
    struct err err = { 0 };

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    CHECK_OK(study_store_open(&store, path, &err), &err);
    study_store_close(&store);
    count(path, "PRAGMA user_version = 5");
    CHECK_ERR(study_store_open(&store, path, &err), &err, ERR_INPUT, "schema 5");
    CHECK_ERR(load_study(&l, path, &err), &err, ERR_INPUT, "schema 5");
    snprintf(path, sizeof path, "%s/other.db", folder);
    count(path, "CREATE TABLE t(x)");
    CHECK_ERR(study_store_open(&store, path, &err), &err, ERR_INPUT, "another program");
    CHECK_ERR(load_study(&l, path, &err), &err, ERR_INPUT, "no study");
    snprintf(path, sizeof path, "%s/text.db", folder);
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 1000; i++)
        fputs("this is no database ", f);
    fclose(f);
    CHECK_ERR(study_store_open(&store, path, &err), &err, ERR_INPUT, "not a database");
    CHECK_ERR(load_study(&l, path, &err), &err, ERR_INPUT, "no study, no list of runs");
    CHECK_ERR(load_study(&l, folder, &err), &err, ERR_INPUT, "folder");
    CHECK_ERR(load_study(&l, "/nowhere/study.db", &err), &err, ERR_INPUT, "/nowhere");
    fixture_remove(folder);
}

/* Back to what schema 3 was, 2, and 1: before runs kept their trace; before they told what disturbed them; before a phase could
 * tell more than its loss. */
static void make_older(const char *path, int schema)
{
    static const char *const columns[] = { "steal_s", "cgroup_wait_s", "throttles", "swapped_in", "machine" };
    char sql[128];

    count(path, "DROP TABLE trace");
    for (int i = 0; i < COUNT_OF(columns) && schema < 3; i++) {
        snprintf(sql, sizeof sql, "ALTER TABLE run DROP COLUMN %s", columns[i]);
        count(path, sql);
    }
    if (schema < 3)
        count(path, "ALTER TABLE cell DROP COLUMN command");
    if (schema == 1)
        count(path, "DROP TABLE metric");
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", schema);
    count(path, sql);
}

static void check_migration(int schema)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16], kept[FILE_PATH_MAX + 64];
    struct study_store store;
    struct cells s;
    struct loaded l;
    struct err err = { 0 };
    void **test_state = NULL;

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    snprintf(kept, sizeof kept, "%s.schema-%d", path, schema);
    open_builtin(&store, &s, path, 2);
    fixture_run(&store, &s, 0, 0, &plain);
    study_store_close(&store);
    make_older(path, schema);
    CHECK_OK(load_study(&l, path, &err), &err);
    CHECK(l.n_runs == 1 && l.runs[0].n_steps == 6 && !l.cells[0].is_command);
    CHECK(schema == 3 || isnan(l.runs[0].steal_s));
    CHECK_EQ(l.runs[0].n_trace, 0);
    load_free(&l);
    cells_free(&s);
    CHECK(!file_exists(kept)); /* reading changes nothing */
    open_builtin(&store, &s, path, 2);
    CHECK_EQ(study_store_has(&store, 0, 0, &err), 1);
    fixture_run(&store, &s, 1, 0, &plain);
    study_store_close(&store);
    CHECK_EQ(count(path, "PRAGMA user_version"), STUDY_STORE_SCHEMA);
    CHECK_EQ(count(kept, "PRAGMA user_version"), schema); /* as it was, with its run */
    CHECK_EQ(count(kept, "SELECT count(*) FROM run"), 1);
    CHECK_EQ(count(path, "SELECT count(*) FROM run"), 2);
    cells_free(&s);
    fixture_remove(folder);
}

TEST(older_files_are_kept_and_migrated)
{
    (void)test_state;
    check_migration(1);
    check_migration(2);
    check_migration(3);
}

/* A child writes run after run until it is killed: every run that is there is whole. */
TEST(the_file_is_whole_after_kill_9)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct study_store store;
    struct cells s;
    struct err err = { 0 };
    struct loaded l;

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    for (int round = 0; round < 4; round++) {
        const pid_t child = fork();

        if (child == 0) {
            open_builtin(&store, &s, path, 10000);
            for (int64_t block = round * 2000;; block++)
                fixture_run(&store, &s, (int)(block % s.n_cells), block, &plain);
        }
        while (count(path, "SELECT count(*) FROM run") < 5 * (round + 1))
            usleep(2000);
        usleep((useconds_t)(1000 * round + 137));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        CHECK_EQ(count(path, "SELECT count(*) FROM run WHERE 6 <> (SELECT count(*) FROM step WHERE run = run.id)"), 0);
        CHECK_EQ(count(path, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"), 0);
    }
    CHECK_OK(load_study(&l, path, &err), &err);
    CHECK(l.n_runs >= 20);
    load_free(&l);
    fixture_remove(folder);
}

TEST(writers_wait_for_each_other)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct study_store store;
    struct cells s;
    pid_t children[4];

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    for (int k = 0; k < 4; k++) {
        children[k] = fork();
        if (children[k] == 0) {
            open_builtin(&store, &s, path, 100);
            for (int64_t block = 0; block < 10; block++)
                fixture_run(&store, &s, k, block, &plain);
            study_store_close(&store);
            _exit(0);
        }
    }
    for (int k = 0; k < 4; k++) {
        int status = -1;

        waitpid(children[k], &status, 0);
        CHECK_EQ(status, 0);
    }
    CHECK_EQ(count(path, "SELECT count(*) FROM run"), 40);
    fixture_remove(folder);
}

TEST_MAIN(CASE(a_run_is_stored_whole), CASE(a_second_result_of_one_block_is_refused),
          CASE(a_changed_study_is_refused_and_more_blocks_are_not), CASE(newer_and_foreign_files_are_refused),
          CASE(older_files_are_kept_and_migrated), CASE(the_file_is_whole_after_kill_9),
          CASE(writers_wait_for_each_other))
