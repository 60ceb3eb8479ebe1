/* A libamd_smi.so with one GPU. FAKE_AMD names a file that holds "COUNT RESOLUTION USED BUSY". */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fake(double *out)
{
    const char *path = getenv("FAKE_AMD");
    FILE *f = path ? fopen(path, "r") : NULL;
    const int n = f ? fscanf(f, "%lf %lf %lf %lf", &out[0], &out[1], &out[2], &out[3]) : 0;

    if (f)
        fclose(f);
    return n == 4 ? 0 : 1;
}

int amdsmi_init(uint64_t flags);
int amdsmi_shut_down(void);
int amdsmi_get_socket_handles(uint32_t *n, void **out);
int amdsmi_get_processor_handles(void *socket, uint32_t *n, void **out);
int amdsmi_get_energy_count(void *d, uint64_t *count, float *step, uint64_t *time);
int amdsmi_get_gpu_memory_usage(void *d, int type, uint64_t *out);
int amdsmi_get_gpu_memory_total(void *d, int type, uint64_t *out);
int amdsmi_get_gpu_activity(void *d, uint32_t *out);

int amdsmi_init(uint64_t flags)
{
    return flags == 2 ? 0 : 1;
}

int amdsmi_shut_down(void)
{
    return 0;
}

int amdsmi_get_socket_handles(uint32_t *n, void **out)
{
    *n = 1;
    out[0] = (void *)(intptr_t)1;
    return 0;
}

int amdsmi_get_processor_handles(void *socket, uint32_t *n, void **out)
{
    *n = 1;
    out[0] = socket;
    return 0;
}

int amdsmi_get_energy_count(void *d, uint64_t *count, float *step, uint64_t *time)
{
    double v[4];
    const int status = fake(v);

    (void)d;
    *time = 0;
    if (status == 0) {
        *count = (uint64_t)v[0];
        *step = (float)v[1];
    }
    return status;
}

int amdsmi_get_gpu_memory_usage(void *d, int type, uint64_t *out)
{
    double v[4];
    const int status = fake(v);

    (void)d;
    *out = status == 0 ? (uint64_t)v[2] : 0;
    return status + type;
}

int amdsmi_get_gpu_memory_total(void *d, int type, uint64_t *out)
{
    (void)d;
    *out = (uint64_t)1 << 36;
    return type;
}

int amdsmi_get_gpu_activity(void *d, uint32_t *out)
{
    double v[4];
    const int status = fake(v);

    (void)d;
    memset(out, 0, 16 * sizeof *out);
    out[0] = status == 0 ? (uint32_t)v[3] : 0;
    return status;
}
