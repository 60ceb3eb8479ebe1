/* run/ppo_spec.h - what was asked of phase 3, in DeepSpeed-Chat's words. Its struct begins with the common one, so that what
 * serves every phase (set up, checkpoints, records) takes it for that. */
#ifndef TUNEUP_RUN_PPO_SPEC_H
#define TUNEUP_RUN_PPO_SPEC_H

#include "phases/ppo.h"
#include "run/spec.h"

enum ppo_frozen { FROZEN_BF16, FROZEN_FP32, FROZEN_AS_RUN };

struct ppo_spec {
    struct spec base; /* first: `struct spec *` of a PPO run points here. base.model is the actor */
    const char *critic, *reference, *reward; /* NULL: the actor's files, the critic's files */
    const char *unsupervised;
    double unsupervised_coef;
    int64_t max_answer, min_answer; /* base.max_seq_len is the longest prompt */
    double critic_dropout; /* base.dropout is the actor's */
    int64_t generation_batch, generation_batches, ppo_epochs; /* base.train_batch: rows of a piece */
    double critic_rate, critic_decay; /* base's are the actor's */
    double kl_coef, reward_clip, reward_center, missing_end_penalty, gamma, lambda;
    bool normalize, average;
    double temperature; /* negative: as the convention */
    int64_t top_k;
    double top_p;
    int64_t sample_interval;
    int frozen; /* enum ppo_frozen */
    bool offload_reference, offload_reward; /* their weights are in files */
    struct technique_values actor, critic_techniques; /* base.techniques are for both, where these are not given */
    bool ignored_hybrid_engine, ignored_align_overflow, ignored_flags[4];
};

static inline const struct ppo_spec *ppo_spec_of(const struct spec *s)
{
    return (const struct ppo_spec *)s;
}

int ppo_spec_sets(struct ppo_spec *s, struct option_set *sets); /* returns how many */
/* What must be given and what must not be together, then what follows from the convention is filled in. ERR_USAGE. */
int ppo_spec_check(struct ppo_spec *s, struct err *err);
/* The same without data and output: for `tuneup plan`. */
int ppo_spec_complete(struct ppo_spec *s, struct err *err);
struct ppo_settings ppo_spec_settings(const struct ppo_spec *s);
/* Batches of prompts that one iteration takes: as many as make an update, and at least --generation_batches. */
int64_t ppo_spec_rollouts(const struct ppo_spec *s);

#endif
