/* study/study_store.h - the study's file: SQLite in WAL mode, so that it is whole after kill -9 between any two
 * statements, and can be read while a study runs. One file holds one study: its cells (with all that decides what is
 * run), every run with its steps and its memory by kind, the machine and the versions.
 *
 * Tables, for people with the sqlite3 program: study (one row), cell, run, memory (run x kind), step, metric (run x step x
 * name: what a phase tells beyond loss and time; step 0 is the whole run). report/load.c reads them. PRAGMA user_version is
 * the schema's number: a newer one is refused; an older file is copied beside itself (study.db.schema-2) and then migrated when it
 * is opened for writing. docs/schema.md says what is in each table. */
#ifndef TUNEUP_STUDY_STUDY_STORE_H
#define TUNEUP_STUDY_STUDY_STORE_H

#include <stdint.h>

#include "base/db.h"
#include "base/err.h"
#include "measure/noise.h"
#include "measure/timeline.h"
#include "study/cells.h"
#include "study/outcome.h"

#define STUDY_STORE_SCHEMA 4
#define STUDY_STORE_APPLICATION 0x54756e65 /* "Tune" */

struct study_store {
    struct db db;
};

/* What the meter saw of one process group. Unknown is NAN or -1. */
struct study_run {
    int64_t block; /* negative: warm-up, not counted */
    int position; /* in its block */
    const char *argv_json; /* borrowed, all of them */
    const char *state; /* "done" or "failed" */
    const char *reason; /* why it failed, in words; "" */
    const char *stderr_tail; /* "" */
    int exit_status;
    double seconds, cpu_seconds, load_before, sample_interval_s;
    int64_t peak_bytes, peak_pss_bytes, n_samples;
    const char *energy_state, *energy_reason, *energy_domains;
    double joules; /* of the whole run; NAN unless measured or estimated */
    struct noise noise; /* while it ran */
    const char *machine; /* "host, cpu, 2 CPUs" */
    const struct timeline *timeline; /* memory and power over time; NULL = not kept */
    const struct outcome *outcome; /* NULL for failed runs */
};

/* Opens or creates. ERR_INPUT: not a study's file, or of a newer schema. */
int study_store_open(struct study_store *s, const char *path, struct err *err);
/* The same of a file that has to be there. */
int study_store_open_existing(struct study_store *s, const char *path, struct err *err);
void study_store_close(struct study_store *s);

/* Writes the study's own row and its cells, or, where they are there already, checks that they are the same: ERR_USAGE
 * says what differs. More blocks than before are fine. machine_json and binary (a hash of the program) are stored.
 * *rebuilt: the study was begun by another build of the program. */
int study_store_begin(struct study_store *s, const struct cells *cells, const char *machine_json, const char *binary,
                      bool *rebuilt, struct err *err);
/* 1 = this cell (its index) has a recorded result in this block, 0 = not. */
int study_store_has(struct study_store *s, int cell, int64_t block, struct err *err);
/* Records a run, whole or not at all. ERR_USAGE if it is there already. */
int study_store_add(struct study_store *s, int cell, const struct study_run *run, struct err *err);
/* Removes a run and all that belongs to it, so that it is run again. ERR_USAGE: there is none of this id. */
int study_store_remove(struct study_store *s, int64_t id, struct err *err);
/* The same by the cell's id, inside a transaction of the caller's. */
int study_store_add_run(struct study_store *s, int64_t cell, const struct study_run *run, struct err *err);
/* Forgets the failed runs, so that they are tried again. How many. */
int study_store_forget_failed(struct study_store *s, struct err *err);

#endif
