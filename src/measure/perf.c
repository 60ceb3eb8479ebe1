/* perf_open, perf_read, perf_close work on the events; the source at the end makes channels of them.
 * sysfs tells everything: type and config of each event, joules a count (scale), and one CPU of each socket or die to
 * open it on (cpumask). Events count for the whole socket, so there is no per-process form of them. */
#include "measure/perf.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "measure/channel.h"
#include "measure/sysfile.h"

#define POWER "bus/event_source/devices/power/"
#define MAX_SOCKETS 64

struct event {
    const char *file, *part; /* below a package's name */
    uint64_t config;
    double unit_uj;
};

static bool read_text(const char *below, char *out, size_t size)
{
    char path[FILE_PATH_MAX];

    return sysfile_path(path, SYSFILE_SYS, "%s", below) == 0 && sysfile_read(path, out, size) > 0;
}

static int read_number(const char *below)
{
    char path[FILE_PATH_MAX];
    int64_t value;

    if (sysfile_path(path, SYSFILE_SYS, "%s", below) != 0 || sysfile_read_int(path, &value) != 0 || value > INT32_MAX)
        return -1;
    return (int)value;
}

static int topology(int cpu, const char *file)
{
    char below[128];

    snprintf(below, sizeof below, "devices/system/cpu/cpu%d/topology/%s", cpu, file);
    return read_number(below);
}

/* "event=0x02" */
static bool read_event(struct event *e)
{
    char below[128], text[64], *end;

    snprintf(below, sizeof below, POWER "events/%s", e->file);
    if (!read_text(below, text, sizeof text) || strncmp(text, "event=", 6) != 0)
        return false;
    e->config = strtoull(text + 6, &end, 0);
    if (end == text + 6)
        return false;
    snprintf(below, sizeof below, POWER "events/%s.scale", e->file);
    if (!read_text(below, text, sizeof text))
        return false;
    e->unit_uj = 1e6 * strtod(text, &end);
    return end != text && e->unit_uj > 0 && e->unit_uj < 1e9;
}

/* "0,18" or "0-1": the CPUs on which to open. */
static int read_cpus(int *cpus, int max)
{
    char text[512];
    int n = 0;

    if (!read_text(POWER "cpumask", text, sizeof text))
        return 0;
    for (char *c = text; *c >= '0' && *c <= '9';) {
        const long first = strtol(c, &c, 10);
        const long last = *c == '-' ? strtol(c + 1, &c, 10) : first;

        for (long cpu = first; cpu <= last && cpu < 65536 && n < max; cpu++)
            cpus[n++] = (int)cpu;
        c += *c == ',';
    }
    return n;
}

/* shared: other CPUs of the mask are of the same package, so this is one of its dies. */
static int open_event(struct perf_counter *out, int type, const struct event *e, int cpu, bool shared)
{
    struct perf_event_attr attr = { .type = (uint32_t)type, .size = sizeof attr, .config = e->config };
    const long fd = syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);

    if (fd < 0)
        return -errno;
    *out = (struct perf_counter){ .fd = (int)fd, .unit_uj = e->unit_uj };
    if (shared)
        snprintf(out->name, sizeof out->name, "package-%d-die-%d%s", topology(cpu, "physical_package_id"),
                 topology(cpu, "die_id"), e->part);
    else
        snprintf(out->name, sizeof out->name, "package-%d%s", topology(cpu, "physical_package_id"), e->part);
    return 0;
}

static bool shares_package(const int *cpus, int n_cpus, int k)
{
    for (int i = 0; i < n_cpus; i++)
        if (i != k && topology(cpus[i], "physical_package_id") == topology(cpus[k], "physical_package_id"))
            return true;
    return false;
}

int perf_open(struct perf_counter *out, int max)
{
    struct event events[] = { { .file = "energy-pkg", .part = "" }, { .file = "energy-ram", .part = "/dram" } };
    const int type = read_number(POWER "type");
    int cpus[MAX_SOCKETS], n = 0;
    const int n_cpus = read_cpus(cpus, MAX_SOCKETS);

    if (type < 0)
        return 0;
    for (int i = 0; i < COUNT_OF(events); i++) {
        if (!read_event(&events[i]))
            continue;
        for (int k = 0; k < n_cpus; k++) {
            const bool shared = shares_package(cpus, n_cpus, k);
            const int status = n < max ? open_event(&out[n], type, &events[i], cpus[k], shared) : -E2BIG;
            if (status != 0) {
                perf_close(out, n);
                return status;
            }
            n++;
        }
    }
    return n;
}

int perf_read(const struct perf_counter *c, int64_t *uj)
{
    uint64_t count;
    const ssize_t got = read(c->fd, &count, sizeof count);

    if (got != (ssize_t)sizeof count)
        return got < 0 ? -errno : -EIO;
    const double value = (double)count * c->unit_uj;
    if (value >= 9e18)
        return -ERANGE;
    *uj = (int64_t)value;
    return 0;
}

void perf_close(struct perf_counter *counters, int n)
{
    for (int i = 0; i < n; i++)
        close(counters[i].fd);
}

/* ---- as a source ---- */

struct events {
    struct perf_counter counters[ENERGY_MAX_DOMAINS]; /* by channel.index */
    int n;
};

static int read_channel(const struct channel *c, struct channel_reading *out)
{
    const struct events *e = c->own;

    return perf_read(&e->counters[c->index], &out->uj);
}

/* Events replace all zones of powercap, since a mixture could take one joule from both. */
static void remove_zones(struct channel_set *set)
{
    int kept = 0;

    for (int i = 0; i < set->n; i++)
        if (set->items[i].source != &rapl_source)
            set->items[kept++] = set->items[i];
    set->n = kept;
    set->truncated = false;
}

static void open_source(struct channel_set *set, const struct energy_options *o, void **own, struct energy_finding *f)
{
    struct err ignored;

    (void)o;
    (void)f; /* rapl's words are said for both */
    if (channel_source_whole(set, &rapl_source) && !set->truncated)
        return;
    struct events *e = mem_array(1, 1, sizeof *e, MEM_RECORD, &ignored);
    *own = e;
    if (!e || (e->n = perf_open(e->counters, ENERGY_MAX_DOMAINS)) <= 0)
        return;
    remove_zones(set);
    for (int i = 0; i < e->n; i++) {
        struct channel *c = channel_add(set, &perf_source, e, e->counters[i].name);
        if (!c)
            break;
        c->index = i;
        c->counter = true;
        channel_start(c);
    }
}

static void close_source(void *own)
{
    struct events *e = own;

    if (e && e->n > 0)
        perf_close(e->counters, e->n);
    mem_free(e);
}

const struct energy_source perf_source = {
    .name = "perf", .open = open_source, .read = read_channel, .close = close_source
};
