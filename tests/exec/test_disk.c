/* The file of what is offloaded: what is written is read again, in pieces and in any bytes; what goes wrong is told, and stops. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine.h"
#include "exec/disk.h"

#define BLOCK ((size_t)PLAN_FILE_BLOCK)
#define BLOCKS 24

static _Alignas(4096) char memory[BLOCKS * PLAN_FILE_BLOCK];

static char folder[] = "/tmp/tuneup-disk-XXXXXX";

static int make_folder(void **test_state)
{
    (void)test_state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **test_state)
{
    (void)test_state;
    return rmdir(folder); /* which fails where anything is left in it */
}

static int n_files(void)
{
    DIR *d = opendir(folder);
    int n = 0;

    while (d && readdir(d))
        n++;
    closedir(d);
    return n - 2; /* . and .. */
}

static struct disk *open_disk(void **test_state, bool direct)
{
    struct err err = { 0 };
    struct disk *d;

    CHECK_OK(disk_open(&d, folder, sizeof memory, direct, &err), &err);
    CHECK_EQ(disk_bytes(d), sizeof memory);
    CHECK_EQ(n_files(), 0);
    return d;
}

static void fill(char *out, size_t bytes, int seed)
{
    for (size_t i = 0; i < bytes; i++)
        out[i] = (char)(i * 7 + (i >> 8) + (size_t)seed);
}

TEST(pieces_come_back)
{
    for (int direct = 0; direct < 2; direct++) {
        struct err err = { 0 };
        struct disk *d = open_disk(test_state, direct);
        char want[PLAN_FILE_BLOCK];

        disk_read(d, memory, 0, sizeof memory);
        CHECK_OK(disk_wait(d, memory, &err), &err);
        for (size_t i = 0; i < sizeof memory; i++)
            CHECK_EQ(memory[i], 0);
        for (int round = 0; round < 3; round++) {
            for (size_t i = 0; i < BLOCKS;
                 i++) { /* from the last to the first: more than the queue holds, with the reads */
                fill(memory + (BLOCKS - 1 - i) * BLOCK, BLOCK, (int)i + round);
                disk_write(d, memory + (BLOCKS - 1 - i) * BLOCK, i * BLOCK, BLOCK);
            }
            for (size_t i = 0; i < BLOCKS; i++)
                CHECK_OK(disk_wait(d, memory + i * BLOCK, &err), &err);
            for (size_t i = 0; i < BLOCKS; i++)
                disk_read(d, memory + i * BLOCK, i * BLOCK, BLOCK);
            for (size_t i = 0; i < BLOCKS; i++) {
                CHECK_OK(disk_wait(d, memory + i * BLOCK, &err), &err);
                fill(want, BLOCK, (int)i + round);
                CHECK_EQ(memcmp(memory + i * BLOCK, want, BLOCK), 0);
            }
        }
        disk_close(d);
    }
}

/* Of any length at any place; what stands beside it stays. */
TEST(any_bytes_come_back)
{
    for (int direct = 0; direct < 2; direct++) {
        struct err err = { 0 };
        struct disk *d = open_disk(test_state, direct);
        const size_t places[][2] = { { 0, 1 },       { 1, 5000 },        { 4095, 2 },
                                     { 8192, 4096 }, { 12288, 30000 },   { sizeof memory - 1, 1 },
                                     { 50000, 0 },   { 60001, 4096 * 5 } };
        static char want[sizeof memory], got[sizeof memory];

        memset(want, 0, sizeof want);
        for (int i = 0; i < COUNT_OF(places); i++) {
            fill(want + places[i][0], places[i][1], i);
            CHECK_OK(disk_put(d, places[i][0], want + places[i][0], places[i][1], &err), &err);
            CHECK_OK(disk_get(d, 0, got, sizeof got, &err), &err);
            CHECK_EQ(memcmp(got, want, sizeof want), 0);
        }
        CHECK_OK(disk_get(d, 4097, got, 333, &err), &err);
        CHECK_EQ(memcmp(got, want + 4097, 333), 0);
        disk_read(d, memory, 0, sizeof memory); /* the other way sees the same bytes */
        CHECK_OK(disk_wait(d, memory, &err), &err);
        CHECK_EQ(memcmp(memory, want, sizeof want), 0);
        disk_close(d);
    }
}

