/* AMD GPUs through librocm_smi64.so, for installations that have no libamd_smi.so. As there: an accumulator times its
 * resolution; cards without one tell power, which is integrated. */
#include <errno.h>
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "measure/channel.h"
#include "measure/library.h"

#define VRAM 0
#define LIMIT_W 5000.0

struct rocm {
    void *library;
    int (*init)(uint64_t);
    int (*shutdown)(void);
    int (*count)(uint32_t *);
    int (*energy)(uint32_t, uint64_t *, float *, uint64_t *);
    int (*power)(uint32_t, uint32_t, uint64_t *); /* microwatts */
    int (*used)(uint32_t, int, uint64_t *);
    int (*total)(uint32_t, int, uint64_t *);
    int (*busy)(uint32_t, uint32_t *);
    bool initialized;
};

static int64_t memory_of(int (*get)(uint32_t, int, uint64_t *), uint32_t device)
{
    uint64_t bytes;

    return get && get(device, VRAM, &bytes) == 0 && bytes <= INT64_MAX / ENERGY_MAX_DOMAINS ? (int64_t)bytes : -1;
}

static int read_counter(const struct rocm *r, uint32_t device, int64_t *uj)
{
    uint64_t count, time;
    float step_uj;

    if (!r->energy || r->energy(device, &count, &step_uj, &time) != 0)
        return -EIO;
    const double value = (double)count * (double)step_uj;
    if (!(step_uj > 0) || !(value >= 0 && value < 9e18))
        return -ERANGE;
    *uj = (int64_t)value;
    return 0;
}

static int read_channel(const struct channel *c, struct channel_reading *out)
{
    const struct rocm *r = c->own;
    const uint32_t device = (uint32_t)c->index;
    const int status = c->counter ? read_counter(r, device, &out->uj) : 0;
    uint64_t uw;
    uint32_t percent;

    if (r->power && r->power(device, 0, &uw) == 0)
        out->power_w = 1e-6 * (double)uw;
    out->used_bytes = memory_of(r->used, device);
    if (r->busy && r->busy(device, &percent) == 0 && percent <= 100)
        out->busy = 0.01 * percent;
    return status;
}

static int load(struct rocm *r, struct energy_finding *f)
{
    const struct library_symbol symbols[] = {
        { .out = &r->init, .names = { "rsmi_init" }, .needed = true },
        { .out = &r->shutdown, .names = { "rsmi_shut_down" }, .needed = true },
        { .out = &r->count, .names = { "rsmi_num_monitor_devices" }, .needed = true },
        { .out = &r->energy, .names = { "rsmi_dev_energy_count_get" } },
        { .out = &r->power, .names = { "rsmi_dev_power_ave_get" } },
        { .out = &r->used, .names = { "rsmi_dev_memory_usage_get" } },
        { .out = &r->total, .names = { "rsmi_dev_memory_total_get" } },
        { .out = &r->busy, .names = { "rsmi_dev_busy_percent_get" } },
    };

    r->library = library_open("TUNEUP_ROCM_SMI", "librocm_smi64.so", symbols, COUNT_OF(symbols), f);
    if (!r->library)
        return -1;
    const int status = r->init(0);
    r->initialized = status == 0;
    if (r->initialized)
        return 0;
    snprintf(f->why, sizeof f->why, "ROCm's library cannot start (status %d)", status);
    snprintf(f->hint, sizeof f->hint, "rocm-smi has to work first: load amdgpu, and join the groups video and render.");
    return -1;
}

static void add_device(struct channel_set *set, struct rocm *r, uint32_t i)
{
    char name[24];
    int64_t uj;

    snprintf(name, sizeof name, "amdgpu%u", i);
    struct channel *c = channel_add(set, &rocm_source, r, name);
    if (!c)
        return;
    c->index = (int)i;
    c->gpu = true;
    c->counter = read_counter(r, i, &uj) == 0;
    c->update_s = 0.01;
    c->every_s = 0.1;
    c->limit_w = LIMIT_W;
    c->memory_bytes = memory_of(r->total, i);
    channel_start(c);
}

static void open_source(struct channel_set *set, const struct energy_options *o, void **own, struct energy_finding *f)
{
    uint32_t count = 0;
    struct err err;

    (void)o;
    for (int i = 0; i < set->n; i++)
        if (set->items[i].source == &amdsmi_source)
            return; /* the same cards */
    struct rocm *r = mem_array(1, 1, sizeof *r, MEM_RECORD, &err);
    *own = r;
    if (!r)
        snprintf(f->why, sizeof f->why, "%.199s", err.what);
    if (!r || load(r, f) != 0 || r->count(&count) != 0)
        return;
    for (uint32_t i = 0; i < count && i < ENERGY_MAX_DOMAINS; i++)
        add_device(set, r, i);
}

static void close_source(void *own)
{
    struct rocm *r = own;

    if (r->initialized)
        r->shutdown();
    library_close(r->library);
    mem_free(r);
}

const struct energy_source rocm_source = {
    .name = "rocm", .device = true, .open = open_source, .read = read_channel, .close = close_source
};
