/* Counter trees of several machines, written by the test, with a clock that the test turns: every expected joule is
 * known exactly. */
#include "measure/energy.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "machine_fixture.h"

#define RANGE 262143328850LL

static void zone_file(const struct fixture *f, const char *zone, const char *file, const char *text)
{
    char path[256];

    snprintf(path, sizeof path, "class/powercap/%s/%s", zone, file);
    fixture_write(f, path, text);
}

static void set_uj(const struct fixture *f, const char *zone, long long uj)
{
    char text[32];

    snprintf(text, sizeof text, "%lld\n", uj);
    zone_file(f, zone, "energy_uj", text);
}

static void add_zone(const struct fixture *f, const char *zone, const char *name, long long uj)
{
    char text[80], range[32];

    snprintf(text, sizeof text, "%s\n", name);
    snprintf(range, sizeof range, "%lld\n", RANGE);
    zone_file(f, zone, "name", text);
    zone_file(f, zone, "max_energy_range_uj", range);
    set_uj(f, zone, uj);
}

static void remove_file(const struct fixture *f, const char *zone, const char *file)
{
    char path[256];

    snprintf(path, sizeof path, "%s/class/powercap/%s/%s", f->root, zone, file);
    unlink(path);
}

static struct energy_meter *start(void)
{
    struct energy_meter *m = NULL;
    struct err err = { 0 };

    if (energy_start(&m, &err) != 0)
        fail_msg("energy_start: %s", err.what);
    return m;
}

static struct energy_result finish(struct energy_meter *m)
{
    struct energy_result r;

    energy_read(m, &r);
    energy_stop(m);
    return r;
}

TEST(laptop_counts_the_package_once)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "psys", 900);
    add_zone(&f, "intel-rapl:1", "package-0", 5000000);
    add_zone(&f, "intel-rapl:1:0", "core", 3000000);
    add_zone(&f, "intel-rapl:1:1", "uncore", 1000000);
    add_zone(&f, "intel-rapl-mmio:0", "package-0", 5000000);
    struct energy_meter *m = start();
    pass(10);
    set_uj(&f, "intel-rapl:0", 250000900);
    set_uj(&f, "intel-rapl:1", 105000000);
    set_uj(&f, "intel-rapl:1:0", 63000000);
    set_uj(&f, "intel-rapl:1:1", 2000000);
    set_uj(&f, "intel-rapl-mmio:0", 105000000);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 100, 1e-9);
    CHECK_NEAR(r.window_s, 10, 1e-9);
    CHECK(strstr(r.reason, "without its memory"));
    CHECK_EQ(r.n_domains, 5);
    CHECK(!domain(&r, "psys", 0)->counted);
    CHECK_NEAR(domain(&r, "psys", 0)->joules, 250, 1e-9);
    CHECK(!domain(&r, "package-0/core", 0)->counted);
    CHECK_NEAR(domain(&r, "package-0/core", 0)->joules, 60, 1e-9);
    CHECK(!domain(&r, "package-0", 0)->counted != !domain(&r, "package-0", 1)->counted);
    machine_free(&f);
}

TEST(mmio_stands_in_for_an_unreadable_msr)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0", 0);
    remove_file(&f, "intel-rapl:0", "energy_uj");
    add_zone(&f, "intel-rapl-mmio:0", "package-0", 1000000);
    struct energy_meter *m = start();
    pass(1);
    set_uj(&f, "intel-rapl-mmio:0", 8000000);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 7, 1e-9);
    machine_free(&f);
}

TEST(server_adds_sockets_and_memory)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-1", 10);
    add_zone(&f, "intel-rapl:0:0", "dram", 20);
    add_zone(&f, "intel-rapl:1", "psys", 30);
    add_zone(&f, "intel-rapl:2", "package-0", 40);
    add_zone(&f, "intel-rapl:2:0", "dram", 50);
    struct energy_meter *m = start();
    pass(2);
    set_uj(&f, "intel-rapl:0", 10 + 200000000);
    set_uj(&f, "intel-rapl:0:0", 20 + 30000000);
    set_uj(&f, "intel-rapl:1", 30 + 900000000);
    set_uj(&f, "intel-rapl:2", 40 + 100000000);
    set_uj(&f, "intel-rapl:2:0", 50 + 5000000);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 335, 1e-9);
    CHECK(strstr(r.reason, "package-1 + package-1/dram + package-0 + package-0/dram"));
    CHECK(!strstr(r.reason, "without"));
    machine_free(&f);
}

