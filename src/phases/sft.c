/* The loss of a micro-batch is the mean over its own counted targets. */
#include "phases/sft.h"

#include <string.h>

static int add_loss(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    return head_lm_loss(g, o, opt_trunk(g, o, x));
}

static const struct phase_program programs[] = {
    { "", "train", true, EXTENTS_TRAIN, add_loss },
    { "", "eval", false, EXTENTS_EVAL, add_loss },
    { 0 },
};

const struct phase phase_sft = { "sft", programs };

void sft_init(struct sft *s, struct exec *e)
{
    *s = (struct sft){ .targets = exec_buffer(e, "targets") };
    step_init(&s->step, e);
}

static void set_inputs(struct sft *s, const struct batch *b, struct run_context *c)
{
    step_set(&s->step, b, c);
    memcpy(s->targets, b->targets, (size_t)(b->B * b->T) * sizeof *s->targets);
}

int sft_micro_step(struct sft *s, const struct batch *b, struct run_context *c, double *loss, struct err *err)
{
    set_inputs(s, b, c);
    return step_train(&s->step, b->n_targets, c, loss, err);
}

int sft_eval_step(struct sft *s, const struct batch *b, struct run_context *c, double *loss, struct err *err)
{
    set_inputs(s, b, c);
    return step_eval(&s->step, b->n_targets, c, loss, err);
}
