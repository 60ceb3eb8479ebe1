/* AMD GPUs through libamd_smi.so (ROCm 6 and newer), by declarations of our own. Its energy accumulator counts in steps of a
 * resolution that it tells beside the count. Structures that changed from release to release are not used, power among
 * them: it follows from the counter. */
#include <errno.h>
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "measure/channel.h"
#include "measure/library.h"

#define INIT_GPUS 2
#define VRAM 0
#define LIMIT_W 5000.0

typedef void *amd_handle;

struct amd_usage {
    uint32_t gfx, memory, media, reserved[13]; /* percent */
};

struct amdsmi {
    void *library;
    int (*init)(uint64_t);
    int (*shutdown)(void);
    int (*sockets)(uint32_t *, amd_handle *);
    int (*processors)(amd_handle, uint32_t *, amd_handle *);
    int (*energy)(amd_handle, uint64_t *, float *, uint64_t *);
    int (*used)(amd_handle, int, uint64_t *);
    int (*total)(amd_handle, int, uint64_t *);
    int (*usage)(amd_handle, struct amd_usage *);
    amd_handle devices[ENERGY_MAX_DOMAINS]; /* by channel.index */
    int n;
    bool initialized;
};

static int64_t memory_of(int (*get)(amd_handle, int, uint64_t *), amd_handle d)
{
    uint64_t bytes;

    return get && get(d, VRAM, &bytes) == 0 && bytes <= INT64_MAX / ENERGY_MAX_DOMAINS ? (int64_t)bytes : -1;
}

static int read_channel(const struct channel *c, struct channel_reading *out)
{
    const struct amdsmi *a = c->own;
    void *d = a->devices[c->index];
    struct amd_usage usage;
    uint64_t count, time;
    float step_uj;

    if (a->energy(d, &count, &step_uj, &time) != 0)
        return -EIO;
    const double uj = (double)count * (double)step_uj;
    if (!(step_uj > 0) || !(uj >= 0 && uj < 9e18))
        return -ERANGE;
    out->uj = (int64_t)uj;
    out->used_bytes = memory_of(a->used, d);
    if (a->usage && a->usage(d, &usage) == 0 && usage.gfx <= 100)
        out->busy = 0.01 * usage.gfx;
    return 0;
}

static int load(struct amdsmi *a, struct energy_finding *f)
{
    const struct library_symbol symbols[] = {
        { .out = &a->init, .names = { "amdsmi_init" }, .needed = true },
        { .out = &a->shutdown, .names = { "amdsmi_shut_down" }, .needed = true },
        { .out = &a->sockets, .names = { "amdsmi_get_socket_handles" }, .needed = true },
        { .out = &a->processors, .names = { "amdsmi_get_processor_handles" }, .needed = true },
        { .out = &a->energy, .names = { "amdsmi_get_energy_count" }, .needed = true },
        { .out = &a->used, .names = { "amdsmi_get_gpu_memory_usage" } },
        { .out = &a->total, .names = { "amdsmi_get_gpu_memory_total" } },
        { .out = &a->usage, .names = { "amdsmi_get_gpu_activity" } },
    };

    a->library = library_open("TUNEUP_AMDSMI", "libamd_smi.so", symbols, COUNT_OF(symbols), f);
    if (!a->library)
        return -1;
    const int status = a->init(INIT_GPUS);
    a->initialized = status == 0;
    if (a->initialized)
        return 0;
    snprintf(f->why, sizeof f->why, "AMD's library cannot start (status %d)", status);
    snprintf(f->hint, sizeof f->hint, "amd-smi has to work first: load amdgpu, and join the groups video and render.");
    return -1;
}

static void find_devices(struct amdsmi *a)
{
    amd_handle sockets[ENERGY_MAX_DOMAINS];
    uint32_t n_sockets = ENERGY_MAX_DOMAINS;

    if (a->sockets(&n_sockets, sockets) != 0)
        return;
    for (uint32_t s = 0; s < n_sockets && s < ENERGY_MAX_DOMAINS; s++) {
        uint32_t n = (uint32_t)(ENERGY_MAX_DOMAINS - a->n);

        if (n > 0 && a->processors(sockets[s], &n, a->devices + a->n) == 0 &&
            n <= (uint32_t)(ENERGY_MAX_DOMAINS - a->n))
            a->n += (int)n;
    }
}

static void open_source(struct channel_set *set, const struct energy_options *o, void **own, struct energy_finding *f)
{
    struct err err;
    struct amdsmi *a = mem_array(1, 1, sizeof *a, MEM_RECORD, &err);

    (void)o;
    *own = a;
    if (!a)
        snprintf(f->why, sizeof f->why, "%.199s", err.what);
    if (!a || load(a, f) != 0)
        return;
    find_devices(a);
    for (int i = 0; i < a->n; i++) {
        char name[24];

        snprintf(name, sizeof name, "amdgpu%d", i);
        struct channel *c = channel_add(set, &amdsmi_source, a, name);
        if (!c)
            return;
        c->index = i;
        c->counter = c->gpu = true;
        c->update_s = 0.01;
        c->every_s = 0.1;
        c->limit_w = LIMIT_W;
        c->memory_bytes = memory_of(a->total, a->devices[i]);
        channel_start(c);
    }
}

static void close_source(void *own)
{
    struct amdsmi *a = own;

    if (a->initialized)
        a->shutdown();
    library_close(a->library);
    mem_free(a);
}

const struct energy_source amdsmi_source = {
    .name = "amdsmi", .device = true, .open = open_source, .read = read_channel, .close = close_source
};
