/* measure/model.h - joules that nothing measured, by a formula that the user asked for: W = idle + (max - idle) x u, where u is
 * the share of the machine's CPUs that was busy with the run. What comes of it is an estimate and says so: an EnergyUp of two
 * such figures tells hardly more than SpeedUp and the CPU time. */
#ifndef TUNEUP_MEASURE_MODEL_H
#define TUNEUP_MEASURE_MODEL_H

#include "measure/job.h"

struct model {
    double idle_w, max_w;
    bool on;
};
/* "none", "tdp:W" (idle is a tenth of it), "idle:W,max:W". ERR_USAGE. */
int model_parse(const char *text, struct model *out, struct err *err);
/* Fills in energy that is unavailable; what was measured stays. n_cpus: of the machine. */
void model_apply(const struct model *m, int n_cpus, struct job_record *r);

#endif
