/* backend/cpu/narrow_isa.h - the functions of narrow.c, once for each time that it includes this with
 *   ISA(name)       the name of a function for this instruction set
 *   TARGET          the attribute that lets the compiler use it
 *   LANES           floats in a vector register
 *   SUMS            how many sums are kept in registers
 *   FMA(a, b, c)    a*b + c of vectors
 *   WIDEN(p)        LANES int8 numbers from p on, as floats
 *   HALVES(p)       LANES fp16 numbers from p on, as floats
 *   ADD_UP(v)       the sum of a vector's floats
 * fp16 is read as it lies. A vector of bf16 weights is split without a shuffle: seen as 32-bit words, its even elements are the words shifted up, its
 * odd ones the words' upper halves. So x is laid out to match: of each 2*LANES elements the even ones, then the odd ones. */

typedef float ISA(vec) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t ISA(uvec) __attribute__((vector_size(4 * LANES), aligned(2), may_alias));

#define VEC ISA(vec)
#define UVEC ISA(uvec)
#define INLINE TARGET static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

TARGET static void ISA(spread)(float *out, const uint16_t *x, enum dtype type, int64_t K)
{
    int64_t k = 0;

    if (type == F16) {
        simd_from_f16(out, x, K);
        return;
    }

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
    } else if (type == F16) {
        out[0] = HALVES((const uint16_t *)w + at);
        out[1] = HALVES((const uint16_t *)w + at + LANES);
    } else {
        const UVEC pair = *(const UVEC *)((const uint16_t *)w + at);

        out[0] = (VEC)(pair << 16);
        out[1] = (VEC)(pair & 0xffff0000u);
    }
}

/* Adds elements begin .. end-1 of rows n .. n+rows-1 of w, times those of x, to sum[rows,M]. The rows go side by side: a sum
 * waits for its last addition, so there must be others. What is read after them, from `next` on, is asked for meanwhile. */
INLINE void ISA(add_products)(VEC *sums, const struct narrow_job *j, int64_t n, int64_t begin, int64_t end,
                              const void *next, enum dtype type, const int M, const int rows)
{
    struct ahead ahead = ahead_of(next, (end - begin) * bytes_of(type), j->ldw * bytes_of(type));
    VEC sum[SUMS];

    UNROLL for (int i = 0; i < M * rows; i++) sum[i] = sums[i];
    for (int64_t k = begin; k < end; k += 2 * LANES) {
        UNROLL for (int r = 0; r < rows; r++)
        {
            VEC w[2];

            ISA(load)(w, j->w, type, (n + r) * j->ldw + k);
            ahead_ask(&ahead, 2 * LANES * bytes_of(type));
            UNROLL for (int m = 0; m < M; m++)
            {
                const VEC *x = (const VEC *)(j->x + m * j->ldx + k);

                sum[r * M + m] = FMA(w[0], x[0], sum[r * M + m]);
                sum[r * M + m] = FMA(w[1], x[1], sum[r * M + m]);
            }
        }
        ahead_turn(&ahead);
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
            total += j->x[m * j->ldx + k] * element(j->w, type, n * j->ldw + k);
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
        const void *rest = end < whole ? weights_at(j, n, end) : weights_at(j, n + count, 0);
        int64_t i = 0;

        for (; i + rows <= count; i += rows) {
            const void *next = i + rows < count ? weights_at(j, n + i + rows, k) : rest;
            ISA(add_products)(sums + i * M, j, n + i, k, end, next, type, M, rows);
        }
        for (; i < count; i++) {
            const void *next = i + 1 < count ? weights_at(j, n + i + 1, k) : rest;
            ISA(add_products)(sums + i * M, j, n + i, k, end, next, type, M, 1);
        }
    }
    for (int64_t i = 0; i < count; i++)
        ISA(finish_row)(sums + i * M, j, n + i, whole, type, M);
}

/* Adds to total[M] a group's products: those of columns begin .. end-1 of row n of int8 weights with x. A row at a time, so that
 * memory is read in its order; a group's sums wait for nothing but each other, so the processor works on several at once. */
INLINE void ISA(add_group)(VEC *total, const struct narrow_job *j, int64_t n, int64_t begin, int64_t end, float scale,
                           const int M)
{
    const int8_t *row = (const int8_t *)j->w + n * j->ldw;
    VEC sum[NARROW_ROWS];

    __builtin_prefetch(row + begin + AHEAD_Q8);
    __builtin_prefetch(row + begin + AHEAD_Q8 + LINE);
    UNROLL for (int m = 0; m < M; m++) sum[m] = (VEC){ 0 };
    for (int64_t k = begin; k < end; k += LANES) {
        const VEC w = WIDEN(row + k);

        UNROLL for (int m = 0; m < M; m++) sum[m] = FMA(w, *(const VEC *)(j->x + m * j->ldx + k), sum[m]);
    }
    UNROLL for (int m = 0; m < M; m++) total[m] = FMA(scale - (VEC){ 0 }, sum[m], total[m]);
}

