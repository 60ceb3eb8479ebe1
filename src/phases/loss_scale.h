/* phases/loss_scale.h - the dynamic scale of a loss whose gradients are made in fp16 (Micikevicius et al. 2018,
 * arXiv:1710.03740, section 3.2): as large as it may be without gradients overflowing, so that few of them vanish.
 *
 * The rules are DeepSpeed's (loss_scaler.py): an update whose gradient is not finite is skipped. The first hysteresis - 1 of
 * them since the scale last doubled leave it as it is, in case a single batch was to blame; each one after halves it. window
 * updates in a row without any double it, and hysteresis begins anew. Scales are powers of two times the first, so that they
 * round nothing. */
#ifndef TUNEUP_PHASES_LOSS_SCALE_H
#define TUNEUP_PHASES_LOSS_SCALE_H

#include <stdbool.h>

#include "plan/plan.h"

/* All of it is in a checkpoint. */
struct loss_scale {
    double value; /* 1 without scaling */
    int64_t good; /* updates without an overflow since the last one, or since the scale last doubled */
    int64_t left; /* overflows until it halves */
    int64_t skipped; /* updates, of all */
};

void loss_scale_init(struct loss_scale *s, const struct loss_scaling *o);
/* After each update. -1: it overflowed, and the scale cannot fall further (or there is none): nothing has changed. */
int loss_scale_step(struct loss_scale *s, const struct loss_scaling *o, bool overflow);

#endif
