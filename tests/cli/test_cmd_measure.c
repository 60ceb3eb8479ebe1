/* tuneup measure and tuneup doctor as a user calls them: through a shell. */
#include <jansson.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure/fixture.h"

static char out[65536]; /* what the last run wrote to stdout */

/* Runs a script in which $T is the program and $D a temporary folder, and returns its exit status. */
static int shell(const struct fixture *f, const char *script)
{
    const char *program = getenv("TUNEUP_BIN");

    if (!program)
        skip();
    setenv("T", program, 1);
    setenv("D", f->root, 1);
    FILE *p = popen(script, "r");
    if (!p)
        fail_msg("popen failed");
    out[fread(out, 1, sizeof out - 1, p)] = '\0';
    const int status = pclose(p);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static json_t *parse(const char *text)
{
    json_error_t e;
    json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, &e);

    if (!j)
        fail_msg("no JSON: %s in \"%.200s\"", e.text, text);
    return j;
}

TEST(exit_status_and_streams_pass_through)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(shell(&f, "echo in | $T measure -- sh -c 'cat; exit 5' 2>/dev/null"), 5);
    CHECK_STR(out, "in\n");
    CHECK_EQ(shell(&f, "$T measure -q -- sh -c 'kill -9 $$'"), 137);
    CHECK_EQ(shell(&f, "$T measure -- nosuch-program 2>&1"), 127);
    CHECK(strstr(out, "nosuch-program"));
    CHECK_EQ(shell(&f, "$T measure -- /tmp 2>/dev/null"), 126);
    CHECK_EQ(shell(&f, "$T measure -q -- echo -n --json -o -- $(seq 100) | wc -w"), 0);
    CHECK_STR(out, "103\n");
    fixture_free(&f);
}

TEST(signals_reach_the_command)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(shell(&f, "$T measure -q -- sh -c 'trap \"exit 9\" TERM; touch $D/ready; while :; do sleep 0.02; done' & "
                       "while [ ! -e $D/ready ]; do sleep 0.02; done; kill -TERM $!; wait $!"),
             9);
    CHECK_EQ(shell(&f, "trap '' PIPE; grep -E 'Sig(Ign|Blk)' /proc/self/status > $D/plain; "
                       "$T measure -q -- grep -E 'Sig(Ign|Blk)' /proc/self/status > $D/measured; "
                       "cmp $D/plain $D/measured"),
             0);
    fixture_free(&f);
}

TEST(no_descriptor_leaks_into_the_command)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(shell(&f, "exec 9>&-; ls /proc/self/fd > $D/plain; "
                       "$T measure -q -o $D/r.json -- ls /proc/self/fd > $D/measured; cmp $D/plain $D/measured"),
             0);
    fixture_free(&f);
}

TEST(record_is_the_last_line)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(shell(&f, "$T measure -q --json --label two -- sh -c 'echo noise; sleep 0.1; exit 2' | tail -n 1"), 0);
    json_t *j = parse(out), *energy = json_object_get(j, "energy");
    CHECK_EQ(json_integer_value(json_object_get(j, "exit_status")), 2);
    CHECK(json_number_value(json_object_get(j, "seconds")) >= 0.1);
    CHECK(json_integer_value(json_object_get(j, "peak_bytes")) > 0);
    CHECK(json_is_real(json_object_get(j, "cpu_seconds")));
    CHECK_STR(json_string_value(json_object_get(j, "label")), "two");
    CHECK(json_string_value(json_object_get(energy, "state")));
    CHECK(json_string_value(json_object_get(energy, "reason")));
    CHECK(json_is_array(json_object_get(energy, "domains")));
    json_decref(j);
    fixture_free(&f);
}

TEST(files_are_written_and_added_to)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(shell(&f, "$T measure -q -o $D/a.json -- true && cat $D/a.json"), 0);
    json_decref(parse(out));
    CHECK_EQ(shell(&f, "for i in 1 2 3; do $T measure -q --label $i -o $D/a.jsonl -- true; done; "
                       "wc -l < $D/a.jsonl; tail -n 1 $D/a.jsonl"),
             0);
    CHECK(strncmp(out, "3\n", 2) == 0);
    json_t *j = parse(out + 2);
    CHECK_STR(json_string_value(json_object_get(j, "label")), "3");
    json_decref(j);
    CHECK_EQ(shell(&f, "ls $D | wc -l"), 0);
    CHECK_STR(out, "2\n"); /* and no temporary file beside them */
    fixture_free(&f);
}

TEST(wrong_paths_are_told_before_the_command_runs)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(shell(&f, "$T measure -o $D/no/a.json -- touch $D/ran 2>&1; test -e $D/ran"), 1);
    CHECK_EQ(shell(&f, "$T measure -o $D/a.txt -- touch $D/ran 2>&1"), 2);
    CHECK(strstr(out, ".jsonl"));
    CHECK_EQ(shell(&f, "$T measure 2>&1"), 2);
    CHECK(strstr(out, "no command"));
    CHECK_EQ(shell(&f, "test -e $D/ran"), 1);
    fixture_free(&f);
}

