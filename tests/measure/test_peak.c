/* Programs whose peak is known: this one, started again as a helper that needs 64 MiB in one way or another. What the helper needs
 * without them is measured first and taken off. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"
#include "measure/job.h"

#define MIB (1024 * 1024L)
#define NEED (64 * MIB)
#define TOLERANCE (4 * MIB)

/* ---- the helper ---- */

static void touch(size_t bytes, int flags, int fd, int ms)
{
    char *p = mmap(NULL, bytes, fd >= 0 ? PROT_READ : PROT_READ | PROT_WRITE, flags, fd, 0);
    volatile char sum = 0;

    if (p == MAP_FAILED)
        _exit(3);
    for (size_t i = 0; i < bytes; i += 4096)
        if (fd >= 0)
            sum = (char)(sum + p[i]);
        else
            p[i] = 1;
    usleep((unsigned)ms * 1000);
    munmap(p, bytes);
}

static void share(void)
{
    char *p = mmap(NULL, NEED, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    for (int i = 0; i < 2; i++)
        if (fork() == 0) {
            memset(p, 1, NEED);
            usleep(600 * 1000);
            _exit(0);
        }
    while (wait(NULL) > 0)
        continue;
}

static void daemonise(void)
{
    if (fork() == 0) {
        setsid();
        if (fork() != 0)
            _exit(0); /* early: the rest is an orphan */
        touch(NEED, MAP_PRIVATE | MAP_ANONYMOUS, -1, 600);
        _exit(0);
    }
    wait(NULL);
    usleep(700 * 1000);
}

static void copies_on_write(void)
{
    char *p = mmap(NULL, NEED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memset(p, 1, NEED);
    if (fork() == 0) { /* has all of it, and writes a half: that alone is more */
        memset(p, 2, NEED / 2);
        usleep(2000 * 1000); /* no new resident page tells of it: it is seen when it is next looked at in full */
        _exit(0);
    }
    wait(NULL);
}

__attribute__((constructor)) static void help(void)
{
    const char *way = getenv("PEAK_HELPER"), *file = getenv("PEAK_FILE");

    if (!way)
        return;
    if (strcmp(way, "anonymous") == 0)
        touch(NEED, MAP_PRIVATE | MAP_ANONYMOUS, -1, 500);
    else if (strcmp(way, "shared") == 0)
        share();
    else if (strcmp(way, "file") == 0)
        touch(NEED, MAP_PRIVATE, open(file, O_RDONLY), 500);
    else if (strcmp(way, "daemon") == 0)
        daemonise();
    else if (strcmp(way, "copies") == 0)
        copies_on_write();
    else if (strcmp(way, "spike") == 0) {
        usleep(700 * 1000); /* when the meter has settled */
        touch(NEED, MAP_PRIVATE | MAP_ANONYMOUS, -1, 300);
        usleep(200 * 1000);
    } else
        usleep(500 * 1000);
    _exit(0);
}

/* ---- the tests ---- */

static struct job_record run_helper(const char *way, const char *file)
{
    char self[512], way_text[64], file_text[256];
    char *argv[] = { self, NULL };
    const char *env[] = { way_text, file_text, NULL };
    const struct job_options o = { .extra_env = env, .own_group = true }; /* a late daemon is not the next one's */
    struct job_record r;
    struct err err = { 0 };
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    self[n > 0 ? n : 0] = '\0';
    snprintf(way_text, sizeof way_text, "PEAK_HELPER=%s", way);
    snprintf(file_text, sizeof file_text, "PEAK_FILE=%s", file ? file : "");
    if (job_measure(argv, &o, &r, &err) != 0)
        fail_msg("%s", err.what);
    if (r.exit_status != 0)
        fail_msg("the helper ended with %d", r.exit_status);
    return r;
}

static void expect(const char *way, int64_t bytes)
{
    const int64_t own = run_helper("nothing", NULL).peak_bytes, peak = run_helper(way, NULL).peak_bytes;

    if (peak - own < bytes - TOLERANCE || peak - own > bytes + TOLERANCE)
        fail_msg("%s: %.1f MiB, not %.1f", way, (double)(peak - own) / MIB, (double)bytes / MIB);
}

TEST(anonymous_memory)
{
    (void)test_state;
    expect("anonymous", NEED);
}

TEST(shared_memory_counts_once)
{
    (void)test_state;
    expect("shared", NEED);
}

TEST(pages_after_a_fork_count_once_until_they_are_written)
{
    (void)test_state;
    expect("copies", NEED + NEED / 2);
}

TEST(daemons_that_outlive_their_parent)
{
    (void)test_state;
    expect("daemon", NEED);
}

TEST(spike_of_300_ms)
{
    (void)test_state;
    expect("spike", NEED);
}

TEST(mapped_files_are_apart)
{
    const struct fixture f = fixture_new();
    char path[128];
    snprintf(path, sizeof path, "%s/big", f.root);
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char *block = calloc(1, MIB);
    for (int i = 0; i < NEED / MIB; i++)
        CHECK_EQ(write(fd, block, MIB), MIB);
    free(block);
    close(fd);
    const struct job_record without = run_helper("nothing", NULL), with = run_helper("file", path);
    CHECK_NEAR((double)(with.peak_bytes - without.peak_bytes), 0, TOLERANCE);
    CHECK_NEAR((double)(with.peak_pss_bytes - without.peak_pss_bytes), NEED, TOLERANCE);
    fixture_free(&f);
}

TEST_MAIN(CASE(anonymous_memory), CASE(shared_memory_counts_once),
          CASE(pages_after_a_fork_count_once_until_they_are_written), CASE(daemons_that_outlive_their_parent),
          CASE(spike_of_300_ms), CASE(mapped_files_are_apart))
