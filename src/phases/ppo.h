/* phases/ppo.h - phase 3: an actor learns to give answers that a reward model likes, near a reference, helped by a critic.
 *
 * Four models in one plan: "actor/" and "critic/" learn, "reference/" and "reward/" only score; so programs that never run
 * together share memory. An experience is some answers with all that was thought of them: rows are added as they are
 * generated, scored by the four models, and given advantages; then ppo_update goes over them. phases/ppo_math.h has the
 * arithmetic. Called by run/ppo_loop.c. */
#ifndef TUNEUP_PHASES_PPO_H
#define TUNEUP_PHASES_PPO_H

#include "data/batcher.h"
#include "phases/generate.h"
#include "phases/phase.h"
#include "phases/ppo_math.h"
#include "phases/trainer.h"

#define PPO_CLIP 0.2 /* of ratios and of values: attributes of the plan's ops */
#define PPO_MAX_MICRO_STEPS 64

struct ppo_settings {
    struct ppo_options math;
    bool pad_to_max; /* rows as long as the plan allows, not as the longest of their piece */
    bool normalize; /* advantages to mean 0 and deviation 1 over all ranks' actions of an experience */
    int64_t epochs; /* over one experience */
    int64_t micro_steps; /* pieces an update */
    double unsupervised_coef; /* of the language model's loss in the actor's updates; 0: none */
    uint64_t seed;
};

/* The rows of one iteration, on this rank. Arrays of ppo_math.h's form, [room,T]. */
struct ppo_experience {
    int64_t room, T;
    int64_t n; /* rows so far */
    struct ppo_row *rows;
    int64_t *numbers; /* [room] of all rows that the run ever sees */
    int32_t *ids;
    float *logp, *ref_logp, *values, *rewards, *advantages, *returns, *new_logp;
    float *scores; /* [room] */
    double entropy, n_entropy; /* sum over drawn ids, and their number */
};
int ppo_experience_init(struct ppo_experience *x, int64_t room, int64_t T, struct err *err);
void ppo_experience_free(struct ppo_experience *x);
void ppo_experience_clear(struct ppo_experience *x);
/* A prompt of n_prompt ids (the begin id first), an answer of n_answer, and the end id if ended, in columns at, at + 1, ... of
 * ids[T]. number: of this row among all. */
void ppo_experience_add(struct ppo_experience *x, enum ppo_convention c, const int32_t *ids, int64_t T, int64_t at,
                        int64_t n_prompt, int64_t n_answer, bool ended, int64_t number);
/* All rows of a generation. numbers: theirs. */
void ppo_experience_answers(struct ppo_experience *x, enum ppo_convention c, const struct generated *g,
                            const int64_t *numbers);

struct ppo {
    struct ppo_settings settings;
    struct exec *exec; /* borrowed, as are: */
    struct trainer *actor, *critic; /* NULL: nothing is trained */
    struct batcher *unsupervised; /* NULL: none; stands at its next batch */
    int actor_score, reference_score, critic_score, reward_score, actor_train, critic_train, actor_text, average;
    int64_t score_B, train_B; /* rows a run, as planned */
    int32_t *ids, *positions, *spans, *targets;
    float *old_logp, *old_values, *advantages, *returns, *norm;
    const float *loss, *logp, *values;
};
void ppo_open(struct ppo *p, struct exec *e, const struct ppo_settings *s);

/* Log-probabilities, values, scores of all rows, then rewards, advantages, returns. Every rank calls it with its own rows.
 * ERR_RUN names model and row when a number is not finite. */
int ppo_score(struct ppo *p, struct ppo_experience *x, struct err *err);

/* What is reported of scored rows, added up. */
void ppo_sums(const struct ppo_experience *x, struct ppo_sums *add_to);

/* What updates tell, added up: means are over updates. */
struct ppo_learned {
    int64_t n_updates;
    double actor_loss, critic_loss, unsupervised_loss; /* of all ranks */
    double actor_norm, critic_norm, actor_rate, critic_rate; /* the last update's rates; norms are sums over: */
    int64_t actor_steps, critic_steps; /* updates that were not skipped */
    struct ppo_ratios ratios; /* this rank's */
};
/* epochs times over the experience, piece by piece of train_B rows: the actor's update, then the critic's, so that their
 * gradients never live at once. iteration: its number, for the order of pieces. Every rank has as many rows. */
int ppo_update(struct ppo *p, struct ppo_experience *x, int64_t iteration, struct ppo_learned *out, struct err *err);
/* Updates that ppo_update makes of n rows. */
int64_t ppo_updates(const struct ppo_settings *s, int64_t train_B, int64_t n_rows);

/* What an iteration tells: the places of phase_ppo's metrics. */
enum ppo_metric {
    PPO_ACTOR_LOSS,
    PPO_CRITIC_LOSS,
    PPO_TEXT_LOSS,
    PPO_REWARD, /* mean score of the reward model, before clipping and without the KL term */
    PPO_REWARD_DEVIATION,
    PPO_TRUE_SHARE, /* of answers to the built-in tasks, those that are right */
    PPO_KL, /* an action: log-probability less the reference's, in nats; */
    PPO_KL_ANSWER, /* its sum over an answer */
    PPO_ENTROPY, /* of the distributions that ids were drawn from, in nats, before temperature and cuts */
    PPO_CLIP_FRACTION, /* actions whose ratio is outside 1 +- PPO_CLIP, over all updates */
    PPO_RATIO_LOWEST,
    PPO_RATIO_HIGHEST,
    PPO_EXPLAINED, /* share of the returns' variance that the old values explain */
    PPO_ANSWER_TOKENS, /* ids an answer, its end not counted */
    PPO_ENDED, /* share of answers that end by themselves */
    PPO_EMPTY, /* answers without an id but the end */
    PPO_LEFT_OUT, /* answers that nothing is learnt from */
    PPO_CRITIC_RATE,
    PPO_CRITIC_NORM,
    PPO_GENERATE_S,
    PPO_SCORE_S,
    PPO_TRAIN_S,
};

extern const struct phase phase_ppo;

#endif
