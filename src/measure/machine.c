/* /proc/cpuinfo, /proc/meminfo, uname and the memory controller of cgroup v1 or v2. A container may show its cgroup's
 * full path although its mount begins at that cgroup, so every folder from the path's end up to the mount's root is
 * asked, and those that do not exist are skipped. */
#include "measure/machine.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "measure/sysfile.h"

#define NO_LIMIT ((int64_t)1 << 60) /* cgroup v1 spells "none" as a number near 2^63 */
#define CPUINFO_MAX (4 * 1024 * 1024)

/* ---- the CPU ---- */

/* The text behind "key<tab>: " in the line that c points to, or NULL. */
static const char *value_of(const char *line, const char *key)
{
    const size_t n = strlen(key);

    if (strncmp(line, key, n) != 0)
        return NULL;
    line += n + strspn(line + n, " \t");
    return *line == ':' ? line + 1 + strspn(line + 1, " ") : NULL;
}

static bool has_word(const char *line, const char *word)
{
    const size_t n = strlen(word), length = strcspn(line, "\n");

    for (const char *c = line; c < line + length; c += strcspn(c, " \n"), c += *c == ' ')
        if (strncmp(c, word, n) == 0 && (c[n] == ' ' || c[n] == '\n' || c[n] == '\0'))
            return true;
    return false;
}

static void read_flags(struct machine *m, const char *flags)
{
    m->virtual_machine = has_word(flags, "hypervisor");
    m->avx2 = has_word(flags, "avx2");
    m->avx512 = has_word(flags, "avx512f");
    m->avx512_bf16 = has_word(flags, "avx512_bf16");
    m->avx512_vnni = has_word(flags, "avx512_vnni");
    m->amx_bf16 = has_word(flags, "amx_bf16");
    m->amx_int8 = has_word(flags, "amx_int8");
}

/* Cores: "cpu cores" of each distinct "physical id". */
static void read_cpuinfo(struct machine *m, const char *text)
{
    uint64_t seen = 0;
    long socket = 0;
    bool flags = false;

    for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL) {
        const char *v;

        if ((v = value_of(line, "model name")) && !m->cpu[0]) {
            snprintf(m->cpu, sizeof m->cpu, "%.*s", (int)strcspn(v, "\n"), v);
        } else if ((v = value_of(line, "flags")) && !flags) {
            read_flags(m, v);
            flags = true;
        } else if ((v = value_of(line, "physical id"))) {
            socket = strtol(v, NULL, 10);
        } else if ((v = value_of(line, "cpu cores")) && socket >= 0 && socket < 64 && !(seen >> socket & 1)) {
            const long n = strtol(v, NULL, 10);
            seen |= (uint64_t)1 << socket;
            m->n_cores += n > 0 && n < 4096 ? (int)n : 0;
        }
    }
}

static void read_cpu(struct machine *m)
{
    struct err err;
    char path[FILE_PATH_MAX];
    char *text = mem_array(CPUINFO_MAX, 1, 1, MEM_OTHER, &err);

    if (text && sysfile_path(path, SYSFILE_PROC, "cpuinfo") == 0 && sysfile_read(path, text, CPUINFO_MAX) > 0)
        read_cpuinfo(m, text);
    mem_free(text);
}

bool machine_is_virtual(void)
{
    struct machine m = { 0 };

    read_cpu(&m);
    return m.virtual_machine;
}

/* ---- memory ---- */

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

struct cgroup_memory {
    int64_t limit, left; /* INT64_MAX = none */
};

/* One folder of the hierarchy. Cached files do not count as used: the kernel drops them before it refuses memory. */
static void read_cgroup(const char *folder, bool v2, struct cgroup_memory *out)
{
    char path[FILE_PATH_MAX], stat[8192];
    int64_t limit, used = 0, inactive = 0, active = 0;

    if (snprintf(path, sizeof path, "%s/%s", folder, v2 ? "memory.max" : "memory.limit_in_bytes") >= (int)sizeof path ||
        sysfile_read_int(path, &limit) != 0 || limit >= NO_LIMIT)
        return;
    out->limit = smaller(out->limit, limit);
    if (snprintf(path, sizeof path, "%s/%s", folder, v2 ? "memory.current" : "memory.usage_in_bytes") >=
            (int)sizeof path ||
        sysfile_read_int(path, &used) != 0)
        used = 0;
    if (snprintf(path, sizeof path, "%s/memory.stat", folder) < (int)sizeof path &&
        sysfile_read(path, stat, sizeof stat) > 0) {
        sysfile_find_int(stat, v2 ? "inactive_file" : "total_inactive_file", &inactive);
        sysfile_find_int(stat, v2 ? "active_file" : "total_active_file", &active);
    }
    used -= smaller(inactive, NO_LIMIT) + smaller(active, NO_LIMIT);
    out->left = smaller(out->left, used > limit ? 0 : limit - (used > 0 ? used : 0));
}

/* below: the cgroup's path, or "" for the root of the mount. */
static void read_cgroup_chain(const char *controller, char *below, bool v2, struct cgroup_memory *out)
{
    char folder[FILE_PATH_MAX];

    for (;;) {
        if (sysfile_path(folder, SYSFILE_CGROUP, "%s%s", controller, below) == 0)
            read_cgroup(folder, v2, out);
        char *slash = strrchr(below, '/');
        if (!slash)
            return;
        *slash = '\0';
    }
}

