/* graph/optimizer.h - the numbers that change from update to update, handed to a plan as one small fp64 tensor.
 *
 * AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, decay times the learning rate), in fp32 on the master
 * copy:  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
 *        p = p - lr ( (m / c1) / (sqrt(v / c2) + eps) + decay p ),   c1 = 1 - b1^t, c2 = 1 - b2^t, t from 1.
 * g is the stored gradient times the clipping factor 1 / (scale max(1, (norm + 1e-6) / limit)), norm = sqrt(sum) / scale: with
 * scale the one that the loss had when the gradients were made (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2). */
#ifndef TUNEUP_GRAPH_OPTIMIZER_H
#define TUNEUP_GRAPH_OPTIMIZER_H

#include <math.h>

enum optimizer_group { GROUP_DECAY, GROUP_LORA, GROUP_NO_DECAY, OPTIMIZER_GROUPS };

enum hyper {
    HYPER_LR, /* one a group */
    HYPER_DECAY = HYPER_LR + OPTIMIZER_GROUPS, /* one a group */
    HYPER_BETA1 = HYPER_DECAY + OPTIMIZER_GROUPS,
    HYPER_BETA2,
    HYPER_EPSILON,
    HYPER_CORRECTION1, /* 1 - beta1^t */
    HYPER_CORRECTION2,
    HYPER_CLIP, /* limit of the norm; 0 = no clipping */
    HYPER_LOSS_SCALE, /* 1 = none: what losses are multiplied by before their gradients are made */
    HYPER_N,
};

static inline double optimizer_clip_factor(double sum, const double *hyper)
{
    const double limit = hyper[HYPER_CLIP], scale = hyper[HYPER_LOSS_SCALE];
    const double over = limit > 0 ? (sqrt(sum) / scale + 1e-6) / limit : 0;

    return (over > 1 ? 1 / over : 1) / scale;
}

#endif
