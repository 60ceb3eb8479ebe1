/* Layer norm (Ba, Kiros, Hinton 2016, arXiv:1607.06450), alone and with the residual sum before it. */
#include "graph/graph.h"

int op_layernorm_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    const int x = n.in[0], gain = n.in[1], bias = n.in[2];
    struct op_attrs attrs = { 0 };
    enum accumulate how;

    (void)err;
    const int dg = graph_grad_begin(g, gain, true, &attrs.accumulate);
    const int db = graph_grad_begin(g, bias, true, &attrs.accumulate);
    const int dx = graph_grad_begin(g, x, false, &how);
    graph_node(g, OP_LAYERNORM_GRAD, attrs, NODE_LIST(dout[0], x, n.out[1], gain), NODE_LIST(dx, dg, db));
    graph_grad_end(g, gain, dg);
    graph_grad_end(g, bias, db);
    graph_grad_end(g, x, dx);
    return 0;
}

int op_add_norm_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    const int a = n.in[0], r = n.in[1], gain = n.in[2], bias = n.in[3];
    struct op_attrs attrs = { .p = n.attrs.p, .site = n.attrs.site };
    enum accumulate how;

    (void)err;
    MUST(dout[1] >= 0); /* the norm's output is used wherever the op is */
    const int dg = graph_grad_begin(g, gain, true, &attrs.accumulate);
    const int db = graph_grad_begin(g, bias, true, &attrs.accumulate);
    const int dz = graph_grad_begin(g, a, false, &how);
    const int dr = attrs.p > 0 ? graph_grad_begin(g, r, false, &how) : -1;
    graph_node(g, OP_ADD_NORM_GRAD, attrs, NODE_LIST(dout[1], dout[0], n.out[0], n.out[2], gain),
               NODE_LIST(dz, dr, dg, db));
    graph_grad_end(g, gain, dg);
    graph_grad_end(g, bias, db);
    graph_grad_end(g, r, dr >= 0 ? dr : dz);
    graph_grad_end(g, a, dz);
    return 0;
}
