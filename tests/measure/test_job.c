/* Real commands: what they are given, what they give back, and known amounts of memory. */
#include "measure/job.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "fixture.h"

#define MIB (1024 * 1024)

static struct job_record run_shell(const char *script, const struct job_options *o)
{
    char *argv[] = { (char *)"sh", (char *)"-c", (char *)script, NULL };
    struct job_record r;
    struct err err = { 0 };

    if (job_measure(argv, o, &r, &err) != 0)
        fail_msg("job_measure: %s", err.what);
    return r;
}

static const char *read_all(const struct fixture *f, const char *name)
{
    static char text[4096];
    char path[256];

    snprintf(path, sizeof path, "%s/%s", f->root, name);
    FILE *in = fopen(path, "r");
    if (!in)
        return "(missing)";
    text[fread(text, 1, sizeof text - 1, in)] = '\0';
    fclose(in);
    return text;
}

TEST(status_passes_through)
{
    CHECK_EQ(run_shell("exit 0", NULL).exit_status, 0);
    CHECK_EQ(run_shell("exit 7", NULL).exit_status, 7);
    CHECK_EQ(run_shell("kill -9 $$", NULL).exit_status, 137);
    CHECK_EQ(run_shell("kill -TERM $$", NULL).exit_status, 143);
}

TEST(what_cannot_start_is_told)
{
    char *missing[] = { (char *)"tuneup-no-such-program", NULL }, *folder[] = { (char *)"/tmp", NULL };
    char *shell[] = { (char *)"true", NULL };
    const struct job_options bad_output = { .stdout_path = "/nonexistent/x" };
    struct job_record r;
    struct err err;

    CHECK_ERR(job_measure(missing, NULL, &r, &err), &err, ERR_SYSTEM, "tuneup-no-such-program");
    CHECK_EQ(r.exit_status, 127);
    CHECK_ERR(job_measure(folder, NULL, &r, &err), &err, ERR_SYSTEM, "/tmp");
    CHECK_EQ(r.exit_status, 126);
    CHECK_ERR(job_measure(shell, &bad_output, &r, &err), &err, ERR_SYSTEM, "/nonexistent/x");
    CHECK_EQ(r.exit_status, 125);
    CHECK_EQ(r.peak_bytes, -1);
    CHECK(isnan(r.energy.joules));
}

TEST(time_and_cpu_are_metered)
{
    struct job_record r = run_shell("sleep 0.2", NULL);
    CHECK(r.seconds >= 0.2 && r.seconds < 2);
    CHECK(r.cpu_seconds < 0.1);
    CHECK(r.load_before >= 0);
    r = run_shell("i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done", NULL);
    CHECK(r.cpu_seconds > 0.01);
    CHECK(r.cpu_seconds < r.seconds * 1.2 + 0.05);
}

TEST(memory_of_parallel_children_adds_up)
{
    const struct job_record r = run_shell(
        "for i in 1 2 3; do (head -c 24M /dev/zero; sleep 0.5) | " /* holds a full buffer, and waits for more */
        "dd of=/dev/null bs=24M iflag=fullblock 2>/dev/null & done; wait",
        NULL);

    CHECK_EQ(r.exit_status, 0);
    CHECK(r.n_samples >= 2);
    CHECK(r.n_processes >= 4);
    CHECK(r.peak_bytes >= 3 * 24LL * MIB);
    CHECK(r.peak_bytes < 3 * 24LL * MIB + 8 * MIB);
    CHECK(r.peak_pss_bytes >= r.peak_bytes);
    CHECK(r.timeline.n >= 1 && r.timeline.points[0].seconds >= TIMELINE_FIRST_S);
    int64_t highest = -1;
    for (int i = 0; i < r.timeline.n; i++)
        highest = r.timeline.points[i].memory_bytes > highest ? r.timeline.points[i].memory_bytes : highest;
    CHECK(highest > 24LL * MIB && highest <= r.peak_bytes);
}

