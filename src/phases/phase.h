/* phases/phase.h - a phase as run/ sees it: the programs that it wants, and, when one model learns from batches of samples
 * (phases 1 and 2), the small table of functions by which run/loop.c drives it. No phase knows a technique. */
#ifndef TUNEUP_PHASES_PHASE_H
#define TUNEUP_PHASES_PHASE_H

#include "base/option.h"
#include "data/batcher.h"
#include "exec/exec.h"
#include "models/opt.h"

/* Which extents a program is planned for: build has one of each, and leaves out the programs whose extents have no rows. */
enum extents_of {
    EXTENTS_TRAIN,
    EXTENTS_TEXT,
    EXTENTS_EVAL,
    EXTENTS_SCORE,
    EXTENTS_PREFILL,
    EXTENTS_DECODE,
    EXTENTS_N
};

struct phase_program {
    const char *model; /* prefix of the model it runs: "" where there is one, "actor/" */
    const char *name; /* "train", "eval" */
    bool trains; /* gradients of its loss are wanted */
    enum extents_of extents;
    /* Adds the forward ops; returns the loss, or -1 when there is none. */
    int (*add)(struct graph *g, const struct opt_shape *o, const struct extents *x);
};

#define PHASE_MAX_METRICS 24

/* Of what a number is told. */
enum phase_told { TOLD_ALWAYS, TOLD_OF_EVALUATIONS, TOLD_OF_UPDATES };

/* A number that is told of updates and evaluations. */
struct phase_metric {
    const char *name; /* "chosen_mean": in records; an evaluation's is "eval_chosen_mean" */
    const char *label; /* "chosen mean": in lines for people */
    enum phase_told told; /* of evaluations alone: its name in records stands as it is, "perplexity" */
};

/* A mean over batches and ranks in the making: the phase says what each batch weighs. */
struct phase_mean {
    double sum, weight;
};

/* What a phase is told beside its own words. */
struct phase_facts {
    bool reference; /* what is not asked otherwise is as DeepSpeed-Chat does it */
    int32_t pad; /* the id that rows are padded with, which also ends a text */
};

/* Of a batch whose loss reads visible ids and targets alone. */
int64_t phase_live(const struct batch *b);

struct phase {
    const char *name; /* "sft": the command, and the word in records */
    const struct phase_program *programs; /* name NULL at the end */
    int number; /* 1, 2, 3: its share of --data_split */
    enum sample_kind samples; /* what a record becomes */
    bool value_head; /* its model gives scores: v_head.weight rather than a language model's head */
    const char *learning_rate; /* the default, as one would type it */
    const struct option *options; /* its own words, or NULL */
    size_t options_bytes;
    const struct phase_metric *metrics; /* name NULL at the end; the loss first */
    int n_means; /* the first n_means of them are means, which steps add up; derive makes the others of these */
    void (*derive)(double *metrics);
    /* How many places of a batch are looked at (visible ids, targets, scores that are compared), and how many without those of
     * rejected rows that are as in the chosen ones. ERR_INPUT for rows that the phase is not defined for. */
    int (*live)(const void *options, const struct phase_facts *f, const struct batch *b, int64_t n[2], struct err *err);
    size_t state_bytes;
    void (*open)(void *state, struct exec *e, const void *options,
                 const struct phase_facts *f); /* after exec_allocate */
    /* Forward and backward of one micro-batch: gradients are added up, scaled so that after micro_steps of them on all ranks
     * they are the mean. c holds seed and rows; B, T and training are set here. ERR_RUN when the loss is not finite. */
    int (*micro_step)(void *state, const struct batch *b, struct run_context *c, struct phase_mean *means,
                      struct err *err);
    /* Forward alone, without dropout. */
    int (*eval_step)(void *state, const struct batch *b, struct run_context *c, struct phase_mean *means,
                     struct err *err);
};

extern const struct phase phase_sft, phase_reward;

#endif
