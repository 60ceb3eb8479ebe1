/* techniques/zero.h - what the files of ZeRO share. A part is what is sharded, sent and gathered together: the tensors of one
 * decoder layer and optimizer group; a large tensor outside the layers alone; all small tensors of a group. Its tensors lie in
 * one flat buffer in registration order, padded to a multiple of 2 ranks, and rank r of R owns the r-th of R equal shares:
 * so a layer's gradients can be sent when they are there, and a layer's weights gathered when they are needed. */
#ifndef TUNEUP_TECHNIQUES_ZERO_H
#define TUNEUP_TECHNIQUES_ZERO_H

#include "techniques/technique.h"

enum { ZERO_ONCE, ZERO_LAYERS };

struct zero_options {
    int64_t stage;
    int64_t persistence; /* elements of a tensor up to which it is small */
    bool overlap;
    int generation; /* stage 3: when what answers gathers its weights */
};

struct zero_part {
    int group; /* of the optimizer; -1: of parameters that do not learn */
    int layer; /* -1: outside the layers */
    bool small;
    int param, grad; /* flat buffers; grad -1: does not learn */
    int64_t count; /* elements, without padding */
};

struct zero_parts {
    struct zero_part *list;
    int n;
    int *of; /* the part of each buffer that is a parameter or its gradient, -1 of all others */
    int n_of;
};

/* zero_parts.c: makes the parts of a model's parameters, those that do not learn too when frozen is set: small ones among those
 * stay as they are. Optimizer state and the steps of "reduce" and "update" are split alike. */
int zero_parts_make(struct zero_parts *out, struct plan *p, const char *model, const struct zero_options *o,
                    bool frozen, struct err *err);
void zero_parts_free(struct zero_parts *parts);
static inline int zero_part_of(const struct zero_parts *parts, int buffer)
{
    return buffer < 0 || buffer >= parts->n_of ? -1 : parts->of[buffer];
}

/* This rank's share of a flat buffer, as a view of it that lives as long. */
int zero_own_share(struct plan *p, int flat, struct err *err);
/* In one program: a transient buffer of the size of the part's flat one, and views of it in the place of the part's tensors:
 * every operand from step `first` to step `last` that is a parameter (or else a gradient) of the part. */
int zero_transient(struct plan *p, int program, const struct zero_parts *parts, int part, bool gradients, int first,
                   int last, struct err *err);

/* zero_grads.c, stage 2: gradients in shards, sent part by part during the backward pass. */
int zero_shard_grads(struct plan *p, const char *model, const struct zero_parts *parts, struct err *err);

/* zero_params.c, stage 3: weights in shards, gathered where they are used; small ones stay whole. */
int zero_shard_params(struct plan *p, const char *model, const struct zero_parts *parts, const struct zero_options *o,
                      struct err *err);

/* zero_overlap.c, after both: what a program sends or gathers begins, and is waited for where it is needed. */
int zero_overlap(struct plan *p, const char *model, struct err *err);

#endif
