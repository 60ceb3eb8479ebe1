/* One number a token: the value head of reward models and critics, and what is learned from it. As with cross-entropy, the
 * scale of a loss's gradient is an input of the program. */
#include "graph/graph.h"

int op_value_head_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    const int h = n.in[0], w = n.in[1];
    struct op_attrs attrs = { 0 };
    enum accumulate how;

    (void)err;
    const int dw = graph_grad_begin(g, w, true, &attrs.accumulate), dh = graph_grad_begin(g, h, false, &how);
    graph_node(g, OP_VALUE_HEAD_GRAD, attrs, NODE_LIST(dout[0], h, w), NODE_LIST(dh, dw));
    graph_grad_end(g, w, dw);
    graph_grad_end(g, h, dh);
    return 0;
}

int op_pair_loss_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    enum accumulate how;

    (void)dout;
    (void)err;
    const int dr = graph_grad_begin(g, n.in[0], false, &how);
    graph_node(g, OP_PAIR_LOSS_GRAD, (struct op_attrs){ 0 }, NODE_LIST(n.in[0], n.in[1], n.in[2]), NODE_LIST(dr));
    graph_grad_end(g, n.in[0], dr);
    return 0;
}