/* wait4 and getrusage would say 128 MiB here, for the parent's pages are in the child until it executes. */
TEST(fat_parent_is_not_the_commands)
{
    char *fat = mmap(NULL, 128 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memset(fat, 1, 128 * MIB);
    const struct job_record r = run_shell("sleep 0.1", NULL);
    munmap(fat, 128 * MIB);
    CHECK(r.n_samples > 0);
    CHECK(r.peak_bytes > 0);
    CHECK(r.peak_bytes < 8 * MIB);
}

TEST(daemons_belong_to_the_tree)
{
    const struct job_options o = { .own_group = true };
    const struct job_record r = run_shell("(setsid dd if=/dev/zero of=/dev/null bs=32M 2>/dev/null &); sleep 0.4", &o);

    CHECK(r.peak_bytes >= 32 * MIB);
    CHECK(r.seconds < 2);
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1); /* nothing is left of it */
}

TEST(environment_is_kept_and_extended)
{
    const struct fixture f = fixture_new();
    char out[128];
    const char *extra[] = { "TUNEUP_TEST_A=new", "TUNEUP_TEST_B=b", NULL };
    snprintf(out, sizeof out, "%s/out", f.root);
    const struct job_options o = { .stdout_path = out, .extra_env = extra };

    setenv("TUNEUP_TEST_A", "old", 1);
    setenv("TUNEUP_TEST_C", "c", 1);
    setenv("TUNEUP_RUN", "of somebody else", 1);
    run_shell("echo $TUNEUP_TEST_A $TUNEUP_TEST_B $TUNEUP_TEST_C; env | grep -c ^TUNEUP_RUN=; env | grep -c else", &o);
    CHECK_STR(read_all(&f, "out"), "new b c\n1\n0\n");
    unsetenv("TUNEUP_RUN");
    fixture_free(&f);
}

TEST(group_and_streams_are_the_callers)
{
    const struct fixture f = fixture_new();
    char in[128], out[128], errors[128], wanted[64];
    struct job_options o = { .stdin_path = in, .stdout_path = out, .stderr_path = errors };

    snprintf(in, sizeof in, "%s/in", f.root);
    snprintf(out, sizeof out, "%s/out", f.root);
    snprintf(errors, sizeof errors, "%s/err", f.root);
    fixture_write(&f, "in", "hello\n");
    run_shell("cat; echo oops >&2; cut -d' ' -f5 /proc/self/stat", &o);
    snprintf(wanted, sizeof wanted, "hello\n%d\n", (int)getpgrp());
    CHECK_STR(read_all(&f, "out"), wanted);
    CHECK_STR(read_all(&f, "err"), "oops\n");
    o.own_group = true;
    run_shell("cut -d' ' -f5 /proc/self/stat; echo $$", &o);
    const char *text = read_all(&f, "out");
    const long group = strtol(text, NULL, 10), shell = strtol(strchr(text, '\n'), NULL, 10);
    CHECK_EQ(group, shell);
    fixture_free(&f);
}

static void *send_later(void *data)
{
    usleep(150 * 1000);
    kill(getpid(), *(int *)data);
    return NULL;
}

static struct job_record run_with_signal(const char *script, int number)
{
    pthread_t thread;
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* the sender must not receive */
    pthread_create(&thread, NULL, send_later, &number);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    const struct job_record r = run_shell(script, NULL);
    pthread_join(thread, NULL);
    return r;
}

TEST(signals_are_passed_on)
{
    struct job_record r = run_with_signal("trap 'exit 5' USR1; while :; do sleep 0.02; done", SIGUSR1);
    CHECK_EQ(r.exit_status, 5);
    CHECK_EQ(r.passed_signal, SIGUSR1);
    r = run_with_signal("exec sleep 20", SIGTERM);
    CHECK_EQ(r.exit_status, 143);
    r = run_shell("exit 0", NULL);
    CHECK_EQ(r.passed_signal, 0);
}

TEST(ignored_signals_stay_ignored)
{
    signal(SIGHUP, SIG_IGN);
    const struct job_record r = run_with_signal("kill -HUP $$; sleep 0.3; exit 3", SIGHUP);
    signal(SIGHUP, SIG_DFL);
    CHECK_EQ(r.exit_status, 3);
    CHECK_EQ(r.passed_signal, 0);
}

TEST(signal_mask_is_the_callers)
{
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    const struct fixture f = fixture_new();
    char out[128];
    snprintf(out, sizeof out, "%s/out", f.root);
    const struct job_options o = { .stdout_path = out };
    run_shell("grep SigBlk /proc/self/status", &o);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    CHECK(memcmp(&before, &after, 8) == 0);
    CHECK_STR(read_all(&f, "out"), "SigBlk:\t0000000000000000\n");
    fixture_free(&f);
}

