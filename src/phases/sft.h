/* phases/sft.h - phase 1, supervised fine-tuning: mean cross-entropy of the next id over prompt and answer.
 * Called by run/: open after exec_allocate; then micro steps, with trainer_step after every micro_steps of them. */
#ifndef TUNEUP_PHASES_SFT_H
#define TUNEUP_PHASES_SFT_H

#include "phases/phase.h"
#include "phases/step.h"

struct sft {
    struct step step;
    int32_t *targets;
};

void sft_init(struct sft *s, struct exec *e);
/* Forward and backward of one micro-batch; gradients are added up (phases/step.h). c holds seed and rows; B, T and training
 * are set here. loss: this rank's mean over its targets. */
int sft_micro_step(struct sft *s, const struct batch *b, struct run_context *c, double *loss, struct err *err);
/* Forward alone, without dropout. */
int sft_eval_step(struct sft *s, const struct batch *b, struct run_context *c, double *loss, struct err *err);

#endif
