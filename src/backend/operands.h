/* backend/operands.h - the operands of every op as data: the table of graph/op.h in a form that prepare can check a step
 * against and that the op tests make random operands from. */
#ifndef TUNEUP_BACKEND_OPERANDS_H
#define TUNEUP_BACKEND_OPERANDS_H

#include "backend/backend.h"

struct operand_form {
    char
        type; /* w: the step's working type; o: that or fp32; v: fp32, bf16 or fp16, for itself; f: fp32; d: fp64; i: int32; q: int8; x: int32 or fp32, one for all */
    bool optional;
    bool adds; /* obeys attrs.accumulate */
    char extent[5]; /* letters of graph/op.h, or a digit; "*": one shape for all such operands; "~": any shape */
};

struct op_form {
    int n_in, n_out;
    struct operand_form in[OP_MAX_IN], out[OP_MAX_OUT];
};

/* False for the ops of comm, which no backend has. */
bool operands_form(enum op op, struct op_form *out);

/* Refuses a step whose operands are not of its op's form, or whose attributes are out of range; backend is the name to
 * blame. fp64: that is also a working type, and then stands for fp32 too (ref, for finite differences). */
int operands_check(const struct plan *p, const struct op_step *s, const char *backend, bool fp64, struct err *err);

/* ids that a kernel is about to use as indexes: each in low .. n-1, where low is 0, or INT32_MIN when negative ones mean
 * "none". An ERR_RUN that names the first wrong one otherwise. */
int operands_check_ids(const int32_t *ids, int64_t count, int32_t low, int64_t n, const char *what, struct err *err);
/* The pairs of B rows of T scores: B is even, and no position is outside of its row. */
int operands_check_pairs(const int32_t *pairs, int64_t B, int64_t T, struct err *err);

/* The first column that each of B rows is about to write to in a cache: each in 0 .. last. */
int operands_check_columns(const int32_t *at, int64_t B, int64_t last, struct err *err);

#endif
