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

/* Adds elements begin .. end-1 of rows n .. n+rows-1 of w, times those of x, to sum[rows,M]. The rows go side by side: a sum
 * waits for its last addition, so there must be others. */
INLINE void ISA(add_products)(VEC *sums, const struct narrow_job *j, int64_t n, int64_t begin, int64_t end,
                              enum dtype type, const int M, const int rows)
{
    VEC sum[SUMS];

    UNROLL for (int i = 0; i < M * rows; i++) sum[i] = sums[i];
    for (int64_t k = begin; k < end; k += 2 * LANES) {
        UNROLL for (int r = 0; r < rows; r++)
        {
            VEC w[2];

            ISA(load)(w, j->w, type, (n + r) * j->ldw + k);
            __builtin_prefetch((const char *)j->w + ((n + r + AHEAD * rows) * j->ldw + k) * (type == F32 ? 4 : 2));
            UNROLL for (int m = 0; m < M; m++)
            {
                const VEC *x = (const VEC *)(j->x + m * j->ldx + k);

                sum[r * M + m] = FMA(w[0], x[0], sum[r * M + m]);
                sum[r * M + m] = FMA(w[1], x[1], sum[r * M + m]);
            }
        }
    }
    UNROLL for (int i = 0; i < M * rows; i++) sums[i] = sum[i];
}

/* What does not fill vectors, and the end of each sum. */
INLINE void ISA(finish_row)(const VEC *sums, const struct narrow_job *j, int64_t n, int64_t done, enum dtype type,
                            const int M)
{
    for (int m = 0; m < M; m++) {
        float total = ADD_UP(sums[m]);

        for (int64_t k = done; k < j->K; k++)
            total += j->x[m * j->ldx + k] * (type == F32 ? ((const float *)j->w)[n * j->ldw + k]
                                                         : bf16_to_f32(((const uint16_t *)j->w)[n * j->ldw + k]));
        finish(j, m, n, total);
    }
}

INLINE void ISA(block)(const struct narrow_job *j, int64_t n, int64_t count, enum dtype type, const int M)
{
    const int rows = 4 * M <= SUMS ? 4 : 2 * M <= SUMS ? 2 : 1;
    const int64_t whole = j->K / (2 * LANES) * (2 * LANES), part = X_BYTES / 4 / M / (2 * LANES) * (2 * LANES);
    VEC sums[BLOCK_ROWS * NARROW_ROWS];

    for (int64_t i = 0; i < count * M; i++)
        sums[i] = (VEC){ 0 };
    for (int64_t k = 0; k < whole; k += part) {
        const int64_t end = k + part < whole ? k + part : whole;
        int64_t i = 0;

        for (; i + rows <= count; i += rows)
            ISA(add_products)(sums + i * M, j, n + i, k, end, type, M, rows);
        for (; i < count; i++)
            ISA(add_products)(sums + i * M, j, n + i, k, end, type, M, 1);
    }
    for (int64_t i = 0; i < count; i++)
        ISA(finish_row)(sums + i * M, j, n + i, whole, type, M);
}

INLINE void ISA(columns_of)(const struct narrow_job *j, int64_t begin, int64_t end, enum dtype type, const int M)
{
    for (int64_t n = begin; n < end; n += BLOCK_ROWS)
        ISA(block)(j, n, end - n < BLOCK_ROWS ? end - n : BLOCK_ROWS, type, M);
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

/* `pairs` pairs of vectors of out, from element k on. */
INLINE void ISA(mix_part)(float *out, const float *p, const void *w, enum dtype type, int64_t ldw, int64_t n, int64_t k,
                          const int pairs)
{
    VEC sum[SUMS];

    UNROLL for (int i = 0; i < 2 * pairs; i++) sum[i] = (VEC){ 0 };
    for (int64_t s = 0; s < n; s++) {
        const VEC factor = p[s] - (VEC){ 0 };

        UNROLL for (int i = 0; i < pairs; i++)
        {
            VEC v[2];

            ISA(load)(v, w, type, s * ldw + k + 2 * LANES * i);
            __builtin_prefetch((const char *)w + ((s + 8 * AHEAD) * ldw + k + 2 * LANES * i) * (type == F32 ? 4 : 2));
            sum[2 * i] = FMA(factor, v[0], sum[2 * i]);
            sum[2 * i + 1] = FMA(factor, v[1], sum[2 * i + 1]);
        }
    }
    for (int i = 0; i < pairs; i++)
        for (int l = 0; l < LANES; l++) {
            float *to = out + k + 2 * LANES * i;

            to[type == F32 ? l : 2 * l] = sum[2 * i][l];
            to[type == F32 ? LANES + l : 2 * l + 1] = sum[2 * i + 1][l];
        }
}

INLINE void ISA(mix_typed)(float *out, const float *p, const void *w, enum dtype type, int64_t ldw, int64_t n,
                           int64_t K)
{
    int64_t k = 0;

    for (; k + SUMS * LANES <= K; k += SUMS * LANES)
        ISA(mix_part)(out, p, w, type, ldw, n, k, SUMS / 2);
    for (; k + 2 * LANES <= K; k += 2 * LANES)
        ISA(mix_part)(out, p, w, type, ldw, n, k, 1);
    for (; k < K; k++) {
        out[k] = 0;
        for (int64_t s = 0; s < n; s++)
            out[k] += p[s] *
                      (type == F32 ? ((const float *)w)[s * ldw + k] : bf16_to_f32(((const uint16_t *)w)[s * ldw + k]));
    }
}

TARGET static void ISA(mix)(float *out, const float *p, const void *w, enum dtype type, int64_t ldw, int64_t n,
                            int64_t K)
{
    if (type == F32)
        ISA(mix_typed)(out, p, w, F32, ldw, n, K);
    else
        ISA(mix_typed)(out, p, w, BF16, ldw, n, K);
}

static const struct narrow ISA(narrow) = { .spread = ISA(spread), .columns = ISA(columns), .mix = ISA(mix) };

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
