/* techniques/offload.h - what the two halves of offload share. */
#ifndef TUNEUP_TECHNIQUES_OFFLOAD_H
#define TUNEUP_TECHNIQUES_OFFLOAD_H

#include "techniques/technique.h"

struct offload_options {
    bool state, params;
    const char *folder;
    int64_t piece; /* 0: by the size of the model */
};

/* A transient buffer of that program for elements begin .. begin+count of a buffer in files. Its index, or -1. */
int offload_stage(struct plan *p, int program, int of, int64_t begin, int64_t count, struct err *err);
/* Starts to move all of a staged buffer: from elements begin on of the buffer in files, or to them. */
int offload_move(struct plan *p, int program, enum op op, int file, int staged, int64_t begin, struct err *err);
/* The steps of a program, to be freed with mem_free, and their number; the program is empty after. NULL on error. */
struct op_step *offload_take_steps(struct plan *p, int program, int *n, struct err *err);
int offload_add(struct plan *p, int program, const struct op_step *s, struct err *err); /* at the program's end */

/* offload_params.c: moves weights; an update is left as it is. */
int offload_params(struct plan *p, const char *model, struct err *err);

#endif
