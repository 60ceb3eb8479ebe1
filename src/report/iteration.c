/* The rest is what the parts leave of a step: it is computed, so that the parts always add up to the whole. */
#include "report/iteration.h"

#include <math.h>

#define ROUNDING 1e-6

const char *const iteration_metrics[ITERATION_REST] = { "generate_seconds", "score_seconds", "train_seconds" };
const char *const iteration_names[ITERATION_N] = { "generation", "scoring", "training", "rest" };

/* Adds the seconds of an iteration of one run; false where a part is unknown. */
static bool add_run(const struct load_run *r, double seconds[ITERATION_N])
{
    const double n = (double)(r->n_steps - (r->warmup_steps > 0 ? r->warmup_steps : 0));
    double part[ITERATION_N], sum = 0;

    for (int i = 0; i < ITERATION_REST; i++) {
        part[i] = load_metric_steady(r, iteration_metrics[i]) / n;
        sum += part[i];
    }
    part[ITERATION_REST] = r->steady_s / n - sum;
    if (part[ITERATION_REST] < ROUNDING * sum)
        part[ITERATION_REST] = 0;
    if (isnan(sum) || isnan(r->steady_s))
        return false;
    for (int i = 0; i < ITERATION_N; i++)
        seconds[i] += part[i];
    return true;
}

bool iteration_parts(const struct loaded *l, int cell, double seconds[ITERATION_N])
{
    int n = 0;

    for (int i = 0; i < ITERATION_N; i++)
        seconds[i] = 0;
    for (int i = 0; i < l->n_runs; i++)
        if (l->runs[i].cell == cell && l->runs[i].block >= 0 && l->runs[i].done && add_run(&l->runs[i], seconds))
            n++;
    for (int i = 0; i < ITERATION_N; i++)
        seconds[i] /= n;
    return n > 0;
}
