/* Known answers from real processes that take a stated number of bytes, and the rules of the pace. */
#include "measure/memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "fixture.h"
#include "measure/sysfile.h"

#define MIB (1024 * 1024)
#define TOLERANCE (2 * MIB)

/* A child that does `work`, says that it is ready, and lives until it is killed. */
static pid_t start_child(void (*work)(void *), void *data)
{
    int ready[2];
    char byte;

    if (pipe(ready) != 0)
        fail_msg("pipe failed");
    const pid_t pid = fork();
    if (pid == 0) {
        work(data);
        if (write(ready[1], "x", 1) == 1)
            for (;;)
                pause();
        _exit(1);
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1)
        fail_msg("the child did not start");
    close(ready[0]);
    return pid;
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void touch_anonymous(void *data)
{
    const size_t bytes = *(size_t *)data;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memset(p, 1, bytes);
}

struct shared {
    char *p;
    size_t bytes;
};

static void touch_shared(void *data)
{
    const struct shared *s = data;

    memset(s->p, 1, s->bytes);
}

/* Two children that both use the one shared mapping they inherit. */
static void two_sharers(void *data)
{
    struct shared s = { .bytes = *(size_t *)data };

    s.p = mmap(NULL, s.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    start_child(touch_shared, &s);
    start_child(touch_shared, &s);
}

static void two_takers(void *data)
{
    start_child(touch_anonymous, data);
    start_child(touch_anonymous, data);
}

struct job {
    void (*work)(void *);
    void *data;
};

/* A group of its own: killing only the parent would leave its children behind. */
static void work_in_group(void *data)
{
    const struct job *job = data;

    setpgid(0, 0);
    job->work(job->data);
}

static struct memory_reading read_tree(void (*work)(void *), void *data, int n_expected)
{
    struct job job = { work, data };
    struct memory_reading sum;
    struct err err = { 0 };
    int n;
    const pid_t pid = start_child(work_in_group, &job);
    const int status = memory_tree(pid, NULL, &sum, &n, &err);

    kill(-pid, SIGKILL);
    waitpid(pid, NULL, 0);
    if (status != 0)
        fail_msg("memory_tree: %s", err.what);
    if (n != n_expected)
        fail_msg("%d processes, expected %d", n, n_expected);
    return sum;
}

TEST(rollup_is_parsed)
{
    struct memory_reading r;

    CHECK(memory_parse_rollup("00400000-7ff ---p 00000000 00:00 0 [rollup]\nRss:  100 kB\nPss:  50 kB\n"
                              "Pss_Dirty: 9 kB\nPss_Anon: 20 kB\nPss_File: 7 kB\nPss_Shmem: 3 kB\nSwap: 8 kB\n"
                              "SwapPss: 4 kB\n",
                              &r));
    CHECK_EQ(r.rss_bytes, 100 * 1024);
    CHECK_EQ(r.pss_bytes, 50 * 1024);
    CHECK_EQ(r.anon_bytes, 27 * 1024);
}

TEST(incomplete_rollup_is_refused)
{
    struct memory_reading r;

    CHECK(!memory_parse_rollup("", &r));
    CHECK(!memory_parse_rollup("Rss: 100 kB\nPss: 50 kB\nPss_Anon: 20 kB\nPss_Shmem: 3 kB\n", &r));
    CHECK(!memory_parse_rollup("Rss: -1 kB\nPss: 5 kB\nPss_Anon: 2 kB\nPss_Shmem: 3 kB\nSwapPss: 0 kB\n", &r));
    CHECK(!memory_parse_rollup(
        "Rss: 1 kB\nPss: 99999999999999999999 kB\nPss_Anon: 2 kB\nPss_Shmem: 3 kB\nSwapPss: 0 kB\n", &r));
}

/* Its shadow memory is several times what the program takes. */
static void not_with_thread_sanitizer(void)
{
#ifdef __SANITIZE_THREAD__
    skip();
#endif
}

TEST(own_memory_moves_by_what_is_taken)
{
    not_with_thread_sanitizer();
    struct memory_reading before, after;
    struct err err = { 0 };
    size_t bytes = 24 * MIB;

    CHECK_OK(memory_self(&before, &err), &err);
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 1, bytes);
    CHECK_OK(memory_self(&after, &err), &err);
    munmap(p, bytes);
    CHECK_NEAR((double)(after.anon_bytes - before.anon_bytes), (double)bytes, MIB);
    CHECK(after.rss_bytes >= after.anon_bytes);
}

/* Against the same tree with a page each, for what the processes share with this program is in both. */
static void check_tree(void (*work)(void *), int64_t wanted_anon, int64_t least_rss)
{
    size_t page = 4096, bytes = 16 * MIB;
    const struct memory_reading small = read_tree(work, &page, 3), large = read_tree(work, &bytes, 3);
    const int64_t anon = large.anon_bytes - small.anon_bytes, rss = large.rss_bytes - small.rss_bytes;

    if (llabs(anon - wanted_anon) > TOLERANCE)
        fail_msg("%lld bytes more, expected %lld", (long long)anon, (long long)wanted_anon);
    if (rss < least_rss - TOLERANCE)
        fail_msg("%lld bytes more are resident, expected %lld", (long long)rss, (long long)least_rss);
}

TEST(tree_is_summed)
{
    (void)test_state;
    not_with_thread_sanitizer();
    check_tree(two_takers, 2 * 16 * MIB, 2 * 16 * MIB);
}

TEST(shared_pages_count_once)
{
    (void)test_state;
    not_with_thread_sanitizer();
    check_tree(two_sharers, 16 * MIB, 2 * 16 * MIB);
}

static void sleep_marked(void *data)
{
    setenv("TUNEUP_RUN", data, 1);
    execlp("sleep", "sleep", "20", (char *)NULL);
}

/* Not a descendant of the process that is asked about, and found all the same. */
TEST(marked_process_is_found)
{
    struct memory_reading sum;
    struct err err = { 0 };
    int n = 0;
    const pid_t pid = fork();

    if (pid == 0)
        sleep_marked("test-77");
    for (int tries = 0; tries < 200 && n == 0; tries++) {
        usleep(5000);
        CHECK_OK(memory_tree(0, "test-77", &sum, &n, &err), &err);
    }
    CHECK_EQ(n, 1);
    CHECK_OK(memory_tree(0, "test-7", &sum, &n, &err), &err);
    CHECK_EQ(n, 0);
    end_child(pid);
}

TEST(tree_of_self_is_the_children)
{
    struct memory_reading sum;
    struct err err = { 0 };
    size_t bytes = 8 * MIB;
    int n;
    const pid_t pid = start_child(touch_anonymous, &bytes);

    CHECK_OK(memory_tree(getpid(), NULL, &sum, &n, &err), &err);
    end_child(pid);
    CHECK_EQ(n, 1);
    CHECK(sum.anon_bytes >= (int64_t)bytes);
}

TEST(names_with_parentheses_are_parsed)
{
    const struct fixture f = fixture_new();
    const char *rollup = "Rss: 8 kB\nPss: 6 kB\nPss_Anon: 4 kB\nPss_Shmem: 0 kB\nSwapPss: 1 kB\n";
    struct memory_reading sum;
    struct err err = { 0 };
    int n;

    fixture_write(&f, "500000/stat", "500000 (a) S (x) S 1 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 100 0\n");
    fixture_write(&f, "500000/smaps_rollup", rollup);
    fixture_write(&f, "400000/stat", "400000 (b c) R 500000 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 120 0\n");
    fixture_write(&f, "400000/smaps_rollup", rollup);
    fixture_write(&f, "600000/stat", "600000 (other) R 1 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 130 0\n");
    fixture_write(&f, "600000/smaps_rollup", rollup);
    fixture_write(&f, "700000/stat", "rubbish");
    setenv("TUNEUP_PROC_ROOT", f.root, 1);
    CHECK_OK(memory_tree(500000, NULL, &sum, &n, &err), &err);
    unsetenv("TUNEUP_PROC_ROOT");
    fixture_free(&f);
    CHECK_EQ(n, 2);
    CHECK_EQ(sum.pss_bytes, 2 * 6 * 1024);
    CHECK_EQ(sum.anon_bytes, 2 * 5 * 1024);
}

TEST(missing_proc_is_unavailable)
{
    struct memory_reading r;
    struct memory_sampler *s;
    struct err err;
    int n;

    setenv("TUNEUP_PROC_ROOT", "/nonexistent", 1);
    CHECK_ERR(memory_self(&r, &err), &err, ERR_UNAVAILABLE, "/nonexistent");
    CHECK_ERR(memory_tree(1, NULL, &r, &n, &err), &err, ERR_UNAVAILABLE, "/nonexistent");
    CHECK_ERR(memory_sampler_start(&s, &err), &err, ERR_UNAVAILABLE, "/nonexistent");
    unsetenv("TUNEUP_PROC_ROOT");
}

TEST(allocation_failures_are_reported)
{
    struct memory_reading sum;
    struct memory_sampler *s = NULL;
    struct err err;
    int n;

    for (int64_t k = 1; k <= 4; k++) {
        mem_fail_at(k);
        CHECK_ERR(memory_tree(getppid(), "x", &sum, &n, &err), &err, ERR_MEMORY, "");
        mem_fail_at(0);
    }
    mem_fail_at(1);
    CHECK_ERR(memory_sampler_start(&s, &err), &err, ERR_MEMORY, "");
    mem_fail_at(0);
}

TEST(sampler_sees_a_peak_that_has_passed)
{
    not_with_thread_sanitizer();
    struct memory_sampler *s;
    struct err err = { 0 };
    struct memory_reading now;

    CHECK_OK(memory_sampler_start(&s, &err), &err);
    const int64_t before = memory_sampler_peak(s);
    char *p = mmap(NULL, 32 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 1, 32 * MIB);
    memory_sampler_note(s);
    munmap(p, 32 * MIB);
    CHECK_OK(memory_self(&now, &err), &err);
    CHECK(now.anon_bytes < before + 8 * MIB);
    CHECK_NEAR((double)(memory_sampler_peak(s) - before), 32 * MIB, 2 * MIB);
    memory_sampler_stop(s);
    memory_sampler_stop(NULL);
}

TEST(sampler_thread_sees_a_peak_by_itself)
{
    struct memory_sampler *s;
    struct err err = { 0 };

    CHECK_OK(memory_sampler_start(&s, &err), &err);
    const int64_t before = memory_sampler_peak(s);
    char *p = mmap(NULL, 32 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 1, 32 * MIB);
    usleep(600 * 1000);
    munmap(p, 32 * MIB);
    CHECK(memory_sampler_peak(s) - before > 24 * MIB);
    memory_sampler_stop(s);
}

TEST(pace_keeps_within_one_percent)
{
    struct memory_pace p = { 0 };
    double now_s = 100, spent_s = 0;
    int64_t rss = MIB;

    while (now_s < 400) { /* growing without end, and each full reading costs 5 ms */
        const bool due = memory_pace_due(&p, now_s, rss);
        const double cost_s = due ? 5e-3 : 2e-5;
        memory_pace_spent(&p, now_s, cost_s, due);
        spent_s += cost_s;
        now_s += memory_pace_wait(2e-5);
        rss += rss / 40;
        if (rss > (int64_t)1 << 50)
            rss = MIB;
    }
    CHECK(spent_s < 0.012 * 300 + 0.1);
    CHECK(spent_s > 0.002 * 300);
}

TEST(pace_reads_a_new_high_when_growth_pauses)
{
    struct memory_pace p = { 0 };

    CHECK(memory_pace_due(&p, 0, MIB));
    memory_pace_spent(&p, 0, 1.0, true); /* far over budget: the next one in its turn is at 200 s */
    CHECK(!memory_pace_due(&p, 1, 2 * MIB));
    CHECK(!memory_pace_due(&p, 2, 4 * MIB));
    CHECK(memory_pace_due(&p, 3, 4 * MIB));
    CHECK(!memory_pace_due(&p, 4, 4 * MIB));
}

TEST_MAIN(CASE(rollup_is_parsed), CASE(incomplete_rollup_is_refused), CASE(own_memory_moves_by_what_is_taken),
          CASE(tree_is_summed), CASE(shared_pages_count_once), CASE(marked_process_is_found),
          CASE(tree_of_self_is_the_children), CASE(names_with_parentheses_are_parsed),
          CASE(missing_proc_is_unavailable), CASE(allocation_failures_are_reported),
          CASE(sampler_sees_a_peak_that_has_passed), CASE(sampler_thread_sees_a_peak_by_itself),
          CASE(pace_keeps_within_one_percent), CASE(pace_reads_a_new_high_when_growth_pauses))
