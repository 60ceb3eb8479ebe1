/* phases/trainer.h - one optimizer step, the same in every phase: reduce, look at the norm, set the rates, update. */
#ifndef TUNEUP_PHASES_TRAINER_H
#define TUNEUP_PHASES_TRAINER_H

#include "exec/exec.h"
#include "graph/optimizer.h"
#include "phases/schedule.h"

struct trainer_options {
    double learning_rate, weight_decay, beta1, beta2, epsilon, clip;
    enum schedule schedule;
    int64_t warmup, total; /* updates */
};

struct trainer {
    struct trainer_options options;
    const char *model; /* prefix: "", or "actor/" */
    struct exec *exec; /* borrowed */
    int reduce, update;
    double rates[OPTIMIZER_GROUPS]; /* the highest of each group */
    int group; /* whose rate is told: the first that learns */
    double *hyper, *grad_sum;
    int64_t n_updates; /* done so far: all the state there is beside the plan's buffers */
};

/* Of one model of the plan. */
void trainer_init(struct trainer *t, struct exec *e, const char *model, const struct trainer_options *o);
/* Gradients of all micro-batches are there. Returns the norm before clipping and the rate that was used. ERR_RUN, before any
 * weight is touched, when a gradient is not finite: it names the tensor. */
int trainer_step(struct trainer *t, const struct run_context *c, double *grad_norm, double *rate, struct err *err);
/* No NaN and no infinity in a buffer of fp32 or bf16. */
bool trainer_finite(const struct exec *e, int buffer);
bool trainer_finite_values(const void *x, enum dtype dtype, int64_t n);

#endif
