/* report/load.h - a study's file in memory, for ratios and reports. Needs the file alone: it is opened for reading, may be
 * written by a running study meanwhile, and everything in it is taken as text from outside. */
#ifndef TUNEUP_REPORT_LOAD_H
#define TUNEUP_REPORT_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define LOAD_SCHEMA 4 /* of study/study_store.h: newer ones are refused; what older ones lack is unknown */
#define LOAD_APPLICATION 0x54756e65

enum { LOAD_N_KINDS = 8 };
extern const char *const load_kinds[LOAD_N_KINDS]; /* param master grad optimizer activation kv comm workspace */

struct load_step {
    int64_t step;
    double loss, seconds, joules;
    int64_t peak_bytes;
};

/* Whatever else a phase tells, of a step or (step 0) of the whole run: "accuracy", "kl", "generate_seconds". */
struct load_metric {
    int64_t step;
    char *name; /* owned */
    double value;
};

/* A stretch of a run that ends at `seconds`: the host's memory at most, the GPUs', mean power. */
struct load_point {
    double seconds, watts;
    int64_t memory_bytes, gpu_bytes;
};

/* Unknown is NAN, -1 or "". Strings are owned. */
struct load_run {
    int64_t id; /* in its file */
    int cell; /* index in cells */
    int64_t block; /* negative: warm-up */
    int64_t position, exit_status;
    char *finished, *argv, *state, *reason, *stderr_tail;
    double seconds, cpu_seconds, load_before;
    int64_t peak_bytes, peak_pss_bytes, own_peak_bytes; /* seen from outside; counted by the run itself */
    char *energy_state, *energy_reason, *energy_domains; /* of joules, the whole run */
    double joules, steady_s, steady_j; /* steady: the steps after the warm-up */
    char *steady_energy_state, *steady_energy_reason;
    double tokens_per_s, final_loss, eval_loss;
    int64_t warmup_steps, tokens, planned_peak_bytes;
    double planned_flops, planned_bytes_moved, planned_comm_bytes;
    char *run_json;
    double steal_s, cgroup_wait_s; /* CPU that others took, or a limit; seconds */
    int64_t throttles, swapped_in;
    char *machine; /* that it ran on */
    int64_t planned[LOAD_N_KINDS], allocated[LOAD_N_KINDS];
    struct load_step *steps; /* owned */
    int n_steps;
    struct load_metric *metrics; /* owned; by step */
    int n_metrics;
    struct load_point *trace; /* owned */
    int n_trace;
    bool done; /* state is "done" */
};

struct load_cell {
    int64_t id;
    char *name, *phase, *techniques, *argv; /* the last two are JSON arrays */
    int64_t ranks;
    bool exact, is_command;
    int baseline; /* index; its own for a baseline */
};

struct loaded {
    char *name, *design, *machine, *version, *created; /* machine: JSON */
    int64_t seed, blocks;
    struct load_cell *cells;
    int n_cells;
    struct load_run *runs; /* by cell, then block */
    int n_runs;
};

/* A study's file, or the lines that `tuneup measure -o FILE.jsonl` writes, or another tool's table (recorded.h).
 * ERR_INPUT: no such file, no study's file, a newer schema, or rows that do not fit together. On error *l is empty. */
int load_study(struct loaded *l, const char *path, struct err *err);
/* The same from several files, which then have to be lists of runs. */
int load_runs(struct loaded *l, const char *const *paths, int n, struct err *err);
void load_free(struct loaded *l);
void load_run_init(struct load_run *r); /* all unknown, no strings */
/* The run of a cell in a block, done or failed; NULL if there is none. */
const struct load_run *load_find(const struct loaded *l, int cell, int64_t block);
/* Whether no cell before this one is of its phase: by this a loop over the cells visits each phase once. */
bool load_begins_phase(const struct loaded *l, int cell);
/* A metric of a run; NAN where it is unknown. */
double load_metric(const struct load_run *r, int64_t step, const char *name);
/* Its mean over all steps, and its sum over those after the warm-up; NAN when one of them lacks it. */
double load_metric_mean(const struct load_run *r, const char *name);
double load_metric_steady(const struct load_run *r, const char *name);

#endif
