/* backend/cpu/amx.h - bf16 matrix products on a processor's tile registers (AMX-BF16), in every form of matmul.h.
 *
 * oneDNN's reach a fifth to a half of what the tiles can do at a model's shapes, and less where an operand is stored
 * transposed; these are what the training step then consists of. An element is summed in one order that depends on K and on
 * whether rows are few: results are the same bits for any number of threads.
 *
 * What is below the smallest normal number counts as zero, in operands and results: the tiles know no others. */
#ifndef TUNEUP_BACKEND_CPU_AMX_H
#define TUNEUP_BACKEND_CPU_AMX_H

#include "backend/cpu/matmul.h"

/* Up to so many rows b, if it is stored transposed, is read once and as it lies, which is all that takes time. */
#define AMX_FEW_ROWS 16

/* Asks the system for the tiles' state; false: it is not to be had. */
bool amx_open(void);

/* Bytes that suffice for s and for fewer rows (M, or K of a transposed a) or nothing added. */
size_t amx_scratch(const struct matmul_shape *s);
/* As matmul_run, for bf16 operands and a dense; on OpenMP's threads. */
void amx_run(const struct matmul_shape *s, const void *a, const void *b, const void *bias, void *c, void *scratch);

/* --- small matrices, within one thread: what attention is made of --- */

/* An operand as it lies in memory: `rows` of it with K along each of them, or, across, K of them with a row of the operand
 * in each column. fp32 is rounded to bf16. */
struct amx_source {
    const void *x;
    int64_t ld;
    enum dtype type;
    bool across;
};

#define AMX_STRIP 32 /* packed rows, and K, are whole strips; what is beyond the operand is zero */

static inline int64_t amx_whole(int64_t n)
{
    return (n + AMX_STRIP - 1) / AMX_STRIP * AMX_STRIP;
}

/* Packs the first `rows` and `depth` of K: amx_whole(rows) * amx_whole(depth) numbers, 64-byte aligned. */
void amx_pack_a(uint16_t *out, const struct amx_source *s, int64_t rows, int64_t depth);
void amx_pack_b(uint16_t *out, const struct amx_source *s, int64_t columns, int64_t depth);

/* The thread's tiles, for amx_multiply. */
void amx_begin(void);
void amx_end(void);
/* c = (add: c +) a b, packed; m, n and k are rounded up to whole strips, in c as well, whose rows are ldc apart. */
void amx_multiply(float *c, int64_t ldc, const uint16_t *a, const uint16_t *b, int64_t m, int64_t n, int64_t k,
                  bool add);

#endif