TEST(mirrored_dies_count_once)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0-die-0", 7000000);
    add_zone(&f, "intel-rapl:1", "package-0-die-1", 7000300);
    struct energy_meter *m = start();
    pass(10);
    set_uj(&f, "intel-rapl:0", 691000000);
    set_uj(&f, "intel-rapl:1", 691000900);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 684, 1e-9);
    CHECK(strstr(domain(&r, "package-0-die-1", 0)->reason, "mirrors"));
    machine_free(&f);
}

TEST(distinct_dies_add_up)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0-die-0", 7000000);
    add_zone(&f, "intel-rapl:1", "package-0-die-1", 90000000);
    struct energy_meter *m = start();
    pass(10);
    set_uj(&f, "intel-rapl:0", 7000000 + 400000000);
    set_uj(&f, "intel-rapl:1", 90000000 + 400000000);
    CHECK_NEAR(finish(m).joules, 800, 1e-9);
    machine_free(&f);
}

TEST(wrap_is_corrected)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0", RANGE - 1000000);
    struct energy_meter *m = start();
    pass(1);
    set_uj(&f, "intel-rapl:0", 4000000 - 1);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 5, 1e-9);
    machine_free(&f);
}

/* What some hypervisors and drivers have shown: absurd energies must not become a ratio. */
TEST(leap_forward_is_no_energy)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0", 0);
    struct energy_meter *m = start();
    pass(1);
    set_uj(&f, "intel-rapl:0", 200000000000LL);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.reason, "jumped"));
    machine_free(&f);
}

TEST(reset_is_no_wrap)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0", 100000000000LL);
    zone_file(&f, "intel-rapl:0", "constraint_0_max_power_uw", "205000000\n");
    struct energy_meter *m = start();
    pass(1);
    set_uj(&f, "intel-rapl:0", 12);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(isnan(r.joules));
    CHECK(strstr(r.reason, "package-0: the counter jumped"));
    machine_free(&f);
}

TEST(fall_of_unknown_range_is_lost)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0", RANGE - 1000000);
    remove_file(&f, "intel-rapl:0", "max_energy_range_uj");
    struct energy_meter *m = start();
    struct energy_result r;
    pass(1);
    set_uj(&f, "intel-rapl:0", RANGE);
    energy_read(m, &r);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 1, 1e-9);
    pass(1);
    set_uj(&f, "intel-rapl:0", 4000000);
    r = finish(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.reason, "range is unknown; at least 1 J"));
    machine_free(&f);
}

TEST(long_gap_is_lost)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0", 0);
    struct energy_meter *m = start();
    pass(3600); /* the meter was stopped for an hour: the counter may have gone round */
    set_uj(&f, "intel-rapl:0", 5000000);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.reason, "may have wrapped"));
    machine_free(&f);
}

TEST(counter_that_vanishes_is_unavailable)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0", 0);
    add_zone(&f, "intel-rapl:1", "package-1", 0);
    struct energy_meter *m = start();
    struct energy_result r;
    pass(1);
    set_uj(&f, "intel-rapl:0", 5000000);
    remove_file(&f, "intel-rapl:1", "energy_uj");
    energy_read(m, &r);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(isnan(r.joules));
    CHECK(strstr(r.reason, "package-1: became unreadable"));
    CHECK_NEAR(domain(&r, "package-0", 0)->joules, 5, 1e-9);
    pass(1);
    set_uj(&f, "intel-rapl:1", 9000000); /* back again: cumulative, so nothing is lost */
    r = finish(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 14, 1e-9);
    machine_free(&f);
}

/* As a service manager does that takes a capability away, or a udev rule that closes the files again. Root reads what it likes, so
 * that root reads as nobody meanwhile. */
static struct energy_result read_as_nobody(struct energy_meter *m)
{
    const bool root = geteuid() == 0;

    if (root && seteuid(65534) != 0)
        fail_msg("could not become nobody");
    const struct energy_result r = read_now(m);
    if (root && seteuid(0) != 0)
        fail_msg("could not become root again");
    return r;
}

