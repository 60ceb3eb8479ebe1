/* plan/predict.h - seconds and joules of a plan on a machine: a roofline for each op (Williams, Waterman, Patterson 2009, doi
 * 10.1145/1498765.1498785), slowed down by how much of it that op reaches there.
 *
 *   seconds(op) = max(flops / peak(type), bytes / bandwidth) / efficiency(op, type, size)
 *                 + overhead, where the efficiency is a class's and no sample's that has it in itself
 *   seconds(collective) = sent / link + messages x latency
 *   joules = static power x seconds + dynamic power x (flops / peak(type) + bytes / bandwidth), at most 1 a second of an op
 *
 * Ops run one after the other, as exec runs them: nothing is hidden behind something else, but for pieces of files: a program takes
 * as long as they do at the disk's speed, if that is longer than its ops. */
#ifndef TUNEUP_PLAN_PREDICT_H
#define TUNEUP_PLAN_PREDICT_H

#include "plan/plan.h"
#include "plan/profile.h"

/* A profile as one rank of several sees it. Borrows the profile's samples. */
struct predictor {
    double flops[PROFILE_TYPES], bandwidth; /* this rank's share */
    double link_bandwidth, link_latency, host_bandwidth, disk_bandwidth;
    double overhead; /* of ops without samples */
    double matmul, attention, other; /* efficiencies without samples */
    double static_power, dynamic_power; /* of one machine */
    int machines, sharing; /* sharing: ranks that share one machine */
    const struct profile *profile;
    struct predict_point {
        double log_flops, log_bytes, log_slowdown;
        int type;
    } * points; /* owned: those samples that were made by as many ranks, or nearly, by op */
    int first[OP_N + 1];
    double fastest[OP_N]; /* of an op's samples, seconds: nothing is predicted below */
};

struct prediction {
    double seconds; /* of which: */
    double communication_s, host_s;
    double joules; /* modelled, of all ranks; */
    double busy_s; /* seconds at full dynamic power, of one rank */
    double flops, bytes_moved, comm_bytes;
};

/* ranks in all, of which local share a machine where the profile's do; threads: how many of the profile's processors each rank uses, 0: its share. ERR_MEMORY. */
int predict_open(struct predictor *m, const struct profile *p, int ranks, int local, int threads, struct err *err);
void predict_close(struct predictor *m);
/* One run of a program. Adds to *out. */
void predict_program(const struct predictor *m, const struct plan *p, int program, const struct plan_extents *x,
                     struct prediction *out);
/* The type by which a step's work is told: bf16 when any operand is; fp16 is multiplied in fp32 (backend/cpu/matmul.h). */
enum profile_type predict_type(const struct plan *p, const struct op_step *s);
/* An optimizer step: every program as often as it runs, at its usual extents. */
struct prediction predict_update(const struct predictor *m, const struct plan *p);

#endif
