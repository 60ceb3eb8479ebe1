/* backend/cpu/block_isa.h - the functions of block.h, once for each time that block.c includes this with
 *   ISA(name)       the name of a function for this instruction set
 *   TARGET          the attribute that lets the compiler use it
 *   LANES           floats in a vector register
 *   TILE_ROWS       rows of a product that are kept in registers, two vectors each; 4 and more
 *   FMA(a, b, c)    a*b + c of vectors
 *   LARGER(a, b)    a where a > b, else b (NaN in a is passed over)
 *   LARGEST(v), ADD_UP(v)  of the lanes
 * Products follow Goto and van de Geijn 2008 (doi 10.1145/1356052.1356053) below their packing: a tile of c stays in
 * registers while k runs. */

typedef float ISA(vec) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ISA(ivec) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t ISA(uvec) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define VEC ISA(vec)
#define IVEC ISA(ivec)
#define UVEC ISA(uvec)
#define INLINE TARGET static inline __attribute__((always_inline))

INLINE VEC ISA(all)(float x)
{
    return x - (VEC){ 0 };
}

INLINE void ISA(tile)(float *c, int64_t ldc, const float *a, int64_t am, int64_t ak, const float *b, int64_t ldb,
                      int64_t k, bool add, const int rows)
{
    VEC sum[TILE_ROWS][2];

    for (int r = 0; r < rows; r++) {
        sum[r][0] = add ? *(const VEC *)(c + r * ldc) : ISA(all)(0);
        sum[r][1] = add ? *(const VEC *)(c + r * ldc + LANES) : ISA(all)(0);
    }
    for (int64_t j = 0; j < k; j++, a += ak, b += ldb) {
        const VEC b0 = *(const VEC *)b, b1 = *(const VEC *)(b + LANES);

        for (int r = 0; r < rows; r++) {
            const VEC x = ISA(all)(a[r * am]);

            sum[r][0] = FMA(x, b0, sum[r][0]);
            sum[r][1] = FMA(x, b1, sum[r][1]);
        }
    }
    for (int r = 0; r < rows; r++) {
        *(VEC *)(c + r * ldc) = sum[r][0];
        *(VEC *)(c + r * ldc + LANES) = sum[r][1];
    }
}

TARGET static void ISA(product)(float *c, int64_t ldc, const float *a, int64_t am, int64_t ak, const float *b,
                                int64_t ldb, int64_t m, int64_t n, int64_t k, bool add)
{
    for (int64_t j = 0; j < n; j += 2 * LANES) {
        int64_t i = 0;

        for (; i + TILE_ROWS <= m; i += TILE_ROWS)
            ISA(tile)(c + i * ldc + j, ldc, a + i * am, am, ak, b + j, ldb, k, add, TILE_ROWS);
        for (; i + 4 <= m; i += 4)
            ISA(tile)(c + i * ldc + j, ldc, a + i * am, am, ak, b + j, ldb, k, add, 4);
        for (; i < m; i++)
            ISA(tile)(c + i * ldc + j, ldc, a + i * am, am, ak, b + j, ldb, k, add, 1);
    }
}

/* Rows of a head are pages apart, where the processor does not look ahead by itself. */
INLINE void ISA(ahead)(const void *row, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)row + i);
}

TARGET static void ISA(widen)(float *out, int64_t ldo, const void *in, enum dtype type, int64_t ldi, int64_t rows,
                              int64_t columns, int64_t padded, float scale)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *wide = (const float *)in + i * ldi;
        const uint16_t *narrow = (const uint16_t *)in + i * ldi;
        float *to = out + i * ldo;

        if (i + AHEAD < rows)
            ISA(ahead)
        (type == F32 ? (const void *)(wide + AHEAD * ldi) : narrow + AHEAD * ldi, columns * (int64_t)dtype_bytes(type));
        if (type == F32)
            for (int64_t j = 0; j < columns; j++)
                to[j] = wide[j] * scale;
        else if (type == F16)
            for (int64_t j = 0; j < columns; j++)
                to[j] = f16_to_f32(narrow[j]) * scale;
        else
            for (int64_t j = 0; j < columns; j++)
                to[j] = bf16_to_f32(narrow[j]) * scale;
        for (int64_t j = columns; j < padded; j++)
            to[j] = 0;
    }
}