TEST(timeout_ends_the_whole_tree)
{
    const struct job_options o = { .timeout_s = 0.2, .own_group = true };
    const struct job_record r = run_shell("sleep 30 & setsid sleep 30 & wait", &o);

    CHECK_EQ(r.exit_status, 124);
    CHECK(r.timed_out);
    CHECK(r.seconds >= 0.2 && r.seconds < 3);
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
}

TEST(failing_meter_leaves_the_command_alone)
{
    setenv("TUNEUP_PROC_ROOT", "/nonexistent", 1);
    const struct job_record r = run_shell("sleep 0.05; exit 9", NULL);
    unsetenv("TUNEUP_PROC_ROOT");
    CHECK_EQ(r.exit_status, 9);
    CHECK_EQ(r.n_samples, 0);
    CHECK(strstr(job_memory_reason(&r), "cannot be read"));
    CHECK_EQ(r.peak_bytes, -1);
    CHECK(isnan(r.load_before));
    json_t *j = job_json(&r);
    CHECK(json_is_null(json_object_get(j, "peak_bytes")));
    CHECK(json_is_null(json_object_get(j, "load_before")));
    json_decref(j);
}

TEST(meter_is_cheap)
{
    const struct job_record r = run_shell("sleep 0.8", NULL);

    CHECK(r.n_samples > 4);
    CHECK(r.meter_cpu_seconds < 0.02 + 0.015 * r.seconds);
}

TEST(allocation_failures_are_reported)
{
    char *argv[] = { (char *)"true", NULL };
    struct job_record r;
    struct err err;

    for (int64_t n = 1; n <= 2; n++) {
        mem_fail_at(n);
        CHECK_ERR(job_measure(argv, NULL, &r, &err), &err, ERR_MEMORY, "");
        mem_fail_at(0);
        CHECK_EQ(r.exit_status, 125);
    }
    for (int64_t n = 3; n <= 12; n++) { /* from here on it is the meters that fail */
        mem_fail_at(n);
        CHECK_OK(job_measure(argv, NULL, &r, &err), &err);
        mem_fail_at(0);
        CHECK_EQ(r.exit_status, 0);
        CHECK(isnan(r.energy.joules));
        CHECK(r.energy.reason[0]);
    }
}

TEST(record_is_written_as_json)
{
    struct job_record r = { .seconds = 1.5,
                            .exit_status = 3,
                            .peak_bytes = 1000,
                            .peak_pss_bytes = 2000,
                            .cpu_seconds = 1,
                            .n_samples = 10,
                            .energy = { .state = METER_MEASURED, .joules = 42, .n_domains = 1 } };
    r.energy.domains[0] = (struct energy_domain){
        .name = "package-0", .joules = 42, .state = METER_MEASURED, .counted = true, .source = "rapl"
    };
    json_t *j = job_json(&r), *e = json_object_get(j, "energy");

    CHECK_NEAR(json_number_value(json_object_get(j, "seconds")), 1.5, 0);
    CHECK_EQ(json_integer_value(json_object_get(j, "exit_status")), 3);
    CHECK_EQ(json_integer_value(json_object_get(j, "peak_bytes")), 1000);
    CHECK_NEAR(json_number_value(json_object_get(e, "joules")), 42, 0);
    CHECK_STR(json_string_value(json_object_get(e, "state")), "measured");
    CHECK_EQ(json_array_size(json_object_get(e, "domains")), 1);
    json_decref(j);
    r.energy = (struct energy_result){ .state = METER_UNAVAILABLE, .joules = NAN };
    j = job_json(&r);
    CHECK(json_is_null(json_object_get(json_object_get(j, "energy"), "joules")));
    json_decref(j);
}

TEST_MAIN(CASE(status_passes_through), CASE(what_cannot_start_is_told), CASE(time_and_cpu_are_metered),
          CASE(memory_of_parallel_children_adds_up), CASE(fat_parent_is_not_the_commands),
          CASE(daemons_belong_to_the_tree), CASE(environment_is_kept_and_extended),
          CASE(group_and_streams_are_the_callers), CASE(signals_are_passed_on), CASE(ignored_signals_stay_ignored),
          CASE(signal_mask_is_the_callers), CASE(timeout_ends_the_whole_tree),
          CASE(failing_meter_leaves_the_command_alone), CASE(meter_is_cheap), CASE(allocation_failures_are_reported),
          CASE(record_is_written_as_json))
