/* A counter that went backwards (a CPU left, a module was loaded again) is unknown, like one that is not there. */
#include "measure/noise.h"

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "measure/machine.h"
#include "measure/sysfile.h"

static int64_t read_throttles(void)
{
    static const char *const files[] = { "core_throttle_count", "package_throttle_count" };
    const long n = sysconf(_SC_NPROCESSORS_CONF);
    int64_t sum = -1;

    for (int cpu = 0; cpu < n; cpu++)
        for (int i = 0; i < COUNT_OF(files); i++) {
            char path[FILE_PATH_MAX];
            int64_t count;

            if (sysfile_path(path, SYSFILE_SYS, "devices/system/cpu/cpu%d/thermal_throttle/%s", cpu, files[i]) != 0 ||
                sysfile_read_int(path, &count) != 0)
                continue;
            sum = (sum < 0 ? 0 : sum) + count;
        }
    return sum;
}

/* cgroup v2 tells microseconds, v1 nanoseconds. */
static double read_cgroup_wait(void)
{
    static const struct {
        const char *path, *key;
        double unit_s;
    } files[] = { { "cpu.stat", "throttled_usec", 1e-6 }, { "cpu/cpu.stat", "throttled_time", 1e-9 } };

    for (int i = 0; i < COUNT_OF(files); i++) {
        char path[FILE_PATH_MAX], text[2048];
        int64_t value;

        if (sysfile_path(path, SYSFILE_CGROUP, "%s", files[i].path) == 0 && sysfile_read(path, text, sizeof text) > 0 &&
            sysfile_find_int(text, files[i].key, &value))
            return (double)value * files[i].unit_s;
    }
    return NAN;
}

static int64_t read_swapped_in(void)
{
    char path[FILE_PATH_MAX], text[16384];
    int64_t value;

    if (sysfile_path(path, SYSFILE_PROC, "vmstat") != 0 || sysfile_read(path, text, sizeof text) <= 0 ||
        !sysfile_find_int(text, "pswpin", &value))
        return -1;
    return value;
}

void noise_read(struct noise *out)
{
    struct machine_load load;

    machine_load_read(&load);
    *out = (struct noise){ .steal_s = load.steal_s,
                           .cgroup_wait_s = read_cgroup_wait(),
                           .throttles = read_throttles(),
                           .swapped_in = read_swapped_in() };
}

static double seconds(double before, double after)
{
    return after >= before ? after - before : NAN;
}

static int64_t times(int64_t before, int64_t after)
{
    return before >= 0 && after >= before ? after - before : -1;
}

struct noise noise_between(const struct noise *before, const struct noise *after)
{
    return (struct noise){ .steal_s = seconds(before->steal_s, after->steal_s),
                           .cgroup_wait_s = seconds(before->cgroup_wait_s, after->cgroup_wait_s),
                           .throttles = times(before->throttles, after->throttles),
                           .swapped_in = times(before->swapped_in, after->swapped_in) };
}
