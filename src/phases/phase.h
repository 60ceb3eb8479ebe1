/* phases/phase.h - a phase as run/build.c sees it: the programs that it wants. No phase knows a technique. */
#ifndef TUNEUP_PHASES_PHASE_H
#define TUNEUP_PHASES_PHASE_H

#include "models/opt.h"

struct phase_program {
    const char *name; /* "train", "eval" */
    bool trains; /* gradients of its loss are wanted */
    /* Adds the forward ops for [B,T] tokens; returns the loss, or -1 when there is none. */
    int (*add)(struct graph *g, const struct opt_shape *o, int64_t B, int64_t T);
};

struct phase {
    const char *name; /* "sft" */
    const struct phase_program *programs; /* name NULL at the end */
};

extern const struct phase phase_sft;

#endif
