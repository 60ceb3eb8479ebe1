/* What a loss is divided by goes into the program's small input "norm". */
#include "phases/step.h"

#include <math.h>
#include <string.h>

#include "graph/optimizer.h"

void *step_buffer(const struct exec *e, const char *name)
{
    return exec_address(e, plan_find(e->plan, name));
}

void step_init(struct step *s, struct exec *e)
{
    *s = (struct step){
        .exec = e,
        .train = plan_find_program(e->plan, "", "train"),
        .eval = plan_find_program(e->plan, "", "eval"),
        .ids = exec_buffer(e, "ids"),
        .positions = exec_buffer(e, "positions"),
        .spans = exec_buffer(e, "spans"),
        .norm = step_buffer(e, "norm"),
        .loss = step_buffer(e, "loss"),
        .hyper = step_buffer(e, "hyper"),
    };
}

void step_set(struct step *s, const struct batch *b, struct run_context *c)
{
    const size_t n = (size_t)(b->B * b->T) * sizeof(int32_t);

    memcpy(s->ids, b->ids, n);
    memcpy(s->positions, b->positions, n);
    memcpy(s->spans, b->spans, (size_t)(2 * b->B) * sizeof(int32_t));
    c->B = b->B;
    c->T = b->T;
    c->training = false;
}

static int run(struct step *s, int program, const struct run_context *c, double *loss, struct err *err)
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

static void set_norm(struct step *s, int64_t count, double gradient_share)
{
    const double mean = count > 0 ? 1.0 / (double)count : 0;

    s->norm[0] = (float)mean;
    s->norm[1] = (float)(mean * gradient_share);
}

int step_train(struct step *s, int64_t count, struct run_context *c, double *loss, struct err *err)
{
    const struct plan *p = s->exec->plan;

    c->training = true;
    set_norm(s, count, s->hyper[HYPER_LOSS_SCALE] / ((double)p->micro_steps * p->ranks));
    return run(s, s->train, c, loss, err);
}

int step_eval(struct step *s, int64_t count, struct run_context *c, double *loss, struct err *err)
{
    c->training = false;
    set_norm(s, count, 0);
    return run(s, s->eval, c, loss, err);
}
