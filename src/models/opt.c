/* The plain form: one op a formula of the paper's figure. Fusing, attention without scores and the chunked loss are
 * techniques that rewrite what is built here. */
#include "models/opt.h"

#include <stdio.h>

struct builder {
    struct graph *g;
    const struct opt_shape *o;
    int64_t B, T;
    int64_t S; /* columns of the caches; 0: there are none */
    int spans, at;
};

static struct shape rows_of(const struct builder *b, int64_t width)
{
    return shape_of(2, b->B * b->T, width);
}

/* Parameters exist before any node, in registration order: it fixes their place in flat buffers. */
static void add_params(struct graph *g, const struct opt_shape *o)
{
    static const char *const square[] = { "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj",
                                          "self_attn.out_proj" };

    graph_param(g, shape_of(2, o->V, o->E), "embed_tokens.weight");
    graph_param(g, shape_of(2, o->position_rows, o->C), "embed_positions.weight");
    if (o->E != o->C) {
        graph_param(g, shape_of(2, o->E, o->C), "project_out.weight");
        graph_param(g, shape_of(2, o->C, o->E), "project_in.weight");
    }
    if (o->final_norm) {
        graph_param(g, shape_of(1, o->C), "final_layer_norm.weight");
        graph_param(g, shape_of(1, o->C), "final_layer_norm.bias");
    }
    for (int l = 0; l < o->L; l++) {
        for (int i = 0; i < COUNT_OF(square); i++) {
            graph_param(g, shape_of(2, o->C, o->C), "layers.%d.%s.weight", l, square[i]);
            graph_param(g, shape_of(1, o->C), "layers.%d.%s.bias", l, square[i]);
        }
        graph_param(g, shape_of(1, o->C), "layers.%d.self_attn_layer_norm.weight", l);
        graph_param(g, shape_of(1, o->C), "layers.%d.self_attn_layer_norm.bias", l);
        graph_param(g, shape_of(2, o->F, o->C), "layers.%d.fc1.weight", l);
        graph_param(g, shape_of(1, o->F), "layers.%d.fc1.bias", l);
        graph_param(g, shape_of(2, o->C, o->F), "layers.%d.fc2.weight", l);
        graph_param(g, shape_of(1, o->C), "layers.%d.fc2.bias", l);
        graph_param(g, shape_of(1, o->C), "layers.%d.final_layer_norm.weight", l);
        graph_param(g, shape_of(1, o->C), "layers.%d.final_layer_norm.bias", l);
    }
}

static int param(struct graph *g, const char *stem, const char *part)
{
    char name[128];

    snprintf(name, sizeof name, "%s.%s", stem, part);
    return graph_find_param(g, name);
}

static int linear(struct builder *b, int x, const char *stem, int64_t width)
{
    struct graph *g = b->g;
    const int y = graph_activation(g, rows_of(b, width), "%s.out", stem);

    graph_node(g, OP_LINEAR, (struct op_attrs){ 0 }, NODE_LIST(x, param(g, stem, "weight"), param(g, stem, "bias")),
               NODE_LIST(y));
    return y;
}

static int norm(struct builder *b, int x, const char *stem)
{
    struct graph *g = b->g;
    const int y = graph_activation(g, rows_of(b, b->o->C), "%s.out", stem);
    const int stats = graph_value(g, KIND_ACTIVATION, F32, rows_of(b, 2), "%s.stats", stem);

    graph_node(g, OP_LAYERNORM, (struct op_attrs){ 0 }, NODE_LIST(x, param(g, stem, "weight"), param(g, stem, "bias")),
               NODE_LIST(y, stats));
    return y;
}

/* a + dropout(r) */
static int residual(struct builder *b, int a, int r, int layer, int which)
{
    struct graph *g = b->g;
    const int sum = graph_activation(g, rows_of(b, b->o->C), "layers.%d.residual%d", layer, which);

    if (b->o->dropout > 0 && b->S == 0) {
        const struct op_attrs attrs = { .p = (float)b->o->dropout, .site = 2 * layer + which };
        const int dropped = graph_activation(g, rows_of(b, b->o->C), "layers.%d.dropped%d", layer, which);
        graph_node(g, OP_DROPOUT, attrs, NODE_LIST(r), NODE_LIST(dropped));
        r = dropped;
    }
    graph_node(g, OP_ADD, (struct op_attrs){ 0 }, NODE_LIST(a, r), NODE_LIST(sum));
    return sum;
}

