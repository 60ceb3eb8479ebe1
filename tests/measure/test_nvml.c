/* GPUs of a stub library whose joules are known: what the file says is what they draw. */
#include <math.h>
#include <string.h>

#include "machine_fixture.h"

static void play(const struct fixture *f, const char *text)
{
    char path[128];

    snprintf(path, sizeof path, "%s/gpus", f->root);
    setenv("FAKE_NVML", path, 1);
    fixture_write(f, "gpus", text);
}

/* One GPU with these further lines. */
static void play_one(const struct fixture *f, const char *format, ...)
{
    char text[1024], more[900];
    va_list args;

    va_start(args, format);
    vsnprintf(more, sizeof more, format, args);
    va_end(args);
    snprintf(text, sizeof text, "count 1\n0 name Test GPU\n%s", more);
    play(f, text);
}

static struct fixture gpus_new(const char *flags, const char *stub)
{
    const struct fixture f = machine_new(flags);

    use_stub("TUNEUP_NVML", stub);
    return f;
}

TEST(counter_is_exact)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    play_one(&f, "0 energy 5000\n0 power 100000\n");
    struct energy_meter *m = start_all(NULL);
    pass(30);
    play_one(&f, "0 energy 3005123\n0 power 100000\n");
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 3000.123, 0);
    CHECK(!domain(&r, "gpu0", 0)->integrated);
    CHECK(strstr(r.reason, "gpu0, without processor and memory"));
    CHECK_NEAR(r.update_s, 0.1, 0);
    machine_free(&f);
}

TEST(gpu_and_packages_add_up)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    fixture_write(&f, "class/powercap/intel-rapl:0/name", "package-0\n");
    fixture_write(&f, "class/powercap/intel-rapl:0/energy_uj", "0\n");
    play_one(&f, "0 energy 0\n");
    struct energy_meter *m = start_all(NULL);
    pass(2);
    play_one(&f, "0 energy 600000\n");
    fixture_write(&f, "class/powercap/intel-rapl:0/energy_uj", "200000000\n");
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_NEAR(r.joules, 800, 1e-9);
    CHECK(strstr(r.reason, "package-0 + gpu0"));
    machine_free(&f);
}

/* The zones are for root alone, the GPU is not: its joules count, and the words say what they lack. */
TEST(gpu_counts_without_the_right_to_read_packages)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    fixture_write(&f, "class/powercap/intel-rapl:0/name", "package-0\n");
    play_one(&f, "0 energy 0\n");
    struct energy_meter *m = start_all(NULL);
    pass(2);
    play_one(&f, "0 energy 600000\n");
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 600, 1e-9);
    CHECK(strstr(r.reason, "without package-0"));
    CHECK(!domain(&r, "package-0", 0)->counted);
    machine_free(&f);
}

static double integrate(const struct fixture *f, double (*power_w)(double), double seconds)
{
    play_one(f, "0 power %.0f\n", 1e3 * power_w(0));
    struct energy_meter *m = start_all(NULL);
    struct energy_result r;

    for (double t = 0.1; t < seconds + 0.05; t += 0.1) {
        play_one(f, "0 power %.0f\n", 1e3 * power_w(t));
        pass(0.1);
        r = read_now(m);
    }
    energy_stop(m);
    if (r.state != METER_MEASURED || !r.domains[0].integrated || !strstr(r.reason, "gpu0 (integrated)"))
        fail_msg("not measured: %s", r.reason);
    return r.joules;
}

static double constant(double t)
{
    (void)t;
    return 250;
}

static double ramp(double t)
{
    return 100 + 10 * t;
}

/* A training step of 0.73 s that works hard for two thirds of it. */
static double steps(double t)
{
    return fmod(t, 0.73) < 0.487 ? 390 : 180;
}

TEST(power_without_a_counter_is_integrated)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    const double steps_j = 60 * (390 * 0.487 + 180 * (0.73 - 0.487)) / 0.73;

    CHECK_NEAR(integrate(&f, constant, 10), 2500, 1e-6);
    CHECK_NEAR(integrate(&f, ramp, 10), 1500, 0.001 * 1500);
    CHECK_NEAR(integrate(&f, steps, 60), steps_j, 0.01 * steps_j);
    machine_free(&f);
}

TEST(instant_power_is_preferred)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    play_one(&f, "0 power 900000\n0 instant 200000\n");
    struct energy_meter *m = start_all(NULL);
    pass(1);
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_NEAR(r.joules, 200, 1e-6);
    machine_free(&f);
}

