/* run/spec.h - what was asked of a phase, in DeepSpeed-Chat's words: the one table of its options. */
#ifndef TUNEUP_RUN_SPEC_H
#define TUNEUP_RUN_SPEC_H

#include "phases/phase.h"
#include "techniques/technique.h"

enum spec_convention { SPEC_TUNEUP, SPEC_DEEPSPEED_CHAT, SPEC_PAPER };

#define SPEC_TRAINING_OPTIONS 20
#define SPEC_PHASE_BYTES 64
#define SPEC_MAX_DATA 16

struct spec {
    const struct phase *phase; /* the one that was asked for */
    /* model and data */
    const char *model, *output, *data_split;
    const char *data[SPEC_MAX_DATA + 1], *sft_only_data[SPEC_MAX_DATA + 1]; /* NULL at the end */
    int64_t max_seq_len;
    int convention; /* enum spec_convention */
    bool pad_to_max, skip_bad_records, jsonfile_spaces, allow_nonfinite;
    double dropout; /* negative: the model's own */
    /* training */
    int64_t train_batch, eval_batch, accumulation, epochs, max_steps, warmup;
    double learning_rate, weight_decay, beta1, beta2, epsilon, clip;
    int schedule;
    int64_t seed;
    int64_t eval_batches; /* negative: all; 0: no evaluation */
    int64_t eval_interval; /* updates between evaluations; 0: only where an epoch begins or ends */
    /* the run */
    int64_t ranks, threads;
    double comm_timeout; /* seconds */
    int backend;
    const char *memory_limit;
    int optimize, optimize_among; /* indexes of OPTIMIZE_GOALS and OPTIMIZE_AMONG */
    int64_t save_interval, keep;
    bool resume, overwrite, save_model, tensorboard, profile, json;
    int64_t measure_warmup;
    /* accepted so that scripts of DeepSpeed-Chat run unchanged: they switch what is always on here, or nothing */
    bool ignored_deepspeed, ignored_print_loss, ignored_fp32_loss;
    int64_t ignored_local_rank;
    const char *ignored_data_output_path;
    struct technique_values techniques;
    _Alignas(16) char phase_options[SPEC_PHASE_BYTES]; /* of the phase's own table */
    struct option training[SPEC_TRAINING_OPTIONS]; /* the table of training, with this phase's defaults */
};

#define SPEC_BACKENDS "cpu|ref"
#define OPTIMIZE_GOALS "off|speed|memory|energy|balanced|all"
/* Which techniques a search may switch on; each more than the one before. */
#define OPTIMIZE_AMONG "exact|inexact|any"
enum optimize_among { AMONG_EXACT, AMONG_INEXACT, AMONG_ANY };
enum optimize_goal { GOAL_OFF, GOAL_SPEED, GOAL_MEMORY, GOAL_ENERGY, GOAL_BALANCED, GOAL_ALL };
const char *spec_backend_name(const struct spec *s);

/* The option sets of a phase that trains; returns how many. s->phase becomes it. */
int spec_sets(struct spec *s, const struct phase *phase, struct option_set *sets);
struct option_set spec_optimize_set(struct spec *s); /* behind those of techniques */
struct option_set spec_run_set(struct spec *s); /* the last of them, for phases that have tables of their own */
/* What must be given, and what must not be together. ERR_USAGE. */
int spec_check_train(const struct spec *s, struct err *err);
int spec_check_optimize(const struct spec *s, struct err *err); /* the same of --optimize alone */
/* ERR_USAGE for what only a run that trains can have. */
int spec_check_judges(const struct spec *s, const char *command, struct err *err);
/* "8GiB", "500M", "1073741824" -> bytes. ERR_USAGE. */
int spec_bytes(const char *text, int64_t *bytes, struct err *err);

#endif