TEST(permission_that_is_lost_leaves_no_partial_sum)
{
    const struct fixture f = machine_new("");
    char path[256];
    add_zone(&f, "intel-rapl:0", "package-0", 0);
    add_zone(&f, "intel-rapl:0:0", "dram", 0);
    chmod(f.root, 0755);
    snprintf(path, sizeof path, "%s/class/powercap/intel-rapl:0:0/energy_uj", f.root);
    struct energy_meter *m = start();
    pass(7);
    set_uj(&f, "intel-rapl:0", 700000000);
    set_uj(&f, "intel-rapl:0:0", 70000000);
    CHECK_NEAR(read_as_nobody(m).joules, 770, 1e-9);
    chmod(path, 0);
    pass(5);
    set_uj(&f, "intel-rapl:0", 900000000);
    struct energy_result r = read_as_nobody(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(isnan(r.joules));
    CHECK(
        strstr(r.reason, "package-0/dram: became unreadable 7 s after the start: Permission denied; 70 J until then"));
    CHECK(strstr(r.hint, "perf_event_paranoid"));
    CHECK_EQ(domain(&r, "package-0/dram", 0)->state, METER_UNAVAILABLE);
    CHECK(isnan(domain(&r, "package-0/dram", 0)->joules));
    CHECK_NEAR(domain(&r, "package-0", 0)->joules, 900,
               1e-9); /* that one domain is whole, and the total is not made of it */
    pass(1);
    set_uj(&f, "intel-rapl:0:0", 90000000); /* given back: a counter has counted meanwhile */
    r = read_as_nobody(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 990, 1e-9);
    machine_free(&f);
}

TEST(unreadable_package_makes_no_total)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0", 0);
    add_zone(&f, "intel-rapl:1", "package-1", 0);
    remove_file(&f, "intel-rapl:1", "energy_uj");
    zone_file(&f, "intel-rapl:1/energy_uj", "x", "");
    struct energy_meter *m = start();
    pass(1);
    set_uj(&f, "intel-rapl:0", 5000000);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.reason, "package-1: cannot be read"));
    machine_free(&f);
}

TEST(rubbish_counter_is_unavailable)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0", 0);
    zone_file(&f, "intel-rapl:0", "energy_uj", "-5\n");
    struct energy_meter *m = start();
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(isnan(r.joules));
    machine_free(&f);
}

TEST(stuck_counter_is_not_zero_joules)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0", 123);
    struct energy_meter *m = start();
    pass(5);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(isnan(r.joules) && isnan(r.domains[0].joules));
    CHECK(strstr(r.reason, "did not move"));
    machine_free(&f);
}

TEST(still_dram_is_not_claimed)
{
    const struct fixture f = machine_new("");
    add_zone(&f, "intel-rapl:0", "package-0", 0);
    add_zone(&f, "intel-rapl:0:2", "dram", 0);
    struct energy_meter *m = start();
    pass(1);
    set_uj(&f, "intel-rapl:0", 5000000);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 5, 1e-9);
    CHECK(strstr(r.reason, "without its memory"));
    machine_free(&f);
}

TEST(virtual_machine_says_so)
{
    const struct fixture f = machine_new("hypervisor");
    struct energy_result r = finish(start());
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.reason, "virtual machine"));
    CHECK(r.hint[0]);
    add_zone(&f, "intel-rapl:0", "package-0", 0);
    struct energy_meter *m = start();
    pass(1);
    set_uj(&f, "intel-rapl:0", 5000000);
    r = finish(m);
    CHECK_EQ(r.state, METER_ESTIMATED); /* whose joules these are is not known */
    CHECK(strstr(r.reason, "hypervisor"));
    machine_free(&f);
}

TEST(bare_machine_without_driver_is_told_the_mend)
{
    const struct fixture f = machine_new("");
    const struct energy_result r = finish(start());
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.hint, "modprobe"));
    machine_free(&f);
}

/* As Linux has it since 5.10; root reads whatever the mode is, so the test steps down. */
TEST(root_only_counter_is_told_the_mend)
{
    const struct fixture f = machine_new("");
    char path[256];
    const bool root = geteuid() == 0;

    add_zone(&f, "intel-rapl:0", "package-0", 0);
    snprintf(path, sizeof path, "%s/class/powercap/intel-rapl:0/energy_uj", f.root);
    CHECK_EQ(chmod(path, 0), 0);
    CHECK_EQ(chmod(f.root, 0755), 0);
    if (root)
        CHECK_EQ(seteuid(65534), 0);
    const struct energy_result r = finish(start());
    if (root)
        CHECK_EQ(seteuid(0), 0);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(isnan(r.joules));
    CHECK(strstr(r.reason, "Permission denied"));
    CHECK(strstr(r.hint, "chgrp") && strstr(r.hint, "perf_event_paranoid"));
    CHECK(strstr(r.hint, "start of the machine")); /* not cut off */
    machine_free(&f);
}

