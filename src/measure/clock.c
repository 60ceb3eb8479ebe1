/* The monotonic clock does not jump when somebody sets the time, and stands still while the machine is suspended. */
#include "measure/clock.h"

#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

typedef double (*clock_function)(void);

static _Atomic(clock_function) fake, fake_suspended;

static double read_clock(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double clock_seconds(void)
{
    const clock_function f = atomic_load(&fake);

    return f ? f() : read_clock(CLOCK_MONOTONIC);
}

double clock_thread_cpu_seconds(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

double clock_suspended_seconds(void)
{
    const clock_function f = atomic_load(&fake_suspended);

    return f ? f() : read_clock(CLOCK_BOOTTIME) - read_clock(CLOCK_MONOTONIC);
}

void clock_fake_suspended(double (*now)(void))
{
    atomic_store(&fake_suspended, now);
}

void clock_fake(double (*now)(void))
{
    atomic_store(&fake, now);
}
