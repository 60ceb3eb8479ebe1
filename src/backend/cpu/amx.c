/* A tile holds 16 rows of 64 bytes. One instruction adds the product of a tile of a (16 rows, 32 of K) and a tile of b (16
 * pairs of K, 16 columns, as pairs) to a tile of fp32 sums, 16 x 16. Four sums stay in registers, so that two tiles of a
 * and two of b serve four products.
 *
 * Both operands are packed first, tile after tile in the order of use: strips of 32 rows of a, strips of 32 columns of b. A
 * panel of b's strips stays in the second-level cache while all strips of a pass by (Goto and van de Geijn 2008,
 * doi 10.1145/1356052.1356053); K beyond K_MOST is taken in pieces, whose sums wait in scratch. */
#include "backend/cpu/amx.h"

#include <string.h>

#include "base/mem.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE TARGET static inline __attribute__((always_inline))

#define STRIP AMX_STRIP /* rows of a, or columns of b, that are packed side by side: two tiles */
#define DEPTH 32 /* of K in a tile */
#define TILE (16 * 32) /* bf16 numbers in a tile; or twice as many bytes */
#define K_MOST 2048
#define FEW AMX_FEW_ROWS
#define PANEL_BYTES ((int64_t)1 << 20) /* of b: half of the second-level cache */
#define A_BYTES ((int64_t)8 << 20) /* of packed a */
#define SUM_BYTES ((int64_t)16 << 20) /* of sums between pieces of K */

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

