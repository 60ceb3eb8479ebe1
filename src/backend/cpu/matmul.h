/* backend/cpu/matmul.h - matrix products by oneDNN, the vendor library: the only door to it.
 *
 *     c[M,N] = a[M,K] b[K,N]   (+ c) (+ bias[N]) (relu)      in that order, accumulated in fp32, rounded once
 *
 * Operands are row-major. fp32 runs as it is, but for small products of a plain b on AVX2, where oneDNN does not pack its
 * operands and loses a third: there b is transposed first. bf16 has four ways, chosen by the processor:
 * - AMX: our own (amx.h);
 * - AVX512-BF16: oneDNN's own; an a that is stored transposed is transposed by us first, in panels, as oneDNN's weight
 *   gradients are slow;
 * - otherwise (AVX2, AVX-512 without BF16, where oneDNN would emulate or loop): panels are widened to fp32 in scratch,
 *   multiplied there, and rounded once at the end.
 * fp16 goes the last way everywhere: oneDNN 2.6 does not multiply it on processors.
 *
 * A product is made for its shape the first time and kept; the least recently used go when there are too many. Called from
 * one thread; the work inside is spread over OpenMP's threads. None of them may run a signal handler meanwhile: oneDNN before
 * 3.11.2 lets the stack pointer point into the heap (run/stop.c keeps signals away).
 *
 * Memory: matmul_prepare tells the scratch. Beyond it oneDNN 2.6 takes a few hundred bytes a call, and its AVX2 and fp32
 * product (gemm:jit) takes packing buffers from malloc and gives them back within the call: a few MiB a thread, whatever
 * the shape. */
#ifndef TUNEUP_BACKEND_CPU_MATMUL_H
#define TUNEUP_BACKEND_CPU_MATMUL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "tensor/dtype.h"

/* What this processor can do, as oneDNN sees it (so ONEDNN_MAX_CPU_ISA lowers it, for tests); each includes the ones
 * before it. */
enum cpu_isa { CPU_PORTABLE, CPU_AVX2, CPU_AVX512, CPU_AVX512_BF16, CPU_AMX };

enum cpu_isa matmul_isa(void);
const char *matmul_isa_name(enum cpu_isa isa); /* "AVX2" */
void matmul_version(char *out, size_t size); /* "oneDNN 2.6.3" */

struct matmul_shape {
    int64_t M, N, K;
    int64_t lda; /* distance of the rows of an a that is not transposed; 0 = dense */
    bool a_transposed; /* a is stored [K,M] */
    bool b_transposed; /* b is stored [N,K] */
    enum dtype ab; /* of a, b and bias: F32, BF16 or F16 */
    enum dtype c; /* F32, or the same as ab */
    bool bias, relu, add;
};

struct matmul;

int matmul_open(struct matmul **out, struct err *err);
void matmul_close(struct matmul *m); /* accepts NULL */

/* How bf16 is done, for bench/ to compare; matmul_open chooses by the processor. */
struct matmul_ways {
    bool tiles; /* by our own products on AMX, before all others */
    bool native_bf16; /* by oneDNN, rather than widened */
    bool transpose_first; /* a stored transposed is transposed by us before a native bf16 product */
};
struct matmul_ways matmul_ways(const struct matmul *m);
void matmul_set_ways(struct matmul *m, struct matmul_ways ways);

/* Makes the product and raises *scratch_bytes to what matmul_run will want at most: the extent that varies from run to run
 * (M, or K of a transposed a) may later be smaller, and nothing be added. */
int matmul_prepare(struct matmul *m, const struct matmul_shape *s, size_t *scratch_bytes, struct err *err);
/* bias is NULL without one. scratch: 64-byte aligned, scratch_bytes as prepared. No operand overlaps another. */
int matmul_run(struct matmul *m, const struct matmul_shape *s, const void *a, const void *b, const void *bias, void *c,
               void *scratch, size_t scratch_bytes, struct err *err);

#endif
