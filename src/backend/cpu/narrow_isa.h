/* backend/cpu/narrow_isa.h - the functions of narrow.c, once for each time that it includes this with
 *   ISA(name)       the name of a function for this instruction set
 *   TARGET          the attribute that lets the compiler use it
 *   LANES           floats in a vector register
 *   SUMS            how many sums are kept in registers
 *   FMA(a, b, c)    a*b + c of vectors
 *   ADD_UP(v)       the sum of a vector's floats
 * A vector of bf16 weights is split without a shuffle: seen as 32-bit words, its even elements are the words shifted up, its
 * odd ones the words' upper halves. So x is laid out to match: of each 2*LANES elements the even ones, then the odd ones. */

typedef float ISA(vec) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t ISA(uvec) __attribute__((vector_size(4 * LANES), aligned(2), may_alias));

#define VEC ISA(vec)
#define UVEC ISA(uvec)
#define INLINE TARGET static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

TARGET static void ISA(spread)(float *out, const uint16_t *x, int64_t K)
{
    int64_t k = 0;

    for (; k + 2 * LANES <= K; k += 2 * LANES)
        for (int l = 0; l < LANES; l++) {
            out[k + l] = bf16_to_f32(x[k + 2 * l]);
            out[k + LANES + l] = bf16_to_f32(x[k + 2 * l + 1]);
        }
    for (; k < K; k++)
        out[k] = bf16_to_f32(x[k]);
}

/* The next 2*LANES weights of a row, in the order that x has. */
INLINE void ISA(load)(VEC out[2], const void *w, enum dtype type, int64_t at)
{
    if (type == F32) {
        out[0] = *(const VEC *)((const float *)w + at);
        out[1] = *(const VEC *)((const float *)w + at + LANES);
    } else {
        const UVEC pair = *(const UVEC *)((const uint16_t *)w + at);

        out[0] = (VEC)(pair << 16);
        out[1] = (VEC)(pair & 0xffff0000u);
    }
}

/* y[0..M) of columns n .. n+rows-1, by rows of w side by side: a sum waits for its last addition, so there must be others. */
INLINE void ISA(dots)(const struct narrow_job *j, int64_t n, enum dtype type, const int M, const int rows)
{
    VEC sum[SUMS];
    int64_t k = 0;

    UNROLL for (int i = 0; i < M * rows; i++) sum[i] = (VEC){ 0 };
    for (; k + 2 * LANES <= j->K; k += 2 * LANES) {
        UNROLL for (int r = 0; r < rows; r++)
        {
            VEC w[2];

            ISA(load)(w, j->w, type, (n + r) * j->K + k);
            UNROLL for (int m = 0; m < M; m++)
            {
                const VEC *x = (const VEC *)(j->x + m * j->ldx + k);

                sum[m * rows + r] = FMA(w[0], x[0], sum[m * rows + r]);
                sum[m * rows + r] = FMA(w[1], x[1], sum[m * rows + r]);
            }
        }
    }
    UNROLL for (int i = 0; i < M * rows; i++)
    {
        const int64_t m = i / rows, row = n + i % rows;
        float total = ADD_UP(sum[i]);

        for (int64_t l = k; l < j->K; l++)
            total += j->x[m * j->ldx + l] * (type == F32 ? ((const float *)j->w)[row * j->K + l]
                                                         : bf16_to_f32(((const uint16_t *)j->w)[row * j->K + l]));
        finish(j, m, row, total);
    }
}

INLINE void ISA(columns_of)(const struct narrow_job *j, int64_t begin, int64_t end, enum dtype type, const int M)
{
    const int rows = 4 * M <= SUMS ? 4 : 2 * M <= SUMS ? 2 : 1;
    int64_t n = begin;

    for (; n + rows <= end; n += rows)
        ISA(dots)(j, n, type, M, rows);
    for (; n < end; n++)
        ISA(dots)(j, n, type, M, 1);
}

INLINE void ISA(columns_typed)(const struct narrow_job *j, int64_t begin, int64_t end, enum dtype type)
{
    switch (j->M) {
    case 1:
        ISA(columns_of)(j, begin, end, type, 1);
        break;
    case 2:
        ISA(columns_of)(j, begin, end, type, 2);
        break;
    case 3:
        ISA(columns_of)(j, begin, end, type, 3);
        break;
    case 4:
        ISA(columns_of)(j, begin, end, type, 4);
        break;
    case 5:
        ISA(columns_of)(j, begin, end, type, 5);
        break;
    case 6:
        ISA(columns_of)(j, begin, end, type, 6);
        break;
    case 7:
        ISA(columns_of)(j, begin, end, type, 7);
        break;
    default:
        ISA(columns_of)(j, begin, end, type, 8);
    }
}

TARGET static void ISA(columns)(const struct narrow_job *j, int64_t begin, int64_t end)
{
    if (j->type == F32)
        ISA(columns_typed)(j, begin, end, F32);
    else
        ISA(columns_typed)(j, begin, end, BF16);
}

static const struct narrow ISA(narrow) = { .spread = ISA(spread), .columns = ISA(columns) };

#undef VEC
#undef UVEC
#undef INLINE
#undef UNROLL
#undef ISA
#undef TARGET
#undef LANES
#undef SUMS
#undef FMA
#undef ADD_UP