TEST(counter_and_power_that_disagree_are_both_told)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    play_one(&f, "0 energy 0\n0 power 65400\n");
    struct energy_meter *m = start_all(NULL);
    struct energy_result r;
    for (int i = 1; i <= 20; i++) {
        play_one(&f, "0 energy %d\n0 power 65400\n", i * 9350);
        pass(0.25);
        r = read_now(m);
    }
    energy_stop(m);
    CHECK_NEAR(r.joules, 187, 1e-9);
    CHECK(strstr(domain(&r, "gpu0", 0)->reason, "power readings give 327 J"));
    machine_free(&f);
}

TEST(stuck_counter_is_no_zero)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    play_one(&f, "0 energy 77\n");
    struct energy_meter *m = start_all(NULL);
    pass(60);
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(isnan(r.joules));
    CHECK(strstr(r.reason, "did not move"));
    machine_free(&f);
}

TEST(counter_that_goes_back_is_lost)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    play_one(&f, "0 energy 100000\n");
    struct energy_meter *m = start_all(NULL);
    pass(10);
    play_one(&f, "0 energy 90000\n");
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.reason, "fell"));
    machine_free(&f);
}

TEST(lost_gpu_is_unavailable)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    play_one(&f, "0 energy 0\n0 used 10\n0 total 100\n");
    struct energy_meter *m = start_all(NULL);
    pass(10);
    play_one(&f, "0 energy 500000\n0 used 20\n0 total 100\n");
    CHECK_NEAR(read_now(m).joules, 500, 1e-9);
    pass(10);
    play_one(&f, "0 status 15\n");
    const struct energy_result r = read_now(m);
    struct energy_gpus g;
    energy_read_gpus(m, &g);
    energy_stop(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.reason, "became unreadable"));
    CHECK(strstr(r.reason, "500 J until then"));
    CHECK_EQ(g.gpus[0].peak_bytes, 20); /* what was seen stays */
    machine_free(&f);
}

TEST(power_that_is_not_told_for_long_is_a_hole)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    play_one(&f, "0 power 100000\n");
    struct energy_meter *m = start_all(NULL);
    pass(1);
    CHECK_NEAR(read_now(m).joules, 100, 1e-6);
    pass(60);
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.reason, "not told for 60 s"));
    machine_free(&f);
}

TEST(mig_is_the_whole_cards)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    play_one(&f, "0 energy 0\n0 mig 1\n");
    struct energy_meter *m = start_all(NULL);
    pass(1);
    play_one(&f, "0 energy 1000\n0 mig 1\n");
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK(strstr(domain(&r, "gpu0", 0)->reason, "whole card's, shared"));
    machine_free(&f);
}

TEST(memory_beyond_the_start_is_the_runs)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    const pid_t ours[] = { 100, 200 };
    struct energy_gpus g;
    play_one(&f, "0 energy 0\n0 total 80000\n0 reserved 500\n0 used 1000\n0 busy 0\n");
    struct energy_meter *m = start_all(NULL);
    pass(1);
    play_one(&f, "0 energy 1\n0 total 80000\n0 reserved 500\n0 used 41000\n0 busy 100\n0 process 100:30000\n"
                 "0 process 200:9000\n0 process 777:1000\n");
    read_now(m);
    energy_note_processes(m, ours, 2);
    pass(1);
    play_one(&f, "0 energy 2\n0 total 80000\n0 reserved 500\n0 used 1000\n0 busy 50\n");
    read_now(m);
    energy_read_gpus(m, &g);
    energy_stop(m);
    CHECK_EQ(g.n, 1);
    CHECK_EQ(g.peak_bytes, 40000);
    CHECK_EQ(g.gpus[0].memory_bytes, 80000);
    CHECK_EQ(g.gpus[0].start_bytes, 1000);
    CHECK_EQ(g.gpus[0].peak_bytes, 41000);
    CHECK_EQ(g.gpus[0].process_bytes, 39000);
    CHECK_EQ(g.gpus[0].n_others, 1);
    CHECK_NEAR(g.gpus[0].busy, 0.375, 1e-9); /* 0 twice (opening looks twice), 1, 0.5 */
    machine_free(&f);
}

