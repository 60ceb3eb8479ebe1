/* tests/measure/machine_fixture.h - a machine of the test's own: its counters are files, its clock is turned by the test. */
#ifndef TUNEUP_TESTS_MEASURE_MACHINE_FIXTURE_H
#define TUNEUP_TESTS_MEASURE_MACHINE_FIXTURE_H

#include <stdatomic.h>

#include "fixture.h"
#include "measure/clock.h"
#include "measure/energy.h"

static _Atomic double fake_s;

static inline double fake_now(void)
{
    return atomic_load(&fake_s);
}

static inline void pass(double seconds)
{
    atomic_store(&fake_s, atomic_load(&fake_s) + seconds);
}

/* Bare unless `flags` has "hypervisor". */
static inline struct fixture machine_new(const char *flags)
{
    const struct fixture f = fixture_new();
    char text[128];

    snprintf(text, sizeof text, "processor\t: 0\nmodel name\t: Test\nflags\t\t: fpu %s\n", flags);
    fixture_write(&f, "proc/cpuinfo", text);
    char proc[128];
    snprintf(proc, sizeof proc, "%s/proc", f.root);
    setenv("TUNEUP_PROC_ROOT", proc, 1);
    setenv("TUNEUP_SYSFS_ROOT", f.root, 1);
    setenv("TUNEUP_DEV_ROOT", f.root, 1);
    setenv("TUNEUP_NVML", "none", 1);
    setenv("TUNEUP_AMDSMI", "none", 1);
    setenv("TUNEUP_ROCM_SMI", "none", 1);
    unsetenv("CUDA_VISIBLE_DEVICES");
    unsetenv("CUDA_DEVICE_ORDER");
    atomic_store(&fake_s, 1000);
    clock_fake(fake_now);
    return f;
}

static inline void machine_free(const struct fixture *f)
{
    static const char *const names[] = { "TUNEUP_PROC_ROOT", "TUNEUP_SYSFS_ROOT", "TUNEUP_DEV_ROOT",
                                         "TUNEUP_NVML",      "TUNEUP_AMDSMI",     "TUNEUP_ROCM_SMI" };

    clock_fake(NULL);
    for (int i = 0; i < COUNT_OF(names); i++)
        unsetenv(names[i]);
    fixture_free(f);
}

/* Points `variable` at a library that the tests build; skips where the tests were started without it. */
static inline void use_stub(const char *variable, const char *stub)
{
    const char *folder = getenv("TUNEUP_STUBS");
    char path[512];

    snprintf(path, sizeof path, "%s/lib%s.so", folder ? folder : "", stub);
    if (!folder || access(path, R_OK) != 0)
        skip();
    setenv(variable, path, 1);
}

static inline struct energy_meter *start_all(const char *wall)
{
    const struct energy_options o = { .devices = true, .wall = wall };
    struct energy_meter *m = NULL;
    struct err err = { 0 };

    if (energy_open(&m, &o, &err) != 0)
        fail_msg("energy_open: %s", err.what);
    return m;
}

static inline struct energy_result read_now(struct energy_meter *m)
{
    struct energy_result r;

    energy_read(m, &r);
    return r;
}

static inline const struct energy_domain *domain(const struct energy_result *r, const char *name, int nth)
{
    for (int i = 0; i < r->n_domains; i++)
        if (strcmp(r->domains[i].name, name) == 0 && nth-- == 0)
            return &r->domains[i];
    fail_msg("no domain %s", name);
    return &r->domains[0];
}

static inline const struct energy_finding *finding(const struct energy_result *r, const char *source)
{
    for (int i = 0; i < r->n_findings; i++)
        if (strcmp(r->findings[i].source, source) == 0)
            return &r->findings[i];
    fail_msg("no source %s", source);
    return &r->findings[0];
}

#endif
