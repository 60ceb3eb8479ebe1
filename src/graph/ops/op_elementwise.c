/* Ops that treat every element alike, and embedding look-ups. */
#include "graph/graph.h"

int op_embed_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    const int table = n.in[1];
    struct op_attrs attrs = { .skip_row = n.attrs.skip_row };

    (void)err;
    if (!graph_wants_grad(g, table))
        return 0;
    const int d = graph_grad_begin(g, table, true, &attrs.accumulate);
    graph_node(g, OP_EMBED_GRAD, attrs, NODE_LIST(n.in[0], dout[0]), NODE_LIST(d));
    graph_grad_end(g, table, d);
    return 0;
}

int op_add_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];

    (void)err;
    for (int i = 0; i < 2; i++)
        graph_grad_end(g, n.in[i], dout[0]);
    return 0;
}

int op_relu_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    enum accumulate how;

    (void)err;
    const int dx = graph_grad_begin(g, n.in[0], false, &how);
    graph_node(g, OP_RELU_GRAD, (struct op_attrs){ 0 }, NODE_LIST(dout[0], n.out[0]), NODE_LIST(dx));
    graph_grad_end(g, n.in[0], dx);
    return 0;
}

int op_dropout_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    enum accumulate how;

    (void)err;
    const int dx = graph_grad_begin(g, n.in[0], false, &how);
    graph_node(g, n.op, n.attrs, NODE_LIST(dout[0]), NODE_LIST(dx));
    graph_grad_end(g, n.in[0], dx);
    return 0;
}
