/* The numbers that change from update to update go into the plan's small tensor "hyper"; the plan does the rest. */
#include "phases/trainer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static double *input(const struct exec *e, const char *model, const char *name)
{
    char whole[64];

    snprintf(whole, sizeof whole, "%s%s", model, name);
    return exec_buffer(e, whole);
}

static const struct loss_scaling *scaling(const struct trainer *t)
{
    return &t->exec->plan->programs[t->update].loss_scaling;
}

bool trainer_scales(const struct trainer *t)
{
    return scaling(t)->initial > 0;
}

void trainer_init(struct trainer *t, struct exec *e, const char *model, const struct trainer_options *o)
{
    *t = (struct trainer){
        .options = *o,
        .model = model,
        .exec = e,
        .reduce = plan_find_program(e->plan, model, "reduce"),
        .update = plan_find_program(e->plan, model, "update"),
        .hyper = input(e, model, "hyper"),
        .grad_sum = input(e, model, "grad_sum"),
        .group = -1,
    };
    for (int g = 0; g < OPTIMIZER_GROUPS; g++)
        t->rates[g] = o->learning_rate;
    for (int i = 0; i < e->plan->programs[t->update].n_steps; i++) {
        const struct op_step *s = &e->plan->programs[t->update].steps[i];
        if (s->op != OP_ADAMW && s->op != OP_ADAMW8)
            continue;
        if (s->attrs.rate > 0)
            t->rates[s->attrs.group] = s->attrs.rate;
        t->group = t->group < 0 ? s->attrs.group : t->group;
    }
    loss_scale_init(&t->scale, scaling(t));
    t->hyper[HYPER_LOSS_SCALE] = t->scale.value;
}

void trainer_resume(struct trainer *t, int64_t n_updates, const struct loss_scale *scale)
{
    t->n_updates = n_updates;
    t->scale = *scale;
    t->hyper[HYPER_LOSS_SCALE] = scale->value;
}

static double set_hyper(struct trainer *t)
{
    const struct trainer_options *o = &t->options;
    const double n = (double)(t->n_updates + 1);

    for (int g = 0; g < OPTIMIZER_GROUPS; g++) {
        t->hyper[HYPER_LR + g] =
            t->rates[g] * schedule_factor(o->schedule, t->n_updates, o->warmup, o->total, t->rates[g]);
        t->hyper[HYPER_DECAY + g] = g == GROUP_NO_DECAY ? 0 : o->weight_decay;
    }
    t->hyper[HYPER_BETA1] = o->beta1;
    t->hyper[HYPER_BETA2] = o->beta2;
    t->hyper[HYPER_EPSILON] = o->epsilon;
    t->hyper[HYPER_CORRECTION1] = 1 - pow(o->beta1, n);
    t->hyper[HYPER_CORRECTION2] = 1 - pow(o->beta2, n);
    t->hyper[HYPER_CLIP] = o->clip;
    return t->hyper[HYPER_LR + t->group];
}

bool trainer_finite(const struct exec *e, int buffer)
{
    const struct buffer *b = &e->plan->buffers[buffer];
    int64_t first, n;
    const void *x = exec_held(e, buffer, &first, &n);

    return trainer_finite_values(x, b->dtype, n);
}

bool trainer_finite_values(const void *x, enum dtype dtype, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float v = dtype == F32 ? ((const float *)x)[i] : half_to_f32(((const uint16_t *)x)[i], dtype);
        if (!isfinite(v))
            return false;
    }
    return true;
}

/* The first gradient of the model that is not finite in what this rank holds; -1 = none. */
static int find_not_finite(const struct trainer *t)
{
    for (int i = 0; i < t->exec->plan->n_buffers; i++) {
        const struct buffer *b = &t->exec->plan->buffers[i];
        if (b->kind == KIND_GRAD && b->persistent && strncmp(b->name, "grad/", 5) == 0 &&
            strcmp(b->model, t->model) == 0 && !trainer_finite(t->exec, i))
            return i;
    }
    return -1;
}

/* Every rank knows the norm, but with gradients in shards only one of them may have the culprit. */
static int agree_on_first(const struct trainer *t, int own, struct err *err)
{
    struct comm *comm = t->exec->comm;
    double *first = mem_array(comm->ranks, 1, sizeof *first, MEM_OTHER, err);
    int found = -1;

    if (!first)
        return -2;
    for (int r = 0; r < comm->ranks; r++)
        first[r] = r == comm->rank ? own : 0;
    if (comm->all_reduce(comm, first, comm->ranks, F64, err) != 0)
        found = -2;
    for (int r = 0; r < comm->ranks && found != -2; r++)
        if (first[r] >= 0 && (found < 0 || first[r] < found))
            found = (int)first[r];
    mem_free(first);
    return found;
}

static int not_finite(const struct trainer *t, struct err *err)
{
    const int first = agree_on_first(t, find_not_finite(t), err);
    const char *name =
        first < 0 ? "of the whole model (each tensor alone is finite)" : t->exec->plan->buffers[first].name;

    if (first == -2)
        return -1;
    err_set(err, ERR_RUN, "the gradient is not finite: \"%s\"", name);
    err_where(err, "update %" PRId64, t->n_updates + t->scale.skipped + 1);
    if (trainer_scales(t))
        return err_hint(err,
                        "The loss scale is %.10g already, its --min_loss_scale: training has diverged. Lower "
                        "--learning_rate, or use --dtype bf16; the last checkpoint is kept.",
                        t->scale.value);
    return err_hint(err,
                    "Lower --learning_rate, add --num_warmup_steps, or use --dtype fp32; the last checkpoint is kept.");
}

int trainer_step(struct trainer *t, const struct run_context *c, double *grad_norm, double *rate, struct err *err)
{
    if (exec_run(t->exec, t->reduce, c, err) != 0)
        return -1;
    *grad_norm = sqrt(*t->grad_sum) / t->scale.value;
    *rate = set_hyper(t);
    const bool overflow = !isfinite(*grad_norm);
    if (!overflow &&
        exec_run(t->exec, t->update, c, err) != 0) /* which undoes the scale that the gradients were made with */
        return -1;
    if (loss_scale_step(&t->scale, scaling(t), overflow) != 0)
        return not_finite(t, err);
    t->hyper[HYPER_LOSS_SCALE] = t->scale.value;
    t->n_updates += !overflow;
    return 0;
}