TEST(many_zones_are_refused_not_cut)
{
    const struct fixture f = machine_new("");
    for (int i = 0; i <= ENERGY_MAX_DOMAINS; i++) {
        char zone[32], name[32];
        snprintf(zone, sizeof zone, "intel-rapl:%d", i);
        snprintf(name, sizeof name, "package-%d", i);
        add_zone(&f, zone, name, 0);
    }
    const struct energy_result r = finish(start());
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.reason, "more than"));
    machine_free(&f);
}

/* Any walk of a true counter, seen through a register of any range, gives back the walk. */
TEST(delta_inverts_the_register)
{
    uint64_t seed = 42;
    for (int trial = 0; trial < 2000; trial++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const int64_t range = 1000000 + (int64_t)(seed >> 34);
        const double limit_w = 300, longest_s = 0.9e-6 * (double)range / limit_w - 0.01;
        int64_t truth_uj = (int64_t)(seed >> 40), sum = 0, wanted = 0;

        if (longest_s <= 0)
            continue;
        for (int i = 0; i < 20; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            const double elapsed_s = longest_s * (double)(seed >> 32) / 4294967296.0;
            const int64_t uj = (int64_t)(limit_w * elapsed_s * 1e6 * (double)(seed >> 11 & 1023) / 1024);
            int64_t used_uj;

            CHECK_EQ(energy_delta(truth_uj % (range + 1), (truth_uj + uj) % (range + 1), range, limit_w, elapsed_s,
                                  0.001, &used_uj),
                     ENERGY_STEP_GOOD);
            sum += used_uj;
            wanted += uj;
            truth_uj += uj;
        }
        CHECK_EQ(sum, wanted); /* to the microjoule */
    }
}

struct player {
    const struct fixture *f;
    atomic_bool stop;
    long long uj;
};

/* At most 100 W in real time, through a register that goes round at 60 J. */
static void *play(void *data)
{
    struct player *p = data;

    while (!atomic_load(&p->stop)) {
        p->uj += 200000;
        set_uj(p->f, "intel-rapl:0", p->uj % 60000001);
        usleep(2000);
    }
    return NULL;
}

TEST(thread_follows_a_player_through_wraps)
{
    const struct fixture f = machine_new("");
    struct player p = { .f = &f, .uj = 55000000 };
    pthread_t thread;

    clock_fake(NULL);
    add_zone(&f, "intel-rapl:0", "package-0", p.uj);
    zone_file(&f, "intel-rapl:0", "max_energy_range_uj", "60000000\n");
    zone_file(&f, "intel-rapl:0", "constraint_0_max_power_uw", "100000000\n");
    struct energy_meter *m = start();
    CHECK_EQ(pthread_create(&thread, NULL, play, &p), 0);
    usleep(400 * 1000);
    atomic_store(&p.stop, true);
    pthread_join(thread, NULL);
    const struct energy_result r = finish(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK(p.uj > 60000000);
    CHECK_NEAR(r.joules, 1e-6 * (double)(p.uj - 55000000), 1e-6);
    machine_free(&f);
}

TEST(allocation_failure_is_reported)
{
    struct energy_meter *m;
    struct err err;

    mem_fail_at(1);
    CHECK_ERR(energy_start(&m, &err), &err, ERR_MEMORY, "");
    mem_fail_at(0);
    energy_stop(m);
}

TEST_MAIN(CASE(laptop_counts_the_package_once), CASE(mmio_stands_in_for_an_unreadable_msr),
          CASE(server_adds_sockets_and_memory), CASE(mirrored_dies_count_once), CASE(distinct_dies_add_up),
          CASE(wrap_is_corrected), CASE(leap_forward_is_no_energy), CASE(reset_is_no_wrap),
          CASE(fall_of_unknown_range_is_lost), CASE(long_gap_is_lost), CASE(counter_that_vanishes_is_unavailable),
          CASE(permission_that_is_lost_leaves_no_partial_sum), CASE(unreadable_package_makes_no_total),
          CASE(rubbish_counter_is_unavailable), CASE(stuck_counter_is_not_zero_joules), CASE(still_dram_is_not_claimed),
          CASE(virtual_machine_says_so), CASE(bare_machine_without_driver_is_told_the_mend),
          CASE(root_only_counter_is_told_the_mend), CASE(many_zones_are_refused_not_cut),
          CASE(delta_inverts_the_register), CASE(thread_follows_a_player_through_wraps),
          CASE(allocation_failure_is_reported))
