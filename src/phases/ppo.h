/* phases/ppo.h - phase 3: an actor learns to give answers that a reward model likes, near a reference, helped by a critic.
 *
 * Four models in one plan: "actor/" and "critic/" learn, "reference/" and "reward/" only score; so programs that never run
 * together share memory. An experience is some answers with all that was thought of them: rows are added as they are
 * generated, scored by the four models, and given advantages; then ppo_update goes over them. phases/ppo_math.h has the
 * arithmetic. Called by run/ppo_loop.c. */
#ifndef TUNEUP_PHASES_PPO_H
#define TUNEUP_PHASES_PPO_H

#include "data/batcher.h"
#include "exec/exec.h"
#include "phases/phase.h"
#include "phases/ppo_math.h"
#include "phases/trainer.h"

#define PPO_CLIP 0.2 /* of ratios and of values: attributes of the plan's ops */
#define PPO_MAX_MICRO_STEPS 64

struct ppo_settings {
    struct ppo_options math;
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

/* What updates tell, added up: means are over updates. */
struct ppo_learned {
    int64_t n_updates;
    double actor_loss, critic_loss, unsupervised_loss; /* of all ranks */
    double actor_norm, critic_norm, actor_rate, critic_rate; /* the last update's rates; norms are means */
    struct ppo_ratios ratios; /* this rank's */
};
/* epochs times over the experience, piece by piece of train_B rows: the actor's update, then the critic's, so that their
 * gradients never live at once. iteration: its number, for the order of pieces. Every rank has as many rows. */
int ppo_update(struct ppo *p, struct ppo_experience *x, int64_t iteration, struct ppo_learned *out, struct err *err);
/* Updates that ppo_update makes of n rows. */
int64_t ppo_updates(const struct ppo_settings *s, int64_t train_B, int64_t n_rows);

extern const struct phase phase_ppo;

#endif
