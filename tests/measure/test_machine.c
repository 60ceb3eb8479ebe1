/* Machines that are not this one: their /proc and cgroup files, written by the test. */
#include "measure/machine.h"

#include <math.h>

#include "fixture.h"

#define GIB ((int64_t)1 << 30)

static struct fixture machine_new(const char *cgroup)
{
    const struct fixture f = fixture_new();
    char path[128];

    snprintf(path, sizeof path, "%s/proc", f.root);
    setenv("TUNEUP_PROC_ROOT", path, 1);
    setenv("TUNEUP_SYSFS_ROOT", f.root, 1);
    fixture_write(&f, "proc/meminfo", "MemTotal:  8388608 kB\nMemFree: 100 kB\nMemAvailable:  4194304 kB\n");
    fixture_write(&f, "proc/self/cgroup", cgroup);
    return f;
}

static void machine_free(const struct fixture *f)
{
    unsetenv("TUNEUP_PROC_ROOT");
    unsetenv("TUNEUP_SYSFS_ROOT");
    fixture_free(f);
}

TEST(cpu_is_read)
{
    const struct fixture f = machine_new("0::/\n");
    struct machine m;

    fixture_write(&f, "proc/cpuinfo",
                  "processor\t: 0\nmodel name\t: Xeon(R) 8480+\nphysical id\t: 0\ncpu cores\t: 56\n"
                  "flags\t\t: fpu avx avx2 avx512f avx512_bf16 amx_bf16 amx_tile\nflags extra\t: hypervisor\n\n"
                  "processor\t: 1\nphysical id\t: 1\ncpu cores\t: 56\nflags\t\t: fpu\n\n"
                  "processor\t: 2\nphysical id\t: 0\ncpu cores\t: 56\nflags\t\t: fpu\n");
    machine_read(&m);
    CHECK_STR(m.cpu, "Xeon(R) 8480+");
    CHECK_EQ(m.n_cores, 112);
    CHECK(m.avx2 && m.avx512 && m.avx512_bf16 && m.amx_bf16);
    CHECK(!m.amx_int8 && !m.avx512_vnni && !m.virtual_machine);
    CHECK(!machine_is_virtual());
    CHECK(m.n_cpus >= 1);
    json_t *j = machine_json(&m);
    CHECK_EQ(json_array_size(json_object_get(j, "instruction_sets")), 4);
    CHECK(json_is_null(json_object_get(j, "cgroup_limit_bytes")));
    CHECK_EQ(json_integer_value(json_object_get(j, "memory_bytes")), 8 * GIB);
    json_decref(j);
    machine_free(&f);
}

TEST(hypervisor_flag_is_seen)
{
    const struct fixture f = machine_new("0::/\n");
    fixture_write(&f, "proc/cpuinfo", "flags\t\t: fpu avx hypervisor\n");
    CHECK(machine_is_virtual());
    machine_free(&f);
}

TEST(cgroup2_limits_of_every_level_count)
{
    const struct fixture f = machine_new("0::/slurm/job_7/step_0\n");
    struct machine m;

    fixture_write(&f, "fs/cgroup/slurm/job_7/step_0/memory.max", "max\n");
    fixture_write(&f, "fs/cgroup/slurm/job_7/memory.max", "3221225472\n");
    fixture_write(&f, "fs/cgroup/slurm/job_7/memory.current", "2147483648\n");
    fixture_write(&f, "fs/cgroup/slurm/job_7/memory.stat",
                  "anon 1\nfile 1073741824\ninactive_file 536870912\nactive_file 536870912\n");
    machine_read(&m);
    CHECK_EQ(m.cgroup_bytes, 3 * GIB);
    CHECK_EQ(machine_memory_limit(), 2 * GIB); /* 2 in use, of which 1 is cached files */
    machine_free(&f);
}

TEST(cgroup1_limit_of_a_container_is_found_at_the_mounts_root)
{
    const struct fixture f = machine_new("9:name=systemd:/docker/abc\n4:cpu,memory:/docker/abc\n");
    struct machine m;

    fixture_write(&f, "fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
    fixture_write(&f, "fs/cgroup/memory/memory.usage_in_bytes", "4096\n");
    machine_read(&m);
    CHECK_EQ(m.cgroup_bytes, GIB);
    CHECK_EQ(machine_memory_limit(), GIB - 4096);
    fixture_write(&f, "fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    CHECK_EQ(machine_memory_limit(), 4 * GIB);
    machine_free(&f);
}

TEST(usage_above_the_limit_leaves_nothing)
{
    const struct fixture f = machine_new("0::/x\n");
    fixture_write(&f, "fs/cgroup/x/memory.max", "4096\n");
    fixture_write(&f, "fs/cgroup/x/memory.current", "8192\n");
    CHECK_EQ(machine_memory_limit(), 0);
    machine_free(&f);
}

TEST(rubbish_is_no_limit)
{
    const struct fixture f = machine_new("rubbish\n\n0:\n0::/../../etc\n5:memory:/y\n");
    struct machine_load load;

    fixture_write(&f, "fs/cgroup/memory/y/memory.limit_in_bytes", "-1\n");
    CHECK_EQ(machine_memory_limit(), 4 * GIB);
    fixture_write(&f, "proc/meminfo", "MemTotal: 99999999999999999999 kB\n");
    CHECK_EQ(machine_memory_limit(), INT64_MAX);
    fixture_write(&f, "proc/loadavg", "x\n");
    machine_load_read(&load);
    CHECK(isnan(load.load1) && isnan(load.steal_s));
    machine_free(&f);
}

TEST(load_and_steal_are_read)
{
    const struct fixture f = machine_new("0::/\n");
    struct machine_load load;

    fixture_write(&f, "proc/loadavg", "1.25 0.5 0.1 1/100 1234\n");
    fixture_write(&f, "proc/stat", "cpu  1 2 3 4 5 6 7 250 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n");
    machine_load_read(&load);
    CHECK_NEAR(load.load1, 1.25, 1e-12);
    CHECK_NEAR(load.steal_s, 250.0 / (double)sysconf(_SC_CLK_TCK), 1e-12);
    machine_free(&f);
}

TEST_MAIN(CASE(cpu_is_read), CASE(hypervisor_flag_is_seen), CASE(cgroup2_limits_of_every_level_count),
          CASE(cgroup1_limit_of_a_container_is_found_at_the_mounts_root), CASE(usage_above_the_limit_leaves_nothing),
          CASE(rubbish_is_no_limit), CASE(load_and_steal_are_read))
