/* Reverse-mode differentiation (Griewank and Walther 2008, ch. 3): the forward nodes are visited last to first, and each op's
 * rule adds the nodes that turn gradients of its outputs into gradients of its inputs. A value used several times gets
 * several contributions: ops that can add to their output do so in place, the others get an explicit OP_ADD. Nothing is made
 * that only leads to what does not learn. */
#include "graph/graph.h"

#include "base/mem.h"

bool graph_wants_grad(const struct graph *g, int value)
{
    return value >= 0 && g->values[value].learns;
}

static bool node_learns(const struct graph *g, const struct node *n)
{
    for (int k = 0; k < OP_MAX_IN; k++)
        if (graph_wants_grad(g, n->in[k]))
            return true;
    return false;
}

/* From parameters through the forward nodes, which are in the order they will run. */
static void find_learning(struct graph *g)
{
    for (int i = 0; i < g->n_values; i++)
        g->values[i].learns = g->values[i].kind == KIND_PARAM && !g->values[i].frozen;
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < OP_MAX_OUT && node_learns(g, &g->nodes[i]); k++)
            if (g->nodes[i].out[k] >= 0)
                g->values[g->nodes[i].out[k]].learns = true;
}

static int new_grad(struct graph *g, int value)
{
    const struct value v = g->values[value];
    const bool of_param = v.kind == KIND_PARAM;
    const int d =
        graph_value(g, of_param ? KIND_GRAD : KIND_ACTIVATION, v.dtype, v.shape, of_param ? "grad/%s" : "d/%s", v.name);
    g->values[d].working = v.working;
    g->values[d].packed = v.packed;
    return d;
}

int graph_grad_begin(struct graph *g, int value, bool can_add, enum accumulate *how)
{
    const int have = value < 0 ? -1 : g->values[value].grad;
    const bool of_param = value >= 0 && g->values[value].kind == KIND_PARAM;

    MUST(can_add || !of_param);
    if (value < 0 || (of_param && !graph_wants_grad(g, value)))
        return -1;
    *how = of_param ? ACCUMULATE_UNLESS_FIRST : ACCUMULATE_NO;
    if (have < 0 || !can_add || g->values[have].n_owners > 1) /* a shared gradient may still be read elsewhere */
        return new_grad(g, value);
    *how = ACCUMULATE_YES;
    return have;
}

void graph_grad_end(struct graph *g, int value, int written)
{
    if (written < 0 || !graph_wants_grad(g, value) || g->values[value].grad == written)
        return;
    const int have = g->values[value].grad;
    if (have < 0) {
        g->values[value].grad = written;
        g->values[written].n_owners++;
        return;
    }
    const int sum = new_grad(g, value);
    graph_node(g, OP_ADD, (struct op_attrs){ 0 }, NODE_LIST(have, written), NODE_LIST(sum));
    g->values[have].n_owners--;
    g->values[sum].n_owners = 1;
    g->values[value].grad = sum;
}

int graph_gradient(struct graph *g, int loss, struct err *err)
{
    const int n_forward = g->n_nodes;

    if (graph_check(g, err) != 0)
        return -1;
    find_learning(g);
    g->pass = PASS_BACKWARD;
    g->by = "gradient";
    for (int i = n_forward - 1; i >= 0; i--) {
        const struct op_rule *rule = op_rule(g->nodes[i].op);
        int dout[OP_MAX_OUT];
        bool reached = false;

        for (int k = 0; k < OP_MAX_OUT; k++) {
            const int out = g->nodes[i].out[k];
            dout[k] = out < 0 ? -1 : g->values[out].grad;
            reached = reached || dout[k] >= 0 || (out >= 0 && out == loss);
        }
        if (!reached || !rule->gradient || !node_learns(g, &g->nodes[i]))
            continue;
        g->layer = g->nodes[i].layer;
        if (rule->gradient(g, i, dout, err) != 0 || graph_check(g, err) != 0)
            return -1;
    }
    return graph_check(g, err);
}
