/* run/build.h - what was asked becomes a plan: the phase's programs, each through model, techniques and gradient; then the
 * optimizer step; then the techniques that rewrite the whole plan. The answer is ready for exec_prepare. */
#ifndef TUNEUP_RUN_BUILD_H
#define TUNEUP_RUN_BUILD_H

#include "phases/phase.h"
#include "plan/plan.h"
#include "store/model_dir.h"
#include "techniques/technique.h"

struct build_model {
    const char *prefix; /* as the phase's programs name it: "", or "actor/" */
    struct opt_shape shape;
    const struct technique_values *techniques;
    int files; /* models with the same number here, not 0, have the same files, and share what does not learn */
    const struct model_dir *stored; /* those files; NULL: not here */
    const struct model_dir *adapter; /* what is taken from there instead, or NULL */
    bool assumed; /* the files are not at hand, and taken to have every tensor in the planned type */
};

#define BUILD_MODELS_MAX 6

struct build {
    const struct phase *phase;
    struct build_model models[BUILD_MODELS_MAX];
    int n_models; /* programs of other models are left out */
    struct extents extents[EXTENTS_N]; /* a rank's; B = 0: programs of these extents are left out */
    int64_t micro_steps;
    int rank, ranks;
    const char *averaged, *average; /* model whose weights get a moving average, and that one's prefix; NULL: none */
    double average_decay;
};

/* The model's shape, with `dropout` in the place of the configuration's unless negative. ERR_INPUT for what the model
 * description asks and this program cannot do. */
int build_shape(const struct hf_config *c, double dropout, struct opt_shape *out, struct err *err);
/* Everything but kernels and offsets. On error *p is empty. */
int build_plan(const struct build *b, struct plan *p, struct err *err);

#endif