/* Row n of int8 weights; what does not fill vectors is the end of the last group. */
INLINE void ISA(row_q8)(const struct narrow_job *j, int64_t n, const int M)
{
    const int64_t groups = (j->K + INT8_GROUP - 1) / INT8_GROUP, whole = j->K / LANES * LANES;
    const int8_t *w = (const int8_t *)j->w + n * j->ldw;
    const float *scales = j->scales + n * groups;
    VEC total[NARROW_ROWS];

    UNROLL for (int m = 0; m < M; m++) total[m] = (VEC){ 0 };
    for (int64_t k = 0; k < whole; k += INT8_GROUP)
        ISA(add_group)(total, j, n, k, k + INT8_GROUP < whole ? k + INT8_GROUP : whole, scales[k / INT8_GROUP], M);
    for (int m = 0; m < M; m++) {
        float rest = 0;

        for (int64_t k = whole; k < j->K; k++)
            rest += j->x[m * j->ldx + k] * (float)w[k];
        if (whole < j->K)
            rest *= scales[groups - 1];
        finish(j, m, n, ADD_UP(total[m]) + rest);
    }
}

INLINE void ISA(columns_of)(const struct narrow_job *j, int64_t begin, int64_t end, enum dtype type, const int M)
{
    if (type == I8) {
        for (int64_t n = begin; n < end; n++)
            ISA(row_q8)(j, n, M);
        return;
    }
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
    if (j->scales)
        ISA(columns_typed)(j, begin, end, I8);
    else if (j->type == F32)
        ISA(columns_typed)(j, begin, end, F32);
    else if (j->type == F16)
        ISA(columns_typed)(j, begin, end, F16);
    else
        ISA(columns_typed)(j, begin, end, BF16);
}

/* Elements of a cache from `at` on, of one head and `rows` keys: p[r] is x times row r. */
INLINE void ISA(head_products)(float *p, const float *x, const struct narrow_cache *c, int64_t at, struct ahead *ahead,
                               enum dtype type, const int rows)
{
    const int64_t whole = c->D / (2 * LANES) * (2 * LANES);
    VEC sum[KEYS];

    UNROLL for (int r = 0; r < rows; r++) sum[r] = (VEC){ 0 };
    for (int64_t k = 0; k < whole; k += 2 * LANES) {
        const VEC x0 = *(const VEC *)(x + k), x1 = *(const VEC *)(x + k + LANES);

        UNROLL for (int r = 0; r < rows; r++)
        {
            VEC w[2];

            ISA(load)(w, c->w, type, at + r * c->ldw + k);
            ahead_ask(ahead, 2 * LANES * bytes_of(type));
            sum[r] = FMA(w[0], x0, sum[r]);
            sum[r] = FMA(w[1], x1, sum[r]);
        }
        ahead_turn(ahead);
    }
    UNROLL for (int r = 0; r < rows; r++) p[r] = ADD_UP(sum[r]);
    for (int r = 0; r < rows; r++)
        for (int64_t k = whole; k < c->D; k++)
            p[r] += x[k] * element(c->w, type, at + r * c->ldw + k);
}

/* Of what is read after the keys from s on. */
INLINE struct ahead ISA(next_keys)(const struct narrow_cache *c, int64_t s, enum dtype type)
{
    const int64_t size = bytes_of(type);

    return ahead_of((const char *)c->w + (s + KEYS) * c->ldw * size, c->H * c->D * size, c->ldw * size);
}

INLINE void ISA(products_typed)(float *p, int64_t ldp, const float *x, const struct narrow_cache *c, enum dtype type)
{
    int64_t s = 0;

    for (; s + KEYS <= c->n; s += KEYS) {
        struct ahead ahead = ISA(next_keys)(c, s, type);
        for (int64_t h = 0; h < c->H; h++)
            ISA(head_products)
        (p + h * ldp + s, x + h * c->D, c, s * c->ldw + h * c->D, &ahead, type, KEYS);
    }
    for (; s < c->n; s++) {
        struct ahead ahead = ISA(next_keys)(c, s, type);
        for (int64_t h = 0; h < c->H; h++)
            ISA(head_products)(p + h * ldp + s, x + h * c->D, c, s * c->ldw + h * c->D, &ahead, type, 1);
    }
}

