/* measure/machine.h - what this machine is and how much memory a run may take: for records, reports, tuneup doctor, and
 * for refusing runs that cannot fit. Read from /proc and cgroup files, so flags are those the kernel lets programs use. */
#ifndef TUNEUP_MEASURE_MACHINE_H
#define TUNEUP_MEASURE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"

struct machine {
    char cpu[128]; /* model name; empty when the kernel does not tell */
    int n_cpus; /* that this process may use: affinity included */
    int n_cores; /* physical cores behind all online CPUs; 0 = unknown */
    bool virtual_machine;
    bool avx2, avx512, avx512_bf16, avx512_vnni, amx_bf16, amx_int8;
    int64_t memory_bytes; /* -1 = unknown, as for the next two */
    int64_t available_bytes; /* free, or freed by the kernel when asked for */
    int64_t cgroup_bytes; /* smallest limit of this process's cgroup and those above it; INT64_MAX = none */
    int64_t address_bytes; /* RLIMIT_AS; INT64_MAX = none */
    char kernel[128]; /* "Linux 6.1.0-18-amd64 x86_64" */
    char host[64];
};

void machine_read(struct machine *out); /* cannot fail: what cannot be read is empty, 0 or -1 */
bool machine_is_virtual(void); /* the hypervisor flag of the CPU */
/* Unknown members are null. NULL when there is no memory; release with json_decref. */
json_t *machine_json(const struct machine *m);
/* Bytes that a new run can count on: the smallest of what is available, what is left of each cgroup limit, and
 * RLIMIT_AS. INT64_MAX when nothing tells a limit. */
int64_t machine_memory_limit(void);

/* Load of the machine, for the record of a run. */
struct machine_load {
    double load1; /* processes wanting to run, one-minute mean; NAN = unknown */
    double steal_s; /* CPU seconds since boot that the hypervisor gave to others; NAN = unknown */
};
void machine_load_read(struct machine_load *out);

#endif