INLINE void ISA(turn)(float *out, int64_t ldo, const void *in, enum dtype type, int64_t ldi, const int64_t rows,
                      int64_t columns)
{
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rows; i++)
            out[j * ldo + i] =
                type == F32 ? ((const float *)in)[i * ldi + j] : half_to_f32(((const uint16_t *)in)[i * ldi + j], type);
}

/* Eight rows at a time: rows that lie a power of two apart share a few lines of the first-level cache, of eight ways. */
TARGET static void ISA(widen_transposed)(float *out, int64_t ldo, const void *in, enum dtype type, int64_t ldi,
                                         int64_t rows, int64_t columns, int64_t padded)
{
    for (int64_t i = 0; i < rows; i += 8) {
        const void *from = (const char *)in + (size_t)(i * ldi) * dtype_bytes(type);

        if (rows - i < 8)
            ISA(turn)(out + i, ldo, from, type, ldi, rows - i, columns);
        else if (type == F32)
            ISA(turn)(out + i, ldo, from, F32, ldi, 8, columns);
        else if (type == F16)
            ISA(turn)(out + i, ldo, from, F16, ldi, 8, columns);
        else
            ISA(turn)(out + i, ldo, from, BF16, ldi, 8, columns);
    }
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = rows; i < padded; i++)
            out[j * ldo + i] = 0;
}

TARGET static void ISA(narrow)(void *out, enum dtype type, int64_t ldo, const float *in, int64_t ldi, int64_t rows,
                               int64_t columns, float scale)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *from = in + i * ldi;
        float *wide = (float *)out + i * ldo;
        uint16_t *narrow = (uint16_t *)out + i * ldo;

        if (type == F32)
            for (int64_t j = 0; j < columns; j++)
                wide[j] = from[j] * scale;
        else if (type == F16)
            for (int64_t j = 0; j < columns; j++)
                narrow[j] = f16_from_f32(from[j] * scale);
        else
            for (int64_t j = 0; j < columns; j++)
                narrow[j] = bf16_from_f32(from[j] * scale);
    }
}

/* exp for x <= 88, 0 below -87.3: by powers of two and Cephes' polynomial (expf.c, S. Moshier), within 2 ulp. */
INLINE VEC ISA(exp)(VEC x)
{
    const VEC magic = ISA(all)(0x1.8p23f), low = ISA(all)(-87.3f);
    const IVEC seen = ~(x < low); /* NaN is kept */
    const VEC shifted = FMA(x, ISA(all)(1.44269504f), magic), n = shifted - magic;
    const VEC r = FMA(n, ISA(all)(2.12194440e-4f), FMA(n, ISA(all)(-0.693359375f), x));
    VEC p = ISA(all)(1.9875691500e-4f);

    p = FMA(p, r, ISA(all)(1.3981999507e-3f));
    p = FMA(p, r, ISA(all)(8.3334519073e-3f));
    p = FMA(p, r, ISA(all)(4.1665795894e-2f));
    p = FMA(p, r, ISA(all)(1.6666665459e-1f));
    p = FMA(p, r, ISA(all)(5.0000001201e-1f));
    p = FMA(p, r * r, r) + ISA(all)(1.0f);
    /* The lowest bits of shifted hold n. Where x is too low the sum wraps, and is not seen. */
    return (VEC)(((UVEC)p + ((UVEC)shifted << 23)) & (UVEC)seen);
}

/* The n < LANES floats at x, then fill. */
INLINE VEC ISA(some)(const float *x, int64_t n, float fill)
{
    float lane[LANES];

    for (int64_t i = 0; i < LANES; i++)
        lane[i] = i < n ? x[i] : fill;
    return *(const VEC *)lane;
}

INLINE float ISA(largest)(const float *x, int64_t n)
{
    VEC most = ISA(all)(-INFINITY);
    int64_t j = 0;
    float max = -INFINITY;

    for (; j + LANES <= n; j += LANES)
        most = LARGER(*(const VEC *)(x + j), most);
    if (j > 0)
        max = LARGEST(most);
    for (; j < n; j++)
        max = x[j] > max ? x[j] : max;
    return max;
}

