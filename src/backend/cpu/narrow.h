/* backend/cpu/narrow.h - products of a few rows with a matrix of weights, which is what decoding consists of:
 *
 *     y[M,N] = x[M,K] wT (+ bias[N]) (+ y) (relu),   w stored [N,K],   M at most NARROW_ROWS
 *
 * Each weight is read from memory once, whatever M, and this reading is all that takes time: oneDNN's products, made for
 * tall matrices, reach half of what memory gives. A row's result has the same bits in whatever company it is computed and by
 * any number of threads: its dot products are summed in one order that depends on K and the instruction set alone. */
#ifndef TUNEUP_BACKEND_CPU_NARROW_H
#define TUNEUP_BACKEND_CPU_NARROW_H

#include "backend/cpu/matmul.h"

#define NARROW_ROWS 8

/* A product as the inner loops see it. */
struct narrow_job {
    const float *x; /* [M,K], rows ldx apart; against 16-bit weights, each row as spread leaves it */
    int64_t ldx;
    const void *w, *bias; /* w: [N,K], rows ldw apart; bias: NULL = none */
    int64_t ldw;
    const float *scales; /* NULL, or w is int8 [N,K] and these are its groups' [N, groups of K] */
    void *y; /* [M,N] */
    int64_t M, N, K;
    enum dtype type, y_type; /* of w (unless it is int8) and bias; of y */
    bool relu, add;
};

/* What a single query sees of a cache: n keys or values, rows ldw apart, of H heads of D channels each. All heads go side by
 * side, so that memory is read in its order; a head's numbers do not depend on which others are there. */
struct narrow_cache {
    const void *w;
    enum dtype type;
    int64_t ldw, n, H, D;
};

/* The inner loops, of one instruction set; all work within one thread. */
struct narrow {
    /* A row of x in fp32, in the order that suits weights of its type. */
    void (*spread)(float *out, const uint16_t *x, enum dtype type, int64_t K);
    /* Columns begin .. end-1 of y. */
    void (*columns)(const struct narrow_job *j, int64_t begin, int64_t end);
    /* p[h,s], heads ldp apart, = head h of row s times that of x [H,D], each as spread leaves it for 16-bit types. */
    void (*products)(float *p, int64_t ldp, const float *x, const struct narrow_cache *c);
    /* out[H,D]: head h is the sum of p[h,s] times head h of row s. */
    void (*mix)(float *out, const float *p, int64_t ldp, const struct narrow_cache *c);
};

const struct narrow *narrow_of(enum cpu_isa isa);

/* Bytes of scratch for x of any M. */
size_t narrow_scratch(const struct matmul_shape *s);
/* As matmul_run, for a shape with b transposed and a dense. */
void narrow_run(enum cpu_isa isa, int threads, const struct matmul_shape *s, const void *x, const void *w,
                const void *bias, void *y, void *scratch);

/* The same with weights in int8, as the op quantize makes them. */
struct narrow_q8 {
    const int8_t *w; /* [N,K] */
    const float *scales;
};
void narrow_run_q8(enum cpu_isa isa, int threads, const struct matmul_shape *s, const void *x,
                   const struct narrow_q8 *w, const void *bias, void *y, void *scratch);

#endif