TEST(required_energy_is_required)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(shell(&f, "TUNEUP_SYSFS_ROOT=$D $T measure --require energy -- touch $D/ran 2>&1"), 4);
    CHECK(strstr(out, "energy is required"));
    CHECK_EQ(shell(&f, "test -e $D/ran"), 1);
    fixture_free(&f);
}

/* A bare machine with one package at 100 W or so, which a shell loop plays. */
TEST(energy_is_reported_from_counters)
{
    const struct fixture f = fixture_new();
    fixture_write(&f, "class/powercap/intel-rapl:0/name", "package-0\n");
    fixture_write(&f, "class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n");
    fixture_write(&f, "class/powercap/intel-rapl:0/energy_uj", "1000000\n");
    CHECK_EQ(shell(&f, "sed s/hypervisor// /proc/cpuinfo > $D/cpuinfo; ln -s /proc/[0-9]* /proc/self /proc/stat $D; "
                       "TUNEUP_PROC_ROOT=$D TUNEUP_SYSFS_ROOT=$D $T measure -q --json -- sh -c "
                       "'cd $D/class/powercap/intel-rapl:0; echo 43000000 > new; mv new energy_uj; sleep 0.1'"),
             0);
    json_t *j = parse(out), *energy = json_object_get(j, "energy");
    CHECK_STR(json_string_value(json_object_get(energy, "state")), "measured");
    CHECK_NEAR(json_number_value(json_object_get(energy, "joules")), 42, 1e-9);
    json_decref(j);
    fixture_free(&f);
}

TEST(doctor_says_what_and_why)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(shell(&f, "TUNEUP_SYSFS_ROOT=$D $T doctor --json"), 0);
    json_t *j = parse(out), *energy = json_object_get(j, "energy");
    CHECK(json_object_get(json_object_get(j, "machine"), "cpu"));
    CHECK_STR(json_string_value(json_object_get(energy, "state")), "unavailable");
    CHECK(json_is_null(json_object_get(energy, "joules")));
    CHECK(json_array_size(json_object_get(j, "findings")) >= 8);
    json_decref(j);
    CHECK_EQ(shell(&f, "PATH=/nonexistent $T doctor"), 0);
    CHECK(strstr(out, "mpirun is not in PATH"));
    CHECK(strstr(out, "apt-get install gnuplot-nox"));
    fixture_free(&f);
}

/* A GPU whose joules are played by the command itself, in a stub of the driver's library. */
TEST(gpus_are_metered)
{
    const struct fixture f = fixture_new();
    const char *stubs = getenv("TUNEUP_STUBS");
    if (!stubs)
        skip();
    CHECK_EQ(shell(&f,
                   "export TUNEUP_NVML=$TUNEUP_STUBS/libstub_nvml.so FAKE_NVML=$D/gpus TUNEUP_SYSFS_ROOT=$D;"
                   "play() { printf 'count 1\\n0 name T\\n0 total 9000\\n0 energy %s\\n0 used %s\\n0 busy 50\\n' $1 $2 "
                   "> $D/new; mv $D/new $D/gpus; }; play 1000 100; "
                   "$T measure -q --json -- sh -c \"printf 'count 1\\n0 name T\\n0 total 9000\\n0 energy 301000\\n"
                   "0 used 4100\\n0 busy 50\\n' > $D/new; mv $D/new $D/gpus; sleep 0.3\"; $T doctor | grep GPU"),
             0);
    char *line_end = strchr(out, '\n');
    CHECK(line_end && strstr(line_end, "gpu0 by nvml"));
    *line_end = '\0';
    json_t *j = parse(out);
    const json_t *energy = json_object_get(j, "energy"), *gpu = json_array_get(json_object_get(j, "gpus"), 0);
    CHECK_STR(json_string_value(json_object_get(energy, "state")), "measured");
    CHECK_NEAR(json_number_value(json_object_get(energy, "joules")), 300, 1e-9);
    CHECK_EQ(json_integer_value(json_object_get(j, "gpu_peak_bytes")), 4000);
    CHECK_EQ(json_integer_value(json_object_get(gpu, "memory_bytes")), 9000);
    CHECK(json_is_null(json_object_get(gpu, "process_peak_bytes")));
    json_decref(j);
    fixture_free(&f);
}

