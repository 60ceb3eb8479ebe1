/* backend/cpu/block.h - arithmetic on small fp32 matrices that lie in a core's cache: what attention and the loss are made
 * of. The same code is compiled for each instruction set (block_isa.h); block_of chooses when the program runs.
 *
 * A matrix is given by its address and ld, the distance of its rows. Widths that are called padded are multiples of
 * BLOCK_PAD; there is memory behind them, and what pads is zero or does no harm. All functions are called within one thread,
 * allocate nothing and need no alignment. */
#ifndef TUNEUP_BACKEND_CPU_BLOCK_H
#define TUNEUP_BACKEND_CPU_BLOCK_H

#include "backend/cpu/matmul.h"

#define BLOCK_PAD 32

struct block {
    /* c[m,n] = (add: c +) a[m,k] b[k,n], n padded; element (i, j) of a is a[i*am + j*ak]. */
    void (*product)(float *c, int64_t ldc, const float *a, int64_t am, int64_t ak, const float *b, int64_t ldb,
                    int64_t m, int64_t n, int64_t k, bool add);
    /* out[rows,columns] = scale * in, columns up to padded become zero. */
    void (*widen)(float *out, int64_t ldo, const void *in, enum dtype type, int64_t ldi, int64_t rows, int64_t columns,
                  int64_t padded, float scale);
    /* out[columns,padded] = the transpose of in[rows,columns]; columns of out from rows up to padded become zero. */
    void (*widen_transposed)(float *out, int64_t ldo, const void *in, enum dtype type, int64_t ldi, int64_t rows,
                             int64_t columns, int64_t padded);
    void (*narrow)(void *out, enum dtype type, int64_t ldo, const float *in, int64_t ldi, int64_t rows, int64_t columns,
                   float scale);
    /* A step of the online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867) of each row of s. The columns from
     * first[i] to end[i] are seen; s becomes exp(s - max) there and 0 elsewhere, with max[i] (at first -inf) raised to
     * the largest seen, sum[i] (at first 0) the sum over all steps, and factor[i] what earlier steps' results are to be
     * multiplied by. */
    void (*softmax)(float *s, int64_t lds, int64_t rows, int64_t columns, const int32_t *first, const int32_t *end,
                    float *max, float *sum, float *factor);
    /* s = exp(s - lse[i]) in the columns seen, 0 elsewhere. */
    void (*exponential)(float *s, int64_t lds, int64_t rows, int64_t columns, const int32_t *first, const int32_t *end,
                        const float *lse);
    void (*scale_rows)(float *x, int64_t ldx, int64_t rows, int64_t columns, const float *factor);
    /* out[i] = the dot product of the rows i of a and b. */
    void (*dot_rows)(float *out, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t rows,
                     int64_t columns);
    /* g = p * (g - mean[i]): the gradient of softmax. */
    void (*softmax_grad)(float *g, const float *p, int64_t ld, int64_t rows, int64_t columns, const float *mean);
};

const struct block *block_of(enum cpu_isa isa);

static inline int64_t block_padded(int64_t n)
{
    return (n + BLOCK_PAD - 1) / BLOCK_PAD * BLOCK_PAD;
}

#endif
