/* NVIDIA GPUs through the driver's libnvidia-ml.so.1, by declarations of our own: the few functions used here have kept their
 * form, and where one has been replaced the newest name is tried first. Volta and newer count millijoules; older cards and
 * many virtual ones tell power only, which is then integrated. The counter moves every 20 to 100 ms, and on A100 and H100
 * the sensor behind it looks a quarter of the time (arXiv:2312.02741), hence long windows and a wandering pace. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "measure/channel.h"
#include "measure/library.h"

#define UPDATE_S 0.1
#define LIMIT_W 5000.0 /* of a board; a superchip's module draws 2700 */
#define FIELD_POWER_INSTANT 186
#define UNKNOWN_BYTES UINT64_MAX /* NVML_VALUE_NOT_AVAILABLE */
#define MIG_ENABLED 1

enum { NVML_SUCCESS = 0, NVML_NOT_SUPPORTED = 3, NVML_NO_PERMISSION = 4, NVML_NO_DRIVER = 9, NVML_GPU_LOST = 15 };

typedef struct nvml_device *device_handle;

struct nvml_memory {
    uint64_t total, free, used;
};
struct nvml_memory_v2 {
    uint32_t version;
    uint64_t total, reserved, free, used;
};
struct nvml_busy {
    uint32_t gpu, memory;
};
struct nvml_process { /* of _v2 and _v3 */
    uint32_t pid;
    uint64_t used_bytes;
    uint32_t gpu_instance, compute_instance;
};
struct nvml_field {
    uint32_t id, scope;
    int64_t timestamp, latency_us;
    int32_t type, status;
    union {
        double d;
        uint32_t u;
        uint64_t ull;
    } value;
};

struct nvml {
    void *library;
    int (*init)(void);
    int (*shutdown)(void);
    int (*count)(uint32_t *);
    int (*handle)(uint32_t, device_handle *);
    int (*handle_by_uuid)(const char *, device_handle *);
    int (*mig_parent)(device_handle, device_handle *);
    int (*uuid)(device_handle, char *, uint32_t);
    int (*name)(device_handle, char *, uint32_t);
    int (*energy)(device_handle, unsigned long long *);
    int (*power)(device_handle, uint32_t *);
    int (*fields)(device_handle, int, struct nvml_field *);
    int (*memory)(device_handle, struct nvml_memory *);
    int (*memory_v2)(device_handle, struct nvml_memory_v2 *);
    int (*busy)(device_handle, struct nvml_busy *);
    int (*processes)(device_handle, uint32_t *, struct nvml_process *);
    int (*mig)(device_handle, uint32_t *, uint32_t *);
    device_handle devices[ENERGY_MAX_DOMAINS]; /* by channel.index */
    char uuids[ENERGY_MAX_DOMAINS][96], names[ENERGY_MAX_DOMAINS][64];
    int n;
    bool initialized;
};

static int as_errno(int status)
{
    return status == NVML_NOT_SUPPORTED   ? -ENOTSUP
           : status == NVML_NO_PERMISSION ? -EPERM
           : status == NVML_GPU_LOST      ? -ENODEV
                                          : -EIO;
}

/* ---- readings ---- */

/* What it draws now, rather than the mean of a second that the older call gives since Ampere. */
static double power_now(const struct nvml *n, device_handle d)
{
    struct nvml_field f = { .id = FIELD_POWER_INSTANT };
    uint32_t mw;

    if (n->fields && n->fields(d, 1, &f) == NVML_SUCCESS && f.status == NVML_SUCCESS && f.value.u > 0)
        return 1e-3 * f.value.u;
    return n->power && n->power(d, &mw) == NVML_SUCCESS ? 1e-3 * mw : NAN;
}

static int64_t to_bytes(uint64_t value)
{
    return value <= (uint64_t)INT64_MAX / ENERGY_MAX_DOMAINS ? (int64_t)value : -1; /* sums over devices fit */
}

/* What the driver keeps for itself is in no run's need; the older call counts it as used. */
static int64_t memory_used(const struct nvml *n, device_handle d, int64_t *total)
{
    struct nvml_memory_v2 m2 = { .version = (uint32_t)sizeof m2 | 2u << 24 };
    struct nvml_memory m1;

    if (n->memory_v2 && n->memory_v2(d, &m2) == NVML_SUCCESS) {
        *total = to_bytes(m2.total);
        return to_bytes(m2.used);
    }
    if (!n->memory || n->memory(d, &m1) != NVML_SUCCESS)
        return -1;
    *total = to_bytes(m1.total);
    return to_bytes(m1.used);
}

