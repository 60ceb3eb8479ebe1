/* The exponential moving average of a model's weights: one op a flat buffer, over what this rank holds of it. It is
 * fp32 whatever the weights are, since a hundredth of an update is less than bf16 can tell. */
#include "plan/plan.h"

#include <string.h>

static bool is_flat(const struct buffer *b)
{
    return strncmp(b->name, "flat/", 5) == 0;
}

/* A buffer of the average's, in the place of one of the model's: a view of `parent`, from element `begin` on, or with memory of
 * its own. */
static int twin(struct plan *p, int of, const char *model, const char *into, int parent, int64_t begin,
                enum dtype dtype, struct err *err)
{
    struct buffer b = p->buffers[of];
    const char *outer = is_flat(&b) ? "flat/" : "";

    b.name = plan_name(p, err, "%s%s%s", outer, into, b.name + strlen(outer) + strlen(model));
    b.dtype = dtype;
    b.parent = parent;
    b.parent_begin = begin;
    b.model = into;
    b.by = "average";
    return b.name ? plan_add_buffer(p, &b, err) : -1;
}

/* The average's buffer in the place of a flat one, and those of its tensors; returns the first. */
static int twin_flat(struct plan *p, int flat, const char *model, const char *into, int parent, enum dtype dtype,
                     struct err *err)
{
    const int n = p->n_buffers, made = twin(p, flat, model, into, parent, 0, dtype, err);

    for (int i = 0; i < n && made >= 0; i++)
        if (p->buffers[i].parent == flat && !is_flat(&p->buffers[i]) &&
            twin(p, i, model, into, made, p->buffers[i].parent_begin, dtype, err) < 0)
            return -1;
    return made;
}

static int average_flat(struct plan *p, int program, int flat, const char *model, const char *into, double decay,
                        struct err *err)
{
    const int average = twin_flat(p, flat, model, into, -1, F32, err);
    struct op_step s = plan_step(OP_EMA, "average");

    if (average < 0)
        return -1;
    s.in[0] = flat;
    s.out[0] = average;
    s.attrs.p = (float)decay;
    s.attrs.count = shape_count(&p->buffers[flat].shape) / p->buffers[flat].shards;
    return plan_insert(p, program, p->programs[program].n_steps, &s, err);
}

/* What does not learn is its own average: views of it. */
static int add_one(struct plan *p, int program, int i, const char *model, const char *into, double decay,
                   struct err *err)
{
    const enum dtype dtype = p->buffers[i].dtype;

    if (!is_flat(&p->buffers[i]))
        return twin(p, i, model, into, i, 0, dtype, err) < 0 ? -1 : 0;
    if (p->buffers[i].group < 0)
        return twin_flat(p, i, model, into, i, dtype, err) < 0 ? -1 : 0;
    return average_flat(p, program, i, model, into, decay, err);
}

int plan_average(struct plan *p, const char *model, const char *into, double decay, struct err *err)
{
    const int n = p->n_buffers, program = plan_add_program(p, into, "update", 0, 0, err);

    if (program < 0)
        return -1;
    for (int i = 0; i < n; i++) {
        const struct buffer *b = &p->buffers[i];
        const bool own = b->kind == KIND_PARAM && b->parent < 0 && b->persistent && !b->derived;
        if (own && strcmp(b->model, model) == 0 && add_one(p, program, i, model, into, decay, err) != 0)
            return -1;
    }
    return 0;
}
