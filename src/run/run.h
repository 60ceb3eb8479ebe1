/* run/run.h - a phase run from words to files: set up, loop, record, save. Called by the commands of the phases.
 * setup.c opens and closes it, run.c leads it from start to end, loop.c trains and evaluates one model on batches (phases 1
 * and 2), resume.c keeps checkpoints, record.c writes what happened. */
#ifndef TUNEUP_RUN_RUN_H
#define TUNEUP_RUN_RUN_H

#include "comm/comm.h"
#include "measure/energy.h"
#include "measure/memory.h"
#include "phases/trainer.h"
#include "plan/predict.h"
#include "run/build.h"
#include "run/inputs.h"
#include "run/lock.h"
#include "run/spec.h"
#include "run/tensorboard.h"
#include "store/model_dir.h"

#define RUN_MAX_RANKS 4096
#define RUN_MAX_MODELS 5

struct run;

/* A model of the run. */
struct run_model {
    const char *prefix; /* its buffers' in the plan: "" when it is alone, else "actor/" */
    const char *dir; /* where it comes from */
    const char *adapter; /* a folder with a trained adapter, or NULL */
    bool value_head; /* it gives scores: has v_head.weight */
    bool new_head; /* a v_head that is not there is made */
    bool learns; /* its weights change, so they are in checkpoints */
    struct hf_config config;
    struct model_dir files, adapter_files; /* open until the weights are read, or to the end where some are mapped */
    bool assumed; /* files that are not there: of the planned types */
    struct trainer trainer; /* of one that learns */
};

#define RUN_TECHNIQUE_SETS 4
#define RUN_SPEC_BYTES 8192 /* the largest spec of a form */

/* What is known of the data, by the extents of programs. */
struct run_live {
    struct extents_live of[EXTENTS_N];
};

/* How the runs of some phases go; all else is the same in every phase. */
struct run_form {
    /* Fills in prefix, dir and flags of the models that the spec means; returns how many. Nothing is read. */
    int (*models)(const struct spec *s, bool trains, struct run_model *models);
    /* What the spec and the models' descriptions plan, without any tensor: also for `tuneup plan`. */
    int (*plan)(const struct spec *s, const struct run_model *models, bool trains, int rank, int ranks,
                const struct run_live *live, struct plan *p, struct err *err);
    /* Tokenizer, samples, batchers, and what their batches have live: before memory is planned. */
    int (*data)(struct run *r, struct err *err);
    int (*start)(struct run *r, struct err *err); /* weights are there: trainers, the phase's state */
    int (*train)(struct run *r, struct err *err); /* from r->at to the end. ERR_STOPPED after a signal, all saved */
    /* The form's own part of a checkpoint's state; NULL: none. */
    int (*save_state)(const struct run *r, json_t *state, struct err *err);
    int (*load_state)(struct run *r, const json_t *state, const char *path, struct err *err);
    /* The values of techniques in the spec, at most RUN_TECHNIQUE_SETS; returns how many. NULL: spec->techniques alone. */
    int (*techniques)(struct spec *s, struct technique_values **out);
    void (*plain)(
        struct spec *s); /* switches off what is no technique of the table and yet none of the baseline's; NULL */
    size_t spec_bytes; /* of the form's own spec; 0: sizeof(struct spec) */
    void (*close)(struct run *r); /* frees r->work; accepts what start left halfway */
};
extern const struct run_form run_batches; /* loop.c: phases 1 and 2 */
extern const struct run_form run_ppo; /* ppo_loop.c: phase 3 */

/* The words and where they came from: for run.json. Borrowed. */
struct run_request {
    const struct run_form *form;
    struct spec *spec; /* --optimize changes its techniques */
    const struct option_set *sets;
    int n_sets;
    const struct option_given *given;
    int n_given;
};

/* Runs of a program at the same extents. */
struct forecast_runs {
    int program;
    struct plan_extents at;
    double times, seconds; /* seconds: predicted, of one */
};
#define FORECAST_NOTES 64

/* What this machine's profile says of the run; rank 0 alone. Without one nothing is predicted, and why says so. */
struct run_forecast {
    bool there;
    char profile[160], why[640];
    struct predictor predictor;
    struct profile machine;
    struct prediction update; /* at the usual extents */
    double so_far_s, begin_s; /* of all programs that ran, at the extents that they had; when the update began */
    struct forecast_runs noted[FORECAST_NOTES]; /* and are not yet in so_far_s */
    int n_noted;
    struct forecast_runs last[PLAN_MAX_PROGRAMS]; /* of each program: most run at the same extents again and again */
};

/* Where a run stands: all of it is in a checkpoint. */
struct run_position {
    int64_t epoch, batch; /* the next batch of the epoch */
    int64_t n_micro; /* micro-batches so far */
    int64_t n_updates; /* steps: skipped ones too */
    int64_t n_tokens; /* real ids seen by all ranks */
    double last_loss;
    double first_eval[PHASE_MAX_METRICS]; /* of the phase's metrics; NAN: none yet */
    double seconds; /* of all updates */
};

