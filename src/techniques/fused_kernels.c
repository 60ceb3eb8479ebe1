/* Fewer passes over memory: ReLU joins the product before it, dropout and the residual sum join the norm after them, and
 * clipping joins AdamW. Each pass saved is one read and one write of a whole tensor. */
#include "techniques/technique.h"

struct fused_options {
    bool on;
};

static const struct option options[] = {
    { .name = "fused_kernels",
      .type = OPTION_FLAG,
      .offset = offsetof(struct fused_options, on),
      .fallback = "true",
      .help = "bias+ReLU, residual+norm and clipping+AdamW in one pass each" },
    { 0 },
};

static bool is_on(const void *o)
{
    return ((const struct fused_options *)o)->on;
}

/* relu(linear(x)) -> linear with relu. The value before the ReLU must have no other reader. */
static void fuse_relu(struct graph *g)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node relu = g->nodes[i];
        const int before = relu.op == OP_RELU ? graph_producer(g, relu.in[0]) : -1;

        if (before < 0 || g->nodes[before].op != OP_LINEAR || graph_only_user(g, relu.in[0], OP_RELU) < 0)
            continue;
        g->nodes[before].attrs.relu = true;
        g->nodes[before].out[0] = relu.out[0];
        g->nodes[before].by = g->by;
        graph_remove_node(g, i--);
    }
}

/* The norm that reads value s, or -1. Other readers of s (the next residual sum of a pre-norm layer) are fine. */
static int norm_of(const struct graph *g, int s)
{
    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == OP_LAYERNORM && g->nodes[i].in[0] == s)
            return i;
    return -1;
}

/* norm(a + dropout(r)) -> add_norm, at the place of the sum: its first reader may come before the norm. */
static void fuse_norms(struct graph *g)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node add = g->nodes[i];
        const int norm = add.op == OP_ADD ? norm_of(g, add.out[0]) : -1;

        if (norm < 0)
            continue;
        const struct node ln = g->nodes[norm];
        const int drop = graph_producer(g, add.in[1]);
        const bool drops = drop >= 0 && g->nodes[drop].op == OP_DROPOUT && graph_only_user(g, add.in[1], OP_ADD) == i;
        struct node fused = add;
        fused.op = OP_ADD_NORM;
        fused.layer = ln.layer;
        fused.by = g->by;
        fused.attrs = drops ? g->nodes[drop].attrs : (struct op_attrs){ 0 };
        fused.in[1] = drops ? g->nodes[drop].in[0] : add.in[1];
        fused.in[2] = ln.in[1];
        fused.in[3] = ln.in[2];
        fused.out[1] = ln.out[0];
        fused.out[2] = ln.out[1];
        g->nodes[i] = fused;
        graph_remove_node(g, norm);
        if (drops) {
            graph_remove_node(g, drop);
            i--;
        }
    }
}

static int on_graph(const void *o, struct graph *g, struct err *err)
{
    (void)o;
    (void)err;
    fuse_relu(g);
    fuse_norms(g);
    return 0;
}

/* AdamW clips as it goes: the pass that scaled the gradients before it goes away. */
static int on_plan(const void *o, struct plan *p, const char *model, struct err *err)
{
    (void)o;
    (void)err;
    plan_clip_in_adamw(p, model, "fused_kernels");
    return 0;
}

const struct technique technique_fused_kernels = {
    .name = "fused_kernels",
    .summary = "Fused kernels",
    .paper = "the roofline argument: Williams, Waterman, Patterson 2009, doi 10.1145/1498765.1498785",
    .exact = true,
    .options = options,
    .options_size = sizeof(struct fused_options),
    .is_on = is_on,
    .on_graph = on_graph,
    .on_plan = on_plan,
};
