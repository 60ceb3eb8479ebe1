/* The optimizer step. Parameters of one group lie in one flat buffer, in registration order and without gaps, padded to a
 * multiple of 2 ranks (DeepSpeed's flat order, so shards mean the same there); gradients lie in a flat buffer of the same
 * form. One op then works on a whole group, and a shard is a range. */
#include "plan/plan.h"

#include <stdio.h>
#include <string.h>

#include "graph/optimizer.h"

struct flat {
    int param, grad; /* buffers, -1 = the group has no trainable parameter */
    int64_t count;
};

static const char *const group_names[OPTIMIZER_GROUPS] = { "decay", "lora", "no_decay" };

static int grad_of(const struct plan *p, int param)
{
    char name[192];

    snprintf(name, sizeof name, "grad/%s", p->buffers[param].name);
    return plan_find(p, name);
}

static bool in_group(const struct plan *p, const char *model, int buffer, int group)
{
    const struct buffer *b = &p->buffers[buffer];

    return b->kind == KIND_PARAM && b->group == group && b->parent < 0 && b->persistent && strcmp(b->model, model) == 0;
}

/* Where models of one plan have their gradients of a group, one after the other: as large as the largest wants it. */
static int shared_memory(struct plan *p, const struct buffer *flat, struct err *err)
{
    const char *name = plan_name(p, err, "memory/grads.%s", group_names[flat->group]);
    const int there = name ? plan_find(p, name) : -1;
    const int64_t bytes = shape_count(&flat->shape) * (int64_t)dtype_bytes(flat->dtype), count = (bytes + 3) / 4;
    struct buffer b = *flat;

    if (there >= 0) {
        if (count > p->buffers[there].shape.dim[0])
            p->buffers[there].shape.dim[0] = count;
        return there;
    }
    b.name = name;
    b.dtype = F32;
    b.shape = shape_of(1, count);
    b.model = "";
    return name ? plan_add_buffer(p, &b, err) : -1;
}

/* Makes every trainable parameter of the group a view of f's flat buffers. */
static int gather_group(struct plan *p, const char *model, int group, struct flat *f, struct err *err)
{
    const int n = p->n_buffers;
    enum dtype dtype = F32;

    *f = (struct flat){ -1, -1, 0 };
    for (int i = 0; i < n; i++)
        if (in_group(p, model, i, group) && grad_of(p, i) >= 0) {
            f->count += shape_count(&p->buffers[i].shape);
            dtype = p->buffers[i].dtype;
        }
    if (f->count == 0)
        return 0;
    const int64_t multiple = 2 * (int64_t)p->ranks, padded = (f->count + multiple - 1) / multiple * multiple;
    struct buffer b = { .dtype = dtype,
                        .shape = shape_of(1, padded),
                        .shards = 1,
                        .parent = -1,
                        .group = group,
                        .persistent = true,
                        .program = -1,
                        .by = "update",
                        .model = model };
    b.kind = KIND_PARAM;
    b.name = plan_name(p, err, "flat/%sparams.%s", model, group_names[group]);
    f->param = b.name ? plan_add_buffer(p, &b, err) : -1;
    b.kind = KIND_GRAD;
    b.name = plan_name(p, err, "flat/%sgrads.%s", model, group_names[group]);
    if (f->param < 0 || !b.name)
        return -1;
    if (model[0] && (b.parent = shared_memory(p, &b, err)) < 0)
        return -1;
    f->grad = plan_add_buffer(p, &b, err);
    if (f->grad < 0)
        return -1;
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        const int grad = in_group(p, model, i, group) ? grad_of(p, i) : -1;
        if (grad < 0)
            continue;
        p->buffers[i].parent = f->param;
        p->buffers[grad].parent = f->grad;
        p->buffers[i].parent_begin = p->buffers[grad].parent_begin = at;
        at += shape_count(&p->buffers[i].shape);
    }
    f->count = padded;
    return 0;
}

static int state(struct plan *p, const char *model, const char *what, int group, int64_t count, struct err *err)
{
    const struct buffer b = { .name = plan_name(p, err, "flat/%s%s.%s", model, what, group_names[group]),
                              .kind = KIND_OPTIMIZER,
                              .dtype = F32,
                              .shape = shape_of(1, count),
                              .shards = 1,
                              .parent = -1,
                              .group = group,
                              .persistent = true,
                              .program = -1,
                              .by = "update",
                              .model = model };

    return b.name ? plan_add_buffer(p, &b, err) : -1;
}

static int input(struct plan *p, const char *model, const char *name, int64_t count, struct err *err)
{
    const struct buffer b = { .name = plan_name(p, err, "%s%s", model, name),
                              .kind = KIND_WORKSPACE,
                              .dtype = F64,
                              .shape = shape_of(1, count),
                              .shards = 1,
                              .parent = -1,
                              .group = -1,
                              .persistent = true,
                              .input = true,
                              .program = -1,
                              .by = "update",
                              .model = model };

    return b.name ? plan_add_buffer(p, &b, err) : -1;
}

