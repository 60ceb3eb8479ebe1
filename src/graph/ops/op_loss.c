/* Cross-entropy over whole logits, and the critic's loss. The scale of the gradient is an input of the program (norm), so that no gradient of the
 * loss itself is ever needed. */
#include "graph/graph.h"

int op_cross_entropy_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    enum accumulate how;

    (void)dout;
    (void)err;
    const int d = graph_grad_begin(g, n.in[0], false, &how);
    graph_node(g, OP_CROSS_ENTROPY_GRAD, (struct op_attrs){ .clip = n.attrs.clip },
               NODE_LIST(n.in[0], n.out[1], n.in[1], n.in[2], n.in[3], n.in[4]), NODE_LIST(d));
    graph_grad_end(g, n.in[0], d);
    return 0;
}

int op_value_loss_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    enum accumulate how;

    (void)dout;
    (void)err;
    const int d = graph_grad_begin(g, n.in[0], false, &how);
    graph_node(g, OP_VALUE_LOSS_GRAD, (struct op_attrs){ .clip = n.attrs.clip },
               NODE_LIST(n.in[0], n.in[1], n.in[2], n.in[3], n.in[4]), NODE_LIST(d));
    graph_grad_end(g, n.in[0], d);
    return 0;
}
