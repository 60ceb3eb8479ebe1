/* Products with weights, and what is fused into them. With y = x wT + b + z:  dx = dy w,  dw = dyT x,  db = column sums of dy,
 * dz = dy. */
#include "graph/graph.h"

int op_linear_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    const int x = n.in[0], w = n.in[1], bias = n.in[2];
    enum accumulate how = ACCUMULATE_NO;
    int dy = dout[0];

    (void)err;
    if (n.attrs.relu) {
        const int y = n.out[0];
        const int dz = graph_activation(g, g->values[y].shape, "d/%s/before_relu", g->values[y].name);
        g->values[dz].dtype = g->values[y].dtype;
        g->values[dz].packed = g->values[y].packed;
        graph_node(g, OP_RELU_GRAD, (struct op_attrs){ 0 }, NODE_LIST(dy, y), NODE_LIST(dz));
        dy = dz;
    }
    const int dw = graph_grad_begin(g, w, true, &how), db = graph_grad_begin(g, bias, true, &how);
    if (dw >= 0)
        graph_node(g, OP_LINEAR_DW, (struct op_attrs){ .accumulate = how }, NODE_LIST(dy, x), NODE_LIST(dw, db));
    else if (db >= 0)
        graph_node(g, OP_BIAS_GRAD, (struct op_attrs){ .accumulate = how }, NODE_LIST(dy), NODE_LIST(db));
    graph_grad_end(g, w, dw);
    graph_grad_end(g, bias, db);
    if (graph_wants_grad(g, x)) {
        const int dx = graph_grad_begin(g, x, true, &how);
        graph_node(g, OP_LINEAR_DX, (struct op_attrs){ .accumulate = how }, NODE_LIST(dy, w), NODE_LIST(dx));
        graph_grad_end(g, x, dx);
    }
    graph_grad_end(g, n.in[3], dy);
    return 0;
}

/* The chunked loss makes its gradients in the same visit to each chunk of logits: the forward node becomes the one that
 * does both, and no backward node is added. */
int op_linear_ce_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const int h = g->nodes[node].in[0], w = g->nodes[node].in[1];
    enum accumulate how = ACCUMULATE_NO, h_how;

    (void)dout;
    (void)err;
    const int dh = graph_grad_begin(g, h, false, &h_how), dw = graph_grad_begin(g, w, true, &how);
    struct node *n = &g->nodes[node];
    n->op = OP_LINEAR_CE_TRAIN;
    n->attrs.accumulate = how;
    n->out[3] = n->out[1]; /* logp */
    n->out[1] = dh;
    n->out[2] = dw;
    graph_grad_end(g, h, dh);
    graph_grad_end(g, w, dw);
    return 0;
}