/* Elements sent at a time: an eighth of what there is, between 64 Ki and 4 Mi. */
static int64_t bucket_of(int64_t count)
{
    const int64_t eighth = count / 8, least = 64 << 10, most = 4 << 20;

    return eighth < least ? least : eighth > most ? most : eighth;
}

static int add_step(struct plan *p, int program, struct op_step s, const struct flat *f, int group, struct err *err)
{
    s.attrs.begin = 0;
    s.attrs.count = f->count;
    s.attrs.bucket = bucket_of(f->count);
    s.attrs.group = group;
    return plan_insert(p, program, p->programs[program].n_steps, &s, err);
}

static int add_adamw(struct plan *p, int program, const struct flat *f, int group, int hyper, struct err *err)
{
    struct op_step s = plan_step(OP_ADAMW, "update");

    s.in[0] = f->grad;
    s.in[1] = hyper;
    s.out[0] = f->param;
    const char *model = p->programs[program].model;
    s.out[1] = state(p, model, "m", group, f->count, err);
    s.out[2] = state(p, model, "v", group, f->count, err);
    if (s.out[1] < 0 || s.out[2] < 0)
        return -1;
    return add_step(p, program, s, f, group, err);
}

/* Program "reduce": gradients become their mean over the ranks, and their sum of squares is known. */
static int build_reduce(struct plan *p, const char *model, const struct flat *flats, int sum, struct err *err)
{
    const int program = plan_add_program(p, model, "reduce", 0, 0, err);
    bool first = true;

    if (program < 0)
        return -1;
    for (int i = 0; i < OPTIMIZER_GROUPS && p->ranks > 1; i++) {
        struct op_step s = plan_step(OP_ALL_REDUCE, "data_parallel");
        s.out[0] = flats[i].grad;
        if (s.out[0] >= 0 && add_step(p, program, s, &flats[i], i, err) != 0)
            return -1;
    }
    for (int i = 0; i < OPTIMIZER_GROUPS; i++) {
        struct op_step s = plan_step(OP_SUMSQ, "update");
        s.in[0] = flats[i].grad;
        s.out[0] = sum;
        s.attrs.accumulate = first ? ACCUMULATE_NO : ACCUMULATE_YES;
        if (s.in[0] < 0)
            continue;
        first = false;
        if (add_step(p, program, s, &flats[i], i, err) != 0)
            return -1;
    }
    return 0;
}

/* Program "update": clipping, then AdamW. Apart from "reduce", so that a gradient that is not finite is seen in time. */
static int build_update(struct plan *p, const char *model, const struct flat *flats, int sum, int hyper,
                        struct err *err)
{
    const int program = plan_add_program(p, model, "update", 0, 0, err);

    if (program < 0)
        return -1;
    for (int i = 0; i < OPTIMIZER_GROUPS; i++) {
        struct op_step s = plan_step(OP_GRAD_SCALE, "update");
        s.in[0] = sum;
        s.in[1] = hyper;
        s.out[0] = flats[i].grad;
        if (s.out[0] >= 0 && add_step(p, program, s, &flats[i], i, err) != 0)
            return -1;
    }
    for (int i = 0; i < OPTIMIZER_GROUPS; i++)
        if (flats[i].grad >= 0 && add_adamw(p, program, &flats[i], i, hyper, err) != 0)
            return -1;
    return 0;
}

int plan_update(struct plan *p, const char *model, struct err *err)
{
    struct flat flats[OPTIMIZER_GROUPS];

    for (int i = 0; i < OPTIMIZER_GROUPS; i++)
        if (gather_group(p, model, i, &flats[i], err) != 0)
            return -1;
    const int hyper = input(p, model, "hyper", HYPER_N, err), sum = input(p, model, "grad_sum", 1, err);
    if (hyper < 0 || sum < 0 || build_reduce(p, model, flats, sum, err) != 0)
        return -1;
    return build_update(p, model, flats, sum, hyper, err);
}

void plan_clip_in_adamw(struct plan *p, const char *model, const char *by)
{
    const int program = plan_find_program(p, model, "update");
    int sum = -1;

    for (int i = 0; program >= 0 && i < p->programs[program].n_steps; i++) {
        struct op_step *s = &p->programs[program].steps[i];
        if (s->op == OP_GRAD_SCALE) {
            sum = s->in[0];
            plan_remove(p, program, i--);
        } else if (s->op == OP_ADAMW && sum >= 0) {
            s->in[2] = sum;
            s->by = by;
        }
    }
}
