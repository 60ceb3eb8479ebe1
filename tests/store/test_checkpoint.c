/* Whole or not there: every cut, every flipped bit, a program that ends at any point, a disk that fills up. */
#include "store/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "test.h"

/* The program's own fsync, rename and renameat2 come before the C library's: the n-th call of any of them from now on
 * fails, or ends the process. */
static int countdown;
static enum { FAIL, END, FAIL_EXCHANGE } at_zero;

static bool is_due(void)
{
    if (countdown == 0 || --countdown > 0)
        return false;
    if (at_zero == END)
        _exit(7);
    errno = EIO;
    return true;
}

int fsync(int fd)
{
    return is_due() ? -1 : (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to)
{
    return is_due() ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    if (at_zero == FAIL_EXCHANGE) {
        errno = EINVAL;
        return -1;
    }
    return is_due() ? -1 : (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

static const char *make_dir(void)
{
    static char dir[64];

    snprintf(dir, sizeof dir, "/tmp/tuneup-checkpoint-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return dir;
}

static json_t *state_of(int64_t step)
{
    return json_pack("{s:I, s:f, s:[b]}", "row", (json_int_t)step * 10, "scale", 0.1, "flags", 1);
}

/* Values that tell which step wrote them. */
static int save(const char *dir, int64_t step, struct err *err)
{
    char tmp[FILE_PATH_MAX];
    const double a[2] = { (double)step, 0.1 };
    const int32_t b[3] = { 1, 2, (int32_t)step };
    const struct checkpoint_piece pieces[] = { { .data = a, .bytes = sizeof a },
                                               { .data = NULL },
                                               { .data = b, .bytes = sizeof b } };
    struct checkpoint_part parts[2];
    json_t *state = state_of(step);

    int result = checkpoint_begin(dir, step, tmp, err);
    if (result == 0)
        result = checkpoint_write_part(tmp, "rank-0.bin", pieces, 3, &parts[0], err);
    if (result == 0)
        result = checkpoint_write_part(tmp, "rank-1.bin", pieces, 1, &parts[1], err);
    if (result == 0)
        result = checkpoint_commit(dir, step, tmp, state, parts, 2, err);
    json_decref(state);
    return result;
}

/* The step of the newest whole one after its data has been read and compared, 0 = none. */
static int64_t newest(const char *dir, char *damaged)
{
    char path[FILE_PATH_MAX], names[256];
    struct err err = { 0 };
    double a[2];
    int32_t b[3];
    const struct checkpoint_piece_out pieces[] = { { .data = a, .bytes = sizeof a }, { .data = b, .bytes = sizeof b } };
    json_t *state;
    int64_t step;
    const int found = checkpoint_newest(dir, path, &step, &state, names, sizeof names, &err);

    if (found < 0)
        fail_msg("%s", err.what);
    if (damaged)
        strcpy(damaged, names);
    if (found == 0)
        return 0;
    json_t *wanted = state_of(step);
    assert_true(json_equal(state, wanted));
    json_decref(wanted);
    json_decref(state);
    assert_int_equal(checkpoint_read_part(path, "rank-0.bin", pieces, 2, &err), 0);
    assert_true(a[0] == (double)step && b[2] == step);
    return step;
}

static int count_entries(const char *dir)
{
    char command[128];
    int n = -1;

    snprintf(command, sizeof command, "ls -A %s | wc -l", dir);
    FILE *f = popen(command, "r");
    if (!f || fscanf(f, "%d", &n) != 1)
        n = -1;
    pclose(f);
    return n;
}

TEST(the_newest_is_found_and_old_ones_go)
{
    struct err err = { 0 };
    const char *dir = make_dir();
    char path[FILE_PATH_MAX];

    CHECK_EQ(newest(dir, NULL), 0);
    CHECK_EQ(newest("/tmp/tuneup-is-not-there", NULL), 0);
    for (int64_t step = 8; step <= 12; step++)
        CHECK_OK(save(dir, step, &err), &err);
    CHECK_EQ(newest(dir, NULL), 12); /* by number: "checkpoint-9" sorts after it as text */
    CHECK_OK(checkpoint_prune(dir, 2, &err), &err);
    CHECK_EQ(count_entries(dir), 2);
    CHECK_EQ(newest(dir, NULL), 12);
    CHECK_OK(checkpoint_prune(dir, 0, &err), &err);
    CHECK_EQ(count_entries(dir), 1);
    CHECK_OK(save(dir, 12, &err), &err); /* the same step again */
    CHECK_EQ(newest(dir, NULL), 12);
    CHECK_EQ(count_entries(dir), 1);
    snprintf(path, sizeof path, "%s/checkpoint-12/manifest.json", dir);
    CHECK(file_exists(path));
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST(sizes_must_match)
{
    struct err err = { 0 };
    const char *dir = make_dir();
    char path[FILE_PATH_MAX], bytes[40];
    const struct checkpoint_piece_out large = { .data = bytes, .bytes = 29 }, small = { .data = bytes, .bytes = 27 };

    CHECK_OK(save(dir, 3, &err), &err);
    snprintf(path, sizeof path, "%s/checkpoint-3", dir);
    CHECK_ERR(checkpoint_read_part(path, "rank-0.bin", &large, 1, &err), &err, ERR_INPUT, "shorter");
    CHECK_ERR(checkpoint_read_part(path, "rank-0.bin", &small, 1, &err), &err, ERR_INPUT, "longer");
    CHECK_ERR(checkpoint_read_part(path, "rank-2.bin", &small, 1, &err), &err, ERR_INPUT, "rank-2.bin");
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

#define FAR_BYTES (((size_t)5 << 19) + 3) /* more than two chunks */

static int get_far(void *context, int number, size_t at, void *out, size_t bytes, struct err *err)
{
    if (number != 7)
        return err_set(err, ERR_SYSTEM, "there is no %d", number);
    memcpy(out, (char *)context + at, bytes);
    return 0;
}

static int put_far(void *context, int number, size_t at, const void *from, size_t bytes, struct err *err)
{
    if (number != 7)
        return err_set(err, ERR_SYSTEM, "there is no %d", number);
    memcpy((char *)context + at, from, bytes);
    return 0;
}

/* Pieces behind functions stand where those of memory would, and come back through them. */
TEST(pieces_elsewhere_are_streamed)
{
    struct err err = { 0 };
    const char *dir = make_dir();
    char path[FILE_PATH_MAX], tmp[FILE_PATH_MAX], damaged[64];
    char *far = calloc(1, FAR_BYTES), *got = calloc(1, FAR_BYTES), near[5];
    const struct checkpoint_elsewhere there = { get_far, put_far, far };
    struct checkpoint_piece pieces[] = { { .data = "near", .bytes = 5 },
                                         { .bytes = FAR_BYTES, .elsewhere = &there, .number = 7 } };
    struct checkpoint_piece_out back[] = { { .data = near, .bytes = 5 },
                                           { .bytes = FAR_BYTES, .elsewhere = &there, .number = 7 } };
    const struct checkpoint_piece_out in_memory[] = { { .data = near, .bytes = 5 },
                                                      { .data = got, .bytes = FAR_BYTES } };
    struct checkpoint_part part;
    json_t *state = state_of(1);
    int64_t step;

    for (size_t i = 0; i < FAR_BYTES; i++)
        far[i] = (char)(i ^ i >> 9);
    CHECK_OK(checkpoint_begin(dir, 1, tmp, &err), &err);
    CHECK_OK(checkpoint_write_part(tmp, "shared", pieces, 2, &part, &err), &err);
    pieces[1].number = back[1].number = 8;
    CHECK_ERR(checkpoint_write_part(tmp, "rank-0", pieces, 2, &part, &err), &err, ERR_SYSTEM, "there is no 8");
    CHECK_OK(checkpoint_commit(dir, 1, tmp, state, &part, 0, &err), &err);
    json_decref(state);
    CHECK_EQ(checkpoint_newest(dir, path, &step, &state, damaged, sizeof damaged, &err), 1);
    json_decref(state);
    CHECK_OK(checkpoint_read_part(path, "shared", in_memory, 2, &err), &err);
    CHECK_EQ(memcmp(got, far, FAR_BYTES), 0);
    CHECK_ERR(checkpoint_read_part(path, "shared", back, 2, &err), &err, ERR_SYSTEM, "there is no 8");
    back[1].number = 7;
    memset(far, 0, FAR_BYTES);
    CHECK_OK(checkpoint_read_part(path, "shared", back, 2, &err), &err);
    CHECK_EQ(memcmp(got, far, FAR_BYTES), 0);
    back[1].bytes++;
    CHECK_ERR(checkpoint_read_part(path, "shared", back, 1, &err), &err, ERR_INPUT, "longer");
    CHECK_OK(file_remove_tree(dir, &err), &err);
    free(far);
    free(got);
}

/* Flips a bit in every byte of a part of the newest checkpoint, or cuts it there; the one before must be taken. */
static void each_byte(const char *dir, const char *name, bool cut)
{
    char path[FILE_PATH_MAX], names[256];
    struct err err = { 0 };
    size_t n;

    snprintf(path, sizeof path, "%s/checkpoint-20/%s", dir, name);
    char *whole = file_read(path, 10000, &n, &err);
    assert_non_null(whole);
    int n_same = 0;
    for (size_t i = 0; i < n; i++) {
        FILE *f = fopen(path, "wb");
        char flipped = (char)(whole[i] ^ 1);

        fwrite(whole, 1, cut ? i : n, f);
        if (!cut) {
            fseek(f, (long)i, SEEK_SET);
            fwrite(&flipped, 1, 1, f);
        }
        fclose(f);
        const int64_t step = newest(dir, names);
        if (step == 20 && strcmp(name, "manifest.json") == 0) {
            n_same++; /* white space, or a last digit that does not change the number: newest() compared the state */
            continue;
        }
        if (step != 10 || strcmp(names, "checkpoint-20") != 0)
            fail_msg("byte %zu of %s: step %lld, damaged \"%s\"", i, name, (long long)step, names);
    }
    assert_true(n_same < (int)n / 4);
    FILE *f = fopen(path, "wb");
    fwrite(whole, 1, n, f);
    fclose(f);
    mem_free(whole);
}

TEST(damage_is_found_and_the_one_before_is_taken)
{
    struct err err = { 0 };
    const char *dir = make_dir();
    char path[FILE_PATH_MAX], names[256];

    CHECK_OK(save(dir, 10, &err), &err);
    CHECK_OK(save(dir, 20, &err), &err);
    for (int cut = 0; cut < 2; cut++) {
        each_byte(dir, "rank-0.bin", cut);
        each_byte(dir, "manifest.json", cut);
    }
    CHECK_EQ(newest(dir, names), 20);
    CHECK_STR(names, "");
    snprintf(path, sizeof path, "%s/checkpoint-20/rank-1.bin", dir);
    unlink(path);
    CHECK_EQ(newest(dir, names), 10);
    CHECK(mkfifo(path, 0600) == 0);
    CHECK_EQ(newest(dir, names), 10);
    snprintf(path, sizeof path, "%s/checkpoint-30", dir);
    mkdir(path, 0700);
    CHECK_EQ(newest(dir, names), 10);
    CHECK_STR(names, "checkpoint-30, checkpoint-20");
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

/* The disk fills up after n bytes of every file, for every n: what was there stays whole. */
TEST(a_full_disk_leaves_the_last_one)
{
    struct err err = { 0 };
    struct rlimit before, limit;
    const char *dir = make_dir();
    int n_failed = 0;

    CHECK_OK(save(dir, 5, &err), &err);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    for (limit.rlim_cur = 0; limit.rlim_cur < 1000; limit.rlim_cur += 7) {
        setrlimit(RLIMIT_FSIZE, &limit);
        const int result = save(dir, 6, &err);
        setrlimit(RLIMIT_FSIZE, &before);
        n_failed += result != 0;
        CHECK_EQ(newest(dir, NULL), result == 0 ? 6 : 5);
        if (result == 0)
            break;
    }
    CHECK(n_failed > 10);
    CHECK_EQ(newest(dir, NULL), 6);
    CHECK_EQ(count_entries(dir), 2);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

/* Step `to` is saved over a folder that holds `to` or the one before; the n-th system call fails or is the last. */
static int save_until(const char *dir, int64_t to, int n, bool end)
{
    struct err err = { 0 };
    int status = 0;

    if (!end) {
        at_zero = FAIL;
        countdown = n;
        const int result = save(dir, to, &err) != 0 || checkpoint_prune(dir, 2, &err) != 0;
        countdown = 0;
        return result;
    }
    const pid_t child = fork();
    if (child == 0) {
        at_zero = END;
        countdown = n;
        _exit(save(dir, to, &err) != 0 || checkpoint_prune(dir, 2, &err) != 0);
    }
    assert_true(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST(every_system_call_may_fail_or_be_the_last)
{
    for (int end = 0; end < 2; end++)
        for (int replace = 0; replace < 2; replace++) {
            struct err err = { 0 };
            const char *dir = make_dir();
            int n = 1;

            CHECK_OK(save(dir, 4, &err), &err);
            CHECK_OK(save(dir, 5, &err), &err);
            for (;; n++) {
                char names[256];
                const int result = save_until(dir, replace ? 5 : 6, n, end);
                const int64_t step = newest(dir, names);

                CHECK_STR(names, "");
                CHECK(step == 5 || (step == 6 && !replace));
                if (result == 0)
                    break;
                if (step == 6) { /* it was in place already: back to where this began */
                    char path[FILE_PATH_MAX];
                    snprintf(path, sizeof path, "%s/checkpoint-6", dir);
                    CHECK_OK(file_remove_tree(path, &err), &err);
                    CHECK_OK(save(dir, 5, &err), &err);
                }
            }
            CHECK(n > 10);
            CHECK_EQ(count_entries(dir), 2);
            CHECK_OK(file_remove_tree(dir, &err), &err);
        }
}

TEST(a_file_system_without_exchange_will_do)
{
    struct err err = { 0 };
    const char *dir = make_dir();

    CHECK_OK(save(dir, 5, &err), &err);
    at_zero = FAIL_EXCHANGE;
    CHECK_OK(save(dir, 5, &err), &err);
    at_zero = FAIL;
    CHECK_EQ(newest(dir, NULL), 5);
    CHECK_EQ(count_entries(dir), 1);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

/* A child saves steps as fast as it can until it is killed, again and again; at any moment the newest is whole. */
TEST(killing_leaves_a_whole_one)
{
    struct err err = { 0 };
    const char *dir = make_dir();
    int64_t last = 1;

    CHECK_OK(save(dir, 1, &err), &err);
    for (int round = 0; round < 12; round++) {
        const pid_t child = fork();

        if (child == 0) {
            for (int64_t step = last + 1;; step++)
                if (save(dir, step, &err) != 0 || checkpoint_prune(dir, 2, &err) != 0)
                    _exit(1);
        }
        usleep((useconds_t)(2000 + 1700 * round));
        kill(child, SIGKILL);
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status));
        char names[256];
        const int64_t step = newest(dir, names);
        CHECK(step >= last);
        CHECK_STR(names, "");
        last = step;
    }
    CHECK_OK(save(dir, last + 1, &err), &err);
    CHECK_OK(checkpoint_prune(dir, 1, &err), &err);
    CHECK_EQ(count_entries(dir), 1);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST(failing_allocations_are_errors_and_no_damage)
{
    struct err err = { 0 };
    const char *dir = make_dir();
    const size_t live = mem_live_bytes(MEM_STORE);
    char path[FILE_PATH_MAX], names[256];
    json_t *state;
    int64_t step;
    int n = 1;

    CHECK_OK(save(dir, 7, &err), &err);
    for (;; n++) {
        mem_fail_at(n);
        const int found = checkpoint_newest(dir, path, &step, &state, names, sizeof names, &err);
        mem_fail_at(0);
        CHECK_EQ(mem_live_bytes(MEM_STORE), live);
        if (found == 1)
            break;
        CHECK_EQ(found, -1);
        CHECK_EQ(err.code, ERR_MEMORY);
    }
    json_decref(state);
    CHECK(n > 2);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST_MAIN(CASE(the_newest_is_found_and_old_ones_go), CASE(sizes_must_match), CASE(pieces_elsewhere_are_streamed),
          CASE(damage_is_found_and_the_one_before_is_taken), CASE(a_full_disk_leaves_the_last_one),
          CASE(every_system_call_may_fail_or_be_the_last), CASE(a_file_system_without_exchange_will_do),
          CASE(killing_leaves_a_whole_one), CASE(failing_allocations_are_errors_and_no_damage))
