/* A graph becomes a program: values become buffers, nodes become steps. What outlives a program (parameters, gradients of
 * parameters, caches, inputs) is one buffer in all programs that name it; everything else is the program's own. */
#include "plan/plan.h"

#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "graph/optimizer.h"

/* DeepSpeed-Chat's groups, by name (get_optimizer_grouped_parameters): biases and norms are not decayed. */
static int group_of(const char *name)
{
    static const char *const no_decay[] = { "bias", "layer_norm.weight", "layernorm.weight", "norm.weight",
                                            "ln_f.weight" };

    if (strstr(name, ".lora_A.") || strstr(name, ".lora_B."))
        return GROUP_LORA;
    for (int i = 0; i < COUNT_OF(no_decay); i++)
        if (strcasestr(name, no_decay[i]))
            return GROUP_NO_DECAY;
    return GROUP_DECAY;
}

/* Inputs of one name share their memory, which is as large as the program with the largest extents wants it; each program
 * sees it through a view of its own shape. */
static int input_memory(struct plan *p, const struct value *v, struct err *err)
{
    const char *name = plan_name(p, err, "input/%s", v->name);
    const int there = name ? plan_find(p, name) : -1;
    const int64_t count = shape_count(&v->shape);

    if (there >= 0) {
        if (count > p->buffers[there].shape.dim[0])
            p->buffers[there].shape.dim[0] = count;
        return there;
    }
    const struct buffer b = { .name = name,
                              .kind = v->kind,
                              .dtype = v->dtype,
                              .shape = shape_of(1, count),
                              .shards = 1,
                              .parent = -1,
                              .group = -1,
                              .persistent = true,
                              .program = -1,
                              .by = "model" };
    return name ? plan_add_buffer(p, &b, err) : -1;
}

static int lower_value(struct plan *p, int program, const char *model, const struct value *v, struct err *err)
{
    const bool trains = v->kind == KIND_PARAM || v->kind == KIND_GRAD, of_model = trains || v->kind == KIND_KV;
    const int there = of_model ? plan_find(p, v->name) : -1;

    if (there >= 0)
        return there;
    const int parent = v->input ? input_memory(p, v, err) : -1;
    const char *name = plan_name(p, err, "%s", v->name);
    if (!name || (v->input && parent < 0))
        return -1;
    const struct buffer b = {
        .name = name,
        .kind = v->kind,
        .dtype = v->dtype,
        .shape = v->shape,
        .shards = 1,
        .tier = TIER_DEVICE,
        .parent = parent,
        .group = trains ? group_of(v->name) : -1,
        .persistent = of_model || v->input,
        .cache = v->kind == KIND_KV,
        .packed = v->packed,
        .working = v->working,
        .input = v->input,
        .program = of_model || v->input ? -1 : program,
        .by = "model",
        .model = v->input ? "" : model,
    };
    return plan_add_buffer(p, &b, err);
}

static bool used(const struct graph *g, int value)
{
    for (int i = 0; i < g->n_nodes; i++) {
        for (int k = 0; k < OP_MAX_IN; k++)
            if (g->nodes[i].in[k] == value)
                return true;
        for (int k = 0; k < OP_MAX_OUT; k++)
            if (g->nodes[i].out[k] == value)
                return true;
    }
    return false;
}

static int lower_nodes(struct plan *p, int program, const struct graph *g, const int *buffer_of, struct err *err)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        struct op_step s = plan_step(n->op, n->by);

        s.attrs = n->attrs;
        s.pass = n->pass;
        s.layer = n->layer;
        for (int k = 0; k < OP_MAX_IN; k++)
            s.in[k] = n->in[k] < 0 ? -1 : buffer_of[n->in[k]];
        for (int k = 0; k < OP_MAX_OUT; k++)
            s.out[k] = n->out[k] < 0 ? -1 : buffer_of[n->out[k]];
        if (plan_insert(p, program, p->programs[program].n_steps, &s, err) != 0)
            return -1;
    }
    return 0;
}

int plan_lower(struct plan *p, const struct graph *g, const char *name, int64_t B, int64_t T, struct err *err)
{
    if (graph_check(g, err) != 0)
        return -1;
    const int program = plan_add_program(p, g->model, name, B, T, err);
    int *buffer_of = mem_array(g->n_values, 1, sizeof *buffer_of, MEM_PLAN, err);
    int failed = program < 0 || !buffer_of;

    for (int i = 0; !failed && i < g->n_values; i++) {
        buffer_of[i] = -1;
        if (g->values[i].kind == KIND_PARAM || used(g, i)) {
            buffer_of[i] = lower_value(p, program, g->model, &g->values[i], err);
            failed = buffer_of[i] < 0;
        }
    }
    failed = failed || lower_nodes(p, program, g, buffer_of, err) != 0;
    if (!failed && g->live >= 0) {
        p->programs[program].live = buffer_of[g->live];
        p->programs[program].places = buffer_of[g->places];
    }
    mem_free(buffer_of);
    return failed ? -1 : 0;
}
