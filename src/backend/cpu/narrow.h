/* backend/cpu/narrow.h - products of a few rows with a matrix of weights, which is what decoding consists of:
 *
 *     y[M,N] = x[M,K] wT (+ bias[N]) (relu),   w stored [N,K],   M at most NARROW_ROWS
 *
 * Each weight is read from memory once, whatever M, and this reading is all that takes time: oneDNN's products, made for
 * tall matrices, reach half of what memory gives. A row's result has the same bits in whatever company it is computed and by
 * any number of threads: its dot products are summed in one order that depends on K and the instruction set alone. */
#ifndef TUNEUP_BACKEND_CPU_NARROW_H
#define TUNEUP_BACKEND_CPU_NARROW_H

#include "backend/cpu/matmul.h"

#define NARROW_ROWS 8

/* Bytes of scratch for x of any M. */
size_t narrow_scratch(const struct matmul_shape *s);
/* As matmul_run, for a shape with b transposed and a dense, nothing added. */
void narrow_run(enum cpu_isa isa, int threads, const struct matmul_shape *s, const void *x, const void *w,
                const void *bias, void *y, void *scratch);

#endif
