/* phases/trainer.h - one optimizer step, the same in every phase: reduce, look at the norm, set the rates, update. */
#ifndef TUNEUP_PHASES_TRAINER_H
#define TUNEUP_PHASES_TRAINER_H

#include "exec/exec.h"
#include "graph/optimizer.h"
#include "phases/loss_scale.h"
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
    /* All the state there is beside the plan's buffers: */
    int64_t n_updates; /* done so far, skipped ones not counted */
    struct loss_scale scale;
};

/* Of one model of the plan. */
void trainer_init(struct trainer *t, struct exec *e, const char *model, const struct trainer_options *o);
bool trainer_scales(const struct trainer *t); /* the loss of its model, as that is learnt in fp16 */
/* A checkpoint's: the next update goes on from there. */
void trainer_resume(struct trainer *t, int64_t n_updates, const struct loss_scale *scale);
/* Gradients of all micro-batches are there. Returns the norm before clipping, at scale 1, and the rate that was used. Where the
 * loss has a scale and a gradient is not finite, all ranks alike touch nothing but the scale, and the norm is not finite; the
 * schedule does not move on. ERR_RUN, before any weight is touched, when a gradient is not finite and no scale can help: it
 * names the tensor. */
int trainer_step(struct trainer *t, const struct run_context *c, double *grad_norm, double *rate, struct err *err);
/* No NaN and no infinity in a buffer of a working type. */
bool trainer_finite(const struct exec *e, int buffer);
bool trainer_finite_values(const void *x, enum dtype dtype, int64_t n);

#endif
