/* Gradient checkpointing by decoder layer: of a layer's activations only its inputs live until the backward pass; the rest is
 * made again, by clones of the layer's own forward steps, just before its first backward step. Chen et al. 2016,
 * arXiv:1604.06174. Draws of dropout are a function of the place, so the clones make the same numbers bit for bit. */
#include "techniques/technique.h"

#include "base/mem.h"

struct recompute_options {
    bool on;
};

static const struct option options[] = {
    { .name = "gradient_checkpointing",
      .type = OPTION_FLAG,
      .offset = offsetof(struct recompute_options, on),
      .help = "keep each layer's input alone and make its activations again in the backward pass" },
    { 0 },
};

static bool is_on(const void *o)
{
    return ((const struct recompute_options *)o)->on;
}

/* Is buffer b needed by a backward step of the layer, or by a clone (marked in cloned) of one of its forward steps? */
static bool needed(const struct program *g, int layer, int b, const bool *cloned)
{
    for (int i = 0; i < g->n_steps; i++) {
        const struct op_step *s = &g->steps[i];
        if (s->layer == layer && (s->pass == PASS_BACKWARD || (cloned && cloned[i])) && plan_step_reads(s, b))
            return true;
    }
    return false;
}

/* Does a forward step outside the layer read b? Then it is a boundary: it stays, and need not be made again. */
static bool crosses(const struct program *g, int layer, int b)
{
    for (int i = 0; i < g->n_steps; i++)
        if (g->steps[i].pass == PASS_FORWARD && g->steps[i].layer != layer && plan_step_reads(&g->steps[i], b))
            return true;
    return false;
}

/* The forward steps of the layer that must run again: from the last to the first, whoever makes something needed. */
static int mark_clones(const struct plan *p, const struct program *g, int layer, bool *cloned)
{
    int n = 0;

    for (int i = g->n_steps - 1; i >= 0; i--) {
        const struct op_step *s = &g->steps[i];
        if (s->pass != PASS_FORWARD || s->layer != layer)
            continue;
        for (int k = 0; k < OP_MAX_OUT && !cloned[i]; k++) {
            const int b = s->out[k];
            cloned[i] = b >= 0 && !p->buffers[b].persistent && !crosses(g, layer, b) && needed(g, layer, b, cloned);
        }
        n += cloned[i];
    }
    return n;
}

static int first_backward(const struct program *g, int layer)
{
    for (int i = 0; i < g->n_steps; i++)
        if (g->steps[i].layer == layer && g->steps[i].pass == PASS_BACKWARD)
            return i;
    return -1;
}

/* In the steps of the layer from position `from` on, buffer old becomes fresh. */
static void rename_reads(struct program *g, int layer, int from, int old, int fresh)
{
    for (int i = from; i < g->n_steps; i++)
        for (int k = 0; g->steps[i].layer == layer && k < OP_MAX_IN; k++)
            if (g->steps[i].in[k] == old)
                g->steps[i].in[k] = fresh;
}

/* Inserts a copy of step `from` at position `at`, with outputs of its own. */
static int clone_step(struct plan *p, int program, int from, int at, struct err *err)
{
    struct op_step s = p->programs[program].steps[from];

    s.by = "recompute";
    s.pass = PASS_BACKWARD;
    for (int k = 0; k < OP_MAX_OUT; k++) {
        if (s.out[k] < 0)
            continue;
        s.out[k] = plan_add_like(p, s.out[k], "again", "recompute", err);
        if (s.out[k] < 0)
            return -1;
    }
    return plan_insert(p, program, at, &s, err);
}

/* Clones and backward steps read what the clones made, but for boundaries, whose originals are still there. */
static void connect(struct program *g, int layer, int begin, int original, int clone)
{
    for (int k = 0; k < OP_MAX_OUT; k++) {
        const int old = g->steps[original].out[k];
        if (old >= 0 && !crosses(g, layer, old))
            rename_reads(g, layer, begin, old, g->steps[clone].out[k]);
    }
}

static int recompute_layer(struct plan *p, int program, int layer, struct err *err)
{
    struct program *g = &p->programs[program];
    const int n = g->n_steps, begin = first_backward(g, layer);
    bool *cloned = mem_array(n, 1, sizeof *cloned, MEM_PLAN, err);
    int failed = !cloned, at = begin;

    if (!failed && begin >= 0 && mark_clones(p, g, layer, cloned) > 0) {
        for (int i = 0; i < begin && !failed; i++) /* forward steps lie before: cloning does not move them */
            if (cloned[i])
                failed = clone_step(p, program, i, at++, err);
        at = begin;
        for (int i = 0; i < begin && !failed; i++)
            if (cloned[i])
                connect(g, layer, begin, i, at++);
    }
    mem_free(cloned);
    return failed;
}

static int on_plan(const void *o, struct plan *p, const char *model, struct err *err)
{
    (void)o;
    for (int program = 0; program < p->n_programs; program++) {
        int last = -1;
        if (!plan_trains(p, program, model))
            continue;
        for (int i = 0; i < p->programs[program].n_steps; i++)
            if (p->programs[program].steps[i].layer > last)
                last = p->programs[program].steps[i].layer;
        for (int layer = 0; layer <= last; layer++)
            if (recompute_layer(p, program, layer, err) != 0)
                return -1;
    }
    return 0;
}

const struct technique technique_recompute = {
    .name = "gradient_checkpointing",
    .summary = "Gradient checkpointing",
    .paper = "Chen et al. 2016, arXiv:1604.06174",
    .exact = true,
    .options = options,
    .options_size = sizeof(struct recompute_options),
    .is_on = is_on,
    .on_plan = on_plan,
};