static bool is_memory_controller(const char *list, size_t n)
{
    const char *end = list + n;

    while (list < end) {
        const size_t word = strcspn(list, ",:");
        if (word == 6 && strncmp(list, "memory", 6) == 0)
            return true;
        list += word + 1;
    }
    return false;
}

/* Lines of /proc/self/cgroup: "0::/path" is v2, "4:memory:/path" is v1. */
static struct cgroup_memory read_cgroups(void)
{
    struct cgroup_memory out = { INT64_MAX, INT64_MAX };
    char path[FILE_PATH_MAX], text[16384], *save = NULL;

    if (sysfile_path(path, SYSFILE_PROC, "self/cgroup") != 0 || sysfile_read(path, text, sizeof text) <= 0)
        return out;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *first = strchr(line, ':'), *second = first ? strchr(first + 1, ':') : NULL;

        if (!second || strstr(second, ".."))
            continue;
        if (second == first + 1)
            read_cgroup_chain("", second + 1, true, &out);
        else if (is_memory_controller(first + 1, (size_t)(second - first - 1)))
            read_cgroup_chain("memory", second + 1, false, &out);
    }
    return out;
}

static void read_meminfo(struct machine *m)
{
    char path[FILE_PATH_MAX], text[8192];
    int64_t kb;

    m->memory_bytes = m->available_bytes = -1;
    if (sysfile_path(path, SYSFILE_PROC, "meminfo") != 0 || sysfile_read(path, text, sizeof text) <= 0)
        return;
    if (sysfile_find_int(text, "MemTotal:", &kb) && kb < NO_LIMIT / 1024)
        m->memory_bytes = kb * 1024;
    if (sysfile_find_int(text, "MemAvailable:", &kb) && kb < NO_LIMIT / 1024)
        m->available_bytes = kb * 1024;
}

static int64_t address_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > INT64_MAX)
        return INT64_MAX;
    return (int64_t)limit.rlim_cur;
}

int64_t machine_memory_limit(void)
{
    struct machine m = { 0 };

    read_meminfo(&m);
    const int64_t available = m.available_bytes >= 0 ? m.available_bytes : INT64_MAX;
    return smaller(smaller(available, read_cgroups().left), address_limit());
}

/* ---- all of it ---- */

void machine_read(struct machine *out)
{
    struct utsname u;
    cpu_set_t set;

    *out = (struct machine){ 0 };
    read_cpu(out);
    read_meminfo(out);
    out->cgroup_bytes = read_cgroups().limit;
    out->address_bytes = address_limit();
    out->n_cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (uname(&u) == 0) {
        snprintf(out->kernel, sizeof out->kernel, "%.30s %.60s %.30s", u.sysname, u.release, u.machine);
        snprintf(out->host, sizeof out->host, "%.63s", u.nodename);
    }
}

static json_t *bytes_or_null(int64_t bytes)
{
    return bytes < 0 || bytes == INT64_MAX ? json_null() : json_integer(bytes);
}

json_t *machine_json(const struct machine *m)
{
    const struct {
        const char *name;
        bool has;
    } sets[] = { { "avx2", m->avx2 },
                 { "avx512", m->avx512 },
                 { "avx512_bf16", m->avx512_bf16 },
                 { "avx512_vnni", m->avx512_vnni },
                 { "amx_bf16", m->amx_bf16 },
                 { "amx_int8", m->amx_int8 } };
    json_t *names = json_array();

    for (int i = 0; i < COUNT_OF(sets); i++)
        if (sets[i].has)
            json_array_append_new(names, json_string(sets[i].name));
    return json_pack("{s:s, s:s, s:s, s:i, s:o, s:o, s:b, s:o, s:o, s:o}", "host", m->host, "cpu", m->cpu, "kernel",
                     m->kernel, "cpus", m->n_cpus, "cores", m->n_cores ? json_integer(m->n_cores) : json_null(),
                     "instruction_sets", names, "virtual_machine", (int)m->virtual_machine, "memory_bytes",
                     bytes_or_null(m->memory_bytes), "cgroup_limit_bytes", bytes_or_null(m->cgroup_bytes),
                     "address_limit_bytes", bytes_or_null(m->address_bytes));
}

/* ---- load ---- */

void machine_load_read(struct machine_load *out)
{
    char path[FILE_PATH_MAX], text[512], *end;
    unsigned long long steal;

    *out = (struct machine_load){ NAN, NAN };
    if (sysfile_path(path, SYSFILE_PROC, "loadavg") == 0 && sysfile_read(path, text, sizeof text) > 0) {
        const double load1 = strtod(text, &end);
        if (end != text && load1 >= 0)
            out->load1 = load1;
    }
    if (sysfile_path(path, SYSFILE_PROC, "stat") == 0 && sysfile_read(path, text, sizeof text) > 0 &&
        sscanf(text, "cpu %*u %*u %*u %*u %*u %*u %*u %llu", &steal) == 1)
        out->steal_s = (double)steal / (double)sysconf(_SC_CLK_TCK);
}
