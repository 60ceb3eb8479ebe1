/* measure/job.h - runs any command and meters it: time, peak memory of its process tree, CPU time, energy.
 * The command is not changed: it has the caller's stdin, stdout, stderr, terminal, process group, signal mask and
 * environment, but for TUNEUP_RUN, by which its scattered processes are known, and TUNEUP_METRICS_* (steps.h). Signals sent to the caller go to it.
 * If a meter fails the command goes on, and the record says so. Used by tuneup measure and by the cells of a study.
 * Cost: within 1 % of one CPU, and some milliseconds at the start and the end (bench/bench_meter.c). */
#ifndef TUNEUP_MEASURE_JOB_H
#define TUNEUP_MEASURE_JOB_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "base/json.h"
#include "measure/energy.h"
#include "measure/noise.h"
#include "measure/timeline.h"

struct job_record {
    double seconds; /* from before the start to the end of the command itself */
    int exit_status; /* 128 + n: ended by signal n; 124: by the timeout; 125-127: could not be started */
    /* Highest sum over the tree at one time: anonymous + shared + swap, proportional share. -1 = unknown: the command
     * was over before it could be read, or /proc cannot be. */
    int64_t peak_bytes;
    int64_t peak_pss_bytes; /* the same with files mapped; -1 = unknown */
    double cpu_seconds; /* of all processes that were waited for, or are still there at the end */
    int64_t n_switches, n_preemptions; /* context switches, of their own accord and not; of those waited for */
    int64_t read_bytes, written_bytes; /* that reached a disk; of those waited for */
    int64_t n_samples; /* readings of the tree */
    double sample_interval_s; /* mean; a peak shorter than that may be missed */
    int n_processes; /* at once, at most */
    int n_unreadable; /* of these, owned by others: the peak lacks them */
    double meter_cpu_seconds; /* what metering took */
    struct energy_result energy;
    struct energy_gpus gpus;
    struct timeline timeline; /* memory and power over time */
    struct noise noise; /* what disturbed it */
    double load_before; /* of the machine, one-minute mean; NAN = unknown */
    double steal_seconds; /* CPU the hypervisor gave to others meanwhile; NAN = unknown */
    int passed_signal; /* the last signal passed on to the command; 0 = none */
    bool timed_out;
    bool memory_failed; /* processes' memory cannot be read here at all */
};
struct job_options {
    const char *stdin_path, *stdout_path, *stderr_path; /* NULL = inherited; outputs are created or emptied */
    double timeout_s; /* 0 = none; then SIGTERM, and SIGKILL 5 s later */
    /* A process group of its own, and whatever is left of the tree when the command ends is killed: a study's cell must
     * not disturb the next one. */
    bool own_group;
    const char *const *extra_env; /* "NAME=value", NULL at the end; NULL = none */
    const struct energy_options *energy; /* NULL: all that there is, GPUs included */
    struct steps *steps; /* open; what the command tells of itself goes there. NULL = it is not asked to */
    FILE *trace; /* lines of seconds, memory, PSS, processes, watts, GPU memory; NULL = none */
};

/* 0 = the command ran, whatever became of it. -1 = it could not be started; out->exit_status is then 127 (not found),
 * 126 (cannot be executed) or 125 (our own failure). argv ends with NULL. o may be NULL. Call it from the thread that
 * takes the process's signals, and without other children: all descendants are taken for the command's. */
int job_measure(char *const argv[], const struct job_options *o, struct job_record *out, struct err *err);

/* Why peak_bytes is unknown; NULL when it is known. */
const char *job_memory_reason(const struct job_record *r);
/* {"seconds", "exit_status", "peak_bytes", "cpu_seconds", "energy": {...}, ...}; unknown numbers are null. NULL when
 * there is no memory; release with json_decref. */
json_t *job_json(const struct job_record *r);
json_t *energy_json(const struct energy_result *r);

#endif
