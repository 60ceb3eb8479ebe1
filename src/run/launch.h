/* run/launch.h - `--ranks N`: starts this very command line again as N ranks under mpirun, and passes signals and the exit
 * status through. */
#ifndef TUNEUP_RUN_LAUNCH_H
#define TUNEUP_RUN_LAUNCH_H

#include "base/err.h"

/* Waits for the ranks. Returns their exit status (130 or 143 when a signal stopped them after saving), or -1. */
int launch_ranks(int ranks, int argc, char **argv, struct err *err);

#endif
