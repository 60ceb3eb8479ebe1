/* What a step costs, from its op's own rule and the shapes of its operands. Bytes moved count each operand once: a floor, as
 * if caches were perfect. Communication counts what one rank sends in the ring form of each collective; what goes to and from
 * files is in memory once too. */
#include "plan/plan.h"

/* At extents below the planned ones, activations and inputs have fewer rows ([B*T, ..]) and columns ([B, H, T, T]). */
static void shrink(struct shape *s, const struct program *g, int64_t B, int64_t T)
{
    if (s->rank > 0 && s->dim[0] == g->B * g->T)
        s->dim[0] = B * T;
    else if (s->rank > 1 && s->dim[0] == g->B)
        s->dim[0] = B;
    for (int k = 2; k < s->rank; k++)
        if (s->dim[k] == g->T)
            s->dim[k] = T;
}

static struct operand operand_of(const struct plan *p, const struct program *g, int buffer,
                                 const struct plan_extents *x)
{
    if (buffer < 0)
        return (struct operand){ .there = false };
    const struct buffer *b = &p->buffers[buffer];
    struct operand o = { b->dtype, b->shape, true };
    const int64_t rows = x->live > 0 ? x->live : x->B * x->T;
    if (b->packed && rows > 0 && rows < o.shape.dim[0])
        o.shape.dim[0] = rows;
    else if (!b->packed && x->B > 0 && g->B > 0 && (b->input || b->kind == KIND_ACTIVATION))
        shrink(&o.shape, g, x->B, x->T);
    return o;
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

static double file_bytes(const struct plan *p, const struct op_step *s)
{
    return (double)s->attrs.count * (double)dtype_bytes(p->buffers[s->out[0]].dtype);
}

struct op_cost cost_step(const struct plan *p, const struct program *g, const struct op_step *s,
                         const struct plan_extents *x)
{
    const struct op_rule *rule = op_rule(s->op);
    if (s->op == OP_WAIT)
        return (struct op_cost){ 0 };
    struct operand in[OP_MAX_IN], out[OP_MAX_OUT];
    struct op_cost c = { 0 };

    if (s->op == OP_FILE_READ || s->op == OP_FILE_WRITE)
        c.bytes_moved = c.file_bytes = file_bytes(p, s);
    if (op_moves_files(s->op))
        return c;
    for (int k = 0; k < OP_MAX_IN; k++) {
        in[k] = operand_of(p, g, s->in[k], x);
        c.bytes_moved += bytes_of(&in[k]);
    }
    for (int k = 0; k < OP_MAX_OUT; k++) {
        out[k] = operand_of(p, g, s->out[k], x);
        c.bytes_moved += bytes_of(&out[k]);
    }
    if (s->op == OP_EMBED) /* of the table, the rows that are looked up */
        c.bytes_moved += bytes_of(&out[0]) - bytes_of(&in[1]);
    if (rule->flops)
        c.flops = rule->flops(in, out, &s->attrs);
    if (s->pass == PASS_UPDATE)
        c.bytes_moved = range_bytes(p, s);
    c.comm_bytes = sent_bytes(p, s);
    return c;
}

void cost_fill(struct plan *p)
{
    const struct plan_extents planned = { 0 };

    for (int g = 0; g < p->n_programs; g++)
        for (int i = 0; i < p->programs[g].n_steps; i++)
            p->programs[g].steps[i].cost = cost_step(p, &p->programs[g], &p->programs[g].steps[i], &planned);
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
            total.file_bytes += program->times * program->steps[i].cost.file_bytes;
        }
    }
    return total;
}
