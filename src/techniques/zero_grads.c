/* ZeRO-2. In a program that makes gradients, those of a part lie in a buffer that lives from their first writer to their last;
 * then it is reduce-scattered as it lies, and each rank adds its own share to what it keeps. So "reduce" is left with the norm,
 * and no rank ever holds all gradients. The first writer overwrites, whichever micro-batch it is: adding up is the share's. */
#include "graph/optimizer.h"
#include "techniques/zero.h"

static bool writes_part(const struct zero_parts *parts, const struct plan *p, const struct op_step *s, int part)
{
    for (int k = 0; k < OP_MAX_OUT; k++)
        if (zero_part_of(parts, s->out[k]) == part && p->buffers[s->out[k]].kind == KIND_GRAD)
            return true;
    return false;
}

/* The last step of a program that writes a gradient of the part; -1 = none does. */
static int last_writer(const struct zero_parts *parts, const struct plan *p, int program, int part)
{
    for (int i = p->programs[program].n_steps - 1; i >= 0; i--)
        if (writes_part(parts, p, &p->programs[program].steps[i], part))
            return i;
    return -1;
}

/* Behind step `at`: the whole becomes the share of each rank, which is added to what is kept. */
static int send(struct plan *p, int program, int at, const struct zero_part *part, int whole, struct err *err)
{
    const struct op_step *writer = &p->programs[program].steps[at];
    struct op_step scatter = plan_step(OP_REDUCE_SCATTER, "zero"), add = plan_step(OP_ACCUMULATE, "zero");

    scatter.pass = add.pass = PASS_BACKWARD;
    scatter.layer = add.layer = writer->layer;
    scatter.out[0] = whole;
    scatter.attrs.count = part->count;
    add.in[0] = zero_own_share(p, whole, err);
    add.out[0] = part->grad;
    add.attrs.count = shape_count(&p->buffers[whole].shape) / p->ranks;
    add.attrs.accumulate = ACCUMULATE_UNLESS_FIRST;
    if (add.in[0] < 0 || plan_insert(p, program, at + 1, &scatter, err) != 0)
        return -1;
    return plan_insert(p, program, at + 2, &add, err);
}

/* Every gradient of a part is written in a program, or none: what lies in the buffer is the program's own. */
static int on_program(struct plan *p, int program, const struct zero_parts *parts, int part, struct err *err)
{
    const int at = last_writer(parts, p, program, part);

    for (int i = 0; i <= at; i++) {
        struct op_step *s = &p->programs[program].steps[i];
        if (writes_part(parts, p, s, part) && s->attrs.accumulate == ACCUMULATE_UNLESS_FIRST)
            s->attrs.accumulate = ACCUMULATE_NO;
    }
    if (at < 0)
        return 0;
    const int whole = zero_transient(p, program, parts, part, true, 0, at, err);
    return whole < 0 ? -1 : send(p, program, at, &parts->list[part], whole, err);
}

/* Models of one plan have their gradients in the same memory, which is as large as the largest wants it. */
static void fit_memory(struct plan *p, int memory)
{
    int64_t count = 0;

    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        const int64_t own = shape_count(&b->shape) / b->shards;
        const int64_t end = ((b->parent_begin + own) * (int64_t)dtype_bytes(b->dtype) + 3) / 4;
        if (b->parent == memory && end > count)
            count = end;
    }
    p->buffers[memory].shape = shape_of(1, count);
    p->buffers[memory].by = "zero";
}

/* The kept shares of a group, one after the other where they are views. */
static void keep_shares(struct plan *p, const struct zero_parts *parts, int group)
{
    int64_t at = 0;
    int memory = -1;

    for (int i = 0; i < parts->n; i++) {
        if (parts->list[i].group != group || parts->list[i].grad < 0)
            continue;
        struct buffer *b = &p->buffers[parts->list[i].grad];
        b->shards = p->ranks;
        b->parent_begin = at;
        memory = b->parent;
        at += (shape_count(&b->shape) / p->ranks + 15) / 16 * 16;
    }
    if (memory >= 0)
        fit_memory(p, memory);
}

/* The norm is of all shares: what all-reduced the gradients is replaced by one number's. */
static int reduce_norm(struct plan *p, const char *model, struct err *err)
{
    const int reduce = plan_find_program(p, model, "reduce");
    struct op_step total = plan_step(OP_ALL_REDUCE, "zero");

    for (int i = 0; i < p->programs[reduce].n_steps; i++) {
        struct op_step *s = &p->programs[reduce].steps[i];
        if (s->op == OP_ALL_REDUCE)
            plan_remove(p, reduce, i--);
        else if (s->op == OP_SUMSQ) {
            s->attrs.count /= p->ranks;
            s->by = "zero";
            total.out[0] = s->out[0];
        }
    }
    total.attrs.count = total.attrs.bucket = 1;
    return plan_insert(p, reduce, p->programs[reduce].n_steps, &total, err);
}

int zero_shard_grads(struct plan *p, const char *model, const struct zero_parts *parts, struct err *err)
{
    for (int group = 0; group < OPTIMIZER_GROUPS; group++)
        keep_shares(p, parts, group);
    for (int program = 0; program < p->n_programs; program++)
        for (int part = 0; part < parts->n && plan_trains(p, program, model); part++)
            if (on_program(p, program, parts, part, err) != 0)
                return -1;
    return reduce_norm(p, model, err);
}
