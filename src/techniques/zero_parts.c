/* Which tensors belong together, and the flat buffers that they lie in. plan/update.c has made one flat buffer a group; here
 * it becomes one a part, and each step on it (sums of squares, clipping, AdamW, reduction) becomes one a part as well: m, v
 * and master with it. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "graph/optimizer.h"
#include "techniques/zero.h"

/* What is mapped is on every machine already, and in no rank's memory. */
static bool is_tensor(const struct plan *p, int buffer, const char *model)
{
    const struct buffer *b = &p->buffers[buffer];

    return plan_is_tensor(b, model) && b->tier != TIER_MAPPED;
}

static int grad_of(const struct plan *p, int param)
{
    char name[192];

    snprintf(name, sizeof name, "grad/%s", p->buffers[param].name);
    return plan_find(p, name);
}

/* The layer of the first forward step that reads each buffer. */
static void find_layers(const struct plan *p, int *layer_of)
{
    for (int i = 0; i < p->n_buffers; i++)
        layer_of[i] = -2; /* not met yet */
    for (int g = 0; g < p->n_programs; g++)
        for (int i = 0; i < p->programs[g].n_steps; i++) {
            const struct op_step *s = &p->programs[g].steps[i];
            for (int k = 0; k < OP_MAX_IN; k++)
                if (s->pass == PASS_FORWARD && s->in[k] >= 0 && layer_of[s->in[k]] == -2)
                    layer_of[s->in[k]] = s->layer;
        }
}

/* Finds the part that a tensor joins, or begins one. */
static int join(struct zero_parts *parts, const struct zero_part *like)
{
    for (int i = 0; i < parts->n; i++) {
        const struct zero_part *q = &parts->list[i];
        if (q->group == like->group && q->small == like->small &&
            (q->small || (q->layer >= 0 && q->layer == like->layer)))
            return i;
    }
    parts->list[parts->n] = *like;
    return parts->n++;
}

static void assign(struct zero_parts *parts, struct plan *p, int tensor, int part)
{
    const int64_t count = shape_count(&p->buffers[tensor].shape);
    const int grad = parts->list[part].group >= 0 ? grad_of(p, tensor) : -1;

    parts->of[tensor] = part;
    p->buffers[tensor].parent_begin = parts->list[part].count;
    if (grad >= 0) {
        parts->of[grad] = part;
        p->buffers[grad].parent_begin = parts->list[part].count;
    }
    parts->list[part].count += count;
}

static void sort_out(struct zero_parts *parts, struct plan *p, const char *model, const struct zero_options *o,
                     bool frozen, const int *layer_of)
{
    for (int i = 0; i < parts->n_of; i++) {
        const struct buffer *b = &p->buffers[i];
        const bool learns = b->parent >= 0;
        if (!is_tensor(p, i, model) || (!learns && !frozen))
            continue;
        const struct zero_part like = { .group = learns ? b->group : -1,
                                        .layer = layer_of[i],
                                        .small = shape_count(&b->shape) <= o->persistence,
                                        .param = learns ? b->parent : -1,
                                        .grad = -1 };
        if (learns || !like.small)
            assign(parts, p, i, join(parts, &like));
    }
}

static int64_t padded(const struct plan *p, int64_t count)
{
    const int64_t multiple = 2 * (int64_t)p->ranks;

    return (count + multiple - 1) / multiple * multiple;
}

/* Buffer `of` for part number `number` of its group: the first takes it over. */
static int twin(struct plan *p, int of, int number, int64_t count, struct err *err)
{
    struct buffer b = p->buffers[of];

    if (number > 0) {
        b.name = plan_name(p, err, "%s.%d", b.name, number);
        of = b.name ? plan_add_buffer(p, &b, err) : -1;
    }
    if (of >= 0) {
        p->buffers[of].shape = shape_of(1, padded(p, count));
        p->buffers[of].by = "zero";
    }
    return of;
}

static int frozen_flat(struct plan *p, const char *model, int number, enum dtype dtype, int64_t count, struct err *err)
{
    const struct buffer b = { .name = plan_name(p, err, "flat/%sfrozen.%d", model, number),
                              .kind = KIND_PARAM,
                              .dtype = dtype,
                              .shape = shape_of(1, padded(p, count)),
                              .shards = 1,
                              .parent = -1,
                              .group = -1,
                              .persistent = true,
                              .program = -1,
                              .by = "zero",
                              .model = model };

    return b.name ? plan_add_buffer(p, &b, err) : -1;
}

