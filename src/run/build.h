/* run/build.h - what was asked becomes a plan: the phase's programs, each through model, techniques and gradient; then the
 * optimizer step; then the techniques that rewrite the whole plan. The answer is ready for exec_prepare. */
#ifndef TUNEUP_RUN_BUILD_H
#define TUNEUP_RUN_BUILD_H

#include "phases/phase.h"
#include "plan/plan.h"
#include "store/hf_config.h"
#include "techniques/technique.h"

struct build {
    const struct phase *phase;
    struct opt_shape shape;
    int64_t train_B, eval_B, T; /* rows a rank and ids a row; train_B 0: no training is planned */
    int64_t micro_steps;
    int rank, ranks;
    const struct technique_values *techniques;
};

/* The model's shape, with `dropout` in the place of the configuration's unless negative. ERR_INPUT for what the model
 * description asks and this program cannot do. */
int build_shape(const struct hf_config *c, double dropout, struct opt_shape *out, struct err *err);
/* Everything but kernels and offsets. On error *p is empty. */
int build_plan(const struct build *b, struct plan *p, struct err *err);

#endif
