/* run/launch.h - this program started again: as N ranks under mpirun (`--ranks N`), or as one phase of several. Signals and
 * the exit status are passed through. */
#ifndef TUNEUP_RUN_LAUNCH_H
#define TUNEUP_RUN_LAUNCH_H

#include "base/err.h"

/* Waits for the ranks. Returns their exit status (130 or 143 when a signal stopped them after saving), or -1. */
int launch_ranks(int ranks, int argc, char **argv, struct err *err);

/* Runs this program with the words argv[1..argc-1], and waits. A signal of the user is handed on as it is; after one, nothing
 * more is started. Returns the exit status (130 or 143 when a signal ended it), or -1. */
int launch_self(int argc, const char *const *argv, struct err *err);

#endif
