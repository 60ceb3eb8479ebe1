/* What a step costs, from its op's own rule and the shapes of its operands. Bytes moved count each operand once: a floor, as
 * if caches were perfect. Communication counts what one rank sends in the ring form of each collective. */
#include "plan/plan.h"

static struct operand operand_of(const struct plan *p, int buffer)
{
    if (buffer < 0)
        return (struct operand){ .there = false };
    return (struct operand){ p->buffers[buffer].dtype, p->buffers[buffer].shape, true };
}

static double bytes_of(const struct operand *o)
{
    return o->there ? (double)shape_count(&o->shape) * (double)dtype_bytes(o->dtype) : 0;
}

/* Ops on a range of a flat buffer touch that range alone, and optimizer state in shards; scales are fewer. */
static double touched_bytes(const struct plan *p, const struct op_step *s, int buffer)
{
    const int64_t count = buffer < 0 ? 0 : shape_count(&p->buffers[buffer].shape);

    if (count <= 64)
        return 0;
    return (double)(count < s->attrs.count ? count : s->attrs.count) * (double)dtype_bytes(p->buffers[buffer].dtype);
}

static double range_bytes(const struct plan *p, const struct op_step *s)
{
    double bytes = 0;

    for (int k = 0; k < OP_MAX_IN; k++)
        bytes += touched_bytes(p, s, s->in[k]);
    for (int k = 0; k < OP_MAX_OUT; k++)
        bytes += 2 * touched_bytes(p, s, s->out[k]);
    return bytes;
}

static double sent_bytes(const struct plan *p, const struct op_step *s)
{
    const struct buffer *b = s->out[0] < 0 ? NULL : &p->buffers[s->out[0]];
    const double share = (double)(p->ranks - 1) / p->ranks;

    switch (s->op) {
    case OP_ALL_REDUCE:
        MUST(b);
        return 2 * share * (double)s->attrs.count * (double)dtype_bytes(b->dtype);
    case OP_REDUCE_SCATTER:
    case OP_ALL_GATHER:
        MUST(b);
        return share * (double)shape_count(&b->shape) * (double)dtype_bytes(b->dtype);
    default:
        return 0;
    }
}

static struct op_cost cost_of(const struct plan *p, const struct op_step *s)
{
    const struct op_rule *rule = op_rule(s->op);
    struct operand in[OP_MAX_IN], out[OP_MAX_OUT];
    struct op_cost c = { 0 };

    for (int k = 0; k < OP_MAX_IN; k++) {
        in[k] = operand_of(p, s->in[k]);
        c.bytes_moved += bytes_of(&in[k]);
    }
    for (int k = 0; k < OP_MAX_OUT; k++) {
        out[k] = operand_of(p, s->out[k]);
        c.bytes_moved += bytes_of(&out[k]);
    }
    if (rule->flops)
        c.flops = rule->flops(in, out, &s->attrs);
    if (s->pass == PASS_UPDATE)
        c.bytes_moved = range_bytes(p, s);
    c.comm_bytes = sent_bytes(p, s);
    return c;
}

void cost_fill(struct plan *p)
{
    for (int g = 0; g < p->n_programs; g++)
        for (int i = 0; i < p->programs[g].n_steps; i++)
            p->programs[g].steps[i].cost = cost_of(p, &p->programs[g].steps[i]);
}

struct op_cost cost_update(const struct plan *p)
{
    struct op_cost total = { 0 };

    for (int g = 0; g < p->n_programs; g++) {
        const struct program *program = &p->programs[g];
        for (int i = 0; i < program->n_steps; i++) {
            total.flops += program->times * program->steps[i].cost.flops;
            total.bytes_moved += program->times * program->steps[i].cost.bytes_moved;
            total.comm_bytes += program->times * program->steps[i].cost.comm_bytes;
        }
    }
    return total;
}