static int read_channel(const struct channel *c, struct channel_reading *out)
{
    const struct nvml *n = c->own;
    struct nvml_device *d = n->devices[c->index];
    unsigned long long mj;
    struct nvml_busy busy;
    int64_t total;

    if (c->counter) {
        const int status = n->energy(d, &mj);
        if (status != NVML_SUCCESS)
            return as_errno(status);
        if (mj > INT64_MAX / 1000)
            return -ERANGE;
        out->uj = (int64_t)mj * 1000;
    }
    out->power_w = power_now(n, d);
    out->used_bytes = memory_used(n, d, &total);
    if (n->busy && n->busy(d, &busy) == NVML_SUCCESS)
        out->busy = 0.01 * busy.gpu;
    return 0;
}

static int read_processes(const struct channel *c, struct channel_process *out, int max)
{
    const struct nvml *n = c->own;
    struct nvml_process found[256];
    uint32_t count = COUNT_OF(found);

    if (!n->processes)
        return -ENOTSUP;
    const int status = n->processes(n->devices[c->index], &count, found);
    if (status != NVML_SUCCESS)
        return as_errno(status);
    const int n_found = count > (uint32_t)max ? max : (int)count;
    for (int i = 0; i < n_found && i < COUNT_OF(found); i++)
        out[i] =
            (struct channel_process){ .pid = (pid_t)found[i].pid,
                                      .bytes =
                                          found[i].used_bytes == UNKNOWN_BYTES ? -1 : to_bytes(found[i].used_bytes) };
    return n_found < COUNT_OF(found) ? n_found : COUNT_OF(found);
}

/* ---- which devices the command sees ---- */

static bool all_alike(const struct nvml *n)
{
    for (int i = 1; i < n->n; i++)
        if (strcmp(n->names[i], n->names[0]) != 0)
            return false;
    return true;
}

/* One word of CUDA_VISIBLE_DEVICES: the device's index, -1 = unknown. Numbers are in the driver's order only when the user
 * says so, or when the devices are all alike. */
static int find_device(const struct nvml *n, const char *word)
{
    const char *order = getenv("CUDA_DEVICE_ORDER");
    device_handle d;
    char *end;

    if (strncmp(word, "MIG-GPU-", 8) == 0)
        word += 4; /* the older spelling: MIG-GPU-uuid/instance/instance */
    if (strncmp(word, "GPU-", 4) == 0) {
        const size_t length = strcspn(word, "/");

        for (int i = 0; i < n->n; i++)
            if (strncmp(n->uuids[i], word, length) == 0)
                return i;
        return -1;
    }
    if (strncmp(word, "MIG-", 4) == 0) {
        if (!n->handle_by_uuid || !n->mig_parent || n->handle_by_uuid(word, &d) != NVML_SUCCESS ||
            n->mig_parent(d, &d) != NVML_SUCCESS)
            return -1;
        for (int i = 0; i < n->n; i++)
            if (n->devices[i] == d)
                return i;
        return -1;
    }
    const long index = strtol(word, &end, 10);
    if (end == word || *end || index < 0 || index >= n->n ||
        !((order && strcmp(order, "PCI_BUS_ID") == 0) || all_alike(n)))
        return -1;
    return (int)index;
}

/* false: it cannot be told which, so that all of them count. */
static bool find_visible(const struct nvml *n, bool *visible, struct energy_finding *f)
{
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    char text[1024], *save = NULL;

    if (!list)
        return false;
    snprintf(text, sizeof text, "%s", list);
    memset(visible, 0, ENERGY_MAX_DOMAINS * sizeof *visible);
    for (char *word = strtok_r(text, ", ", &save); word; word = strtok_r(NULL, ", ", &save)) {
        const int i = find_device(n, word);

        if (i < 0) {
            snprintf(f->why, sizeof f->why,
                     "all GPUs count: CUDA_VISIBLE_DEVICES does not tell which the command sees (\"%.40s\")", word);
            snprintf(f->hint, sizeof f->hint,
                     "Give UUIDs (nvidia-smi -L), or set CUDA_DEVICE_ORDER=PCI_BUS_ID beside the numbers.");
            return false;
        }
        visible[i] = true;
    }
    return true;
}

/* ---- opening ---- */

