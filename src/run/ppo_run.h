/* run/ppo_run.h - what a run of phase 3 holds beside what every run does. ppo_setup.c makes it, ppo_loop.c uses it. */
#ifndef TUNEUP_RUN_PPO_RUN_H
#define TUNEUP_RUN_PPO_RUN_H

#include "run/ppo_spec.h"
#include "run/run.h"

/* Places in r->models. */
enum { PPO_ACTOR, PPO_REFERENCE, PPO_CRITIC, PPO_REWARD_MODEL, PPO_AVERAGE };

struct ppo_work {
    struct ppo ppo;
    struct ppo_experience answers; /* of one iteration, or of one batch of an evaluation */
    struct generator generator;
    int64_t *numbers; /* [prompts of a batch] the rows' numbers */
    int32_t *begin, *end;
    struct samples texts; /* --unsupervised_data, cut into rows */
    struct batcher text_batches;
    struct ppo_ratios *ratios; /* [ranks] */
};

static inline struct ppo_work *ppo_work_of(const struct run *r)
{
    return r->work;
}

/* ppo_setup.c: the functions of run_ppo but train. */
int ppo_models(const struct spec *s, bool trains, struct run_model *models);
int ppo_plan(const struct spec *s, const struct run_model *models, bool trains, int rank, int ranks,
             const struct run_live *live, struct plan *p, struct err *err);
int ppo_techniques(struct spec *s, struct technique_values **out);
void ppo_plain(struct spec *s);
int ppo_data(struct run *r, struct err *err);
int ppo_start(struct run *r, struct err *err);
void ppo_close(struct run *r);
int ppo_texts(struct run *r, struct samples *out, struct err *err); /* ppo_texts.c */

#endif
