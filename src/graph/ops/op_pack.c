/* Rows without their padding (Krell et al. 2021, arXiv:2107.02027; Zeng et al. 2022, arXiv:2208.08124). */
#include "graph/graph.h"

/* What was put back is gathered again. The other way round there is no gradient: packed inputs are data. */
int op_unpack_gradient(struct graph *g, int node, const int *dout, struct err *err)
{
    const struct node n = g->nodes[node];
    enum accumulate how;

    (void)err;
    const int d = graph_grad_begin(g, n.in[0], false, &how);
    graph_node(g, OP_PACK, (struct op_attrs){ 0 }, NODE_LIST(dout[0], n.in[1]), NODE_LIST(d));
    graph_grad_end(g, n.in[0], d);
    return 0;
}
