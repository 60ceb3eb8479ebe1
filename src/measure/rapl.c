/* RAPL through Linux's powercap files. Zones are known by the text in their `name` file: their numbers depend on the order
 * in which drivers were loaded. Packages and dram add up; psys contains the packages, core and uncore are inside them, and
 * the mmio zones are the same counters seen another way. AMD's zones are in the same tree since Linux 5.11. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "measure/channel.h"
#include "measure/sysfile.h"

#define ABSURD_W 10000.0 /* a zone that tells such a limit is not believed */
#define LIMIT_FACTOR 3.0 /* over the zone's own limit, which short bursts pass */

struct rapl {
    struct {
        char name[64]; /* "intel-rapl:0:1" */
    } folders[ENERGY_MAX_DOMAINS]; /* by channel.index */
    int n;
};

static void read_word(const char *zone, const char *file, char *out, size_t size)
{
    char path[FILE_PATH_MAX], text[64];

    out[0] = '\0';
    if (sysfile_path(path, SYSFILE_SYS, "class/powercap/%s/%s", zone, file) == 0 &&
        sysfile_read(path, text, sizeof text) > 0)
        channel_word(out, size, text);
}

static int64_t read_number(const char *zone, const char *file)
{
    char path[FILE_PATH_MAX];
    int64_t value;

    if (sysfile_path(path, SYSFILE_SYS, "class/powercap/%s/%s", zone, file) != 0 || sysfile_read_int(path, &value) != 0)
        return 0;
    return value;
}

static int rapl_read(const struct channel *c, struct channel_reading *out)
{
    const struct rapl *r = c->own;
    char path[FILE_PATH_MAX];
    const int status = sysfile_path(path, SYSFILE_SYS, "class/powercap/%s/energy_uj", r->folders[c->index].name);

    return status != 0 ? status : sysfile_read_int(path, &out->uj);
}

static bool is_mmio(const struct channel *c)
{
    const struct rapl *r = c->own;

    return strncmp(r->folders[c->index].name, "intel-rapl-mmio:", 16) == 0;
}

/* Zones of the tree begin with "intel-rapl", AMD's too. Control types themselves have no number. */
static int is_zone(const struct dirent *e)
{
    return (strncmp(e->d_name, "intel-rapl:", 11) == 0 || strncmp(e->d_name, "intel-rapl-mmio:", 16) == 0) &&
           strlen(e->d_name) < 64;
}

static int by_folder(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* "package-0", or "package-0/dram" for a part of another zone; *own is the last part. */
static void name_zone(const char *folder, char *name, size_t size, char *own, size_t own_size)
{
    char parent[64], above[32] = "";
    const char *colon = strchr(folder, ':');

    read_word(folder, "name", own, own_size);
    snprintf(parent, sizeof parent, "%.63s", folder);
    char *cut = strrchr(parent, ':');
    if (cut && cut - parent > colon - folder) { /* a second number */
        *cut = '\0';
        read_word(parent, "name", above, sizeof above);
    }
    snprintf(name, size, "%s%s%s", above, above[0] ? "/" : "", own);
}

static void list_only(struct channel *c, const char *why)
{
    c->role = CHANNEL_LISTED;
    snprintf(c->note, sizeof c->note, "%s", why);
}

static void add_zone(struct channel_set *set, struct rapl *r, const char *folder)
{
    const double own_w = 1e-6 * (double)read_number(folder, "constraint_0_max_power_uw");
    char name[80], own[32];

    name_zone(folder, name, sizeof name, own, sizeof own);
    struct channel *c = channel_add(set, &rapl_source, r, name);
    if (!c)
        return;
    c->index = r->n;
    c->counter = true;
    snprintf(r->folders[r->n++].name, sizeof r->folders[0].name, "%.63s", folder);
    c->range_uj = read_number(folder, "max_energy_range_uj");
    if (own_w >= 1 && own_w <= ABSURD_W)
        c->limit_w = LIMIT_FACTOR * own_w;
    if (strcmp(own, "psys") == 0)
        list_only(c, "contains the packages");
    else if (strcmp(own, "core") == 0 || strcmp(own, "uncore") == 0)
        list_only(c, "is inside the package");
    else if (strncmp(own, "package-", 8) != 0 && strcmp(own, "dram") != 0)
        list_only(c, "is of an unknown kind");
    channel_start(c);
}

/* MSR and mmio zones of one name are one counter: the MSR one is taken, the mmio one only where that cannot be read. */
static void drop_twins(struct channel_set *set, int first)
{
    for (int i = first; i < set->n; i++)
        for (int k = first; k < set->n; k++) {
            struct channel *mmio = &set->items[i], *msr = &set->items[k];

            if (!is_mmio(mmio) || is_mmio(msr) || strcmp(mmio->name, msr->name) != 0)
                continue;
            if (msr->first_error == 0 && mmio->role != CHANNEL_LISTED)
                list_only(mmio, "is the same counter as the zone read by MSR");
            else if (msr->first_error != 0 && mmio->first_error == 0 && msr->role != CHANNEL_LISTED)
                list_only(msr, "cannot be read; its mmio twin is");
        }
}

static void rapl_open(struct channel_set *set, const struct energy_options *o, void **own, struct energy_finding *f)
{
    struct dirent **entries = NULL;
    char folder[FILE_PATH_MAX];
    struct err ignored;
    struct rapl *r = mem_array(1, 1, sizeof *r, MEM_RECORD, &ignored);
    const int first = set->n;

    (void)o; /* what the processor has is always looked for */
    *own = r;
    if (!r)
        snprintf(f->why, sizeof f->why, "%.199s", ignored.what);
    const int n = r && sysfile_path(folder, SYSFILE_SYS, "class/powercap") == 0
                      ? scandir(folder, &entries, is_zone, by_folder)
                      : 0;
    for (int i = 0; i < n; i++) {
        add_zone(set, r, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    drop_twins(set, first);
}

const struct energy_source rapl_source = { .name = "rapl", .open = rapl_open, .read = rapl_read, .close = mem_free };
