/* The loss without a [tokens, vocabulary] tensor: the projection onto the vocabulary and the cross-entropy after it become
 * one op that works on a chunk of rows at a time, forward and backward in one visit. The idea is common (Liger Kernel, Hsu
 * et al. 2024, arXiv:2410.10989, section 3.2; torchtune's chunked cross-entropy). */
#include "techniques/technique.h"

#include <string.h>

struct chunked_options {
    bool on;
    int64_t rows;
};

static const struct option options[] = {
    { .name = "chunked_loss",
      .type = OPTION_FLAG,
      .offset = offsetof(struct chunked_options, on),
      .fallback = "true",
      .help = "cross-entropy in chunks of rows, without full logits" },
    { .name = "chunked_loss_rows",
      .type = OPTION_INT,
      .offset = offsetof(struct chunked_options, rows),
      .fallback = "256",
      .min = 1,
      .max = 1 << 20,
      .value = "N",
      .help = "rows in a chunk" },
    { 0 },
};

static bool is_on(const void *o)
{
    return ((const struct chunked_options *)o)->on;
}

static int on_graph(const void *o, struct graph *g, struct err *err)
{
    const struct chunked_options *chunked = o;

    (void)err;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node loss = g->nodes[i];
        const int head = loss.op == OP_CROSS_ENTROPY ? graph_producer(g, loss.in[0]) : -1;

        if (head < 0 || g->nodes[head].op != OP_LINEAR || g->nodes[head].in[2] >= 0 ||
            graph_only_user(g, loss.in[0], OP_CROSS_ENTROPY) < 0)
            continue;
        const int64_t rows = g->values[g->nodes[head].in[0]].shape.dim[0];
        struct node n = loss;
        n.op = OP_LINEAR_CE;
        n.attrs.chunk = chunked->rows < rows ? chunked->rows : rows;
        n.by = g->by;
        n.in[0] = g->nodes[head].in[0];
        n.in[1] = g->nodes[head].in[1];
        memcpy(&n.in[2], &loss.in[1], 4 * sizeof n.in[0]); /* targets, norm, old, advantage */
        n.out[1] = loss.out[2]; /* logp, but no logsumexp */
        n.out[2] = -1;
        g->nodes[i] = n;
        graph_remove_node(g, head);
        i--;
    }
    return 0;
}

const struct technique technique_chunked_loss = {
    .name = "chunked_loss",
    .summary = "Chunked loss",
    .paper = "Hsu et al. 2024, arXiv:2410.10989",
    .exact = true,
    .options = options,
    .options_size = sizeof(struct chunked_options),
    .is_on = is_on,
    .on_graph = on_graph,
};
