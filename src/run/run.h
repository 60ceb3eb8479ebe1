/* run/run.h - a phase run from words to files: set up, loop, record, save. Called by cli/cmd_sft.c and cmd_eval.c.
 * setup.c opens and closes it, loop.c trains and evaluates, resume.c keeps checkpoints, record.c writes what happened. */
#ifndef TUNEUP_RUN_RUN_H
#define TUNEUP_RUN_RUN_H

#include "comm/comm.h"
#include "measure/energy.h"
#include "measure/memory.h"
#include "phases/sft.h"
#include "phases/trainer.h"
#include "run/build.h"
#include "run/inputs.h"
#include "run/spec.h"
#include "run/tensorboard.h"

/* The words and where they came from: for run.json. Borrowed. */
struct run_request {
    const struct spec *spec;
    const struct option_set *sets;
    int n_sets;
    const struct option_given *given;
    int n_given;
};

#define RUN_MAX_RANKS 4096

/* Where a run stands: all of it is in a checkpoint. */
struct run_position {
    int64_t epoch, batch; /* the next batch of the epoch */
    int64_t n_micro; /* micro-batches so far */
    int64_t n_updates;
    int64_t n_tokens; /* real ids seen by all ranks */
    double last_loss, first_eval_loss;
    double seconds; /* of all updates */
};

struct run {
    struct run_request request;
    const struct spec *spec;
    struct comm comm;
    bool comm_is_open;
    struct hf_config config;
    struct inputs inputs;
    struct batcher train, eval;
    struct plan plan;
    struct backend backend;
    struct exec exec;
    struct sft sft;
    struct trainer trainer;
    bool is_done; /* --resume of a run that has finished: nothing else is open */
    struct run_position at;
    double op_seconds[OP_N]; /* --profile */
    /* measured */
    struct memory_sampler *memory;
    struct energy_meter *energy;
    double started_s, steady_seconds;
    int64_t steady_tokens, n_steady;
    double begin_joules; /* since the start, when the update began */
    int64_t peak_bytes; /* all ranks, so far; -1: unknown */
    int64_t *rank_peaks; /* [ranks] on rank 0, at the end */
    double eval_loss; /* NAN: none yet */
    FILE *metrics;
    struct tensorboard tensorboard;
};

/* The whole of `tuneup sft`. 0, or -1; ERR_STOPPED after a signal, with everything saved. All ranks call it; an error that
 * all share is told by rank 0 alone: on the others err->what is empty. */
int run_train(const struct run_request *q, struct err *err);
/* `tuneup eval --phase sft`: mean loss over the whole data file. */
struct run_evaluation {
    double loss;
    int64_t records, tokens;
    bool tells; /* this rank is the one that speaks */
};
int run_evaluate(const struct run_request *q, struct run_evaluation *out, struct err *err);

/* setup.c */
int setup_threads(const struct spec *s, int local_ranks); /* of one rank */
int setup_open(struct run *r, const struct run_request *q, bool trains, struct err *err);
void setup_close(struct run *r);
/* What the spec and a model's description plan, without any tensor: `tuneup plan`. ranks and rank as told. */
int setup_plan(const struct spec *s, const struct hf_config *c, bool trains, int rank, int ranks, struct plan *p,
               struct err *err);
/* ERR_INFEASIBLE, with the plan's table and what would fit, when ranks_here ranks of this plan exceed the limit. */
int setup_fits(const struct spec *s, const struct hf_config *c, bool trains, const struct plan *p, int ranks_here,
               int64_t limit, struct err *err);

/* loop.c */
int loop_evaluate(struct run *r, double *loss, struct err *err); /* over at most eval_batches; all ranks' mean */
int loop_train(struct run *r, struct err *err);

/* resume.c */
/* What is in the output folder already: 0 = nothing that this run could harm, 1 = the very run, finished, and --resume was
 * asked; ERR_USAGE for a model or checkpoints that would be lost. Every rank looks. */
int resume_check_output(const struct run *r, struct err *err);
int resume_save(struct run *r, struct err *err);
int resume_load(struct run *r, struct err *err); /* 1: went on from a checkpoint, 0: there is none */
int64_t resume_bytes(const struct plan *p); /* of one checkpoint, all ranks */

/* record.c: rank 0 alone writes */
struct record_update {
    double loss, rate, grad_norm, seconds;
    int64_t tokens;
};
int record_open(struct run *r, struct err *err);
void record_begin(struct run *r); /* an update begins: its joules are counted from here */
int record_update(struct run *r, const struct record_update *u, struct err *err);
int record_eval(struct run *r, double loss, struct err *err);
int record_finish(struct run *r, const char *state, struct err *err); /* run.json */
json_t *record_result(const struct run *r);
void record_close(struct run *r);
void record_summary(const struct run *r);

#endif
