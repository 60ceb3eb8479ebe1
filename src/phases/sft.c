/* The loss of a micro-batch is the mean over its own counted targets; micro-batches and ranks are averaged without regard to
 * how many targets each has, as DeepSpeed-Chat does. */
#include "phases/sft.h"

#include <math.h>
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
    *s = (struct sft){
        .exec = e,
        .train = plan_find_program(e->plan, "", "train"),
        .eval = plan_find_program(e->plan, "", "eval"),
        .ids = exec_buffer(e, "ids"),
        .positions = exec_buffer(e, "positions"),
        .targets = exec_buffer(e, "targets"),
        .spans = exec_buffer(e, "spans"),
        .norm = exec_buffer(e, "norm"),
        .loss = exec_buffer(e, "loss"),
    };
}

static void set_inputs(struct sft *s, const struct batch *b, double gradient_share)
{
    const size_t n = (size_t)(b->B * b->T) * sizeof(int32_t);
    const double mean = b->n_targets > 0 ? 1.0 / (double)b->n_targets : 0;

    memcpy(s->ids, b->ids, n);
    memcpy(s->positions, b->positions, n);
    memcpy(s->targets, b->targets, n);
    memcpy(s->spans, b->spans, (size_t)(2 * b->B) * sizeof(int32_t));
    s->norm[0] = (float)mean;
    s->norm[1] = (float)(mean * gradient_share);
}

static int run(struct sft *s, int program, struct run_context *c, double *loss, struct err *err)
{
    if (exec_run(s->exec, program, c, err) != 0)
        return -1;
    *loss = (double)s->loss[0];
    if (isfinite(*loss))
        return 0;
    err_set(err, ERR_RUN, "the loss is %g", *loss);
    return err_hint(err,
                    "Lower --learning_rate, add --num_warmup_steps, or use --dtype fp32; the last checkpoint is kept.");
}

int sft_micro_step(struct sft *s, const struct batch *b, struct run_context *c, double *loss, struct err *err)
{
    const struct plan *p = s->exec->plan;

    set_inputs(s, b, 1.0 / ((double)p->micro_steps * p->ranks));
    c->B = b->B;
    c->T = b->T;
    c->training = true;
    return run(s, s->train, c, loss, err);
}

int sft_eval_step(struct sft *s, const struct batch *b, struct run_context *c, double *loss, struct err *err)
{
    set_inputs(s, b, 0);
    c->B = b->B;
    c->T = b->T;
    c->training = false;
    return run(s, s->eval, c, loss, err);
}