TARGET static void ISA(products)(float *p, int64_t ldp, const float *x, const struct narrow_cache *c)
{
    if (c->type == F32)
        ISA(products_typed)(p, ldp, x, c, F32);
    else if (c->type == F16)
        ISA(products_typed)(p, ldp, x, c, F16);
    else
        ISA(products_typed)(p, ldp, x, c, BF16);
}

/* Adds `pairs` pairs of vectors of `rows` keys, times p. */
INLINE void ISA(mix_part)(float *out, const float *p, const struct narrow_cache *c, int64_t at, struct ahead *ahead,
                          enum dtype type, int64_t rows, const int pairs)
{
    VEC sum[2 * MIX_PAIRS];

    UNROLL for (int i = 0; i < 2 * pairs; i++) sum[i] = *(const VEC *)(out + LANES * i);
    for (int64_t r = 0; r < rows; r++) {
        const VEC factor = p[r] - (VEC){ 0 };

        UNROLL for (int i = 0; i < pairs; i++)
        {
            VEC v[2];

            ISA(load)(v, c->w, type, at + r * c->ldw + 2 * LANES * i);
            ahead_ask(ahead, 2 * LANES * bytes_of(type));
            sum[2 * i] = FMA(factor, v[0], sum[2 * i]);
            sum[2 * i + 1] = FMA(factor, v[1], sum[2 * i + 1]);
        }
        ahead_turn(ahead);
    }
    UNROLL for (int i = 0; i < 2 * pairs; i++) * (VEC *)(out + LANES * i) = sum[i];
}

INLINE void ISA(mix_head)(float *out, const float *p, const struct narrow_cache *c, int64_t at, struct ahead *ahead,
                          enum dtype type, int64_t rows)
{
    int64_t k = 0;

    for (; k + 2 * LANES * MIX_PAIRS <= c->D; k += 2 * LANES * MIX_PAIRS)
        ISA(mix_part)(out + k, p, c, at + k, ahead, type, rows, MIX_PAIRS);
    for (; k + 2 * LANES <= c->D; k += 2 * LANES)
        ISA(mix_part)(out + k, p, c, at + k, ahead, type, rows, 1);
    for (; k < c->D; k++)
        for (int64_t r = 0; r < rows; r++)
            out[k] += p[r] * element(c->w, type, at + r * c->ldw + k);
}

/* Undoes the order that bf16 is loaded in. */
INLINE void ISA(gather)(float *x, int64_t K)
{
    for (int64_t k = 0; k + 2 * LANES <= K; k += 2 * LANES) {
        float pairs[2 * LANES];

        for (int l = 0; l < LANES; l++) {
            pairs[2 * l] = x[k + l];
            pairs[2 * l + 1] = x[k + LANES + l];
        }
        memcpy(x + k, pairs, sizeof pairs);
    }
}

INLINE void ISA(mix_typed)(float *out, const float *p, int64_t ldp, const struct narrow_cache *c, enum dtype type)
{
    memset(out, 0, (size_t)(c->H * c->D) * sizeof *out);
    for (int64_t s = 0; s < c->n; s += KEYS) {
        const int64_t rows = c->n - s < KEYS ? c->n - s : KEYS;
        struct ahead ahead = ISA(next_keys)(c, s, type);
        for (int64_t h = 0; h < c->H; h++)
            ISA(mix_head)(out + h * c->D, p + h * ldp + s, c, s * c->ldw + h * c->D, &ahead, type, rows);
    }
    for (int64_t h = 0; type == BF16 && h < c->H; h++)
        ISA(gather)(out + h * c->D, c->D);
}

TARGET static void ISA(mix)(float *out, const float *p, int64_t ldp, const struct narrow_cache *c)
{
    if (c->type == F32)
        ISA(mix_typed)(out, p, ldp, c, F32);
    else if (c->type == F16)
        ISA(mix_typed)(out, p, ldp, c, F16);
    else
        ISA(mix_typed)(out, p, ldp, c, BF16);
}

static const struct narrow
    ISA(narrow) = { .spread = ISA(spread), .columns = ISA(columns), .products = ISA(products), .mix = ISA(mix) };

#undef VEC
#undef UVEC
#undef INLINE
#undef UNROLL
#undef ISA
#undef TARGET
#undef LANES
#undef SUMS
#undef FMA
#undef WIDEN
#undef HALVES
#undef ADD_UP