TEST(runs_are_repeated_recorded_and_compared)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(shell(&f, "cd $D; $T measure -q --db runs.db --label base --repeat 3 -- sleep 0.3 && "
                       "$T measure --db runs.db --label quick --repeat 3 --vs base -- sleep 0.1 2>&1 && "
                       "$T compare runs.db --csv"),
             0);
    CHECK(strstr(out, "quick over base, 3 and 3 runs:"));
    CHECK(strstr(out, "SpeedUp    2.") || strstr(out, "SpeedUp    3."));
    CHECK(strstr(out, "EnergyUp   unavailable"));
    CHECK_EQ(shell(&f, "cd $D; for l in a b; do $T measure -q -o runs.jsonl --label $l -- true; done; "
                       "$T measure -o runs.jsonl --label b --vs a -- true 2>&1"),
             0);
    CHECK(strstr(out, "b over a, 2 and 1 runs:"));
    CHECK_EQ(shell(&f, "cd $D; $T measure --label x --vs base -- true 2>&1"), 2);
    CHECK(strstr(out, "--db"));
    CHECK_EQ(shell(&f, "cd $D; $T measure --db runs.db --label x --vs none -- true 2>&1"), 2);
    CHECK(strstr(out, "no run of the label \"none\""));
    CHECK_EQ(shell(&f, "cd $D; $T measure --repeat 2 -o a.json -- true 2>&1"), 2);
    CHECK_EQ(shell(&f, "cd $D; echo 1 > n; $T measure -q --repeat 5 -- sh -c 'echo >> n; exit 7'; echo $?; wc -l < n"),
             0);
    CHECK_STR(out, "7\n2\n"); /* the first failure ends it */
    fixture_free(&f);
}

TEST(steps_leave_the_warm_up_out)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(
        shell(&f,
              "$T measure -q --json --metrics fd --warmup_steps 1 -- sh -c 'sleep 0.3; for i in 1 2 3; do sleep 0.1; "
              "echo \"{\\\"step\\\": $i, \\\"loss\\\": 0.5, \\\"tokens\\\": 10}\" >&$TUNEUP_METRICS_FD; done'"),
        0);
    json_t *j = parse(out), *steps = json_object_get(j, "steps");
    CHECK_EQ(json_integer_value(json_object_get(steps, "told")), 3);
    CHECK_NEAR(json_number_value(json_object_get(steps, "tokens")), 20, 0);
    CHECK(json_number_value(json_object_get(steps, "steady_seconds")) <
          json_number_value(json_object_get(j, "seconds")) - 0.25);
    json_decref(j);
    CHECK_EQ(shell(&f, "$T measure -q --metrics none -- sh -c 'env | grep -c TUNEUP_METRICS'"), 1);
    CHECK_EQ(shell(&f, "p=$($T measure -q -- sh -c 'echo $TUNEUP_METRICS_FILE'); test -n \"$p\" && test ! -e \"$p\""),
             0);
    fixture_free(&f);
}

TEST(estimates_are_asked_for_and_marked)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(
        shell(&f, "TUNEUP_SYSFS_ROOT=$D TUNEUP_NVML=none $T measure --energy_model idle:10,max:10 -- sleep 0.2 2>&1"),
        0);
    CHECK(strstr(out, "energy  ~2") && strstr(out, "no measurement"));
    CHECK_EQ(shell(&f, "$T measure --energy_model tdp -- true 2>&1"), 2);
    fixture_free(&f);
}

TEST(wall_meter_is_the_total_and_idle_is_taken_off)
{
    const struct fixture f = fixture_new();
    CHECK_EQ(shell(&f, "echo 'while :; do echo 100; sleep 0.02; done' > $D/meter; $T measure -q --json --idle 0.3 "
                       "--wall \"cmd:sh $D/meter\" --trace $D/trace.csv -- sleep 0.5"),
             0);
    json_t *j = parse(out), *energy = json_object_get(j, "energy"), *idle = json_object_get(j, "idle");
    const double seconds = json_number_value(json_object_get(energy, "window_s"));
    CHECK_STR(json_string_value(json_object_get(energy, "state")), "measured");
    CHECK_NEAR(json_number_value(json_object_get(energy, "joules")), 100 * seconds, 2 * seconds);
    CHECK_NEAR(json_number_value(json_object_get(idle, "watts")), 100, 2);
    CHECK(json_number_value(json_object_get(j, "processes")) == 1); /* the meter's own helper is no part of it */
    json_decref(j);
    CHECK_EQ(shell(&f, "head -n 1 $D/trace.csv; test $(wc -l < $D/trace.csv) -ge 3"), 0);
    CHECK_STR(out, "seconds,memory_bytes,pss_bytes,processes,watts,gpu_bytes\n");
    fixture_free(&f);
}

TEST_MAIN(CASE(exit_status_and_streams_pass_through), CASE(signals_reach_the_command),
          CASE(no_descriptor_leaks_into_the_command), CASE(record_is_the_last_line),
          CASE(files_are_written_and_added_to), CASE(wrong_paths_are_told_before_the_command_runs),
          CASE(required_energy_is_required), CASE(energy_is_reported_from_counters), CASE(doctor_says_what_and_why),
          CASE(gpus_are_metered), CASE(runs_are_repeated_recorded_and_compared), CASE(steps_leave_the_warm_up_out),
          CASE(estimates_are_asked_for_and_marked), CASE(wall_meter_is_the_total_and_idle_is_taken_off))
