/* measure/perf.h - the same RAPL counters through Linux's "power" performance events: readable with CAP_PERFMON, or with
 * perf_event_paranoid at 0 or below, where powercap's files are for root alone. The kernel keeps 64-bit totals, so
 * these do not wrap. Used by energy.c when powercap cannot be read. */
#ifndef TUNEUP_MEASURE_PERF_H
#define TUNEUP_MEASURE_PERF_H

#include <stdbool.h>
#include <stdint.h>

struct perf_counter {
    char name[64]; /* as powercap would call it: "package-0", "package-0/dram" */
    int fd; /* owned */
    double unit_uj; /* microjoules a count */
};
/* Opens energy-pkg and energy-ram of every socket. How many; 0 when there are none; -errno when they may not be opened,
 * and then none is. */
int perf_open(struct perf_counter *out, int max);
int perf_read(const struct perf_counter *c, int64_t *uj); /* 0 or -errno */
void perf_close(struct perf_counter *counters, int n);

#endif
