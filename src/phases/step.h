/* phases/step.h - a micro-batch of ids through a program that ends in a loss: what phases 1 and 2 have in common. */
#ifndef TUNEUP_PHASES_STEP_H
#define TUNEUP_PHASES_STEP_H

#include "data/batcher.h"
#include "exec/exec.h"

struct step {
    struct exec *exec; /* borrowed */
    int train, eval; /* programs, -1 = not planned */
    int32_t *ids, *positions, *spans;
    float *norm, *loss; /* NULL when no program has a loss */
    const double *hyper; /* the optimizer's, with the loss's scale; NULL when nothing learns */
};

void step_init(struct step *s, struct exec *e);
/* The address of a named input or output; NULL when no program has it. */
void *step_buffer(const struct exec *e, const char *name);
/* Ids, positions, spans and extents of the batch. */
void step_set(struct step *s, const struct batch *b, struct run_context *c);
/* Runs the program on what is set. The loss is a sum over `count` things, and told as their mean (0 when there are none).
 * While training its gradient is scaled so that it is the loss's scale times the mean after micro_steps micro-batches on all
 * ranks; micro-batches and ranks are averaged without regard to their counts, as DeepSpeed-Chat does. The trainer is open by
 * then. ERR_RUN when the loss is not finite. */
int step_train(struct step *s, int64_t count, struct run_context *c, double *loss, struct err *err);
int step_eval(struct step *s, int64_t count, struct run_context *c, double *loss, struct err *err);

#endif
