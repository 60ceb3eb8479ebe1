/* Who may write to a folder. A lock is of an open file, so one process can try for it twice. */
#include "run/lock.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "test.h"

TEST(one_at_a_time)
{
    char dir[] = "/tmp/test_lock_XXXXXX", owner[64];
    struct run_lock a, b;
    struct err err = { 0 };

    CHECK(mkdtemp(dir) != NULL);
    CHECK_OK(lock_take(&a, dir, &err), &err);
    snprintf(owner, sizeof owner, "process %ld on ", (long)getpid());
    CHECK_ERR(lock_take(&b, dir, &err), &err, ERR_USAGE, owner);
    CHECK(!b.is_held);
    lock_release(&b);
    lock_release(&a);
    lock_release(&a);
    CHECK_OK(lock_take(&b, dir, &err), &err);
    CHECK(b.is_held);
    lock_release(&b);
    CHECK(rmdir(dir) == 0); /* nothing is left in it */
}

TEST(what_a_killed_process_left_is_nobodys)
{
    char dir[] = "/tmp/test_lock_XXXXXX", path[FILE_PATH_MAX];
    struct run_lock a;
    struct err err = { 0 };
    size_t n;

    CHECK(mkdtemp(dir) != NULL);
    CHECK_OK(file_join(path, dir, "run.lock", &err), &err);
    FILE *left = fopen(path, "w");
    CHECK(left != NULL);
    fputs("process 99999999 on another machine with a name that is much longer\n", left);
    fclose(left);
    CHECK_OK(lock_take(&a, dir, &err), &err);
    char *text = file_read(path, 1000, &n, &err);
    CHECK(text && strstr(text, "99999999") == NULL);
    mem_free(text);
    lock_release(&a);
    CHECK(rmdir(dir) == 0);
}

TEST(a_folder_that_is_not_there)
{
    struct run_lock a;
    struct err err = { 0 };

    CHECK_ERR(lock_take(&a, "/tmp/test_lock/none", &err), &err, ERR_SYSTEM, "run.lock");
    CHECK(!a.is_held);
}

TEST_MAIN(CASE(one_at_a_time), CASE(what_a_killed_process_left_is_nobodys), CASE(a_folder_that_is_not_there))