/* The parts of a group, in order; -1 = no more. */
static int next_of(const struct zero_parts *parts, int group, int after)
{
    for (int i = after + 1; i < parts->n; i++)
        if (parts->list[i].group == group)
            return i;
    return -1;
}

/* Step `at` on the flat buffers of a group becomes one step a part; returns how many were added. */
static int split_step(struct plan *p, int program, int at, const struct zero_parts *parts, int group, int param,
                      int grad, struct err *err)
{
    const struct op_step whole = p->programs[program].steps[at];
    int number = 0;

    for (int i = next_of(parts, group, -1); i >= 0; i = next_of(parts, group, i), number++) {
        const struct zero_part *part = &parts->list[i];
        struct op_step s = whole;
        s.attrs.count = padded(p, part->count);
        for (int k = 0; k < OP_MAX_IN; k++)
            s.in[k] = s.in[k] == grad ? part->grad : s.in[k];
        for (int k = 0; k < OP_MAX_OUT; k++)
            s.out[k] = s.out[k] == grad ? part->grad : s.out[k] == param ? part->param : s.out[k];
        for (int k = 1; s.op == OP_ADAMW && k < 4; k++)
            if (s.out[k] >= 0 && (s.out[k] = twin(p, s.out[k], number, part->count, err)) < 0)
                return -1;
        if (s.op == OP_SUMSQ && number > 0)
            s.attrs.accumulate = ACCUMULATE_YES;
        if (number == 0)
            p->programs[program].steps[at] = s;
        else if (plan_insert(p, program, at + number, &s, err) != 0)
            return -1;
    }
    return number - 1;
}

static bool is_on(const struct op_step *s, int param, int grad)
{
    return s->in[0] == grad || s->out[0] == grad || s->out[0] == param;
}

static int split_steps(struct plan *p, int program, const struct zero_parts *parts, int group, int param, int grad,
                       struct err *err)
{
    for (int i = 0; program >= 0 && i < p->programs[program].n_steps; i++) {
        if (!is_on(&p->programs[program].steps[i], param, grad))
            continue;
        const int more = split_step(p, program, i, parts, group, param, grad, err);
        if (more < 0)
            return -1;
        i += more;
    }
    return 0;
}

static int grads_of_group(const struct plan *p, const char *model, int param)
{
    const int update = plan_find_program(p, model, "update");

    for (int i = 0; i < p->programs[update].n_steps; i++) {
        const struct op_step *s = &p->programs[update].steps[i];
        if (s->op == OP_ADAMW && s->out[0] == param)
            return s->in[0];
    }
    MUST(!"a group that no step updates");
    return -1;
}

static int split_group(struct zero_parts *parts, struct plan *p, const char *model, int group, struct err *err)
{
    const int first = next_of(parts, group, -1), param = first < 0 ? -1 : parts->list[first].param;
    const int grad = param < 0 ? -1 : grads_of_group(p, model, param);
    int number = 0;

    if (first < 0)
        return 0;
    for (int i = first; i >= 0; i = next_of(parts, group, i), number++) {
        parts->list[i].param = twin(p, param, number, parts->list[i].count, err);
        parts->list[i].grad = twin(p, grad, number, parts->list[i].count, err);
        if (parts->list[i].param < 0 || parts->list[i].grad < 0)
            return -1;
    }
    if (split_steps(p, plan_find_program(p, model, "reduce"), parts, group, param, grad, err) != 0)
        return -1;
    return split_steps(p, plan_find_program(p, model, "update"), parts, group, param, grad, err);
}

static int place_tensors(struct zero_parts *parts, struct plan *p, const char *model, struct err *err)
{
    for (int i = 0; i < parts->n_of; i++) {
        struct zero_part *part = parts->of[i] < 0 ? NULL : &parts->list[parts->of[i]];
        if (part && part->param < 0)
            part->param = frozen_flat(p, model, parts->of[i], p->buffers[i].dtype, part->count, err);
        if (part && part->param < 0)
            return -1;
        if (part)
            p->buffers[i].parent = p->buffers[i].kind == KIND_GRAD ? part->grad : part->param;
    }
    return 0;
}

