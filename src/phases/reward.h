/* phases/reward.h - phase 2, the reward model: one score a token, and answers that people chose are to score above those
 * that they rejected (Ouyang et al. 2022, arXiv:2203.02155, eq. 1). A row of n pairs is 2n rows of a batch: all chosen ones,
 * then all rejected ones. Called by run/ as phases/sft.h is.
 *
 * Which scores a pair compares (its loss is the mean of -log sigmoid(chosen - rejected) over them):
 *  masked         every position from the first id in which the texts differ to the end of the longer one; past the end of
 *                 the shorter one stands its last score
 *  deepspeed-chat the same, but past the end stand the scores at padding, and ends are inferred: where the
 *                 (num_padding_at_beginning + 1)-th pad id stands
 *  end            the last scores alone
 * A row's score is that of its last id; with deepspeed-chat, of the id before the inferred end. */
#ifndef TUNEUP_PHASES_REWARD_H
#define TUNEUP_PHASES_REWARD_H

#include "phases/phase.h"
#include "phases/step.h"

enum reward_loss { REWARD_MASKED, REWARD_DEEPSPEED_CHAT, REWARD_END };
#define REWARD_LOSS_NAMES "masked|deepspeed-chat|end"

struct reward_options {
    enum reward_loss loss;
    int32_t pad; /* deepspeed-chat: the id that ends a text */
    int64_t num_padding_at_beginning; /* and how many of it stand before a text: OPT's 1 */
};

struct reward {
    struct step step;
    struct reward_options options;
    int score; /* program, -1 = not planned */
    int32_t *pairs; /* NULL without programs of pairs */
    float *scores; /* [B,T] of the last run */
};

/* What pair p of a batch compares, and the columns of its two scores. equal: the texts are the same up to
 * their ends, so that there is nothing to learn: ln 2, and no gradient, or (deepspeed-chat) none in sum. */
struct reward_pair {
    int32_t compared[PAIR_N];
    int64_t chosen_end, rejected_end;
    bool equal;
};

/* Sums over pairs. */
struct reward_sums {
    int64_t pairs, correct, equal; /* correct: the chosen score is above the rejected one, of another text */
    double loss, chosen, rejected; /* the mean margin is (chosen - rejected) / pairs */
};

void reward_init(struct reward *r, struct exec *e, const struct reward_options *o);
/* As sft_micro_step and sft_eval_step; loss is the mean over this rank's pairs. ERR_INPUT for rows that the loss is not
 * defined for (deepspeed-chat: no common beginning). */
int reward_micro_step(struct reward *r, const struct batch *b, struct run_context *c, double *loss, struct err *err);
int reward_eval_step(struct reward *r, const struct batch *b, struct run_context *c, double *loss, struct err *err);
/* Adds the pairs of the last step, of which b and loss were. */
void reward_count(const struct reward *r, const struct batch *b, double loss, struct reward_sums *sums);
/* The score of each of the B rows of b, no pairs, with the program "score". */
int reward_score(struct reward *r, const struct batch *b, struct run_context *c, double *scores, struct err *err);

int reward_pair_of(const struct reward_options *o, const struct batch *b, int64_t p, struct reward_pair *out,
                   struct err *err);

#endif