struct run {
    struct run_request request;
    const struct run_form *form;
    const struct spec *spec;
    bool trains;
    struct comm comm;
    bool comm_is_open;
    struct run_model models[RUN_MAX_MODELS];
    int n_models;
    struct inputs inputs;
    struct batcher train, eval;
    struct run_live live; /* of the data, all ranks and epochs */
    struct plan plan;
    struct backend backend;
    struct exec exec;
    void *work; /* the form's */
    bool is_done; /* --resume of a run that has finished: nothing else is open */
    struct run_lock lock;
    struct run_position at;
    int64_t total_updates; /* where the run ends, as far as is known */
    double op_seconds[OP_N]; /* --profile */
    struct run_forecast forecast;
    json_t *optimized; /* what --optimize switched on and why; NULL: nothing was asked */
    bool was_optimized[TECHNIQUES_MAX]; /* techniques whose words it decided */
    /* measured */
    struct memory_sampler *memory;
    struct energy_meter *energy;
    double started_s, steady_seconds;
    int64_t steady_tokens, n_steady;
    double begin_joules; /* since the start, when the update began */
    int64_t peak_bytes; /* all ranks, so far; -1: unknown */
    int64_t *rank_peaks; /* [ranks] on rank 0, at the end */
    double evaluation[PHASE_MAX_METRICS]; /* the last evaluation's; NAN: none yet */
    int64_t evaluated_at, saved_at; /* n_updates when it was, in this process; -1: never */
    FILE *metrics;
    struct tensorboard tensorboard;
};

/* run.c: the whole of `tuneup sft` and its like. 0, or -1; ERR_STOPPED after a signal, with everything saved. All ranks call
 * it; an error that all share is told by rank 0 alone: on the others err->what is empty. */
int run_train(const struct run_request *q, struct err *err);
/* `tuneup eval`: the phase's metrics over the whole data file. */
struct run_evaluation {
    double metrics[PHASE_MAX_METRICS];
    int64_t records, tokens;
    bool tells; /* this rank is the one that speaks */
};
int run_evaluate(const struct run_request *q, struct run_evaluation *out, struct err *err);
/* Where a model that learns is saved, out[FILE_PATH_MAX]: the output folder itself for one that is alone, a folder of its name
 * there for one of several. */
int run_model_folder(const struct spec *s, const struct run_model *m, char *out, struct err *err);
/* After a failure: a rank that fails alone says so and ends all, since the others wait for it in a collective. */
void run_end_failed(struct run *r, struct err *err);

/* run_live.c: what a batcher's batches of all ranks have live through some epochs, at most n_batches of them of a rank. phase
 * NULL: visible ids. The batcher stands at its begin after. */
#define RUN_LIVE_BATCHES 100000 /* of a rank: a second's work; more are not looked at, and whole batches are planned */
int run_live_find(struct batcher *b, const struct run *r, const struct phase *phase, int64_t epochs, int64_t n_batches,
                  struct extents_live *out, struct err *err);

/* setup.c */
int setup_threads(const struct spec *s, int local_ranks); /* of one rank */
/* What the data of a run have live, for who only plans it. */
int setup_live(const struct run_form *form, const struct spec *s, const struct run_model *models, int ranks,
               struct run_live *out, struct err *err);
int setup_open(struct run *r, const struct run_request *q, bool trains, struct err *err);
void setup_close(struct run *r);
/* ERR_USAGE when rows of T ids do not fit the model's positions. option: the word that gave T. */
int setup_length(const struct hf_config *c, const char *option, int64_t T, struct err *err);
/* The words of training as a trainer takes them. */
struct trainer_options setup_trainer_options(const struct spec *s, int64_t total);
/* ERR_RUN on all ranks when a file that is mapped was written to. */
int setup_files_unchanged(struct run *r, struct err *err);
/* ERR_INFEASIBLE, with the plan's table and what would fit, when the local ranks of this plan exceed the limit. */
struct optimize_question;
int setup_fits(const struct optimize_question *q, const struct plan *p, int64_t limit, struct err *err);

/* forecast.c: seconds predicted beside those measured. */
void forecast_open(struct run *r);
void forecast_close(struct run *r);
void forecast_begin(struct run *r); /* of an update */
double forecast_since_begin(struct run *r); /* predicted for the update that is being made; NAN: nothing is */
json_t *forecast_json(const struct run *r);

/* loop.c */
/* Over at most eval_batches; all ranks' means, into r->evaluation. 1: a signal came, and there is no result. */
int loop_evaluate(struct run *r, struct err *err);

/* resume.c */
/* What is in the output folder already: 0 = nothing that this run could harm, 1 = the very run, finished, and --resume was
 * asked; ERR_USAGE for a model or checkpoints that would be lost. Every rank looks. */
int resume_check_output(const struct run *r, struct err *err);
int resume_save(struct run *r, struct err *err); /* once an update: nothing is done where it has been done */
int resume_load(struct run *r, struct err *err); /* 1: went on from a checkpoint, 0: there is none */
int64_t resume_bytes(const struct run *r); /* of one checkpoint, all ranks */

/* record.c: rank 0 alone writes. metrics: of the phase's table. */
struct record_update {
    double rate, grad_norm, seconds; /* the norm: not finite where the update was skipped */
    int64_t tokens;
    double metrics[PHASE_MAX_METRICS];
};
int record_open(struct run *r, struct err *err);
void record_begin(struct run *r); /* an update begins: its joules are counted from here */
int record_update(struct run *r, const struct record_update *u, struct err *err);
int record_eval(struct run *r, struct err *err); /* r->evaluation */
int record_finish(struct run *r, const char *state, struct err *err); /* run.json */
json_t *record_result(const struct run *r);
void record_close(struct run *r);
void record_summary(const struct run *r);
/* "loss 0.6931, accuracy 0.5": the metrics that an evaluation (else an update) tells; those that are known. */
const char *record_words(const struct phase *p, const double *metrics, bool evaluated, const char *between, char *out,
                         size_t size);
/* "  loss scale 1024, 3 skipped", of each model with one; else "". */
const char *record_scale_words(const struct run *r, char *out, size_t size);

#endif