TEST(the_first_failure_is_told_and_stays)
{
    static const int errors[] = { EIO, ENOSPC, 0 };

    for (int i = 0; i < COUNT_OF(errors); i++) {
        struct err err = { 0 };
        struct disk *d = open_disk(test_state, true);

        disk_fail_at(2, errors[i]);
        disk_read(d, memory, 0, BLOCK);
        CHECK_OK(disk_wait(d, memory, &err), &err);
        disk_write(d, memory + BLOCK, BLOCK, BLOCK);
        CHECK_ERR(disk_wait(d, memory + BLOCK, &err), &err, ERR_SYSTEM, folder);
        CHECK(strstr(err.what, errors[i] ? strerror(errors[i]) : "ends before"));
        CHECK(strstr(err.what, "could not write 4096 bytes") && strstr(err.where, "byte 4096 of"));
        disk_fail_at(0, 0);
        disk_read(d, memory, 0, BLOCK);
        CHECK_ERR(disk_wait(d, memory, &err), &err, ERR_SYSTEM, "could not write 4096 bytes");
        disk_close(d);
        d = open_disk(test_state, true);
        disk_fail_at(1, errors[i]);
        CHECK_ERR(disk_get(d, 5, memory, 10, &err), &err, ERR_SYSTEM, folder);
        disk_fail_at(1, errors[i]);
        CHECK_ERR(disk_put(d, 5, memory, 10, &err), &err, ERR_SYSTEM, folder);
        disk_fail_at(2, errors[i]); /* 5 .. 15 is read with its block, then written */
        CHECK_ERR(disk_put(d, 5, memory, 10, &err), &err, ERR_SYSTEM, "write");
        disk_fail_at(0, 0);
        disk_close(d);
    }
}

TEST(what_cannot_be_opened_is_told)
{
    struct err err = { 0 };
    struct rlimit old, small = { .rlim_cur = 3 * BLOCK };
    struct disk *d;

    CHECK_ERR(disk_open(&d, "/tmp/tuneup no such folder", BLOCK, true, &err), &err, ERR_SYSTEM, "--offload_dir");
    CHECK(d == NULL);
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    CHECK_ERR(disk_open(&d, folder, 4 * BLOCK, true, &err), &err, ERR_SYSTEM, folder);
    CHECK(strstr(err.what, "could not reserve 16384 bytes") && strstr(err.where, "free there"));
    setrlimit(RLIMIT_FSIZE, &old);
    disk_close(NULL);
    for (int64_t n = 1;; n++) {
        mem_fail_at(n);
        const int result = disk_open(&d, folder, BLOCK, true, &err);
        mem_fail_at(0);
        if (result == 0)
            break;
        CHECK_EQ(err.code, ERR_MEMORY);
        CHECK(n < 10);
    }
    disk_close(d);
    CHECK_EQ(n_files(), 0);
}

/* An update whose file fails at any of its calls ends with an error that names the folder; with none failing, it does not. */
TEST(an_update_ends_where_its_file_fails)
{
    const struct trainer_options o = { .learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8 };
    struct run_context c = { .B = 2, .T = 8, .first_micro = true };
    struct err err = { 0 };
    double norm, rate;
    int64_t n = 1;

    for (int result = -1; result != 0; n += 3) {
        struct engine e = {
            .shape = { .C = 16, .L = 2, .H = 2, .F = 24, .E = 8, .V = 40, .position_rows = 10 },
        };

        comm_alone(&e.comm);
        e.file_folder = folder;
        CHECK_OK(engine_open(&e, "cpu", "--dtype bf16 --offload --offload_piece 512", 2, 8, 1, &o, &err), &err);
        disk_fail_at(n, EIO);
        result = trainer_step(&e.trainer, &c, &norm, &rate, &err);
        disk_fail_at(0, 0);
        if (result != 0) {
            CHECK_EQ(err.code, ERR_SYSTEM);
            CHECK(strstr(err.what, folder) && strstr(err.what, strerror(EIO)));
        }
        engine_close(&e);
    }
    CHECK(n > 60); /* m, v and the master weights of 10 pieces and more, read and written */
}

int main(void)
{
    const struct CMUnitTest tests[] = { CASE(pieces_come_back), CASE(any_bytes_come_back),
                                        CASE(the_first_failure_is_told_and_stays), CASE(what_cannot_be_opened_is_told),
                                        CASE(an_update_ends_where_its_file_fails) };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