/* Of the tokens at hand alone, or with a cache of those before them. */
static int mix(struct builder *b, int q, int k, int v, int layer)
{
    const struct opt_shape *o = b->o;
    const struct op_attrs attrs = { .heads = o->H };
    struct graph *g = b->g;
    const int mixed = graph_activation(g, rows_of(b, o->C), "layers.%d.self_attn.out", layer);

    if (b->S == 0) {
        const int probs = graph_activation(g, shape_of(4, b->B, o->H, b->T, b->T), "layers.%d.self_attn.probs", layer);
        graph_node(g, OP_ATTENTION, attrs, NODE_LIST(q, k, v, b->spans), NODE_LIST(mixed, probs));
        return mixed;
    }
    const int keys = graph_cache(g, shape_of(3, b->B, b->S, o->C), "kv/layers.%d.k", layer);
    const int values = graph_cache(g, shape_of(3, b->B, b->S, o->C), "kv/layers.%d.v", layer);
    graph_node(g, OP_KV_ATTENTION, attrs, NODE_LIST(q, k, v, b->spans, b->at), NODE_LIST(mixed, keys, values));
    return mixed;
}

static int attention(struct builder *b, int x, int layer)
{
    const int64_t C = b->o->C;
    char stem[64];

    snprintf(stem, sizeof stem, "layers.%d.self_attn.q_proj", layer);
    const int q = linear(b, x, stem, C);
    snprintf(stem, sizeof stem, "layers.%d.self_attn.k_proj", layer);
    const int k = linear(b, x, stem, C);
    snprintf(stem, sizeof stem, "layers.%d.self_attn.v_proj", layer);
    const int v = linear(b, x, stem, C);
    const int mixed = mix(b, q, k, v, layer);
    snprintf(stem, sizeof stem, "layers.%d.self_attn.out_proj", layer);
    return linear(b, mixed, stem, C);
}

static int feed_forward(struct builder *b, int x, int layer)
{
    struct graph *g = b->g;
    char stem[64];

    snprintf(stem, sizeof stem, "layers.%d.fc1", layer);
    const int wide = linear(b, x, stem, b->o->F);
    const int active = graph_activation(g, rows_of(b, b->o->F), "layers.%d.relu", layer);
    graph_node(g, OP_RELU, (struct op_attrs){ 0 }, NODE_LIST(wide), NODE_LIST(active));
    snprintf(stem, sizeof stem, "layers.%d.fc2", layer);
    return linear(b, active, stem, b->o->C);
}

static int decoder_layer(struct builder *b, int x, int layer)
{
    char attention_norm[64], last_norm[64];

    b->g->layer = layer;
    snprintf(attention_norm, sizeof attention_norm, "layers.%d.self_attn_layer_norm", layer);
    snprintf(last_norm, sizeof last_norm, "layers.%d.final_layer_norm", layer);
    if (b->o->norm_before) {
        const int h = residual(b, x, attention(b, norm(b, x, attention_norm), layer), layer, 0);
        x = residual(b, h, feed_forward(b, norm(b, h, last_norm), layer), layer, 1);
    } else {
        const int h = norm(b, residual(b, x, attention(b, x, layer), layer, 0), attention_norm);
        x = norm(b, residual(b, h, feed_forward(b, h, layer), layer, 1), last_norm);
    }
    b->g->layer = -1;
    return x;
}

int opt_trunk(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    struct builder b = { .g = g, .o = o, .B = x->B, .T = x->T, .S = x->S };
    const int64_t N = x->B * x->T;

    add_params(g, o);
    const int ids = graph_input(g, I32, shape_of(1, N), "ids");
    const int positions = graph_input(g, I32, shape_of(1, N), "positions");
    b.spans = graph_input(g, I32, shape_of(2, x->B, (int64_t)2), "spans");
    if (x->S > 0)
        b.at = graph_input(g, I32, shape_of(1, x->B), "at");

    /* Row 1 is padding_idx: the look-up gives it no gradient. */
    int words = graph_activation(g, rows_of(&b, o->E), "embed_tokens.out");
    graph_node(g, OP_EMBED, (struct op_attrs){ .skip_row = 1 },
               NODE_LIST(ids, graph_find_param(g, "embed_tokens.weight")), NODE_LIST(words));
    if (o->E != o->C)
        words = linear(&b, words, "project_in", o->C);
    const int places = graph_activation(g, rows_of(&b, o->C), "embed_positions.out");
    graph_node(g, OP_EMBED, (struct op_attrs){ .skip_row = -1 },
               NODE_LIST(positions, graph_find_param(g, "embed_positions.weight")), NODE_LIST(places));
    int h = graph_activation(g, rows_of(&b, o->C), "embed.out");
    graph_node(g, OP_ADD, (struct op_attrs){ 0 }, NODE_LIST(words, places), NODE_LIST(h));

    for (int l = 0; l < o->L; l++)
        h = decoder_layer(&b, h, l);
    if (o->final_norm)
        h = norm(&b, h, "final_layer_norm");
    return o->E != o->C ? linear(&b, h, "project_out", o->E) : h;
}

