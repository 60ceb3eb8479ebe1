/* A libnvidia-ml.so.1 whose GPUs are what a text file says, read anew at each call: the tests' players write it. Lines:
 *   init STATUS | count N | GPU KEY VALUE
 * with the keys energy (mJ; absent: not supported), power (mW), instant (mW), total, used, reserved (bytes), busy (percent),
 * status (of all calls), mig, name, uuid, process (PID:BYTES, as often as wanted). FAKE_NVML names the file. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3 };

static bool find(const char *want, int gpu, const char *key, int nth, char *value, size_t size)
{
    const char *path = getenv("FAKE_NVML");
    FILE *f = path ? fopen(path, "r") : NULL;
    char line[256];
    bool found = false;

    while (f && !found && fgets(line, sizeof line, f)) {
        char word[32], rest[160];
        int index;

        line[strcspn(line, "\n")] = '\0';
        if (want ? sscanf(line, "%31s %159[^\n]", word, rest) == 2 && strcmp(word, want) == 0
                 : sscanf(line, "%d %31s %159[^\n]", &index, word, rest) == 3 && index == gpu &&
                       strcmp(word, key) == 0 && nth-- == 0) {
            found = strlen(rest) < size;
            if (found)
                memcpy(value, rest, strlen(rest) + 1);
        }
    }
    if (f)
        fclose(f);
    return found;
}

static bool number(int gpu, const char *key, uint64_t *out)
{
    char text[64];

    if (!find(NULL, gpu, key, 0, text, sizeof text))
        return false;
    *out = strtoull(text, NULL, 10);
    return true;
}

/* Devices are their numbers plus one, as pointers. */
static int gpu_of(void *device)
{
    return (int)(intptr_t)device - 1;
}

static int value_of(void *device, const char *key, uint64_t *out)
{
    uint64_t status = 0;

    if (number(gpu_of(device), "status", &status) && status != OK)
        return (int)status;
    return number(gpu_of(device), key, out) ? OK : NOT_SUPPORTED;
}

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetCount_v2(uint32_t *n);
int nvmlDeviceGetHandleByIndex_v2(uint32_t i, void **out);
int nvmlDeviceGetUUID(void *d, char *out, uint32_t size);
int nvmlDeviceGetName(void *d, char *out, uint32_t size);
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *out);
int nvmlDeviceGetPowerUsage(void *d, uint32_t *out);
int nvmlDeviceGetUtilizationRates(void *d, uint32_t *out);
int nvmlDeviceGetMemoryInfo(void *d, uint64_t *out);
int nvmlDeviceGetMigMode(void *d, uint32_t *now, uint32_t *pending);

int nvmlInit_v2(void)
{
    char text[32];

    return find("init", 0, NULL, 0, text, sizeof text) ? atoi(text) : OK;
}

int nvmlShutdown(void)
{
    return OK;
}

int nvmlDeviceGetCount_v2(uint32_t *n)
{
    char text[32];

    *n = find("count", 0, NULL, 0, text, sizeof text) ? (uint32_t)atoi(text) : 0;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(uint32_t i, void **out)
{
    *out = (void *)((intptr_t)i + 1);
    return OK;
}

int nvmlDeviceGetUUID(void *d, char *out, uint32_t size)
{
    return find(NULL, gpu_of(d), "uuid", 0, out, size) ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetName(void *d, char *out, uint32_t size)
{
    return find(NULL, gpu_of(d), "name", 0, out, size) ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *out)
{
    uint64_t mj = 0;
    const int status = value_of(d, "energy", &mj);

    *out = mj;
    return status;
}

int nvmlDeviceGetPowerUsage(void *d, uint32_t *out)
{
    uint64_t mw = 0;
    const int status = value_of(d, "power", &mw);

    *out = (uint32_t)mw;
    return status;
}

int nvmlDeviceGetUtilizationRates(void *d, uint32_t *out)
{
    uint64_t percent = 0;
    const int status = value_of(d, "busy", &percent);

    out[0] = (uint32_t)percent;
    out[1] = 0;
    return status;
}

int nvmlDeviceGetMemoryInfo(void *d, uint64_t *out) /* total, free, used; used has what is reserved in it */
{
    uint64_t total = 0, used = 0, reserved = 0;
    const int status = value_of(d, "used", &used);

    number(gpu_of(d), "total", &total);
    number(gpu_of(d), "reserved", &reserved);
    out[0] = total;
    out[1] = total - used - reserved;
    out[2] = used + reserved;
    return status;
}

int nvmlDeviceGetMigMode(void *d, uint32_t *now, uint32_t *pending)
{
    uint64_t mode = 0;
    const int status = value_of(d, "mig", &mode);

    *now = *pending = (uint32_t)mode;
    return status;
}

#ifndef STUB_NVML_OLD /* what drivers of 2017 did not have */
struct memory_v2 {
    uint32_t version;
    uint64_t total, reserved, free, used;
};
struct process {
    uint32_t pid;
    uint64_t bytes;
    uint32_t gi, ci;
};
struct field {
    uint32_t id, scope;
    int64_t timestamp, latency;
    int32_t type, status;
    uint64_t value;
};
int nvmlDeviceGetMemoryInfo_v2(void *d, struct memory_v2 *out);
int nvmlDeviceGetFieldValues(void *d, int n, struct field *fields);
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, uint32_t *n, struct process *out);

int nvmlDeviceGetMemoryInfo_v2(void *d, struct memory_v2 *out)
{
    uint64_t used = 0;

    if (out->version != ((uint32_t)sizeof *out | 2u << 24))
        return INVALID;
    const int status = value_of(d, "used", &used);
    out->used = used;
    number(gpu_of(d), "total", &out->total);
    number(gpu_of(d), "reserved", &out->reserved);
    return status;
}

int nvmlDeviceGetFieldValues(void *d, int n, struct field *fields)
{
    for (int i = 0; i < n; i++)
        fields[i].status = fields[i].id == 186 ? value_of(d, "instant", &fields[i].value) : NOT_SUPPORTED;
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *d, uint32_t *n, struct process *out)
{
    const uint32_t max = *n;
    char text[64];

    for (*n = 0; *n < max && find(NULL, gpu_of(d), "process", (int)*n, text, sizeof text); ++*n) {
        const char *colon = strchr(text, ':');

        out[*n] = (struct process){ .pid = (uint32_t)atoi(text), .bytes = colon ? strtoull(colon + 1, NULL, 10) : 0 };
    }
    return OK;
}
#endif
