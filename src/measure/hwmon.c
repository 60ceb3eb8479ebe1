/* Sensors that drivers publish as class/hwmon: cumulative energyN_input in microjoules, powerN_input in microwatts. A sensor
 * says what it is only by its driver's name and a label, so that what is not in the table below is listed and not added. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "measure/channel.h"
#include "measure/sysfile.h"

#define MAX_SENSORS 16 /* power1 to power16 */
#define MAX_OF_CORES 320 /* amd_energy has one a core, and the sockets' behind them */

/* What a driver's sensors cover. label: what its label begins with; NULL = any, or none. */
static const struct driver {
    const char *driver, *label, *name;
    enum channel_role role;
    bool gpu;
    const char *note;
} drivers[] = {
    { "amd_energy", "Esocket", "package", CHANNEL_STANDS_IN, false, "" },
    { "amdgpu", NULL, "amdgpu", CHANNEL_ADDS, true, "" },
    { "xe", "card", "xe", CHANNEL_ADDS, true, "" },
    { "i915", NULL, "i915", CHANNEL_ADDS, true, "" },
    { "power_meter", NULL, "machine", CHANNEL_STANDS_IN, false, "the board's own meter of the whole machine" },
};

struct sensor {
    char file[64]; /* "hwmon3/energy1_input" */
};
struct hwmon {
    struct sensor sensors[ENERGY_MAX_DOMAINS]; /* by channel.index */
    int n;
    int numbers[COUNT_OF(drivers)]; /* how many of each there are so far */
};

static bool read_text(const char *below, char *out, size_t size)
{
    char path[FILE_PATH_MAX], text[128];

    if (sysfile_path(path, SYSFILE_SYS, "class/hwmon/%s", below) != 0 || sysfile_read(path, text, sizeof text) <= 0)
        return false;
    channel_word(out, size, text);
    return true;
}

static int read_channel(const struct channel *c, struct channel_reading *out)
{
    const struct hwmon *h = c->own;
    char path[FILE_PATH_MAX];
    int64_t value;
    int status = sysfile_path(path, SYSFILE_SYS, "class/hwmon/%s", h->sensors[c->index].file);

    if (status == 0)
        status = sysfile_read_int(path, &value);
    if (status != 0)
        return status;
    if (c->counter)
        out->uj = value;
    else
        out->power_w = 1e-6 * (double)value;
    return 0;
}

static const struct driver *find_driver(const char *name, const char *label)
{
    for (int i = 0; i < COUNT_OF(drivers); i++)
        if (strcmp(drivers[i].driver, name) == 0 &&
            (!drivers[i].label || strncmp(drivers[i].label, label, strlen(drivers[i].label)) == 0))
            return &drivers[i];
    return NULL;
}

static bool has_amd_gpus(const struct channel_set *set)
{
    for (int i = 0; i < set->n; i++)
        if (set->items[i].source == &amdsmi_source || set->items[i].source == &rocm_source)
            return true;
    return false;
}

static void describe(struct channel *c, const struct driver *d, const struct channel_set *set, bool counter)
{
    c->counter = counter;
    c->update_s = counter ? 0.05 : 0.1;
    c->every_s = counter ? 1 : 0.1;
    c->limit_w = 5 * CHANNEL_LIMIT_W;
    if (!d) {
        c->role = CHANNEL_LISTED;
        snprintf(c->note, sizeof c->note, "it is not known what it supplies");
        return;
    }
    c->role = d->role;
    c->gpu = d->gpu;
    snprintf(c->note, sizeof c->note, "%s", d->note);
    if (strcmp(d->driver, "amdgpu") == 0 && has_amd_gpus(set)) {
        c->role = CHANNEL_LISTED;
        c->gpu = false;
        snprintf(c->note, sizeof c->note, "is the card that AMD's library reads");
    }
}

static void add_sensor(struct channel_set *set, struct hwmon *h, const char *folder, const char *driver,
                       const char *kind, int number, const char *suffix, const char *label)
{
    const struct driver *d = find_driver(driver, label);
    char name[80];

    if (h->n == ENERGY_MAX_DOMAINS)
        return;
    if (d)
        snprintf(name, sizeof name, "%s-%d (hwmon)", d->name, h->numbers[d - drivers]++);
    else
        snprintf(name, sizeof name, "%.20s/%.20s", driver, label[0] ? label : kind);
    struct channel *c = channel_add(set, &hwmon_source, h, name);
    if (!c)
        return;
    c->index = h->n;
    snprintf(h->sensors[h->n++].file, sizeof h->sensors[0].file, "%.20s/%s%d_%s", folder, kind, number, suffix);
    describe(c, d, set, strcmp(kind, "energy") == 0);
    channel_start(c);
    if (c->first_error == ENOENT) { /* a number without such a sensor */
        set->n--;
        h->n--;
        if (d)
            h->numbers[d - drivers]--;
    }
}

static bool exists(const char *folder, const char *kind, int number, const char *suffix)
{
    char path[FILE_PATH_MAX];

    return sysfile_path(path, SYSFILE_SYS, "class/hwmon/%s/%s%d_%s", folder, kind, number, suffix) == 0 &&
           file_exists(path);
}

/* A driver with counters of energy needs no integration of its power. */
static void add_folder(struct channel_set *set, struct hwmon *h, const char *folder)
{
    char below[128], driver[32], label[32];
    bool counts = false;

    snprintf(below, sizeof below, "%.20s/name", folder);
    if (!read_text(below, driver, sizeof driver))
        return;
    const int n = strcmp(driver, "amd_energy") == 0 ? MAX_OF_CORES : MAX_SENSORS;
    for (int kind = 0; kind < 2 && !counts; kind++)
        for (int i = 1; i <= n; i++) {
            const char *word = kind == 0 ? "energy" : "power";
            const char *suffix = exists(folder, word, i, "input") ? "input" : "average"; /* amdgpu has the mean alone */

            if (!exists(folder, word, i, suffix))
                continue;
            snprintf(below, sizeof below, "%.20s/%s%d_label", folder, word, i);
            if (!read_text(below, label, sizeof label))
                label[0] = '\0';
            if (strcmp(driver, "amd_energy") == 0 && strncmp(label, "Esocket", 7) != 0)
                continue; /* a core of the socket, and there may be a hundred */
            add_sensor(set, h, folder, driver, word, i, suffix, label);
            counts = counts || kind == 0;
        }
}

static int is_hwmon(const struct dirent *e)
{
    return strncmp(e->d_name, "hwmon", 5) == 0 && strlen(e->d_name) < 20;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strverscmp((*a)->d_name, (*b)->d_name);
}

static void open_source(struct channel_set *set, const struct energy_options *o, void **own, struct energy_finding *f)
{
    struct dirent **entries = NULL;
    char folder[FILE_PATH_MAX];
    struct err err;
    struct hwmon *h = mem_array(1, 1, sizeof *h, MEM_RECORD, &err);

    (void)o;
    *own = h;
    if (!h)
        snprintf(f->why, sizeof f->why, "%.199s", err.what);
    const int n =
        h && sysfile_path(folder, SYSFILE_SYS, "class/hwmon") == 0 ? scandir(folder, &entries, is_hwmon, by_name) : 0;
    for (int i = 0; i < n; i++) {
        add_folder(set, h, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
}

const struct energy_source hwmon_source = {
    .name = "hwmon", .device = true, .open = open_source, .read = read_channel, .close = mem_free
};
