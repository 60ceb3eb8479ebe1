/* phases/ppo_math.h - PPO's arithmetic between the models' numbers and the losses' inputs, on plain arrays: which steps are
 * actions, rewards shaped by the KL term, advantages, returns, what the losses are given, and what is reported.
 *
 * Schulman et al. 2017, "Proximal policy optimization algorithms", arXiv:1707.06347, eq. 7; advantages: Schulman et al. 2016,
 * arXiv:1506.02438, eq. 16; the KL term in the reward: Ziegler et al. 2019, arXiv:1909.08593, eq. 2.
 *
 * Arrays are [B,T] of rows that hold prompt and answer. Step t of a row is the choice of the id in column t + 1, so the
 * last column has none. fp32 outside, fp64 inside. Called by phases/ppo.c; docs/ppo.md says why the conventions differ. */
#ifndef TUNEUP_PHASES_PPO_MATH_H
#define TUNEUP_PHASES_PPO_MATH_H

#include <stdbool.h>
#include <stdint.h>

/* TUNEUP: the end id is an action; every answer counts, also an empty one. DEEPSPEED_CHAT: the begin id is hidden while
 * scoring; the step that emits the end id has a reward and a value and is no action; answers of fewer than two ids are
 * left out. */
enum ppo_convention { PPO_TUNEUP, PPO_DEEPSPEED_CHAT };
#define PPO_CONVENTION_NAMES "tuneup|deepspeed-chat"

struct ppo_options {
    enum ppo_convention convention;
    double kl_coef; /* of the KL term in the rewards */
    double reward_clip; /* scores are clipped to +- this; 0: they are not */
    double reward_center; /* is taken off the scores before that */
    double missing_end_penalty; /* and this too, of answers that did not end by themselves */
    double clip, value_clip; /* of the probability ratio around 1, and of the value around the old one */
    double gamma, lambda;
};

/* What lies where in one row. */
struct ppo_row {
    int64_t keys_begin, keys_end; /* columns that the models see when they score */
    int64_t begin; /* the step of the first action */
    int64_t actions_end; /* one past the last step that is trained */
    int64_t end; /* one past the last step that has a reward and a value */
    int64_t score_at; /* the column where the reward model's score is read: the answer's last id, its end not counted */
    int64_t n_answer; /* ids of the answer, the end id not counted */
    bool ended; /* with an end id, not by length */
    bool kept; /* false: nothing of it counts */
};

/* The prompt's n_prompt ids (the begin id is the first) stand from column `at` on, then n_answer ids, then the end id if
 * ended. */
struct ppo_row ppo_math_row(enum ppo_convention c, int64_t at, int64_t n_prompt, int64_t n_answer, bool ended);
/* A row of padding, as the last batch of an epoch has. */
struct ppo_row ppo_math_no_row(void);

/* What the models are given of a row of T columns: positions (2, 3, ... on visible ids, 1 elsewhere) and span. */
void ppo_math_inputs(const struct ppo_row *r, int64_t T, int32_t *positions, int32_t span[2]);
/* targets[t] = the id of step t from begin to `end` - 1 (a row's actions_end or end), PPO_NO_TARGET elsewhere. */
#define PPO_NO_TARGET (-100)
void ppo_math_targets(const struct ppo_row *r, int64_t end, const int32_t *ids, int64_t T, int32_t *targets);

/* The numbers of B rows. rewards, advantages, returns are written; values are zeroed past each row's end. */
struct ppo_steps {
    int64_t B, T;
    const struct ppo_row *rows; /* [B] */
    const float *logp, *ref_logp; /* [B,T] of the actor and of the reference, when the answers were made */
    const float *scores; /* [B] */
    float *values; /* [B,T] the critic's, then: the old values of the losses */
    float *rewards, *advantages, *returns; /* [B,T] */
};
void ppo_math_advantages(const struct ppo_options *o, struct ppo_steps *s);

/* Actions of the kept rows. */
int64_t ppo_math_actions(const struct ppo_row *rows, int64_t B);
/* Sums of n, advantages and their squares over the actions, for mean and deviation over all ranks; then
 * advantage <- (advantage - mean) / deviation. */
void ppo_math_moments(const struct ppo_steps *s, double sums[3]);
void ppo_math_normalize(struct ppo_steps *s, const double sums[3]);

/* The losses themselves, as sums over actions divided by n, and their gradients by new_logp and new_values ([B,T], or NULL):
 * what the plan's ops compute, in the open. */
double ppo_math_policy_loss(const struct ppo_options *o, const struct ppo_steps *s, const float *new_logp, double n,
                            float *gradient);
double ppo_math_value_loss(const struct ppo_options *o, const struct ppo_steps *s, const float *new_values, double n,
                           float *gradient);

/* What is reported, as sums, so that ranks and pieces add up; extremes apart. */
struct ppo_sums {
    double rows, ended, empty, left_out; /* left_out: rows that are not kept, padding not among them */
    double answer_ids; /* the end id not counted */
    double score, score_squares; /* of the reward model, before clipping */
    double actions, kl; /* kl: actor's less reference's log-probability, summed over actions */
    double returns, return_squares, misses, miss_squares; /* miss: return less old value */
};
struct ppo_ratios {
    double actions, clipped; /* clipped: ratio outside 1 +- clip */
    double lowest, highest; /* of the ratios; INFINITY and -INFINITY when there is none */
};
void ppo_math_sums(const struct ppo_steps *s, struct ppo_sums *add_to);
void ppo_math_ratios_begin(struct ppo_ratios *r);
void ppo_math_ratios(const struct ppo_options *o, const struct ppo_steps *s, const float *new_logp,
                     struct ppo_ratios *add_to);
/* 1 - variance of the misses / variance of the returns; NAN where the returns do not vary. */
double ppo_math_explained(const struct ppo_sums *s);

#endif
