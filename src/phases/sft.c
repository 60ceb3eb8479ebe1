/* The loss of a micro-batch is the mean over its own counted targets. */
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

/* ---- as run/ drives it ---- */

static void open_state(void *state, struct exec *e, const void *options, const struct phase_facts *f)
{
    (void)options;
    (void)f;
    sft_init(state, e);
}

static int add_mean(int result, double loss, struct phase_mean *mean)
{
    if (result == 0) {
        mean->sum += loss;
        mean->weight += 1;
    }
    return result;
}

static int micro_step(void *state, const struct batch *b, struct run_context *c, struct phase_mean *means,
                      struct err *err)
{
    double loss = 0;
    const int result = sft_micro_step(state, b, c, &loss, err);

    return add_mean(result, loss, means);
}

static int eval_step(void *state, const struct batch *b, struct run_context *c, struct phase_mean *means,
                     struct err *err)
{
    double loss = 0;
    const int result = sft_eval_step(state, b, c, &loss, err);

    return add_mean(result, loss, means);
}

static int live(const void *options, const struct phase_facts *f, const struct batch *b, int64_t n[2], struct err *err)
{
    (void)options;
    (void)f;
    (void)err;
    n[0] = n[1] = phase_live(b);
    return 0;
}

enum { LOSS, PERPLEXITY };

static void derive(double *metrics)
{
    metrics[PERPLEXITY] = exp(metrics[LOSS]);
}

static const struct phase_metric metrics[] = {
    [LOSS] = { "loss", "loss", TOLD_ALWAYS },
    [PERPLEXITY] = { "perplexity", "perplexity", TOLD_OF_EVALUATIONS },
    { 0 },
};

const struct phase phase_sft = {
    .name = "sft",
    .programs = programs,
    .number = 1,
    .samples = SAMPLE_TEXT,
    .learning_rate = "1e-3",
    .metrics = metrics,
    .n_means = 1,
    .derive = derive,
    .live = live,
    .state_bytes = sizeof(struct sft),
    .open = open_state,
    .micro_step = micro_step,
    .eval_step = eval_step,
};
