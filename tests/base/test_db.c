/* base/db: the file's mode is changed while another program writes to it. */
#include "base/db.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

/* Writes to the file for a while from when it has said so. */
static void write_awhile(const char *path, int said)
{
    sqlite3 *other = NULL;
    bool ok = sqlite3_open(path, &other) == SQLITE_OK &&
              sqlite3_exec(other, "CREATE TABLE a(b); BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK &&
              write(said, "", 1) == 1;

    sqlite3_sleep(50);
    ok = ok && sqlite3_exec(other, "INSERT INTO a VALUES(1); COMMIT", NULL, NULL, NULL) == SQLITE_OK;
    sqlite3_close(other);
    _exit(ok ? 0 : 1);
}

TEST(a_write_ahead_log_waits_for_other_writers)
{
    char folder[] = "/tmp/tuneup-test-db-XXXXXX", path[FILE_PATH_MAX], byte;
    struct err err = { 0 };
    struct db d;
    int64_t rows = 0;
    int said[2], status = -1;

    CHECK(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.db", folder);
    CHECK_EQ(pipe(said), 0);
    const pid_t child = fork();
    if (child == 0)
        write_awhile(path, said[1]);
    CHECK_EQ(read(said[0], &byte, 1), 1);
    CHECK_OK(db_open(&d, path, false, &err), &err);
    CHECK_OK(db_durable(&d, &err), &err);
    CHECK_OK(db_exec(&d, &err, &rows, "SELECT count(*) FROM a", ""), &err);
    CHECK_EQ(rows, 1);
    db_close(&d);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    close(said[0]);
    close(said[1]);
    CHECK_OK(file_remove_tree(folder, &err), &err);
}

TEST_MAIN(CASE(a_write_ahead_log_waits_for_other_writers))