static int load(struct nvml *n, struct energy_finding *f)
{
    const struct library_symbol symbols[] = {
        { .out = &n->init, .names = { "nvmlInit_v2", "nvmlInit" }, .needed = true },
        { .out = &n->shutdown, .names = { "nvmlShutdown" }, .needed = true },
        { .out = &n->count, .names = { "nvmlDeviceGetCount_v2", "nvmlDeviceGetCount" }, .needed = true },
        { .out = &n->handle,
          .names = { "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex" },
          .needed = true },
        { .out = &n->handle_by_uuid, .names = { "nvmlDeviceGetHandleByUUID" } },
        { .out = &n->mig_parent, .names = { "nvmlDeviceGetDeviceHandleFromMigDeviceHandle" } },
        { .out = &n->uuid, .names = { "nvmlDeviceGetUUID" } },
        { .out = &n->name, .names = { "nvmlDeviceGetName" } },
        { .out = &n->energy, .names = { "nvmlDeviceGetTotalEnergyConsumption" } },
        { .out = &n->power, .names = { "nvmlDeviceGetPowerUsage" } },
        { .out = &n->fields, .names = { "nvmlDeviceGetFieldValues" } },
        { .out = &n->memory, .names = { "nvmlDeviceGetMemoryInfo" } },
        { .out = &n->memory_v2, .names = { "nvmlDeviceGetMemoryInfo_v2" } },
        { .out = &n->busy, .names = { "nvmlDeviceGetUtilizationRates" } },
        { .out = &n->processes,
          .names = { "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2" } },
        { .out = &n->mig, .names = { "nvmlDeviceGetMigMode" } },
    };

    n->library = library_open("TUNEUP_NVML", "libnvidia-ml.so.1", symbols, COUNT_OF(symbols), f);
    if (!n->library)
        return -1;
    const int status = n->init();
    n->initialized = status == NVML_SUCCESS;
    if (n->initialized)
        return 0;
    snprintf(f->why, sizeof f->why, "NVIDIA's library cannot start: %s (status %d)",
             status == NVML_NO_DRIVER       ? "the driver is not loaded"
             : status == NVML_NO_PERMISSION ? "no permission"
                                            : "it refuses",
             status);
    snprintf(f->hint, sizeof f->hint,
             "nvidia-smi has to work first: load the driver, or in a container start with --gpus all "
             "(NVIDIA_DRIVER_CAPABILITIES must have \"utility\").");
    return -1;
}

static void find_devices(struct nvml *n)
{
    uint32_t count = 0;

    if (n->count(&count) != NVML_SUCCESS)
        return;
    for (uint32_t i = 0; i < count && n->n < ENERGY_MAX_DOMAINS; i++) {
        if (n->handle(i, &n->devices[n->n]) != NVML_SUCCESS)
            continue;
        if (!n->uuid || n->uuid(n->devices[n->n], n->uuids[n->n], sizeof n->uuids[0]) != NVML_SUCCESS)
            n->uuids[n->n][0] = '\0';
        if (!n->name || n->name(n->devices[n->n], n->names[n->n], sizeof n->names[0]) != NVML_SUCCESS)
            n->names[n->n][0] = '\0';
        n->uuids[n->n][sizeof n->uuids[0] - 1] = n->names[n->n][sizeof n->names[0] - 1] = '\0';
        n->n++;
    }
}

/* What to know about a device's number, beside the number. */
static void note_device(const struct nvml *n, struct channel *c)
{
    uint32_t now = 0, pending;
    char model[64];

    channel_word(model, sizeof model, n->names[c->index]);
    if (n->mig && n->mig(n->devices[c->index], &now, &pending) == NVML_SUCCESS && now == MIG_ENABLED)
        snprintf(c->note, sizeof c->note, "%s, cut by MIG: the whole card's, shared by all its instances", model);
    else if (strstr(model, "GH200") || strstr(model, "GB200"))
        snprintf(c->note, sizeof c->note, "%s: the whole module's, its processor included", model);
    else
        snprintf(c->note, sizeof c->note, "%s", model);
}

static void add_device(struct channel_set *set, struct nvml *n, int i, bool visible)
{
    unsigned long long mj;
    char name[16];

    snprintf(name, sizeof name, "gpu%d", i);
    struct channel *c = channel_add(set, &nvml_source, n, name);
    if (!c)
        return;
    c->index = i;
    c->gpu = visible;
    c->update_s = UPDATE_S;
    c->every_s = 0.1;
    c->limit_w = LIMIT_W;
    c->counter = n->energy && n->energy(n->devices[i], &mj) == NVML_SUCCESS;
    memory_used(n, n->devices[i], &c->memory_bytes);
    note_device(n, c);
    if (!visible) {
        c->role = CHANNEL_LISTED;
        snprintf(c->note, sizeof c->note, "is hidden from the command by CUDA_VISIBLE_DEVICES");
    }
    channel_start(c);
}

static void open_source(struct channel_set *set, const struct energy_options *o, void **own, struct energy_finding *f)
{
    struct err err;
    struct nvml *n = mem_array(1, 1, sizeof *n, MEM_RECORD, &err);
    bool visible[ENERGY_MAX_DOMAINS];

    (void)o;
    *own = n;
    if (!n)
        snprintf(f->why, sizeof f->why, "%.199s", err.what);
    if (!n || load(n, f) != 0)
        return;
    find_devices(n);
    if (n->n == 0)
        snprintf(f->why, sizeof f->why, "NVIDIA's library is there and lists no GPU");
    const bool told = find_visible(n, visible, f);
    for (int i = 0; i < n->n; i++)
        add_device(set, n, i, !told || visible[i]);
}

static void close_source(void *own)
{
    struct nvml *n = own;

    if (n->initialized)
        n->shutdown();
    library_close(n->library);
    mem_free(n);
}

const struct energy_source nvml_source = { .name = "nvml",
                                           .device = true,
                                           .open = open_source,
                                           .read = read_channel,
                                           .processes = read_processes,
                                           .close = close_source };
