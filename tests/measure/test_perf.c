/* No machine of ours has the power events, so the test's own sysfs points them at the kernel's cpu-clock, which counts
 * nanoseconds: with a scale of 1e-9 that is a part that draws exactly 1 W. */
#include "measure/perf.h"

#include <unistd.h>

#include "fixture.h"
#include "measure/energy.h"

#define POWER "bus/event_source/devices/power/"
#define CPU "devices/system/cpu/cpu0/topology/"

static struct fixture clock_as_power(void)
{
    const struct fixture f = fixture_new();

    fixture_write(&f, POWER "type", "1\n");
    fixture_write(&f, POWER "cpumask", "0\n");
    fixture_write(&f, POWER "events/energy-pkg", "event=0x00\n");
    fixture_write(&f, POWER "events/energy-pkg.scale", "1e-9\n");
    fixture_write(&f, CPU "physical_package_id", "0\n");
    fixture_write(&f, CPU "die_id", "0\n");
    fixture_write(&f, "proc/cpuinfo", "flags\t\t: fpu\n");
    char proc[128];
    snprintf(proc, sizeof proc, "%s/proc", f.root);
    setenv("TUNEUP_PROC_ROOT", proc, 1);
    setenv("TUNEUP_SYSFS_ROOT", f.root, 1);
    return f;
}

static void restore(const struct fixture *f)
{
    unsetenv("TUNEUP_PROC_ROOT");
    unsetenv("TUNEUP_SYSFS_ROOT");
    fixture_free(f);
}

/* Kernels and sandboxes may refuse; then there is nothing to test here. */
static void need_events(const struct fixture *f)
{
    struct perf_counter c[4];
    const int n = perf_open(c, 4);

    if (n <= 0) {
        restore(f);
        skip();
    }
    perf_close(c, n);
}

TEST(counts_are_scaled)
{
    const struct fixture f = clock_as_power();
    struct perf_counter c[4];
    int64_t before, after;

    need_events(&f);
    CHECK_EQ(perf_open(c, 4), 1);
    CHECK_STR(c[0].name, "package-0");
    CHECK_EQ(perf_read(&c[0], &before), 0);
    usleep(100 * 1000);
    CHECK_EQ(perf_read(&c[0], &after), 0);
    CHECK(after - before >= 100000 && after - before < 2000000);
    perf_close(c, 1);
    restore(&f);
}

TEST(unreadable_zones_give_way_to_events)
{
    const struct fixture f = clock_as_power();
    struct energy_meter *m;
    struct energy_result r;
    struct err err = { 0 };

    need_events(&f);
    fixture_write(&f, "class/powercap/intel-rapl:0/name", "package-0\n"); /* and no energy_uj */
    CHECK_OK(energy_start(&m, &err), &err);
    usleep(100 * 1000);
    energy_read(m, &r);
    energy_stop(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_EQ(r.n_domains, 1);
    CHECK_NEAR(r.joules, r.window_s, 0.3 * r.window_s);
    restore(&f);
}

TEST(readable_zones_are_preferred)
{
    const struct fixture f = clock_as_power();
    struct energy_meter *m;
    struct energy_result r;
    struct err err = { 0 };

    fixture_write(&f, "class/powercap/intel-rapl:0/name", "package-0\n");
    fixture_write(&f, "class/powercap/intel-rapl:0/energy_uj", "5\n");
    CHECK_OK(energy_start(&m, &err), &err);
    fixture_write(&f, "class/powercap/intel-rapl:0/energy_uj", "9000005\n");
    usleep(20 * 1000); /* a counter is not read twice within one of its updates */
    energy_read(m, &r);
    energy_stop(m);
    CHECK_NEAR(r.joules, 9, 1e-9);
    restore(&f);
}

TEST(dies_and_memory_are_named)
{
    const struct fixture f = clock_as_power();
    struct perf_counter c[4];

    need_events(&f);
    if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
        restore(&f);
        skip();
    }
    fixture_write(&f, POWER "cpumask", "0-1\n");
    fixture_write(&f, POWER "events/energy-ram", "event=0x00\n");
    fixture_write(&f, POWER "events/energy-ram.scale", "1e-9\n");
    fixture_write(&f, "devices/system/cpu/cpu1/topology/physical_package_id", "1\n");
    CHECK_EQ(perf_open(c, 4), 4);
    CHECK_STR(c[1].name, "package-1");
    CHECK_STR(c[2].name, "package-0/dram");
    perf_close(c, 4);
    fixture_write(&f, "devices/system/cpu/cpu1/topology/physical_package_id", "0\n");
    fixture_write(&f, "devices/system/cpu/cpu1/topology/die_id", "1\n");
    CHECK_EQ(perf_open(c, 4), 4);
    CHECK_STR(c[0].name, "package-0-die-0");
    CHECK_STR(c[3].name, "package-0-die-1/dram");
    perf_close(c, 4);
    CHECK(perf_open(c, 3) < 0); /* never a part of them */
    restore(&f);
}

TEST(rubbish_opens_nothing)
{
    const struct fixture f = clock_as_power();
    struct perf_counter c[4];

    fixture_write(&f, POWER "events/energy-pkg", "umask=1\n");
    CHECK_EQ(perf_open(c, 4), 0);
    fixture_write(&f, POWER "events/energy-pkg", "event=0x00\n");
    fixture_write(&f, POWER "events/energy-pkg.scale", "-1\n");
    CHECK_EQ(perf_open(c, 4), 0);
    fixture_write(&f, POWER "events/energy-pkg.scale", "1e-9\n");
    fixture_write(&f, POWER "cpumask", "x\n");
    CHECK_EQ(perf_open(c, 4), 0);
    restore(&f);
    setenv("TUNEUP_SYSFS_ROOT", "/nonexistent", 1);
    CHECK_EQ(perf_open(c, 4), 0);
    unsetenv("TUNEUP_SYSFS_ROOT");
}

TEST_MAIN(CASE(counts_are_scaled), CASE(unreadable_zones_give_way_to_events), CASE(readable_zones_are_preferred),
          CASE(dies_and_memory_are_named), CASE(rubbish_opens_nothing))
