/* Values and nodes in two growing arrays. A failure while building (no memory) is kept and makes later calls harmless:
 * value 0 always exists, so that indexes stay valid. */
#include "graph/graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static const char *const kind_names[KIND_N] = {
    "param", "master", "grad", "optimizer", "activation", "kv", "comm", "workspace",
};

const char *kind_name(enum buffer_kind kind)
{
    return kind_names[kind];
}

void graph_init(struct graph *g)
{
    *g = (struct graph){ .layer = -1, .by = "model", .live = -1, .places = -1, .model = "" };
}

void graph_free(struct graph *g)
{
    for (int i = 0; i < g->n_names; i++)
        mem_free(g->names[i]);
    mem_free(g->names);
    mem_free(g->values);
    mem_free(g->nodes);
    graph_init(g);
}

int graph_check(const struct graph *g, struct err *err)
{
    if (g->failure.code == ERR_NONE)
        return 0;
    *err = g->failure;
    return -1;
}

/* Makes room for one more element; false after a failure. */
static bool grow(struct graph *g, void **array, int n, int *room, size_t size)
{
    if (g->failure.code != ERR_NONE)
        return false;
    if (n < *room)
        return true;
    const int larger = *room ? *room * 2 : 64;
    void *p = mem_resize(*array, larger, size, MEM_PLAN, &g->failure);
    if (!p)
        return false;
    *array = p;
    *room = larger;
    return true;
}

static const char *keep_name(struct graph *g, const char *prefix, const char *format, va_list args)
{
    char text[160];
    const int n = snprintf(text, sizeof text, "%s", prefix);

    vsnprintf(text + n, sizeof text - (size_t)n, format, args);
    if (!grow(g, (void **)&g->names, g->n_names, &g->names_room, sizeof *g->names))
        return "?";
    char *copy = mem_strdup(text, MEM_PLAN, &g->failure);
    if (!copy)
        return "?";
    g->names[g->n_names++] = copy;
    return copy;
}

static int add_value(struct graph *g, const struct value *v, const char *format, va_list args)
{
    const char *prefix = v->kind == KIND_PARAM || v->kind == KIND_KV ? g->model : "";

    if (!grow(g, (void **)&g->values, g->n_values, &g->values_room, sizeof *g->values))
        return 0;
    const char *name = keep_name(g, prefix, format, args);
    g->values[g->n_values] = *v;
    g->values[g->n_values].name = name;
    g->values[g->n_values].grad = -1;
    return g->n_values++;
}

int graph_value(struct graph *g, enum buffer_kind kind, enum dtype dtype, struct shape shape, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    const int v = add_value(g, &(struct value){ .kind = kind, .dtype = dtype, .shape = shape }, format, args);
    va_end(args);
    return v;
}

int graph_activation(struct graph *g, struct shape shape, const char *format, ...)
{
    const struct value value = { .kind = KIND_ACTIVATION, .dtype = F32, .working = true, .shape = shape };
    va_list args;

    va_start(args, format);
    const int v = add_value(g, &value, format, args);
    va_end(args);
    return v;
}

int graph_param(struct graph *g, struct shape shape, const char *format, ...)
{
    const struct value value = { .kind = KIND_PARAM, .dtype = F32, .working = true, .shape = shape };
    va_list args;

    va_start(args, format);
    const int v = add_value(g, &value, format, args);
    va_end(args);
    return v;
}

int graph_cache(struct graph *g, struct shape shape, const char *format, ...)
{
    const struct value value = { .kind = KIND_KV, .dtype = F32, .working = true, .shape = shape };
    va_list args;

    va_start(args, format);
    const int v = add_value(g, &value, format, args);
    va_end(args);
    return v;
}

int graph_input(struct graph *g, enum dtype dtype, struct shape shape, const char *name)
{
    const int there = graph_find(g, name);

    if (there >= 0)
        return there;
    const int v = graph_value(g, KIND_WORKSPACE, dtype, shape, "%s", name);
    if (g->n_values > 0)
        g->values[v].input = true;
    return v;
}

int graph_find(const struct graph *g, const char *name)
{
    for (int i = 0; i < g->n_values; i++)
        if (strcmp(g->values[i].name, name) == 0)
            return i;
    return -1;
}

int graph_find_param(const struct graph *g, const char *name)
{
    char whole[160];

    snprintf(whole, sizeof whole, "%s%s", g->model, name);
    return graph_find(g, whole);
}

static void fill(int *slots, int n_slots, int n_wanted, const int *list)
{
    int n = 0;

    for (int i = 0; i < n_slots; i++)
        slots[i] = -1;
    while (list[n] != NODE_END) {
        MUST(n < n_wanted);
        slots[n] = list[n];
        n++;
    }
}

int graph_node(struct graph *g, enum op op, struct op_attrs attrs, const int *in, const int *out)
{
    struct node node = { .op = op, .attrs = attrs, .pass = g->pass, .layer = g->layer, .by = g->by };

    fill(node.in, OP_MAX_IN, op_rule(op)->n_in, in);
    fill(node.out, OP_MAX_OUT, op_rule(op)->n_out, out);
    if (!grow(g, (void **)&g->nodes, g->n_nodes, &g->nodes_room, sizeof *g->nodes))
        return 0;
    g->nodes[g->n_nodes] = node;
    return g->n_nodes++;
}

void graph_move_node(struct graph *g, int from, int to)
{
    const struct node moved = g->nodes[from];

    if (from > to)
        memmove(&g->nodes[to + 1], &g->nodes[to], (size_t)(from - to) * sizeof moved);
    else
        memmove(&g->nodes[from], &g->nodes[from + 1], (size_t)(to - from) * sizeof moved);
    g->nodes[to] = moved;
}

int graph_insert_node(struct graph *g, int at, enum op op, struct op_attrs attrs, const int *in, const int *out)
{
    const int last = graph_node(g, op, attrs, in, out);

    MUST(at <= last || g->failure.code != ERR_NONE);
    if (g->failure.code != ERR_NONE)
        return 0;
    graph_move_node(g, last, at);
    return at;
}

void graph_remove_node(struct graph *g, int node)
{
    memmove(&g->nodes[node], &g->nodes[node + 1], (size_t)(g->n_nodes - node - 1) * sizeof *g->nodes);
    g->n_nodes--;
}

/* Whether one of the node's results is read after the graph has run, or by a later node. */
static bool is_waited_for(const struct graph *g, int node)
{
    for (int k = 0; k < OP_MAX_OUT; k++) {
        const int out = g->nodes[node].out[k];

        if (out >= 0 && (g->values[out].input || g->values[out].kind == KIND_KV))
            return true;
        for (int i = node + 1; out >= 0 && i < g->n_nodes; i++)
            for (int j = 0; j < OP_MAX_IN; j++)
                if (g->nodes[i].in[j] == out)
                    return true;
    }
    return false;
}

void graph_remove_unread(struct graph *g)
{
    for (int i = g->n_nodes - 1; i >= 0; i--)
        if (!is_waited_for(g, i))
            graph_remove_node(g, i);
}

int graph_producer(const struct graph *g, int value)
{
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < OP_MAX_OUT; k++)
            if (g->nodes[i].out[k] == value)
                return i;
    return -1;
}

int graph_only_user(const struct graph *g, int value, enum op op)
{
    int user = -1;

    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < OP_MAX_IN; k++)
            if (g->nodes[i].in[k] == value) {
                if (user >= 0)
                    return -1;
                user = i;
            }
    return user >= 0 && g->nodes[user].op == op ? user : -1;
}