/* In a container the driver tells the host's process ids: no match is "unknown", not 0 bytes. */
TEST(foreign_process_ids_are_no_zero)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    const pid_t ours[] = { 1 };
    struct energy_gpus g;
    play_one(&f, "0 energy 0\n0 total 80000\n0 used 1000\n0 process 54321:30000\n");
    struct energy_meter *m = start_all(NULL);
    pass(1);
    energy_note_processes(m, ours, 1);
    energy_read_gpus(m, &g);
    energy_stop(m);
    CHECK_EQ(g.gpus[0].process_bytes, -1);
    machine_free(&f);
}

/* The older calls count what the driver reserves as used. */
TEST(old_driver_will_do)
{
    const struct fixture f = gpus_new("", "stub_nvml_old");
    struct energy_gpus g;
    play_one(&f, "0 power 50000\n0 total 8000\n0 used 100\n0 reserved 10\n");
    struct energy_meter *m = start_all(NULL);
    pass(2);
    const struct energy_result r = read_now(m);
    energy_read_gpus(m, &g);
    energy_stop(m);
    CHECK_NEAR(r.joules, 100, 1e-6);
    CHECK_EQ(g.gpus[0].start_bytes, 110);
    CHECK_EQ(g.gpus[0].process_bytes, -1);
    machine_free(&f);
}

static const char two[] = "count 2\n0 name A\n0 uuid GPU-aaaa\n0 energy %d\n1 name B\n1 uuid GPU-bbbb\n1 energy %d\n";

static struct energy_result two_seen(const struct fixture *f, const char *visible)
{
    char text[256];

    setenv("CUDA_VISIBLE_DEVICES", visible, 1);
    snprintf(text, sizeof text, two, 0, 0);
    play(f, text);
    struct energy_meter *m = start_all(NULL);
    pass(1);
    snprintf(text, sizeof text, two, 10000, 5000);
    play(f, text);
    const struct energy_result r = read_now(m);
    energy_stop(m);
    unsetenv("CUDA_VISIBLE_DEVICES");
    return r;
}

TEST(hidden_gpus_do_not_count)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    CHECK_NEAR(two_seen(&f, "GPU-bbbb").joules, 5, 1e-9);
    CHECK_NEAR(two_seen(&f, "GPU-aaaa,GPU-bbbb").joules, 15, 1e-9);
    const struct energy_result r = two_seen(&f, "1"); /* two models, and CUDA's order is not the driver's */
    CHECK_NEAR(r.joules, 15, 1e-9);
    CHECK(strstr(finding(&r, "nvml")->why, "all GPUs count"));
    setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1);
    CHECK_NEAR(two_seen(&f, "1").joules, 5, 1e-9);
    machine_free(&f);
}

TEST(driver_that_is_not_loaded_is_told)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    play(&f, "init 9\n");
    struct energy_meter *m = start_all(NULL);
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(finding(&r, "nvml")->why, "driver is not loaded"));
    CHECK(finding(&r, "nvml")->hint[0]);
    machine_free(&f);
}

TEST(library_that_is_none_is_told)
{
    const struct fixture f = machine_new("");
    setenv("TUNEUP_NVML", "/dev/null", 1);
    struct energy_meter *m = start_all(NULL);
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK(strstr(finding(&r, "nvml")->why, "cannot be loaded"));
    machine_free(&f);
}

TEST(processors_counters_alone_leave_gpus_alone)
{
    const struct fixture f = gpus_new("", "stub_nvml");
    struct energy_meter *m;
    struct err err = { 0 };
    play_one(&f, "0 energy 0\n");
    CHECK_OK(energy_start(&m, &err), &err);
    CHECK_EQ(read_now(m).n_domains, 0);
    energy_stop(m);
    machine_free(&f);
}

TEST_MAIN(CASE(counter_is_exact), CASE(gpu_and_packages_add_up), CASE(gpu_counts_without_the_right_to_read_packages),
          CASE(power_without_a_counter_is_integrated), CASE(instant_power_is_preferred),
          CASE(counter_and_power_that_disagree_are_both_told), CASE(stuck_counter_is_no_zero),
          CASE(counter_that_goes_back_is_lost), CASE(lost_gpu_is_unavailable),
          CASE(power_that_is_not_told_for_long_is_a_hole), CASE(mig_is_the_whole_cards),
          CASE(memory_beyond_the_start_is_the_runs), CASE(foreign_process_ids_are_no_zero), CASE(old_driver_will_do),
          CASE(hidden_gpus_do_not_count), CASE(driver_that_is_not_loaded_is_told), CASE(library_that_is_none_is_told),
          CASE(processors_counters_alone_leave_gpus_alone))
