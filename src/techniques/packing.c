/* Graphs whose token tensors are packed: what the techniques that leave places out have in common. */
#include "techniques/packing.h"

#define ROUND_TO 16 /* as live_rows rounds, so that it has room to */

static bool reads_cache(const struct graph *g)
{
    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == OP_KV_ATTENTION)
            return true;
    return false;
}

static int add_table(struct graph *g, int spans, int64_t rows)
{
    const int64_t B = g->values[spans].shape.dim[0];

    g->live = graph_input(g, I32, shape_of(2, B, (int64_t)LIVE_N), "live");
    g->places = graph_input(g, I32, shape_of(1, rows), "places");
    graph_move_node(g,
                    graph_node(g, OP_LIVE_ROWS, (struct op_attrs){ .padding = true },
                               NODE_LIST(spans, graph_find(g, "targets"), graph_find(g, "pairs"), graph_find(g, "ids")),
                               NODE_LIST(g->live, g->places)),
                    0);
    return 1;
}

/* Tensors of tokens: [N] or [N,C]. */
static void pack_activations(struct graph *g, int64_t places)
{
    for (int i = 0; i < g->n_values; i++) {
        struct value *v = &g->values[i];
        if (v->kind != KIND_ACTIVATION || v->input || v->shape.rank > 2 || v->shape.dim[0] != places)
            continue;
        v->packed = true;
    }
}

static bool is_of_tokens(const struct graph *g, int value, int64_t places)
{
    return value >= 0 && g->values[value].input && g->values[value].shape.rank == 1 && value != g->places &&
           g->values[value].shape.dim[0] == places;
}

static int packed_like(struct graph *g, int value, int64_t rows)
{
    const int v =
        graph_value(g, KIND_ACTIVATION, g->values[value].dtype, shape_of(1, rows), "packed/%s", g->values[value].name);

    g->values[v].packed = true;
    return v;
}

/* From node `from` on, all but the loss of pairs read the packed form, whose scores go by place. */
static void read_packed(struct graph *g, int from, int whole, int packed)
{
    for (int i = from; i < g->n_nodes; i++)
        for (int k = 0; k < OP_MAX_IN; k++)
            if (g->nodes[i].in[k] == whole && g->nodes[i].op != OP_PAIR_LOSS)
                g->nodes[i].in[k] = packed;
}

/* An input that node `reader` is the first to read; returns where that node is then. */
static int pack_input(struct graph *g, int reader, int whole, int64_t rows)
{
    const int packed = packed_like(g, whole, rows);

    read_packed(g, reader, whole, packed);
    graph_move_node(g, graph_node(g, OP_PACK, (struct op_attrs){ 0 }, NODE_LIST(whole, g->places), NODE_LIST(packed)),
                    reader);
    return reader + 1;
}

static void unpack_output(struct graph *g, int writer, int slot, int64_t rows)
{
    const int whole = g->nodes[writer].out[slot], packed = packed_like(g, whole, rows);

    g->nodes[writer].out[slot] = packed;
    read_packed(g, writer, whole, packed);
    graph_move_node(g, graph_node(g, OP_UNPACK, (struct op_attrs){ 0 }, NODE_LIST(packed, g->places), NODE_LIST(whole)),
                    writer + 1);
}

bool packing_begin(struct graph *g)
{
    const int spans = graph_find(g, "spans"), ids = graph_find(g, "ids");

    if (spans < 0 || ids < 0 || reads_cache(g)) /* generation has its own way with rows that end */
        return false;
    if (g->live >= 0)
        return true;
    const int64_t places = g->values[ids].shape.dim[0];
    pack_activations(g, places);
    for (int i = add_table(g, spans, places); i < g->n_nodes; i++) {
        const enum op op = g->nodes[i].op;
        for (int k = 0; k < OP_MAX_IN && op != OP_PACK && op != OP_UNPACK; k++)
            if (op != OP_PAIR_LOSS && is_of_tokens(g, g->nodes[i].in[k], places))
                i = pack_input(g, i, g->nodes[i].in[k], places);
        for (int k = 0; k < OP_MAX_OUT && op != OP_UNPACK; k++)
            if (is_of_tokens(g, g->nodes[i].out[k], places))
                unpack_output(g, i, k, places);
    }
    return true;
}

void packing_limit(struct graph *g, int64_t most)
{
    const int64_t planned = g->values[g->places].shape.dim[0], rounded = (most + ROUND_TO - 1) / ROUND_TO * ROUND_TO;

    for (int i = 0; most > 0 && rounded < planned && i < g->n_values; i++)
        if (g->values[i].packed || i == g->places)
            g->values[i].shape.dim[0] = rounded;
}

struct op_attrs *packing_attrs(struct graph *g)
{
    return &g->nodes[graph_producer(g, g->live)].attrs;
}
