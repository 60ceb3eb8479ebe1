/* phases/phase.h - a phase as run/build.c sees it: the programs that it wants. No phase knows a technique. */
#ifndef TUNEUP_PHASES_PHASE_H
#define TUNEUP_PHASES_PHASE_H

#include "models/opt.h"

/* Which extents a program is planned for: build has one of each, and leaves out the programs whose extents have no rows. */
enum extents_of { EXTENTS_TRAIN, EXTENTS_TEXT, EXTENTS_EVAL, EXTENTS_SCORE, EXTENTS_PREFILL, EXTENTS_DECODE, EXTENTS_N };

struct phase_program {
    const char *model; /* prefix of the model it runs: "" where there is one, "actor/" */
    const char *name; /* "train", "eval" */
    bool trains; /* gradients of its loss are wanted */
    enum extents_of extents;
    /* Adds the forward ops; returns the loss, or -1 when there is none. */
    int (*add)(struct graph *g, const struct opt_shape *o, const struct extents *x);
};

struct phase {
    const char *name; /* "sft" */
    const struct phase_program *programs; /* name NULL at the end */
};

extern const struct phase phase_sft, phase_reward;

#endif
