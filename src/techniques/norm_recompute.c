/* The outputs of norms are made again for the backward pass from the sums they normalized, which are kept anyway: two tensors
 * a layer fewer, for one pass over memory each. The cheapest case of selective recomputation (Korthikanti et al. 2022,
 * arXiv:2205.05198). A norm reads the sum as it was stored, so what is made again has the same bits. */
#include "techniques/technique.h"

#include <string.h>

struct norm_recompute_options {
    bool on;
};

static const struct option options[] = {
    { .name = "recompute_norms",
      .type = OPTION_FLAG,
      .offset = offsetof(struct norm_recompute_options, on),
      .fallback = "true",
      .help = "make norms' outputs again in the backward pass rather than keep them" },
    { 0 },
};

static bool is_on(const void *o)
{
    return ((const struct norm_recompute_options *)o)->on;
}

static int reader(const struct program *g, int buffer, enum pass pass)
{
    for (int i = 0; i < g->n_steps; i++)
        if (g->steps[i].pass == pass && plan_step_reads(&g->steps[i], buffer))
            return i;
    return -1;
}

/* The step that makes the output of forward step s again, but for its outputs. */
static struct op_step norm_again(const struct op_step *s, int *output)
{
    struct op_step again = plan_step(OP_LAYERNORM, "norm_recompute");
    const bool fused = s->op == OP_ADD_NORM;

    again.pass = PASS_BACKWARD;
    again.in[0] = fused ? s->out[0] : s->in[0];
    again.in[1] = fused ? s->in[2] : s->in[1];
    again.in[2] = fused ? s->in[3] : s->in[2];
    *output = fused ? s->out[1] : s->out[0];
    return again;
}

static int make_again(struct plan *p, int program, int norm, struct err *err)
{
    struct program *g = &p->programs[program];
    const int stats = g->steps[norm].op == OP_ADD_NORM ? g->steps[norm].out[2] : g->steps[norm].out[1];
    int y;
    struct op_step again = norm_again(&g->steps[norm], &y);
    const int at = reader(g, y, PASS_BACKWARD);

    /* Where a whole layer is made again, its input must be there: the output of the norm before it stays. */
    if (at < 0 || strcmp(g->steps[at].by, "recompute") == 0)
        return 0;
    again.layer = g->steps[at].layer;
    again.out[0] = plan_add_like(p, y, "again", "norm_recompute", err);
    again.out[1] = plan_add_like(p, stats, "again", "norm_recompute", err);
    if (again.out[0] < 0 || again.out[1] < 0 || plan_insert(p, program, at, &again, err) != 0)
        return -1;
    for (int i = at + 1; i < g->n_steps; i++)
        for (int k = 0; k < OP_MAX_IN; k++)
            if (g->steps[i].in[k] == y)
                g->steps[i].in[k] = again.out[0];
    return 0;
}

static int on_plan(const void *o, struct plan *p, const char *model, struct err *err)
{
    (void)o;
    for (int g = 0; g < p->n_programs; g++)
        for (int i = 0; plan_trains(p, g, model) && i < p->programs[g].n_steps; i++) {
            const struct op_step *s = &p->programs[g].steps[i];
            if (s->pass == PASS_FORWARD && (s->op == OP_ADD_NORM || s->op == OP_LAYERNORM) &&
                make_again(p, g, i, err) != 0)
                return -1;
        }
    return 0;
}

const struct technique technique_norm_recompute = {
    .name = "norm_recompute",
    .summary = "Recomputed norms",
    .paper = "Korthikanti et al. 2022, arXiv:2205.05198",
    .exact = true,
    .options = options,
    .options_size = sizeof(struct norm_recompute_options),
    .is_on = is_on,
    .on_plan = on_plan,
};
