/* Attention without a tensor of scores: the op is exchanged for the one that keeps one number a query (its logsumexp) and
 * makes the probabilities again, block by block, in the backward pass. Dao et al. 2022, arXiv:2205.14135. */
#include "techniques/technique.h"

struct flash_options {
    bool on;
};

static const struct option options[] = {
    { .name = "flash_attention",
      .type = OPTION_FLAG,
      .offset = offsetof(struct flash_options, on),
      .fallback = "true",
      .help = "attention in blocks, without storing T x T scores" },
    { 0 },
};

static bool is_on(const void *o)
{
    return ((const struct flash_options *)o)->on;
}

static int on_graph(const void *o, struct graph *g, struct err *err)
{
    (void)o;
    (void)err;
    for (int i = 0; i < g->n_nodes; i++) {
        struct node *n = &g->nodes[i];
        if (n->op != OP_ATTENTION)
            continue;
        const struct shape probs = g->values[n->out[1]].shape;
        const int lse = graph_value(g, KIND_ACTIVATION, F32, shape_of(3, probs.dim[0], probs.dim[1], probs.dim[2]),
                                    "%s.lse", g->values[n->out[0]].name);
        n->op = OP_FLASH_ATTENTION;
        n->out[1] = lse;
        n->by = g->by;
    }
    return 0;
}

const struct technique technique_flash_attention = {
    .name = "flash_attention",
    .summary = "Flash attention",
    .paper = "Dao et al. 2022, arXiv:2205.14135",
    .exact = true,
    .options = options,
    .options_size = sizeof(struct flash_options),
    .is_on = is_on,
    .on_graph = on_graph,
};
