/* graph/graph.h - one program being built: values (tensors to be) and nodes (ops on them), in the order they will run.
 *
 * models/ add forward nodes, techniques/ rewrite them, gradient.c adds the backward ones, plan/lower.c turns the whole into
 * buffers and steps. Values and nodes are named by index, so that rewriting is copying integers. */
#ifndef TUNEUP_GRAPH_GRAPH_H
#define TUNEUP_GRAPH_GRAPH_H

#include "graph/op.h"

/* The kinds of state that every technique changes; also the words of plans, records and reports. */
enum buffer_kind {
    KIND_PARAM,
    KIND_MASTER,
    KIND_GRAD,
    KIND_OPTIMIZER,
    KIND_ACTIVATION,
    KIND_KV,
    KIND_COMM,
    KIND_WORKSPACE, /* kernels' scratch, and what programs are given and give back */
    KIND_N,
};

enum pass { PASS_FORWARD, PASS_BACKWARD, PASS_UPDATE };

struct value {
    const char *name; /* "layers.3.fc1.weight"; parameters and inputs are one buffer in all programs that name them */
    enum buffer_kind kind;
    enum dtype dtype;
    bool working; /* its type is the run's working type, which mixed precision changes */
    bool input; /* set before the program runs, or read after it */
    bool packed; /* its first extent is of live rows: at most these in a run */
    bool frozen; /* a parameter that does not learn */
    bool learns; /* a parameter that does, or what depends on one: gradient.c */
    struct shape shape;
    int grad; /* its gradient, or -1 */
    int n_owners; /* of a gradient: how many values it is the gradient of */
};

struct node {
    enum op op;
    int in[OP_MAX_IN], out[OP_MAX_OUT]; /* values, -1 = none */
    struct op_attrs attrs;
    enum pass pass;
    int layer; /* the decoder layer it belongs to, or -1: the grain of gradient checkpointing */
    const char *by; /* who put it here: "model", "gradient", or a technique */
};

struct graph {
    struct value *values;
    struct node *nodes;
    int n_values, n_nodes, values_room, nodes_room;
    char **names; /* owned strings */
    int n_names, names_room;
    enum pass pass; /* of the nodes being added, as are: */
    int layer;
    const char *by;
    int live, places; /* of live_rows, where token tensors are packed; -1: they are not */
    int64_t
        live_max[2]; /* the most places of a batch that are looked at, and those less what pairs share; 0: unknown */
    const char *model; /* prefix of the parameters' names: "", or "actor/" where a plan holds several models */
    struct err failure; /* code ERR_NONE unless building failed */
};

void graph_init(struct graph *g);
void graph_free(struct graph *g);

/* Builders return an index and never fail in the middle of a model: the first failure is kept, and graph_check reports it. */
int graph_check(const struct graph *g, struct err *err);

int graph_value(struct graph *g, enum buffer_kind kind, enum dtype dtype, struct shape shape, const char *format, ...)
    ERR_PRINTF(5, 6);
/* An activation, or a parameter (the model's prefix goes before its name), of the working type. */
int graph_activation(struct graph *g, struct shape shape, const char *format, ...) ERR_PRINTF(3, 4);
int graph_param(struct graph *g, struct shape shape, const char *format, ...) ERR_PRINTF(3, 4);
/* A cache, in every program of the model that names it: of the working type, with the model's prefix before its name. */
int graph_cache(struct graph *g, struct shape shape, const char *format, ...) ERR_PRINTF(3, 4);
int graph_input(struct graph *g, enum dtype dtype, struct shape shape, const char *name);
int graph_find(const struct graph *g, const char *name); /* -1 = none */
int graph_find_param(const struct graph *g, const char *name); /* of the graph's model */

/* Adds a node at the end; inputs and outputs are lists that end with NODE_END, -1 stands for a missing one. */
#define NODE_END (-2)
int graph_node(struct graph *g, enum op op, struct op_attrs attrs, const int *in, const int *out);
/* The same before node `at`. */
int graph_insert_node(struct graph *g, int at, enum op op, struct op_attrs attrs, const int *in, const int *out);
#define NODE_LIST(...) ((const int[]){ __VA_ARGS__, NODE_END })
void graph_move_node(struct graph *g, int from, int to);
void graph_remove_node(struct graph *g, int node);
/* Removes the nodes that nobody waits for: they write neither an input of the graph, nor a cache, nor what a node that stays
 * reads. */
void graph_remove_unread(struct graph *g);
int graph_producer(const struct graph *g, int value); /* the node that writes it first, or -1 */
int graph_only_user(const struct graph *g, int value, enum op op); /* its one user, if that is this op; else -1 */

/* gradient.c: adds the backward pass of the scalar value loss, as far down as something learns. Parameters that do get their
 * gradients in values of KIND_GRAD. */
int graph_gradient(struct graph *g, int loss, struct err *err);
/* For gradient rules: where the contribution to the gradient of value is to be written, and how. Ops that can add
 * (can_add) add in place to what there is; others get a fresh value. graph_grad_end then makes what was written the gradient,
 * with an OP_ADD where it is one of several. For a frozen parameter or none: -1, and *how stays; for an activation that no
 * gradient is wanted of: a value for what the op writes all the same. Both are nothing to graph_grad_end. */
int graph_grad_begin(struct graph *g, int value, bool can_add, enum accumulate *how);
void graph_grad_end(struct graph *g, int value, int written);
bool graph_wants_grad(const struct graph *g, int value);

const char *kind_name(enum buffer_kind kind); /* "param" ... "workspace" */

#endif
