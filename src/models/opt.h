/* models/opt.h - the OPT decoder as a function that adds ops to a graph (Zhang et al. 2022, arXiv:2205.01068).
 * Every size, the post-norm 350m included. The forward pass alone: gradients come from graph/gradient.c. */
#ifndef TUNEUP_MODELS_OPT_H
#define TUNEUP_MODELS_OPT_H

#include "graph/graph.h"

struct opt_shape {
    int64_t C, L, H, F, E, V;
    int64_t position_rows; /* positions + 2 */
    bool norm_before; /* all sizes but 350m */
    bool final_norm;
    double dropout;
};

/* What the batches of a run's data look like; 0: not known. Places that are looked at: all of them [0], and those less what
 * pairs share [1]. */
struct extents_live {
    int64_t most[2]; /* of any batch, as a graph's live_max */
    int64_t mean[2]; /* of a batch */
    int64_t mean_T; /* ids a row, as batches are cut */
};

/* What a program is planned for. */
struct extents {
    int64_t B, T; /* rows, and ids a row */
    int64_t S; /* columns of the KV cache that attention works on; 0: there is none */
    double times; /* how often the program runs for one optimizer step */
    struct extents_live live;
};

/* Adds parameters (names as in a checkpoint after "model.decoder.", in its order) and the decoder for [B,T] tokens. Inputs:
 * "ids" and "positions" [B*T] int32, "spans" [B,2] int32 (first and one past last visible key of each row).
 * Returns the last hidden state, [B*T, E]; a failure is kept in the graph. */
int opt_trunk(struct graph *g, const struct opt_shape *o, const struct extents *x);

/* The two programs of generation, of extents with S > 0; both return -1, as there is no loss. Layer N's keys and values are in
 * the caches "kv/layers.N.k" and "kv/layers.N.v" [B,S,C], which both programs share. A further input is "at" [B] int32: the
 * column of each row's first new id; "spans" are then columns of the cache. prefill fills the caches and gives nothing back;
 * decode gives "logits" [B*T,V] in fp32, whatever the working type. There is no dropout. */
int opt_prefill(struct graph *g, const struct opt_shape *o, const struct extents *x);
int opt_decode(struct graph *g, const struct opt_shape *o, const struct extents *x);

/* Heads on a hidden state h [N,E]. logits: [N,V], a program may mark it as its output. lm_loss: mean cross-entropy of "targets"
 * [N] int32 (-1 or less: not counted), scaled by "norm" fp32 [2]; returns the value "loss", readable. */
int head_logits(struct graph *g, const struct opt_shape *o, int h);
int head_lm_loss(struct graph *g, const struct opt_shape *o, int h);

/* One number a token, for reward models and critics: "v_head.weight" [1,E], which a checkpoint has before the decoder's, so
 * head_value_param is called before opt_trunk. value: the value "scores" fp32 [N], readable. pair_loss, on scores of x->B
 * rows: the loss of "pairs" int32 [B/2,PAIR_N], scaled by "norm" fp32 [2] (graph/op.h); returns "loss", readable. */
int head_value_param(struct graph *g, const struct opt_shape *o);
int head_value(struct graph *g, int h);
int head_pair_loss(struct graph *g, const struct extents *x, int scores);

/* PPO's heads. logprob: head_lm_loss that also gives out "logp" fp32 [N], the log-probability of each target, 0 where none is
 * counted. policy_loss: the same outputs, but the loss is the clipped one of what logp was, "old_logp", and "advantages",
 * both fp32 [N]. value_loss: the clipped loss of values r [N] fp32 against "old_values" and "returns", fp32 [N], over the
 * rows that "targets" count, scaled by "norm". */
int head_logprob(struct graph *g, const struct opt_shape *o, int h);
int head_policy_loss(struct graph *g, const struct opt_shape *o, int h, double clip);
int head_value_loss(struct graph *g, int r, double clip);

#endif
