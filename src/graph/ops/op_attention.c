/* Both forms of attention have the same operands but for what they keep: the probabilities, or one number a query
 * (FlashAttention: Dao et al. 2022, arXiv:2205.14135). */
#include "graph/graph.h"

int op_attention_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    const int q = n.in[0], k = n.in[1], v = n.in[2], spans = n.in[3];
    enum accumulate how;

    (void)err;
    const int dq = graph_grad_begin(g, q, false, &how), dk = graph_grad_begin(g, k, false, &how);
    const int dv = graph_grad_begin(g, v, false, &how);
    if (n.op == OP_ATTENTION)
        graph_node(g, OP_ATTENTION_GRAD, n.attrs, NODE_LIST(dout[0], q, k, v, n.out[1], spans), NODE_LIST(dq, dk, dv));
    else
        graph_node(g, OP_FLASH_ATTENTION_GRAD, n.attrs, NODE_LIST(dout[0], q, k, v, n.out[0], n.out[1], spans),
                   NODE_LIST(dq, dk, dv));
    graph_grad_end(g, q, dq);
    graph_grad_end(g, k, dk);
    graph_grad_end(g, v, dv);
    return 0;
}
