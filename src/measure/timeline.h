/* measure/timeline.h - memory and power of a run over time, in at most TIMELINE_MAX points however long it takes: a full line
 * is halved, two neighbours becoming one, and from then on points are taken half as often. Filled by job.c. */
#ifndef TUNEUP_MEASURE_TIMELINE_H
#define TUNEUP_MEASURE_TIMELINE_H

#include <stdint.h>

#define TIMELINE_MAX 128
#define TIMELINE_FIRST_S 0.2 /* between the first points */

struct timeline_point {
    double seconds; /* its end, since the start of the run; it begins where the one before ends */
    int64_t memory_bytes; /* highest reading of the host's memory, as job_record.peak_bytes; -1 = none */
    int64_t gpu_bytes; /* in use beyond the start, all devices; -1 */
    double watts; /* mean; NAN */
};
struct timeline {
    double every_s; /* 0: TIMELINE_FIRST_S, as of a zeroed one */
    int n;
    struct timeline_point points[TIMELINE_MAX];
};
double timeline_every(const struct timeline *t); /* seconds until the next point is due */
void timeline_add(struct timeline *t, const struct timeline_point *p);

#endif