bool amx_open(void)
{
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t whole(int64_t n, int64_t grain)
{
    return (n + grain - 1) / grain * grain;
}

/* --- how a product is cut --- */

/* Extents of a block: whole strips, and whole tiles of K. */
struct blocks {
    int64_t m, n, k;
};

/* At least one strip. */
static int64_t strips_within(int64_t bytes, int64_t bytes_each)
{
    const int64_t n = bytes / bytes_each / STRIP * STRIP;

    return n > STRIP ? n : STRIP;
}

static struct blocks blocks_of(const struct matmul_shape *s)
{
    const int64_t pieces = (s->K + K_MOST - 1) / K_MOST, k = whole((s->K + pieces - 1) / pieces, DEPTH);
    struct blocks b = { .m = smaller(whole(s->M, STRIP), strips_within(A_BYTES, 2 * k)),
                        .n = smaller(whole(s->N, STRIP), strips_within(PANEL_BYTES, 2 * k)),
                        .k = k };

    if (pieces > 1)
        b.m = smaller(b.m, strips_within(SUM_BYTES, 4 * whole(s->N, STRIP)));
    return b;
}

/* What lies in scratch, in this order. */
struct room {
    int64_t a_bytes, b_bytes, sum_bytes;
};

/* Bounds that grow with M and K, as blocks_of itself does not: a smaller K may be cut into deeper pieces. */
static struct room room_of(const struct matmul_shape *s)
{
    const int64_t M = whole(s->M, STRIP), N = whole(s->N, STRIP), k = smaller(whole(s->K, DEPTH), K_MOST);

    const int64_t few = 2 * FEW * whole(s->K, 2 * DEPTH), packed = smaller(2 * M * k, A_BYTES);

    return (struct room){ .a_bytes = packed > few ? packed : few,
                          .b_bytes = smaller(2 * N * k, PANEL_BYTES),
                          .sum_bytes = s->K > K_MOST ? 4 * N * smaller(M, strips_within(SUM_BYTES, 4 * N)) : 0 };
}

size_t amx_scratch(const struct matmul_shape *s)
{
    const struct room r = room_of(s);

    return (size_t)(r.a_bytes + r.b_bytes + r.sum_bytes);
}

/* --- packing --- */

/* out[i] = in[j]'s dword i, for i and j of 16. */
INLINE void turn(__m512i *v)
{
    __m512i w[16];

    for (int i = 0; i < 16; i += 2) {
        w[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        w[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(w[i], w[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(w[i], w[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(w[i + 1], w[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(w[i + 1], w[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        w[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        w[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        w[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        w[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(w[i], w[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(w[i], w[i + 8], 0xdd);
        v[i + 4] = _mm512_shuffle_i32x4(w[i + 4], w[i + 12], 0x88);
        v[i + 12] = _mm512_shuffle_i32x4(w[i + 4], w[i + 12], 0xdd);
    }
}

INLINE __mmask16 first_lanes(int64_t n)
{
    return (__mmask16)(n >= 16 ? 0xffff : (1u << n) - 1);
}

/* n consecutive words, at most 32; the rest is zero. */
INLINE __m512i words(const uint16_t *x, int64_t n)
{
    return n >= 32 ? _mm512_loadu_si512(x)
           : n > 0 ? _mm512_maskz_loadu_epi16((1u << n) - 1, x)
                   : _mm512_setzero_si512();
}

INLINE __m512i wide_words(const uint16_t *x, int64_t n)
{
    if (n <= 0)
        return _mm512_setzero_si512();
    return _mm512_cvtepu16_epi32(n >= 16 ? _mm256_loadu_si256((const __m256i *)(const void *)x)
                                         : _mm256_maskz_loadu_epi16(first_lanes(n), x));
}

/* 16 rows, `depth` numbers of each. */
INLINE void load_along(__m512i *v, const uint16_t *x, int64_t ld, int64_t rows, int64_t depth)
{
    for (int i = 0; i < 16; i++)
        v[i] = words(x + i * ld, i < rows ? depth : 0);
}

/* The pairs 2i and 2i+1 of K, of 16 columns. */
INLINE void load_across(__m512i *v, const uint16_t *x, int64_t ld, int64_t rows, int64_t depth)
{
    for (int i = 0; i < 16; i++) {
        const __m512i first = wide_words(x + 2 * i * ld, 2 * i < depth ? rows : 0),
                      second = wide_words(x + (2 * i + 1) * ld, 2 * i + 1 < depth ? rows : 0);

        v[i] = _mm512_or_si512(first, _mm512_slli_epi32(second, 16));
    }
}

INLINE __m512 floats(const float *x, int64_t n)
{
    return n > 0 ? _mm512_maskz_loadu_ps(first_lanes(n), x) : _mm512_setzero_ps();
}

INLINE void load_along_wide(__m512i *v, const float *x, int64_t ld, int64_t rows, int64_t depth)
{
    for (int i = 0; i < 16; i++)
        v[i] = (__m512i)_mm512_cvtne2ps_pbh(floats(x + i * ld + 16, i < rows ? depth - 16 : 0),
                                            floats(x + i * ld, i < rows ? depth : 0));
}

INLINE void load_across_wide(__m512i *v, const float *x, int64_t ld, int64_t rows, int64_t depth)
{
    static const _Alignas(64) uint16_t order[32] = { 0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31 };
    const __m512i pairs = _mm512_load_si512(order);

    for (int i = 0; i < 16; i++) {
        const __m512 first = floats(x + 2 * i * ld, 2 * i < depth ? rows : 0),
                     second = floats(x + (2 * i + 1) * ld, 2 * i + 1 < depth ? rows : 0);

        v[i] = _mm512_permutexvar_epi16(pairs, (__m512i)_mm512_cvtne2ps_pbh(second, first));
    }
}

INLINE void load(__m512i *v, const struct amx_source *s, int64_t row, int64_t k, int64_t rows, int64_t depth)
{
    const int64_t at = s->across ? k * s->ld + row : row * s->ld + k;

    if (s->type == BF16)
        (s->across ? load_across : load_along)(v, (const uint16_t *)s->x + at, s->ld, rows, depth);
    else
        (s->across ? load_across_wide : load_along_wide)(v, (const float *)s->x + at, s->ld, rows, depth);
}

/* The tile of 16 rows and DEPTH of K; as_pairs: as b wants it. */
INLINE void pack_tile(uint16_t *out, const struct amx_source *s, int64_t row, int64_t k, int64_t rows, int64_t depth,
                      bool as_pairs)
{
    __m512i v[16];

    load(v, s, row, k, rows, depth);
    if (s->across != as_pairs)
        turn(v);
    for (int i = 0; i < 16; i++)
        _mm512_store_si512(out + 32 * i, v[i]);
}

/* A strip's two tiles of K from k on, of at most STRIP rows and DEPTH. */
TARGET static void pack_pair(uint16_t *out, const struct amx_source *s, int64_t row, int64_t k, int64_t rows,
                             int64_t depth, bool as_pairs)
{
    if (rows >= STRIP && depth >= DEPTH) {
        pack_tile(out, s, row, k, 16, DEPTH, as_pairs);
        pack_tile(out + TILE, s, row + 16, k, 16, DEPTH, as_pairs);
    } else {
        pack_tile(out, s, row, k, smaller(rows, 16), smaller(depth, DEPTH), as_pairs);
        pack_tile(out + TILE, s, row + 16, k, smaller(rows - 16, 16), smaller(depth, DEPTH), as_pairs);
    }
}

static void pack_small(uint16_t *out, const struct amx_source *s, int64_t rows, int64_t depth, bool as_pairs)
{
    for (int64_t i = 0; i < rows; i += STRIP)
        for (int64_t j = 0; j < depth; j += DEPTH, out += 2 * TILE)
            pack_pair(out, s, i, j, rows - i, depth - j, as_pairs);
}

void amx_pack_a(uint16_t *out, const struct amx_source *s, int64_t rows, int64_t depth)
{
    pack_small(out, s, rows, depth, false);
}

void amx_pack_b(uint16_t *out, const struct amx_source *s, int64_t columns, int64_t depth)
{
    pack_small(out, s, columns, depth, true);
}

/* --- tiles --- */

/* Tiles 0 to 3 are sums, 4 and 5 of a, 6 and 7 of b: all of 16 rows of 64 bytes. As assembly, since gcc 12's own
 * functions do not say that they read memory. */
struct config {
    uint8_t palette, start_row, unused[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static const struct config config = { .palette = 1,
                                      .row_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 },
                                      .rows = { 16, 16, 16, 16, 16, 16, 16, 16 } };

#define LOAD(tile, from, step)                                                                                         \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"((int64_t)(step)) : "memory")
#define STORE(tile, to, step)                                                                                          \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"((int64_t)(step)) : "memory")
#define ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define MULTIPLY(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)

void amx_begin(void)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

void amx_end(void)
{
    __asm__ volatile("tilerelease" : :);
}

/* sum[32,32] += the product of two strips; only its upper half unless `both`. */
static inline __attribute__((always_inline)) void
multiply_tiles(float *sum, int64_t ld, const uint16_t *a, const uint16_t *b, int64_t depth, bool add, const bool both)
{
    float *const lower = sum + 16 * ld;
    const int64_t step = ld * (int64_t)sizeof *sum;

    if (add) {
        LOAD(0, sum, step);
        LOAD(1, sum + 16, step);
    } else {
        ZERO(0);
        ZERO(1);
    }
    if (add && both) {
        LOAD(2, lower, step);
        LOAD(3, lower + 16, step);
    } else {
        ZERO(2);
        ZERO(3);
    }
    for (int64_t k = 0; k < depth; k += DEPTH, a += 2 * TILE, b += 2 * TILE) {
        LOAD(4, a, 64);
        LOAD(6, b, 64);
        MULTIPLY(0, 4, 6);
        LOAD(7, b + TILE, 64);
        MULTIPLY(1, 4, 7);
        if (both) {
            LOAD(5, a + TILE, 64);
            MULTIPLY(2, 5, 6);
            MULTIPLY(3, 5, 7);
        }
    }
    STORE(0, sum, step);
    STORE(1, sum + 16, step);
    if (both) {
        STORE(2, lower, step);
        STORE(3, lower + 16, step);
    }
}

/* Rows of a that do not reach the lower tiles leave them alone. */
static void multiply(float *sum, int64_t ld, const uint16_t *a, const uint16_t *b, int64_t rows, int64_t depth,
                     bool add)
{
    if (rows > 16)
        multiply_tiles(sum, ld, a, b, depth, add, true);
    else
        multiply_tiles(sum, ld, a, b, depth, add, false);
}

void amx_multiply(float *c, int64_t ldc, const uint16_t *a, const uint16_t *b, int64_t m, int64_t n, int64_t k,
                  bool add)
{
    const int64_t depth = whole(k, DEPTH);

    for (int64_t j = 0; j < n; j += STRIP)
        for (int64_t i = 0; i < m; i += STRIP)
            multiply(c + i * ldc + j, ldc, a + i * depth, b + j * depth, STRIP, depth, add);
}

/* --- the end of a product --- */

struct end {
    const struct matmul_shape *s;
    const uint16_t *bias;
    void *c;
};

INLINE __m512 widened(const uint16_t *x, __mmask16 some)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, x)), 16));
}

/* 16 columns of one row of c, from n on. */
INLINE void finish_vector(const struct end *e, __m512 x, int64_t m, int64_t n, __mmask16 some)
{
    float *wide = (float *)e->c + m * e->s->N + n;
    uint16_t *narrow = (uint16_t *)e->c + m * e->s->N + n;

    if (e->s->add)
        x = _mm512_add_ps(x, e->s->c == F32 ? _mm512_maskz_loadu_ps(some, wide) : widened(narrow, some));
    if (e->bias)
        x = _mm512_add_ps(x, widened(e->bias + n, some));
    if (e->s->relu)
        x = _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), _mm512_setzero_ps());
    if (e->s->c == F32)
        _mm512_mask_storeu_ps(wide, some, x);
    else
        _mm256_mask_storeu_epi16(narrow, some, (__m256i)_mm512_cvtneps_pbh(x));
}

/* The block of c at (m, n). */
TARGET static void finish(const struct end *e, const float *sum, int64_t m, int64_t n)
{
    const int64_t rows = smaller(STRIP, e->s->M - m), columns = smaller(STRIP, e->s->N - n);

    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j += 16)
            finish_vector(e, _mm512_load_ps(sum + i * STRIP + j), m + i, n + j, first_lanes(columns - j));
}

/* --- the whole --- */

struct job {
    struct end end;
    struct amx_source a, b;
    struct blocks blocks;
    uint16_t *packed_a, *packed_b;
    float *sum; /* between pieces of K */
};

/* Part of a product: rows from m, columns from n, K from k on. */
struct at {
    int64_t m, n, k, rows, columns, depth;
};

/* Strips of rows (for b: of columns) from `row` on, K from k on, in the order in which they lie in memory. */
static void pack(uint16_t *out, const struct amx_source *s, int64_t row, int64_t k, int64_t rows, int64_t depth,
                 bool as_pairs)
{
    const int64_t strip = whole(depth, DEPTH) * STRIP;

    if (s->across) {
#pragma omp for schedule(static)
        for (int64_t j = 0; j < depth; j += DEPTH)
            for (int64_t i = 0; i < rows; i += STRIP)
                pack_pair(out + i / STRIP * strip + j * STRIP, s, row + i, k + j, rows - i, depth - j, as_pairs);
    } else {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i += STRIP)
            for (int64_t j = 0; j < depth; j += DEPTH)
                pack_pair(out + i / STRIP * strip + j * STRIP, s, row + i, k + j, rows - i, depth - j, as_pairs);
    }
}

/* A strip of a, from row i of the block on, with all strips of the panel. */
static void multiply_strip(const struct job *j, const struct at *at, int64_t i)
{
    const int64_t depth = whole(at->depth, DEPTH);
    const bool ends = at->k + at->depth == j->end.s->K;
    _Alignas(64) float own[STRIP * STRIP];

    for (int64_t n = 0; n < at->columns; n += STRIP) {
        float *sum = j->end.s->K > j->blocks.k ? j->sum + i * whole(j->end.s->N, STRIP) + (at->n + n) * STRIP : own;

        multiply(sum, STRIP, j->packed_a + i * depth, j->packed_b + n * depth, at->rows - i, depth, at->k > 0);
        if (ends)
            finish(&j->end, sum, at->m + i, at->n + n);
    }
}

static void run_panels(const struct job *j, struct at *at)
{
    for (at->n = 0; at->n < j->end.s->N; at->n += j->blocks.n) {
        at->columns = smaller(j->blocks.n, j->end.s->N - at->n);
        pack(j->packed_b, &j->b, at->n, at->k, at->columns, at->depth, true);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < at->rows; i += STRIP)
            multiply_strip(j, at, i);
    }
}

/* --- few rows --- */

/* All that takes time then is to read b, stored [N,K], once: it goes into tiles as it lies, and c is made transposed, 16 of
 * its columns at a time. Two sums, of every other DEPTH of K, wait for nothing but themselves. */

/* sum[2][16 columns, 16 rows], for 16 columns of c whose weights lie at w. The next ones' are asked for. */
static void multiply_few(float *sum, const uint16_t *w, int64_t K, int64_t depth, const uint16_t *rows)
{
    ZERO(0);
    ZERO(1);
    for (int64_t k = 0; k < depth; k += 2 * DEPTH) {
        LOAD(4, rows + k * FEW, 64);
        LOAD(6, w + k, 2 * K);
        MULTIPLY(0, 6, 4);
        LOAD(5, rows + (k + DEPTH) * FEW, 64);
        LOAD(7, w + k + DEPTH, 2 * K);
        MULTIPLY(1, 7, 5);
        for (int64_t i = 16; i < 32; i++) {
            __builtin_prefetch(w + i * K + k);
            __builtin_prefetch(w + i * K + k + DEPTH);
        }
    }
    STORE(0, sum, 64);
    STORE(1, sum + 256, 64);
}

/* What multiply_few leaves: weights that do not fill tiles. */
TARGET static void multiply_rest(float *sum, const struct amx_source *w, int64_t n, int64_t columns, int64_t k,
                                 int64_t K, const uint16_t *rows)
{
    _Alignas(64) uint16_t tile[TILE];

    for (; k < K; k += DEPTH) {
        float *half = sum + k / DEPTH % 2 * 256;

        pack_tile(tile, w, n, k, columns, smaller(K - k, DEPTH), false);
        LOAD(0, half, 64);
        LOAD(4, rows + k * FEW, 64);
        LOAD(6, tile, 64);
        MULTIPLY(0, 6, 4);
        STORE(0, half, 64);
    }
}

/* Columns n .. n+15 of c, as far as there are. */
TARGET static void few_columns(const struct end *e, const struct amx_source *w, int64_t n, const uint16_t *rows)
{
    const int64_t columns = smaller(16, e->s->N - n), K = e->s->K,
                  depth = columns == 16 ? K / (2 * DEPTH) * 2 * DEPTH : 0;
    _Alignas(64) float sum[2 * 256] = { 0 };
    __m512i v[16];

    if (depth > 0)
        multiply_few(sum, (const uint16_t *)w->x + n * w->ld, K, depth, rows);
    multiply_rest(sum, w, n, columns, depth, K, rows);
    for (int i = 0; i < 16; i++)
        v[i] = _mm512_castps_si512(_mm512_add_ps(_mm512_load_ps(sum + 16 * i), _mm512_load_ps(sum + 256 + 16 * i)));
    turn(v);
    for (int64_t m = 0; m < e->s->M; m++)
        finish_vector(e, _mm512_castsi512_ps(v[m]), m, n, first_lanes(columns));
}

TARGET static void pack_few(uint16_t *out, const struct amx_source *x, int64_t M, int64_t K)
{
    for (int64_t k = 0; k < K; k += DEPTH)
        pack_tile(out + k * FEW, x, 0, k, M, smaller(K - k, DEPTH), true);
}

static void run_few(const struct end *e, const void *a, const void *b, void *scratch)
{
    const struct amx_source x = { a, e->s->K, BF16, false }, w = { b, e->s->K, BF16, false };

    pack_few(scratch, &x, e->s->M, e->s->K);
#pragma omp parallel
    {
        amx_begin();
#pragma omp for schedule(dynamic, 2)
        for (int64_t n = 0; n < e->s->N; n += 16)
            few_columns(e, &w, n, scratch);
        amx_end();
    }
}

static void run_packed(const struct matmul_shape *s, const void *a, const void *b, const void *bias, void *c,
                       void *scratch)
{
    const struct room room = room_of(s);
    char *const packed_b = (char *)scratch + room.a_bytes;
    struct job j = { .end = { s, bias, c },
                     .a = { a, s->a_transposed ? s->M : s->K, BF16, s->a_transposed },
                     .b = { b, s->b_transposed ? s->K : s->N, BF16, !s->b_transposed },
                     .blocks = blocks_of(s),
                     .packed_a = scratch,
                     .packed_b = (void *)packed_b,
                     .sum = (void *)(packed_b + room.b_bytes) };

#pragma omp parallel
    {
        struct at at = { 0 };

        amx_begin();
        for (at.m = 0; at.m < s->M; at.m += j.blocks.m)
            for (at.k = 0; at.k < s->K; at.k += j.blocks.k) {
                at.rows = smaller(j.blocks.m, s->M - at.m);
                at.depth = smaller(j.blocks.k, s->K - at.k);
                pack(j.packed_a, &j.a, at.m, at.k, at.rows, at.depth, false);
                run_panels(&j, &at);
            }
        amx_end();
    }
}

void amx_run(const struct matmul_shape *s, const void *a, const void *b, const void *bias, void *c, void *scratch)
{
    const struct end e = { s, bias, c };

    if (s->M <= FEW && s->b_transposed && !s->a_transposed)
        run_few(&e, a, b, scratch);
    else
        run_packed(s, a, b, bias, c, scratch);
}

#else
bool amx_open(void)
{
    return false;
}

size_t amx_scratch(const struct matmul_shape *s)
{
    (void)s;
    return 0;
}

void amx_run(const struct matmul_shape *s, const void *a, const void *b, const void *bias, void *c, void *scratch)
{
    (void)s, (void)a, (void)b, (void)bias, (void)c, (void)scratch;
    MUST(!"there are no tiles here");
}
#endif
