/* run/calibrate.h - what this machine can do, measured: a profile (plan/profile.h) for predictions.
 *
 * Ops are timed where they will be predicted: inside plans, each of this program's own kernels, at several sizes of OPT, with
 * the table's techniques off and on, so that an op that a new technique brings is timed unasked. Called by `tuneup doctor
 * --profile`; takes a minute or two and about a gibibyte. */
#ifndef TUNEUP_RUN_CALIBRATE_H
#define TUNEUP_RUN_CALIBRATE_H

#include "base/file.h"
#include "plan/profile.h"

struct calibrate_options {
    int threads; /* 0: as a run of one rank has */
    const char *folder; /* where the disk is measured */
    bool quick; /* ops at the smallest size alone: some seconds, and less exact */
};

/* pair: what calibrate_pair found, NULL: nothing. On error *p is empty. */
int calibrate_measure(struct profile *p, const struct calibrate_options *o, const struct profile *pair,
                      struct err *err);
/* In each of two ranks: their link, and ops that both run at the same time; rank 0 writes it to the file `path`, a profile of
 * which those alone are measured. */
int calibrate_pair(const char *path, bool quick, struct err *err);

/* Where this machine's profile is kept: TUNEUP_PROFILE, or tuneup/profile.json in the user's cache folder. */
int calibrate_path(char out[FILE_PATH_MAX], struct err *err);
/* The profile kept there, if it is of this very machine: 1; 0 with the reason in *why: none is there, or it is of another
 * machine; -1: there is one that cannot be read. */
int calibrate_local(struct profile *p, char *why, size_t size, struct err *err);
/* The same, or where there is none a profile of assumptions by instruction sets and processors, said in a note. */
int calibrate_local_or_assumed(struct profile *p, struct err *err);

#endif
