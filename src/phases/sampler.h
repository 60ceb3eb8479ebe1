/* phases/sampler.h - logits -> the next id: greedy, or a draw after temperature, top-k and top-p.
 *
 * A draw is a function of (seed, row, position) alone, whatever the batch, the order or the number of ranks.
 * Top-k: Fan et al. 2018, arXiv:1805.04833. Top-p: Holtzman et al. 2020, arXiv:1904.09751. In the order of Hugging Face:
 * logits / temperature, then the top_k largest, then of their distribution the smallest set of largest ones whose
 * probability reaches top_p, at least one. Equal logits rank by id, the lowest first, so exactly top_k are kept.
 * Called by phases/generate.c. Memory: 12 bytes an id of the vocabulary. */
#ifndef TUNEUP_PHASES_SAMPLER_H
#define TUNEUP_PHASES_SAMPLER_H

#include <stdint.h>

#include "base/err.h"

struct sampler_options {
    double temperature; /* 0: greedy, the lowest id of the largest logit */
    int64_t top_k; /* 0: all */
    double top_p; /* 1: all */
    uint64_t seed;
};

struct sampler {
    struct sampler_options options;
    int64_t V;
    float *weights; /* [V] */
    uint64_t *keys; /* [V] */
};

/* ERR_USAGE when an option is out of range. On error *s is empty. */
int sampler_init(struct sampler *s, const struct sampler_options *o, int64_t V, struct err *err);
void sampler_free(struct sampler *s);

/* The next id from logits[V], never `forbidden` (-1: none is). ERR_RUN when a logit is NaN or infinite: it names the id. */
int sampler_pick(struct sampler *s, const float *logits, int64_t row, int64_t position, int32_t forbidden, int32_t *id,
                 struct err *err);
/* In [0,1): what the pick of this row and position draws. */
double sampler_uniform(uint64_t seed, int64_t row, int64_t position);
/* Of finite logits as they are (temperature 1, nothing cut): the log-probability of id, and the distribution's entropy in nats. */
void sampler_describe(const float *logits, int64_t V, int32_t id, float *logprob, float *entropy);

#endif
