/* A librocm_smi64.so with one GPU that counts nothing and tells its power. FAKE_AMD names a file that holds microwatts. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int rsmi_init(uint64_t flags);
int rsmi_shut_down(void);
int rsmi_num_monitor_devices(uint32_t *n);
int rsmi_dev_power_ave_get(uint32_t d, uint32_t sensor, uint64_t *uw);

int rsmi_init(uint64_t flags)
{
    return (int)flags;
}

int rsmi_shut_down(void)
{
    return 0;
}

int rsmi_num_monitor_devices(uint32_t *n)
{
    *n = 1;
    return 0;
}

int rsmi_dev_power_ave_get(uint32_t d, uint32_t sensor, uint64_t *uw)
{
    const char *path = getenv("FAKE_AMD");
    FILE *f = path ? fopen(path, "r") : NULL;
    unsigned long long value = 0;
    const int n = f ? fscanf(f, "%llu", &value) : 0;

    if (f)
        fclose(f);
    *uw = value;
    return n == 1 && d == 0 && sensor == 0 ? 0 : 1;
}