int opt_prefill(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    opt_trunk(g, o, x);
    graph_remove_unread(g);
    return -1;
}

int opt_decode(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    const int h = opt_trunk(g, o, x);
    const int logits = graph_input(g, F32, shape_of(2, x->B * x->T, o->V), "logits");

    graph_node(g, OP_LINEAR, (struct op_attrs){ 0 }, NODE_LIST(h, graph_find_param(g, "embed_tokens.weight"), -1),
               NODE_LIST(logits));
    return -1;
}

int head_logits(struct graph *g, const struct opt_shape *o, int h)
{
    const int64_t N = g->values[h].shape.dim[0];
    const int logits = graph_activation(g, shape_of(2, N, o->V), "head.logits");

    graph_node(g, OP_LINEAR, (struct op_attrs){ 0 }, NODE_LIST(h, graph_find_param(g, "embed_tokens.weight"), -1),
               NODE_LIST(logits));
    return logits;
}

/* One number a row of h: an input, or what is read. */
static int row_input(struct graph *g, int h, const char *name)
{
    return graph_input(g, F32, shape_of(1, g->values[h].shape.dim[0]), name);
}

/* What all losses have: which rows count, and how much. */
struct counted {
    int targets, norm, loss;
};

static struct counted counted_rows(struct graph *g, int h)
{
    struct counted c;

    c.targets = graph_input(g, I32, shape_of(1, g->values[h].shape.dim[0]), "targets");
    c.norm = graph_input(g, F32, shape_of(1, (int64_t)2), "norm");
    c.loss = graph_input(g, F32, shape_of(1, (int64_t)1), "loss");
    return c;
}

/* old, advantages, logp: -1 = none */
static int token_loss(struct graph *g, const struct opt_shape *o, int h, double clip, int old, int advantages, int logp)
{
    const struct counted c = counted_rows(g, h);
    const int logits = head_logits(g, o, h);
    const int lse = graph_value(g, KIND_ACTIVATION, F32, shape_of(1, g->values[h].shape.dim[0]), "head.lse");

    graph_node(g, OP_CROSS_ENTROPY, (struct op_attrs){ .clip = clip },
               NODE_LIST(logits, c.targets, c.norm, old, advantages), NODE_LIST(c.loss, lse, logp));
    return c.loss;
}

int head_lm_loss(struct graph *g, const struct opt_shape *o, int h)
{
    return token_loss(g, o, h, 0, -1, -1, -1);
}

int head_logprob(struct graph *g, const struct opt_shape *o, int h)
{
    return token_loss(g, o, h, 0, -1, -1, row_input(g, h, "logp"));
}

int head_policy_loss(struct graph *g, const struct opt_shape *o, int h, double clip)
{
    const int old = row_input(g, h, "old_logp"), advantages = row_input(g, h, "advantages");

    return token_loss(g, o, h, clip, old, advantages, row_input(g, h, "logp"));
}

int head_value_loss(struct graph *g, int r, double clip)
{
    const int old = row_input(g, r, "old_values"), returns = row_input(g, r, "returns");
    const struct counted c = counted_rows(g, r);

    graph_node(g, OP_VALUE_LOSS, (struct op_attrs){ .clip = clip }, NODE_LIST(r, old, returns, c.targets, c.norm),
               NODE_LIST(c.loss));
    return c.loss;
}

int head_value_param(struct graph *g, const struct opt_shape *o)
{
    return graph_param(g, shape_of(2, (int64_t)1, o->E), "v_head.weight");
}

int head_value(struct graph *g, int h)
{
    const int scores = graph_input(g, F32, shape_of(1, g->values[h].shape.dim[0]), "scores");

    graph_node(g, OP_VALUE_HEAD, (struct op_attrs){ 0 }, NODE_LIST(h, graph_find_param(g, "v_head.weight")),
               NODE_LIST(scores));
    return scores;
}

int head_pair_loss(struct graph *g, const struct extents *x, int scores)
{
    const int pairs = graph_input(g, I32, shape_of(2, x->B / 2, (int64_t)PAIR_N), "pairs");
    const int scale = graph_input(g, F32, shape_of(1, (int64_t)2), "norm");
    const int loss = graph_input(g, F32, shape_of(1, (int64_t)1), "loss");

    graph_node(g, OP_PAIR_LOSS, (struct op_attrs){ 0 }, NODE_LIST(scores, pairs, scale), NODE_LIST(loss));
    return loss;
}
