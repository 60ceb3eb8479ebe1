/* plan/profile.h - what a machine can do: the figures that turn a plan's costs into seconds and joules.
 *
 * Published machines are a table (machines.c), each figure with the data sheet it is from; this one is measured by
 * `tuneup doctor --profile` (run/calibrate.c) and kept as a JSON file, which is read as anything from outside is. How much of a
 * peak an op reaches is an efficiency: one a class of ops where nobody measured, and samples of each op at several sizes
 * where somebody did. */
#ifndef TUNEUP_PLAN_PROFILE_H
#define TUNEUP_PLAN_PROFILE_H

#include "base/json.h"
#include "graph/op.h"

enum profile_type { PROFILE_FP32, PROFILE_BF16, PROFILE_INT8, PROFILE_TYPES };

enum profile_figure {
    PROFILE_FP32_FLOPS, /* of matrix products, by type: as PROFILE_FP32_FLOPS + type */
    PROFILE_BF16_FLOPS,
    PROFILE_INT8_FLOPS,
    PROFILE_BANDWIDTH, /* bytes a second between memory and processor */
    PROFILE_MEMORY, /* bytes */
    PROFILE_LINK_BANDWIDTH, /* bytes a second that a rank sends to its neighbour on the same node */
    PROFILE_LINK_LATENCY, /* seconds of one message there */
    PROFILE_NODE_RANKS, /* ranks on a node */
    PROFILE_NETWORK_BANDWIDTH, /* the same between nodes, a rank's share */
    PROFILE_NETWORK_LATENCY,
    PROFILE_DISK_BANDWIDTH, /* bytes a second of files that do not fit into memory */
    PROFILE_STATIC_POWER, /* watts that flow whatever is computed */
    PROFILE_DYNAMIC_POWER, /* watts more at the peaks */
    PROFILE_OP_OVERHEAD, /* seconds that each op takes beside its work */
    PROFILE_HOST_BANDWIDTH, /* bytes a second at which the host reads what programs give back, as in sampling */
    PROFILE_MATMUL_EFFICIENCY, /* share of the roofline that ops without samples reach: products with weights, */
    PROFILE_ATTENTION_EFFICIENCY, /* attention, */
    PROFILE_OTHER_EFFICIENCY, /* all else */
    PROFILE_FIGURES
};

struct profile_value {
    double value;
    char source[144]; /* "NVIDIA H100 data sheet", "measured", "assumed: ..." */
};

/* One op at one size. */
struct profile_sample {
    int op; /* enum op */
    int type; /* enum profile_type */
    int ranks; /* that shared the machine and did the same at the same time */
    double flops, bytes, seconds;
    int threads; /* of each of them; 0: its part of the processors */
};
#define PROFILE_MAX_SAMPLES 4096

struct profile {
    char name[64]; /* "h100-sxm"; "local" */
    char describe[160];
    char cpu[128]; /* of the machine that was measured; "" for published ones */
    int64_t cpus, memory_gib; /* likewise; 0 */
    int64_t threads; /* that reached the peaks; 0: as many as cpus */
    bool shared; /* all ranks share this machine; else each has one of its own */
    struct profile_value figures[PROFILE_FIGURES];
    struct profile_sample *samples; /* owned unless NULL */
    int n_samples;
};

/* machines.c: name "" at the end. */
extern const struct profile profile_machines[];
const struct profile *profile_find(const char *name); /* a published machine, or NULL */

/* A file that profile_save wrote. ERR_INPUT names the key that is missing, of another type, or out of range. On error *p is
 * empty. */
int profile_load(struct profile *p, const char *path, struct err *err);
int profile_save(const struct profile *p, const char *path, struct err *err);
void profile_free(struct profile *p);
/* Every figure is there, in range, and says where it is from. ERR_INPUT. name is for messages. */
int profile_check(const struct profile *p, const char *name, struct err *err);
const char *profile_figure_name(enum profile_figure f); /* "fp32_flops": the key in files */
const char *profile_type_name(enum profile_type t); /* "fp32" */

#endif
