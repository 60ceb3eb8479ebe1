/* measure/noise.h - what disturbed a measurement: CPU that the hypervisor or a cgroup limit took away, processors that
 * throttled themselves, pages that came back from swap. Kept beside every run of a study, so that a reader can refuse it by
 * its cause; no run is dropped for being slow. All of it is of the whole machine, but for the cgroup's own. */
#ifndef TUNEUP_MEASURE_NOISE_H
#define TUNEUP_MEASURE_NOISE_H

#include <stdint.h>

/* Counters since boot; of noise_between what happened in between. NAN and -1: the kernel does not tell. */
struct noise {
    double steal_s; /* CPU seconds given to other virtual machines */
    double cgroup_wait_s; /* seconds that this cgroup's CPU limit held it back */
    int64_t throttles; /* times that a core or package was too hot or drew too much */
    int64_t swapped_in; /* pages */
};

void noise_read(struct noise *out); /* about 20 us a CPU */
struct noise noise_between(const struct noise *before, const struct noise *after);

#endif
