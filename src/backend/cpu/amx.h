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

#endif