int zero_parts_make(struct zero_parts *out, struct plan *p, const char *model, const struct zero_options *o,
                    bool frozen, struct err *err)
{
    struct zero_parts parts = { .n_of = p->n_buffers };
    int *layer_of = mem_array(p->n_buffers, 1, sizeof *layer_of, MEM_PLAN, err);
    int result = -1;

    parts.list = mem_array(p->n_buffers, 1, sizeof *parts.list, MEM_PLAN, err);
    parts.of = mem_array(p->n_buffers, 1, sizeof *parts.of, MEM_PLAN, err);
    if (layer_of && parts.list && parts.of) {
        memset(parts.of, -1, (size_t)parts.n_of * sizeof *parts.of);
        find_layers(p, layer_of);
        sort_out(&parts, p, model, o, frozen, layer_of);
        result = 0;
    }
    for (int g = 0; g < OPTIMIZER_GROUPS && result == 0; g++)
        result = split_group(&parts, p, model, g, err);
    if (result == 0)
        result = place_tensors(&parts, p, model, err);
    mem_free(layer_of);
    *out = parts;
    if (result != 0)
        zero_parts_free(out);
    return result;
}

void zero_parts_free(struct zero_parts *parts)
{
    mem_free(parts->list);
    mem_free(parts->of);
    *parts = (struct zero_parts){ 0 };
}

int zero_own_share(struct plan *p, int flat, struct err *err)
{
    struct buffer b = p->buffers[flat];
    const int64_t share = shape_count(&b.shape) / p->ranks;

    b.name = plan_name(p, err, "%s.own", b.name);
    b.parent = flat;
    b.parent_begin = share * p->rank;
    b.shape = shape_of(1, share);
    b.by = "zero";
    return b.name ? plan_add_buffer(p, &b, err) : -1;
}

static int transient_like(struct plan *p, int program, int of, int parent, struct err *err)
{
    struct buffer b = p->buffers[of];

    b.name = plan_name(p, err, "%s@%s.%d", b.name, p->programs[program].name, p->n_buffers);
    b.kind = KIND_ACTIVATION;
    b.shards = 1;
    b.parent = parent;
    b.parent_begin = parent < 0 ? 0 : b.parent_begin;
    b.persistent = false;
    b.program = program;
    b.by = "zero";
    return b.name ? plan_add_buffer(p, &b, err) : -1;
}

/* The view that stands for a tensor; made when it is first asked for. */
static int view_of(struct plan *p, int program, int tensor, int whole, struct err *err)
{
    for (int i = whole + 1; i < p->n_buffers; i++)
        if (p->buffers[i].parent == whole && p->buffers[i].parent_begin == p->buffers[tensor].parent_begin &&
            shape_equal(&p->buffers[i].shape, &p->buffers[tensor].shape))
            return i;
    return transient_like(p, program, tensor, whole, err);
}

static int replace(struct plan *p, int program, const struct zero_parts *parts, int part, bool gradients, int whole,
                   int *operand, struct err *err)
{
    const int tensor = *operand;

    if (zero_part_of(parts, tensor) != part || (p->buffers[tensor].kind == KIND_GRAD) != gradients)
        return 0;
    *operand = view_of(p, program, tensor, whole, err);
    return *operand < 0 ? -1 : 0;
}

int zero_transient(struct plan *p, int program, const struct zero_parts *parts, int part, bool gradients, int first,
                   int last, struct err *err)
{
    const struct zero_part *q = &parts->list[part];
    const int whole = transient_like(p, program, gradients ? q->grad : q->param, -1, err);

    for (int i = first; whole >= 0 && i <= last; i++) {
        struct op_step *s = &p->programs[program].steps[i];
        for (int k = 0; k < OP_MAX_IN; k++)
            if (replace(p, program, parts, part, gradients, whole, &s->in[k], err) != 0)
                return -1;
        for (int k = 0; k < OP_MAX_OUT; k++)
            if (replace(p, program, parts, part, gradients, whole, &s->out[k], err) != 0)
                return -1;
    }
    return whole;
}
