/* The exponential moving average of a model's weights: one op a flat buffer, over what this rank holds of it. It is
 * fp32 whatever the weights are, since a hundredth of an update is less than bf16 can tell. */
#include "plan/plan.h"

#include <string.h>

/* A buffer of the average's, in the place of one of the model's. */
static int twin(struct plan *p, int of, const char *model, const char *into, int parent, struct err *err)
{
    struct buffer b = p->buffers[of];
    const bool flat = parent < 0;
    const char *stem = b.name + strlen(model) + (flat ? strlen("flat/") : 0);

    b.name = plan_name(p, err, "%s%s%s", flat ? "flat/" : "", into, stem);
    b.dtype = F32;
    b.parent = parent;
    b.model = into;
    b.by = "average";
    return b.name ? plan_add_buffer(p, &b, err) : -1;
}

static int average_flat(struct plan *p, int program, int flat, const char *model, const char *into, double decay,
                        struct err *err)
{
    const int n = p->n_buffers, average = twin(p, flat, model, into, -1, err);
    struct op_step s = plan_step(OP_EMA, "average");

    if (average < 0)
        return -1;
    for (int i = 0; i < n; i++)
        if (p->buffers[i].parent == flat && strncmp(p->buffers[i].name, "flat/", 5) != 0 &&
            twin(p, i, model, into, average, err) < 0)
            return -1;
    s.in[0] = flat;
    s.out[0] = average;
    s.attrs.p = (float)decay;
    s.attrs.count = shape_count(&p->buffers[flat].shape) / p->buffers[flat].shards;
    return plan_insert(p, program, p->programs[program].n_steps, &s, err);
}

int plan_average(struct plan *p, const char *model, const char *into, double decay, struct err *err)
{
    const int n = p->n_buffers, program = plan_add_program(p, into, "update", 0, 0, err);

    if (program < 0)
        return -1;
    for (int i = 0; i < n; i++) {
        const struct buffer *b = &p->buffers[i];
        const bool flat = b->kind == KIND_PARAM && b->parent < 0 && strncmp(b->name, "flat/", 5) == 0;
        if (flat && strcmp(b->model, model) == 0 && average_flat(p, program, i, model, into, decay, err) != 0)
            return -1;
    }
    return 0;
}