/* x = exp(x - shift); returns the sum, by way of sums of 1024: a whole vocabulary added up at once would round away
 * the small ones. */
INLINE float ISA(exp_row)(float *x, int64_t n, float shift)
{
    VEC total = ISA(all)(0), part = total;
    int64_t j = 0;

    for (; j + LANES <= n; j += LANES) {
        const VEC e = ISA(exp)(*(const VEC *)(x + j) - shift);

        *(VEC *)(x + j) = e;
        part += e;
        if (j % 1024 == 0) {
            total += part;
            part = ISA(all)(0);
        }
    }
    if (j < n) {
        const VEC e = ISA(exp)(ISA(some)(x + j, n - j, -INFINITY) - shift);

        part += e;
        for (int64_t i = j; i < n; i++)
            x[i] = e[i - j];
    }
    return ADD_UP(total + part);
}

INLINE void ISA(hide)(float *x, int64_t columns, int32_t first, int32_t end)
{
    const int64_t from = end > first ? first : 0, to = end > first ? end : 0;

    for (int64_t j = 0; j < from; j++)
        x[j] = -INFINITY;
    for (int64_t j = to; j < columns; j++)
        x[j] = -INFINITY;
}

TARGET static void ISA(softmax)(float *s, int64_t lds, int64_t rows, int64_t columns, const int32_t *first,
                                const int32_t *end, float *max, float *sum, float *factor)
{
    for (int64_t i = 0; i < rows; i++) {
        float *x = s + i * lds;

        ISA(hide)(x, columns, first[i], end[i]);
        const float here = ISA(largest)(x, columns), most = here > max[i] ? here : max[i];
        /* Nothing seen yet: -inf - -inf would be no number. */
        const float shift = most == -INFINITY ? 0 : most;

        factor[i] = max[i] == most ? 1 : ISA(exp)(ISA(all)(max[i] - shift))[0];
        sum[i] = sum[i] * factor[i] + ISA(exp_row)(x, columns, shift);
        max[i] = most;
    }
}

TARGET static void ISA(exponential)(float *s, int64_t lds, int64_t rows, int64_t columns, const int32_t *first,
                                    const int32_t *end, const float *lse)
{
    for (int64_t i = 0; i < rows; i++) {
        ISA(hide)(s + i * lds, columns, first[i], end[i]);
        ISA(exp_row)(s + i * lds, columns, lse[i]);
    }
}

TARGET static void ISA(scale_rows)(float *x, int64_t ldx, int64_t rows, int64_t columns, const float *factor)
{
    for (int64_t i = 0; i < rows; i++) {
        const float f = factor[i];

        for (int64_t j = 0; f != 1 && j < columns; j++)
            x[i * ldx + j] *= f;
    }
}

TARGET static void ISA(dot_rows)(float *out, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t rows,
                                 int64_t columns)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *x = a + i * lda, *y = b + i * ldb;
        VEC total = ISA(all)(0);
        int64_t j = 0;

        for (; j + LANES <= columns; j += LANES)
            total = FMA(*(const VEC *)(x + j), *(const VEC *)(y + j), total);
        float sum = ADD_UP(total);
        for (; j < columns; j++)
            sum += x[j] * y[j];
        out[i] = sum;
    }
}

TARGET static void ISA(softmax_grad)(float *g, const float *p, int64_t ld, int64_t rows, int64_t columns,
                                     const float *mean)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            g[i * ld + j] = p[i * ld + j] * (g[i * ld + j] - mean[i]);
}

static const struct block ISA(block) = {
    .product = ISA(product),
    .widen = ISA(widen),
    .widen_transposed = ISA(widen_transposed),
    .narrow = ISA(narrow),
    .softmax = ISA(softmax),
    .exponential = ISA(exponential),
    .scale_rows = ISA(scale_rows),
    .dot_rows = ISA(dot_rows),
    .softmax_grad = ISA(softmax_grad),
};

#undef VEC
#undef IVEC
#undef UVEC
#undef INLINE
#undef ISA
#undef TARGET
#undef LANES
#undef TILE_ROWS
#undef FMA
#undef LARGER
#undef LARGEST
#undef ADD_UP
